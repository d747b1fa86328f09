"""Where a training run stands, the checkpoint that holds it, and the history that it leaves."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from ..files import atomic
from ..untrusted import damaged, load_saved
from . import distributed
from .optimizers import MovingAverage

# What the best epoch is chosen by: the column of a history, and -1 where more is better.
BEST_BY = {
    "loss": ("val_loss", 1),
    "accuracy": ("val_accuracy", -1),
    "balanced-accuracy": ("val_balanced_accuracy", -1),
}


class Row(TypedDict):
    """One epoch of a history: losses in nats, accuracies in 0..1, seconds since the start of the run.

    What is of training is averaged over the epoch, on augmented images, while the weights were changing.
    ``lr`` is that of the last step, ``grad_norm`` the norm of the whole gradient before clipping, without the
    steps that float16 training skipped (``None`` if it skipped all). What is of validation is measured after
    the epoch, ``None`` without such images; the balanced accuracy is the mean over the classes' recalls.

    Example:
        >>> row = Row(epoch=1, lr=0.1, train_loss=2.1, train_accuracy=0.2, seconds=9.5,
        ...           grad_norm=1.5, val_loss=None, val_accuracy=None, val_balanced_accuracy=None)
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    grad_norm: float | None
    val_loss: float | None
    val_accuracy: float | None
    val_balanced_accuracy: float | None
    seconds: float


@dataclass
class History:
    """What happened in a training run, one row an epoch.

    Attributes:
        rows: One :class:`Row` an epoch.
        recipe: The recipe's fields.
        setup: Seed, precision, sizes, and the machine.
    """

    rows: list[Row] = field(default_factory=list)
    recipe: dict[str, Any] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)

    def column(self, name: str) -> list[Any]:
        """Return one quantity for all epochs.

        Raises:
            ValueError: If no quantity has that name.

        Example:
            >>> History([{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.05}]).column("lr")
            [0.1, 0.05]
        """
        if self.rows and name not in self.rows[0]:
            raise ValueError(f"unknown column {name!r}: choose one of {', '.join(self.rows[0])}")
        return [dict(row)[name] for row in self.rows]

    def best(self) -> Row | None:
        """Return the best epoch by what the recipe says, the first of equals; ``None`` without validation.

        The default is the lowest validation loss.

        Example:
            >>> losses = [1.5, 1.2, 1.3]
            >>> History([{"epoch": n, "val_loss": loss} for n, loss in enumerate(losses, 1)]).best()["epoch"]
            2
        """
        name, sign = BEST_BY[self.recipe.get("best_by", "loss")]
        rows: list[Any] = [row for row in self.rows if row.get(name) is not None]
        return min(rows, key=lambda row: sign * row[name]) if rows else None

    def save(self, path: str | Path) -> None:
        """Write JSON; the file appears whole or not at all.

        Raises:
            ValueError: If it cannot be written there.
        """
        text = json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"
        with atomic(path) as file:
            file.write(text.encode())

    def save_csv(self, path: str | Path) -> None:
        """Write the rows as CSV, for a spreadsheet; the file appears whole or not at all."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]) if self.rows else ["epoch"])
        writer.writeheader()
        writer.writerows(self.rows)
        with atomic(path) as file:
            file.write(text.getvalue().encode())

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a history.
        """
        try:
            history = cls(**json.loads(Path(path).read_text(encoding="utf-8")))
            if not isinstance(history.rows, list) or not all(isinstance(row, dict) for row in history.rows):
                raise ValueError
            if not isinstance(history.recipe, dict) or not isinstance(history.setup, dict):
                raise ValueError
            return history
        except (TypeError, ValueError, RecursionError):
            expected = "expected the JSON that History.save writes"
            raise ValueError(f"{path} is not a training history: {expected}") from None

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> History:
        """Read the epochs from a checkpoint of :meth:`Progress.save`; raises what its ``load`` does."""
        content = _read(path, torch.device("cpu"))
        return cls(content["rows"], content["identity"])


