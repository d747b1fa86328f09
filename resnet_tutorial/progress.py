"""Where a training run stands, and the checkpoint that holds it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .history import Row


@dataclass
class Progress:
    """Everything that a run needs to go on exactly where it stopped.

    Attributes:
        identity: What the run is: recipe, seed, data, network. A checkpoint of another run is refused.
        model: The network.
        optimizer: With its momentum.
        scaler: Of float16 training; does nothing in other precisions.
        generator: Source of the shuffling and the augmentation.
        step: Optimiser steps done.
        rows: Finished epochs.
        order: The shuffled indices of the epoch under way, ``None`` between epochs.
        used: How many of them were used.
        loss_sum: Sum of the epoch's losses, on the device: reading a number would make a GPU wait.
        correct: Images of the epoch classified correctly, likewise.
        seconds: Time spent before the present process.
    """

    identity: dict[str, Any]
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    generator: torch.Generator
    device: torch.device
    step: int = 0
    rows: list[Row] = field(default_factory=list)
    order: Tensor | None = None
    used: int = 0
    loss_sum: Tensor | None = None
    correct: Tensor | None = None
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
            self.used = 0
            self.loss_sum = torch.zeros((), device=self.device)
            self.correct = torch.zeros((), device=self.device)
        while self.used < len(self.order):
            batch = self.order[self.used : self.used + size]
            self.used += size
            self.step += 1
            yield batch

    def count(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Adds a step to the epoch's averages."""
        self.loss_sum += loss.detach() * len(labels)
        self.correct += (logits.detach().argmax(1) == labels).sum()

    def end_epoch(self) -> tuple[float, float]:
        """The epoch's mean loss and accuracy; the next epoch will shuffle anew."""
        self.order = None
        return self.loss_sum.item() / self.used, self.correct.item() / self.used

    def save(self, path: str | Path) -> None:
        """Writes the checkpoint; the file appears whole or not at all, and an older one stays until then.

        Raises:
            ValueError: If it cannot be written there.
        """
        path = Path(path)
        content = {name: getattr(self, name) for name in ("identity", "step", "rows", "order", "used")}
        content |= {"loss_sum": self.loss_sum, "correct": self.correct, "seconds": self.elapsed()}
        content |= {name: getattr(self, name).state_dict() for name in ("model", "optimizer", "scaler")}
        content |= {"generator": self.generator.get_state(), "torch_generator": torch.get_rng_state()}
        if self.device.type == "cuda":
            content["cuda_generator"] = torch.cuda.get_rng_state(self.device)
        partial = path.with_name(f".{path.name}.partial")
        try:
            with open(partial, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            raise ValueError(f"cannot write the checkpoint {path}: {error.strerror or error}") from None
        finally:
            partial.unlink(missing_ok=True)

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
        for name in ("model", "optimizer", "scaler"):
            getattr(self, name).load_state_dict(content[name])
        self.generator.set_state(content["generator"].cpu())
        torch.set_rng_state(content["torch_generator"].cpu())
        if self.device.type == "cuda" and "cuda_generator" in content:
            torch.cuda.set_rng_state(content["cuda_generator"].cpu(), self.device)
        for name in ("step", "rows", "order", "used", "loss_sum", "correct", "seconds"):
            setattr(self, name, content[name])
        self.started = time.perf_counter()


def _differences(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """What differs between two runs, in words."""
    names = list(theirs) + [name for name in ours if name not in theirs]
    pairs = [(name, theirs.get(name), ours.get(name)) for name in names]
    return [f"{name} {there!r} there, {here!r} here" for name, there, here in pairs if there != here]
