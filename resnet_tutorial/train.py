"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from . import runtime
from .augment import CIFAR10, Augment, Normalize, alternating_flips
from .data import Split
from .evaluate import loss_and_accuracy
from .history import History, Row
from .progress import Progress
from .recipes import Recipe

__all__ = ["DivergedError", "History", "fit"]


class DivergedError(RuntimeError):
    """The loss became infinite or not a number."""


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
    on_epoch: Callable[[Row], None] | None = None,
    checkpoint: str | Path | None = None,
    save_every: int | None = None,
    resume: bool = False,
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
        device: As in :func:`~resnet_tutorial.runtime.pick_device`.
        precision: As in :func:`~resnet_tutorial.runtime.pick_precision`.
        compile: Whether to compile the network; pays in long runs.
        groups: Parameter groups for the optimiser, each with its own ``lr`` (fine-tuning); their ratio to
            each other is kept while the schedule changes them. Default: all trainable parameters.
        progress: Whether to show a bar; ``None`` shows it where standard error is a terminal.
        on_epoch: Called with each row of the history.
        checkpoint: File that holds the state of the run. It is written after every epoch and, on Ctrl-C,
            after the step under way; then ``KeyboardInterrupt`` is raised.
        save_every: Also write it every so many steps.
        resume: Go on from the checkpoint, exactly: on a CPU, an interrupted run ends with the same bytes as
            an uninterrupted one.

    Returns:
        The history of the run.

    Raises:
        FileNotFoundError: If there is no checkpoint to resume from.
        ValueError: If the data cannot train this model, or the checkpoint is of another run.
        DivergedError: If the loss is no longer finite.
    """
    _check(model, train, val, resume=resume, checkpoint=checkpoint)
    device = runtime.pick_device(device)
    dtype = runtime.pick_precision(device, precision)
    model.to(device, memory_format=torch.channels_last)
    network = torch.compile(model) if compile else model

    batch_size = min(recipe.batch_size, len(train))
    steps_per_epoch = len(train) // batch_size
    total = recipe.total_steps(steps_per_epoch)
    sizes = {"train": len(train), "val": len(val or ()), "batch_size": batch_size, "steps": total}
    setup = {
        "seed": seed,
        "precision": str(dtype or torch.float32).removeprefix("torch."),
        "compile": compile,
    }
    history = History([], dataclasses.asdict(recipe), setup | sizes | runtime.describe(device))

    optimizer = recipe.make_optimizer(recipe.parameter_groups(model) if groups is None else groups)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    generator = torch.Generator().manual_seed(seed)
    identity = {} if checkpoint is None else _identity(history, model, train, val, groups)
    run = Progress(identity, model, optimizer, scaler, generator, device, rows=history.rows)
    if resume:
        run.load(checkpoint)
        history.rows = run.rows

    train = train.to(device)
    val = None if val is None else val.to(device)
    augment = Augment(
        padding=recipe.padding, pad_mode=recipe.pad_mode, flip=recipe.flip, cutout=recipe.cutout
    )
    val_batch = max(
        1, 500 * 32 * 32 // train.images[0, 0].numel()
    )  # large pictures need the memory of small ones
    progress = sys.stderr.isatty() if progress is None else progress
    bar = tqdm(total=total, initial=run.step, unit="step", leave=False, disable=not progress)
    with bar, _interruption(checkpoint is not None) as interrupted:
        while run.step < total or run.order is not None:
            model.train()
            flips = None
            if recipe.flip == "alternating":
                flips = alternating_flips(len(train), len(run.rows), seed=seed).to(device)
            for batch in itertools.islice(run.batches(len(train), batch_size), total - run.step):
                lr = recipe.lr_at(run.step - 1, total)
                for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
                    group["lr"] = lr * base / recipe.lr
                mask = None if flips is None else flips[batch]
                images = normalize(augment(train.images[batch], generator=generator, flip_mask=mask))
                images = images.contiguous(memory_format=torch.channels_last)  # (B, C, H, W)
                labels = train.labels[batch]  # (B,)

                # The training step.
                with runtime.autocast(device, dtype):
                    logits = network(images)  # (B, K)
                loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()
                if recipe.grad_clip is not None:
                    scaler.unscale_(optimizer)
                    nn.utils.clip_grad_norm_(model.parameters(), recipe.grad_clip)
                scaler.step(optimizer)
                scaler.update()

                run.count(loss, logits, labels)
                bar.update()
                if interrupted():
                    run.save(checkpoint)
                    raise KeyboardInterrupt
                if checkpoint is not None and save_every and run.step % save_every == 0:
                    run.save(checkpoint)

            row: Row = {"epoch": len(run.rows) + 1, "lr": recipe.lr_at(run.step - 1, total)}
            row["train_loss"], row["train_accuracy"] = run.end_epoch()
            if not math.isfinite(row["train_loss"]):
                raise DivergedError(
                    f"the loss is {row['train_loss']} in epoch {row['epoch']} (step {run.step}): "
                    f"try a learning rate below {recipe.lr}, a longer warm-up, or gradient clipping"
                )
            row["val_loss"] = row["val_accuracy"] = None
            if val is not None:
                row["val_loss"], row["val_accuracy"] = loss_and_accuracy(
                    model, val, normalize=normalize, dtype=dtype, batch_size=val_batch
                )
            row["seconds"] = run.elapsed()
            run.rows.append(row)
            bar.set_postfix_str(f"loss {row['train_loss']:.3f}")
            if on_epoch is not None:
                on_epoch(row)
            if checkpoint is not None:
                run.save(checkpoint)
    return history


def _identity(
    history: History, model: nn.Module, train: Split, val: Split | None, groups: list[dict[str, Any]] | None
) -> dict[str, Any]:
    """What must agree before a run may go on: recipe, seed, precision, data, network, and what is trained."""
    return history.recipe | {
        "seed": history.setup["seed"],
        "precision": history.setup["precision"],
        "training data": train.fingerprint[:12],
        "validation data": None if val is None else val.fingerprint[:12],
        "network": getattr(model, "config", type(model).__name__),
        "trained parameters": [name for name, p in model.named_parameters() if p.requires_grad],
        "groups": [[group["lr"], len(group["params"])] for group in groups or ()],
    }


@contextlib.contextmanager
def _interruption(postpone: bool) -> Iterator[Callable[[], bool]]:
    """Inside, Ctrl-C is only noted, so that a step is never cut in half; a second one interrupts at once."""
    noted = threading.Event()
    if not postpone or threading.current_thread() is not threading.main_thread():
        yield noted.is_set
        return
    previous = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        noted.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted.is_set
    finally:
        signal.signal(signal.SIGINT, previous)


def _check(model: nn.Module, train: Split, val: Split | None, *, resume: bool, checkpoint: object) -> None:
    """Refuses what would fail later, and less clearly."""
    if resume and checkpoint is None:
        raise ValueError("resume needs a checkpoint: say which file to go on from")
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