@dataclass
class Progress:
    """Everything that a run needs to go on exactly where it stopped.

    Attributes:
        identity: What the run is: recipe, seed, data, network. A checkpoint of another run is refused.
        history: What the run has left so far.
        model: The network.
        optimizer: With its momentum.
        scaler: Of float16 training; does nothing in other precisions.
        average: The moving average of the weights, if there is one.
        device: Where the network is.
        step: Optimiser steps done.
        sums: Over this process's images of the epoch under way, ``(6,)``: number, loss, correct ones, norm of
            the gradient, number in steps that were not skipped; last, the first step whose loss was not
            finite (0 for none). On the device, since reading a number would make a GPU wait.
        seconds: Time spent before the present process.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> sgd, scaler = torch.optim.SGD(model.parameters()), torch.amp.GradScaler("cpu", enabled=False)
        >>> run = Progress({"seed": 0}, History(), model, sgd, scaler, None, torch.device("cpu"))
        >>> run.save("run.pt")
        >>> run.identity = {"seed": 1}
        >>> run.load("run.pt")
        Traceback (most recent call last):
        ValueError: run.pt is of another run: seed 0 there, 1 here
    """

    identity: dict[str, Any]
    history: History
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: MovingAverage | None
    device: torch.device
    step: int = 0
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        """Begin an epoch."""
        self.sums = torch.zeros(6, device=self.device)
        self.failed = 0  # the first step of the last epoch whose loss was not finite, if there is one

    def elapsed(self) -> float:
        """Return the seconds of training, over all processes that worked on this run."""
        return self.seconds + time.perf_counter() - self.started

    @torch.no_grad()
    def count(self, loss: Tensor, logits: Tensor, grad_norm: Tensor, labels: Tensor) -> None:
        """Add a step to the epoch's sums and to the average of the weights; nothing waits for a GPU."""
        self.step += 1
        n = len(labels)
        taken = torch.isfinite(grad_norm)
        failed = torch.where(torch.isfinite(loss) | (self.sums[5] > 0), 0.0, float(self.step))
        correct = (logits.argmax(1) == labels).sum()
        norm = torch.where(taken, grad_norm, 0.0)
        ones = torch.ones_like(loss)
        self.sums += torch.stack([ones * n, loss * n, correct, norm * n, taken * n, failed])
        if self.average is not None:
            self.average.update()

    def end_epoch(self, *, lr: float) -> Row:
        """Return the epoch's means over the images of all processes, not validated yet; begin the next."""
        self.failed = int(self.sums[5])
        images, loss, correct, norm, taken, _ = distributed.total(self.sums).tolist()
        self.sums = torch.zeros_like(self.sums)
        return Row(
            epoch=len(self.history.rows) + 1,
            lr=lr,
            train_loss=loss / images,
            train_accuracy=correct / images,
            grad_norm=norm / taken if taken else None,
            val_loss=None,
            val_accuracy=None,
            val_balanced_accuracy=None,
            seconds=self.elapsed(),
        )

    def save(self, path: str | Path) -> None:
        """Write the checkpoint; the file appears whole or not at all, and an older one stays until then.

        Several processes all call this at the same step, and the first one writes. A network that is dead is
        not kept: the last good checkpoint stays.

        Raises:
            ValueError: If it cannot be written there.
        """
        sums = distributed.total(self.sums.clone())
        if distributed.rank() != 0 or sums[5] > 0 or not is_finite(self.model):
            return
        content = {name: part.state_dict() for name, part in self._parts().items()}
        content |= {"identity": self.identity, "rows": self.history.rows, "step": self.step, "sums": sums}
        content |= {"seconds": self.elapsed(), "torch_generator": torch.get_rng_state()}
        if self.device.type == "cuda":
            content["cuda_generator"] = torch.cuda.get_rng_state(self.device)
        with atomic(path) as file:
            torch.save(content, file)

    def load(self, path: str | Path) -> None:
        """Go on from a checkpoint of the same run.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file is damaged, or of a run that differs; the message says in what.
        """
        content = _read(path, self.device)
        try:
            differences = _differences(content["identity"], self.identity)
            if not differences:
                self._restore(content)
        except Exception as error:  # whatever a part makes of a state that is not its own
            raise ValueError(_damaged(path, error)) from None
        if differences:
            raise ValueError(f"{path} is of another run: {'; '.join(differences)}")
        self.started = time.perf_counter()

    def _restore(self, content: dict[str, Any]) -> None:
        kinds: dict[str, Any] = dict.fromkeys(self._parts(), dict) | {"step": int, "seconds": (int, float)}
        for name, kind in (kinds | {"sums": Tensor, "torch_generator": Tensor}).items():
            if not isinstance(content.get(name), kind):
                raise ValueError(f"its {name} is missing or of another kind")
        _check_optimizer(content["optimizer"], _stepped(self.optimizer))  # before the weights are loaded
        if self.average is not None and _form(content["average"]) != _form(self.average.state_dict()):
            raise ValueError("its average of the weights is of another network")
        for name, part in self._parts().items():
            part.load_state_dict(content[name])
        torch.set_rng_state(content["torch_generator"].cpu())
        if self.device.type == "cuda" and "cuda_generator" in content:
            torch.cuda.set_rng_state(content["cuda_generator"].cpu(), self.device)
        self.history.rows = content["rows"]
        self.step, self.seconds, sums = content["step"], content["seconds"], content["sums"]
        if type(self.step) is not int or self.step < 0 or not 0 <= self.seconds < 1e12:
            raise ValueError(f"step {self.step}, {self.seconds} seconds")
        if _form(sums) != _form(self.sums):
            raise ValueError("its sums are not those of a run")
        # The sums are those of all processes together; each goes on with its own.
        self.sums = sums * (distributed.rank() == 0)

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        return parts if self.average is None else parts | {"average": self.average}


