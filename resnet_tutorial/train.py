"""The training loop, and the history that it leaves."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from . import runtime
from .augment import CIFAR10, Augment, Normalize, alternating_flips
from .data import Split
from .evaluate import loss_and_accuracy
from .recipes import Recipe


class DivergedError(RuntimeError):
    """The loss became infinite or not a number."""


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

    rows: list[dict[str, float | None]] = dataclasses.field(default_factory=list)
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    setup: dict[str, Any] = dataclasses.field(default_factory=dict)

    def column(self, name: str) -> list[float | None]:
        """One quantity for all epochs.

        Raises:
            ValueError: If no quantity has that name.
        """
        if self.rows and name not in self.rows[0]:
            raise ValueError(f"a history has no column {name!r}: use {', '.join(self.rows[0])}")
        return [row[name] for row in self.rows]

    def save(self, path: str | Path) -> None:
        """Writes JSON; the file appears whole or not at all."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", encoding="utf-8")
        os.replace(partial, path)

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


def fit(
    model: nn.Module,
    train: Split,
    val: Split | None,
    recipe: Recipe,
    *,
    normalize: Normalize = CIFAR10,
    seed: int = 0,
    device: str | torch.device | None = None,
    precision: str = "auto",
    compile: bool = False,
    groups: list[dict[str, Any]] | None = None,
    progress: bool | None = None,
    on_epoch: Callable[[dict[str, float | None]], None] | None = None,
) -> History:
    """Trains a classifier in place, with the whole data set in the device's memory.

    The order of the images and their augmentation come from a generator of this run's own, so that the same
    seed gives the same run, whatever else draws random numbers. An epoch's last, incomplete batch is dropped:
    another shuffle brings its images back in the next epoch.

    Args:
        model: Maps ``(N, C, H, W)`` floats to ``(N, K)`` logits. It is moved to the device and left there, in
            train mode.
        train: Images to learn from.
        val: Images to measure after every epoch, or ``None``.
        recipe: Optimiser, schedule, augmentation.
        normalize: Turns uint8 images into the floats that the network expects.
        seed: Of the order and the augmentation. The initial weights are the caller's.
        device: As in :func:`runtime.pick_device`.
        precision: As in :func:`runtime.pick_precision`.
        compile: Whether to compile the network; pays in long runs.
        groups: Parameter groups for the optimiser, each with its own ``lr`` (fine-tuning); their ratio to
            each other is kept while the schedule changes them. Default: all trainable parameters.
        progress: Whether to show a bar; ``None`` shows it where standard error is a terminal.
        on_epoch: Called with each row of the history.

    Returns:
        The history of the run.

    Raises:
        ValueError: If the data cannot train this model.
        DivergedError: If the loss is no longer finite.
    """
    _check(model, train, val)
    device = runtime.pick_device(device)
    dtype = runtime.pick_precision(device, precision)
    model.to(device, memory_format=torch.channels_last)
    network = torch.compile(model) if compile else model
    train = train.to(device)
    val = None if val is None else val.to(device)

    augment = Augment(
        padding=recipe.padding, pad_mode=recipe.pad_mode, flip=recipe.flip, cutout=recipe.cutout
    )
    generator = torch.Generator().manual_seed(seed)
    groups = recipe.parameter_groups(model) if groups is None else groups
    optimizer = recipe.make_optimizer(groups)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    batch_size = min(recipe.batch_size, len(train))
    steps_per_epoch = len(train) // batch_size
    total = recipe.total_steps(steps_per_epoch)
    setup = {
        "seed": seed,
        "precision": str(dtype or torch.float32).removeprefix("torch."),
        "compile": compile,
    }
    setup |= {
        "train": len(train),
        "val": 0 if val is None else len(val),
        "batch_size": batch_size,
        "steps": total,
    }
    history = History([], dataclasses.asdict(recipe), setup | runtime.describe(device))

    started, step = time.perf_counter(), 0
    epochs = math.ceil(total / steps_per_epoch)
    progress = sys.stderr.isatty() if progress is None else progress
    with tqdm(total=total, unit="step", leave=False, disable=not progress) as bar:
        for epoch in range(epochs):
            model.train()
            loss_sum = torch.zeros(
                (), device=device
            )  # summed on the device: reading a number would stop the GPU
            correct = torch.zeros((), device=device)
            seen = 0
            flips = None
            if recipe.flip == "alternating":
                flips = alternating_flips(len(train), epoch, seed=seed).to(device)
            for batch in _batches(len(train), batch_size, generator, device):
                lr = recipe.lr_at(step, total)
                for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
                    group["lr"] = lr * base / recipe.lr
                images = augment(
                    train.images[batch],
                    generator=generator,
                    flip_mask=None if flips is None else flips[batch],
                )
                images = normalize(images).contiguous(memory_format=torch.channels_last)
                labels = train.labels[batch]

                # The training step.
                with runtime.autocast(device, dtype):
                    logits = network(images)
                loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                if recipe.grad_clip is not None:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
                scaler.step(optimizer)
                scaler.update()

                loss_sum += loss.detach()
                correct += (logits.detach().argmax(1) == labels).sum()
                seen += len(batch)
                step += 1
                bar.update()
                if step == total:
                    break

            row = {"epoch": epoch + 1, "lr": lr, "train_loss": loss_sum.item() * batch_size / seen}
            row |= {"train_accuracy": correct.item() / seen, "val_loss": None, "val_accuracy": None}
            if not math.isfinite(row["train_loss"]):
                raise DivergedError(
                    f"the loss is {row['train_loss']} in epoch {epoch + 1} (step {step}): "
                    f"try a learning rate below {recipe.lr}, a longer warm-up, or gradient clipping"
                )
            if val is not None:
                row["val_loss"], row["val_accuracy"] = loss_and_accuracy(
                    model, val, normalize=normalize, dtype=dtype
                )
            row["seconds"] = time.perf_counter() - started
            history.rows.append(row)
            bar.set_postfix_str(f"loss {row['train_loss']:.3f}")
            if on_epoch is not None:
                on_epoch(row)
    return history


def _batches(n: int, size: int, generator: torch.Generator, device: torch.device) -> Iterator[Tensor]:
    """Index tensors ``(size,)`` of one shuffled epoch, without the incomplete rest."""
    order = torch.randperm(n, generator=generator).to(device)
    return iter(order[: n - n % size].split(size))


def _check(model: nn.Module, train: Split, val: Split | None) -> None:
    """Refuses data that would fail later, and less clearly."""
    if len(train) < 2:
        raise ValueError(f"cannot train on {len(train)} image(s): batch normalisation needs at least 2")
    if val is not None and val.classes != train.classes:
        raise ValueError(f"training and validation classes differ: {train.classes} and {val.classes}")
    head = getattr(model, "fc", None)
    if isinstance(head, nn.Linear) and head.out_features != len(train.classes):
        raise ValueError(
            f"the network has {head.out_features} outputs and the data {len(train.classes)} classes: "
            "build it with num_classes, or replace its head"
        )
