"""Where a training run stands, and the checkpoint that holds it."""

from __future__ import annotations

import copy
import csv
import dataclasses
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from ..files import atomic
from . import distributed

PLAIN = ("identity", "step", "rows", "used", "seen", "seconds")
TENSORS = ("order", "sums", "failed")


@dataclass
class Progress:
    """Everything that a run needs to go on exactly where it stopped.

    Attributes:
        identity: What the run is: recipe, seed, data, network. A checkpoint of another run is refused.
        model: The network.
        optimizer: With its momentum.
        scaler: Of float16 training; does nothing in other precisions.
        generator: Source of the shuffling and the augmentation.
        average: The moving average of the weights, if there is one.
        step: Optimiser steps done.
        rows: Finished epochs.
        order: The shuffled indices of the epoch under way, ``None`` between epochs.
        used: How many of them were used.
        seen: How many of them this process used: fewer, if several processes share a batch.
        sums: Sums over the images of the epoch, ``(3,)``: loss, correct ones, norm of the gradient; on the
            device, since reading a number would make a GPU wait.
        failed: The first step whose loss was not finite, 0 if there is none; likewise.
        seconds: Time spent before the present process.

    Example:
        >>> model = nn.Linear(2, 2)
        >>> sgd, scaler = torch.optim.SGD(model.parameters()), torch.amp.GradScaler("cpu", enabled=False)
        >>> run = Progress({"seed": 0}, model, sgd, scaler, torch.Generator(), torch.device("cpu"))
        >>> [len(batch) for batch in run.batches(10, 4)], run.step
        ([4, 4], 2)
        >>> run.save("run.pt")
        >>> run.identity = {"seed": 1}
        >>> run.load("run.pt")
        Traceback (most recent call last):
        ValueError: run.pt is of another run: seed 0 there, 1 here
    """

    identity: dict[str, Any]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    generator: torch.Generator
    device: torch.device
    average: AveragedModel | None = None
    step: int = 0
    rows: list[Row] = field(default_factory=list)
    order: Tensor | None = None
    used: int = 0
    seen: int = 0
    sums: Tensor | None = None
    failed: Tensor | None = None
    seconds: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def elapsed(self) -> float:
        """Seconds of training, over all processes that worked on this run."""
        return self.seconds + time.perf_counter() - self.started

    def batches(self, n: int, size: int) -> Iterator[Tensor]:
        """Index tensors ``(size,)``: the rest of the epoch under way, or a newly shuffled one.

        An epoch's last, incomplete batch is dropped.
        """
        if self.order is None:
            self.order = torch.randperm(n, generator=self.generator)[: n - n % size].to(self.device)
            self.used = self.seen = 0
            self.sums = torch.zeros(3, device=self.device)
            self.failed = torch.zeros((), device=self.device)
        while self.used < len(self.order):
            batch = self.order[self.used : self.used + size]
            self.used += size
            self.step += 1
            yield batch

    def count(self, loss: Tensor, logits: Tensor, labels: Tensor, grad_norm: Tensor) -> None:
        """Adds a step to the epoch's averages, and to the moving average of the weights."""
        with torch.no_grad():
            correct = (logits.argmax(1) == labels).sum()
            self.sums += torch.stack([loss * len(labels), correct, grad_norm * len(labels)])
            self.seen += len(labels)
            bad = ~torch.isfinite(loss) & (self.failed == 0)
            self.failed += self.step * bad
        if self.average is not None:
            self.average.update_parameters(self.model)

    def end_epoch(self) -> dict[str, float]:
        """The epoch's means over the images of all processes; the next epoch will shuffle anew."""
        self.order = None
        names = ("train_loss", "train_accuracy", "grad_norm")
        *sums, images = distributed.total(torch.cat([self.sums, self.sums.new_tensor([self.seen])])).tolist()
        return {name: value / images for name, value in zip(names, sums, strict=True)}

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has the averaged weights, if there are any; afterwards its own again."""
        if self.average is None:
            yield
            return
        own = copy.deepcopy(self.model.state_dict())
        self.keep_average()
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def keep_average(self) -> None:
        """Gives the model the averaged weights, if there are any, for good."""
        if self.average is not None:
            self.model.load_state_dict(self.average.module.state_dict())

    def save(self, path: str | Path) -> None:
        """Writes the checkpoint; the file appears whole or not at all, and an older one stays until then.

        Of several processes only the first writes.

        Raises:
            ValueError: If it cannot be written there.
        """
        if distributed.rank() != 0:  # all processes are in the same state
            return
        content = {name: getattr(self, name) for name in (*PLAIN, *TENSORS)}
        content |= {name: getattr(self, name).state_dict() for name in self._parts()}
        content |= {"generator": self.generator.get_state(), "torch_generator": torch.get_rng_state()}
        content["seconds"] = self.elapsed()
        if self.device.type == "cuda":
            content["cuda_generator"] = torch.cuda.get_rng_state(self.device)
        with atomic(path) as file:
            torch.save(content, file)

    def load(self, path: str | Path) -> None:
        """Goes on from a checkpoint of the same run.

        Raises:
            FileNotFoundError: If there is none.
            ValueError: If the file is damaged, or of a run that differs; the message says in what.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no checkpoint at {path}: start the run without resuming")
        try:
            content = torch.load(path, map_location=self.device, weights_only=True)
            theirs = content["identity"]
        except Exception as error:  # the unpickler meets arbitrary bytes and may raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
            raise ValueError(f"{path} is damaged or not a checkpoint: {reason}") from None
        if differences := _differences(theirs, self.identity):
            raise ValueError(f"{path} is of another run: {'; '.join(differences)}")
        for name in self._parts():
            getattr(self, name).load_state_dict(content[name])
        self.generator.set_state(content["generator"].cpu())
        torch.set_rng_state(content["torch_generator"].cpu())
        if self.device.type == "cuda" and "cuda_generator" in content:
            torch.cuda.set_rng_state(content["cuda_generator"].cpu(), self.device)
        for name in (*PLAIN, *TENSORS):
            setattr(self, name, content[name])
        self.started = time.perf_counter()

    def _parts(self) -> tuple[str, ...]:
        parts = ("model", "optimizer", "scaler")
        return parts if self.average is None else (*parts, "average")


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What differs between two runs, in words."""
    names = list(theirs) + [name for name in ours if name not in theirs]
    pairs = [(name, theirs.get(name), ours.get(name)) for name in names]
    return [f"{name} {there!r} there, {here!r} here" for name, there, here in pairs if there != here]


Row = dict[str, float | None]


@dataclasses.dataclass
class History:
    """What happened in a training run, one row an epoch.

    Attributes:
        rows: Dictionaries with ``epoch`` (from 1), ``lr`` (of the epoch's last step), ``train_loss`` and
            ``train_accuracy`` (averaged over the epoch, on augmented images, while the weights were
            changing), ``val_loss`` and ``val_accuracy`` (``None`` without validation data) and ``seconds``
            (since the start).
        recipe: The recipe's fields.
        setup: Seed, precision, sizes, and the machine.
    """

    rows: list[Row] = dataclasses.field(default_factory=list)
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    setup: dict[str, Any] = dataclasses.field(default_factory=dict)

    def column(self, name: str) -> list[float | None]:
        """One quantity for all epochs.

        Raises:
            ValueError: If no quantity has that name.

        Example:
            >>> History([{"epoch": 1, "lr": 0.1}, {"epoch": 2, "lr": 0.05}]).column("lr")
            [0.1, 0.05]
        """
        if self.rows and name not in self.rows[0]:
            raise ValueError(f"a history has no column {name!r}: use {', '.join(self.rows[0])}")
        return [row[name] for row in self.rows]

    def save(self, path: str | Path) -> None:
        """Writes JSON; the file appears whole or not at all.

        Raises:
            ValueError: If it cannot be written there.
        """
        text = json.dumps(dataclasses.asdict(self), indent=1) + "\n"
        with atomic(path) as file:
            file.write(text.encode())

    def save_csv(self, path: str | Path) -> None:
        """Writes the rows as CSV, for a spreadsheet; the file appears whole or not at all."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.rows[0]) if self.rows else ["epoch"])
        writer.writeheader()
        writer.writerows(self.rows)
        with atomic(path) as file:
            file.write(text.getvalue().encode())

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Reads what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a history.
        """
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except (TypeError, ValueError):
            raise ValueError(
                f"{path} is not a training history: expected the JSON that History.save writes"
            ) from None