def _read(path: str | Path, device: torch.device) -> dict[str, Any]:
    """Return what a checkpoint holds."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint at {path}: start the run without resuming")
    try:
        content = load_saved(path, device, archive=True)
        if not isinstance(content, dict):
            raise ValueError("it holds no state by name")
        _check(content)
        return content
    except Exception as error:  # the unpickler meets arbitrary bytes and may raise anything
        raise ValueError(_damaged(path, error)) from None


def _check(content: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless identity and rows are what a run writes."""
    identity, rows = content["identity"], content["rows"]
    if not isinstance(identity, dict) or identity.get("best_by", "loss") not in BEST_BY:
        raise ValueError("it does not say of which run it is")
    if not isinstance(rows, list):
        raise ValueError("its history is no list")
    optional = {"grad_norm", *(name for name, _ in BEST_BY.values())}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or row.keys() != Row.__annotations__.keys() or row["epoch"] != number:
            raise ValueError(f"row {number} of its history is none")
        for name, value in row.items():
            good = type(value) in (int, float) and math.isfinite(value)
            if not good and not (value is None and name in optional):
                raise ValueError(f"row {number} of its history has {name} {value!r:.40}")


def _stepped(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the state of an optimiser after a step without gradients, which may change the weights."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer.state_dict()


def _check_optimizer(theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    """Raise ``ValueError`` unless a state has the run's own options and, of each parameter, the same tensors.

    PyTorch believes options and shapes, and writes beyond the end of a tensor that is too small.
    """
    if "state" not in ours:  # Muon has two parts
        for part, own in ours.items():
            _check_optimizer(theirs[part], own)
        return
    for group, own in zip(theirs["param_groups"], ours["param_groups"], strict=True):
        for name, value in own.items():  # the rate is set at each step; other versions have other options
            if name != "lr" and group.get(name, value) != value:
                raise ValueError(f"its optimiser has {name} {group[name]!r:.40}, not {value!r:.40}")
    states = theirs["state"]
    for number in states and states | ours["state"]:  # before the first step there is none
        if _form(states.get(number, {})) != _form(ours["state"].get(number, {})):
            raise ValueError(f"its optimiser has another state of parameter {number!r:.40}")
    for values in states.values():  # memory of its own: in a tensor of the file several places may be one
        values.update({name: value.clone() for name, value in values.items()})


def _form(value: object) -> object:
    """Return what two states must share for one to take the place of the other: names, kinds and shapes."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.layout, value.is_meta
    if isinstance(value, dict):
        return {name: _form(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_form(part) for part in value]
    return type(value)


def saved_precision(path: str | Path) -> str:
    """Return the precision of the run that a checkpoint is of, as ``runtime.PRECISIONS`` names it.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the file is damaged.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> sgd, scaler = torch.optim.SGD(model.parameters()), torch.amp.GradScaler("cpu", enabled=False)
        >>> identity = {"precision": "bfloat16"}
        >>> Progress(identity, History(), model, sgd, scaler, None, torch.device("cpu")).save("run.pt")
        >>> saved_precision("run.pt")
        'bf16'
    """
    name = str(_read(path, torch.device("cpu"))["identity"].get("precision"))
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(name, "auto")


def _damaged(path: str | Path, error: Exception) -> str:
    return f"{damaged(path, error, what='a checkpoint')}: start the run again without resuming"


def is_finite(model: nn.Module) -> bool:
    """Whether all weights and running statistics are finite; one number is read from the device."""
    values = [value for value in model.state_dict().values() if value.is_floating_point()]
    return math.isfinite(torch.nn.utils.get_total_norm(values).item())


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Return what differs between two runs, in words: the first three."""
    pairs = [(name, theirs.get(name), ours.get(name)) for name in theirs | ours]
    differ = [
        f"{name!s:.40} {there!r:.80} there, {here!r:.80} here" for name, there, here in pairs if there != here
    ]
    return differ[:3] + [f"and {len(differ) - 3} more"] * (len(differ) > 3)
