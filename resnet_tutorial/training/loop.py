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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .. import runtime
from ..data import CIFAR10, Normalize, Split
from ..evaluation import loss_and_accuracy
from . import distributed
from .pipeline import Pipeline
from .progress import History, Progress, Row
from .recipes import Recipe


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

    The lines under "The training step" are those of any textbook (the scaler is for float16 only). Around
    them is what makes the loop fast: nothing is read from the device in an epoch, no image is handled alone.

    The order of the images and their augmentation come from a generator of this run's own: one seed, one run.
    An epoch's last, incomplete batch is dropped; its images come back with the next shuffle.

    Under ``torchrun`` (see :mod:`~resnet_tutorial.training.distributed`) the processes share each batch, so
    that ``recipe.batch_size`` is that of all together and the learning rate stays what it is.

    Args:
        model: Maps ``(N, C, H, W)`` floats to ``(N, K)`` logits; moved to the device, left in train mode.
        train: Images to learn from.
        val: Images to measure after every epoch, or ``None``.
        recipe: Optimiser, schedule, augmentation.
        normalize: Turns uint8 images into the floats that the network expects.
        seed: Of the order and the augmentation. The initial weights are the caller's.
        device: As in :func:`~resnet_tutorial.runtime.pick_device`.
        precision: As in :func:`~resnet_tutorial.runtime.pick_precision`.
        compile: Whether to compile the network, on a GPU with CUDA graphs; pays in long runs.
        groups: Parameter groups for the optimiser, each with its own ``lr`` (fine-tuning); their ratio to
            each other is kept while the schedule changes them. Default: all trainable parameters.
        progress: Whether to show a bar; ``None`` shows it where standard error is a terminal.
        on_epoch: Called with each row of the history (by process 0); with a moving average of the weights,
            the model has the averaged ones at that time.
        checkpoint: File that holds the state of the run. It is written after every epoch and, on Ctrl-C,
            after the step under way; then ``KeyboardInterrupt`` is raised.
        save_every: Also write it every so many steps.
        resume: Go on from the checkpoint; on a CPU the run ends with the same bytes as without the break.

    Returns:
        The history of the run.

    Raises:
        FileNotFoundError: If there is no checkpoint to resume from.
        ValueError: If the data cannot train this model, or the checkpoint is of another run.
        DivergedError: If the loss is no longer finite.

    Example:
        >>> from resnet_tutorial.data import load_sample
        >>> from resnet_tutorial.models import cifar_resnet
        >>> train, val = load_sample()[0].per_class(20).split(0.5)
        >>> fit(cifar_resnet(8, width=4), train, val, Recipe(name="short", epochs=2)).column("epoch")
        [1, 2]
    """
    _check(model, train, val, recipe, resume=resume, checkpoint=checkpoint)
    device = runtime.pick_device(device or distributed.local_device())
    dtype = runtime.pick_precision(device, precision)
    model.to(device, memory_format=torch.channels_last)
    network = distributed.parallel(model)
    if compile:
        network = runtime.compiled(network, device)

    batch_size = min(recipe.batch_size, len(train))
    steps_per_epoch = len(train) // batch_size
    total = recipe.total_steps(steps_per_epoch)
    setup = {
        "seed": seed,
        "precision": runtime.precision_name(dtype),
        "compile": compile,
        "processes": distributed.size(),
        **{"train": len(train), "val": len(val or ()), "batch_size": batch_size, "steps": total},
    }
    history = History([], dataclasses.asdict(recipe), setup | runtime.describe(device))

    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    optimizer = recipe.make_optimizer(recipe.parameter_groups(model) if groups is None else groups)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    generator = torch.Generator().manual_seed(seed)
    average = None
    if recipe.ema:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
    identity = {} if checkpoint is None else _identity(history, model, train, val, groups)
    run = Progress(identity, model, optimizer, scaler, generator, device, average, rows=history.rows)
    if resume:
        run.load(checkpoint)
        history.rows = run.rows

    load = Pipeline(train.to(device), recipe.augment(), normalize, generator, seed)
    val = None if val is None else val.to(device)
    mine = distributed.share(batch_size)
    bar = _progress_bar(total, run.step, progress)
    with bar, _interruption(checkpoint is not None) as interrupted:
        while run.order is not None or (run.step < total and not _stalled(run.rows, recipe.patience)):
            model.train()
            load.start_epoch(len(run.rows))
            for batch in itertools.islice(run.batches(len(train), batch_size), total - run.step):
                lr = recipe.lr_at(run.step - 1, total)
                for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
                    group["lr"] = lr * base / recipe.lr
                images, labels = (part[mine] for part in load(batch))  # (B, C, H, W), (B,)

                # The training step.
                optimizer.zero_grad(set_to_none=True)
                with runtime.autocast(device, dtype):
                    logits = network(images)  # (B, K)
                loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
                penalty = recipe.l1 * sum(p.abs().sum() for p in decayed) if recipe.l1 else 0.0
                scaler.scale(loss + penalty).backward()
                scaler.unscale_(optimizer)
                grad_norm = nn.utils.clip_grad_norm_(parameters, recipe.grad_clip or math.inf)
                scaler.step(optimizer)
                scaler.update()

                run.count(loss, logits, labels, grad_norm)
                bar.update()
                if checkpoint is not None:
                    if distributed.anywhere(interrupted()):
                        run.save(checkpoint)
                        raise KeyboardInterrupt
                    if save_every and run.step % save_every == 0:
                        run.save(checkpoint)

            row: Row = {"epoch": len(run.rows) + 1, "lr": recipe.lr_at(run.step - 1, total)}
            row |= run.end_epoch()
            if not math.isfinite(row["train_loss"]):
                raise DivergedError(
                    f"the loss is {row['train_loss']} since step {int(run.failed)} (epoch {row['epoch']}): "
                    f"try a learning rate below {recipe.lr}, a longer warm-up, or gradient clipping"
                )
            with run.averaged():
                distributed.align_buffers(model)
                row |= _validate(model, val, normalize=normalize, dtype=dtype, flip=recipe.test_flip)
                row["seconds"] = run.elapsed()
                run.rows.append(row)
                bar.set_postfix_str(f"loss {row['train_loss']:.3f}")
                if on_epoch is not None and distributed.rank() == 0:
                    on_epoch(row)
            if checkpoint is not None:
                run.save(checkpoint)
    run.keep_average()
    return history


def _validate(
    model: nn.Module, val: Split | None, *, normalize: Normalize, dtype: torch.dtype | None, flip: bool
) -> Row:
    """Loss and accuracy on the validation images, which the processes share."""
    if val is None:
        return {"val_loss": None, "val_accuracy": None}
    part = val if distributed.size() == 1 else val.subset(range(len(val))[distributed.share(len(val))])
    batch_size = max(1, 500 * 32 * 32 // val.images[0, 0].numel())  # large pictures in small batches
    means = loss_and_accuracy(model, part, normalize=normalize, batch_size=batch_size, dtype=dtype, flip=flip)
    sums = distributed.total(torch.tensor(means, dtype=torch.float64) * len(part))
    loss, accuracy = (sums / len(val)).tolist()
    return {"val_loss": loss, "val_accuracy": accuracy}


def _stalled(rows: list[Row], patience: int | None) -> bool:
    """Whether the best validation loss is ``patience`` epochs old."""
    if patience is None or not rows:
        return False
    best = min(rows, key=lambda row: row["val_loss"])
    return len(rows) - best["epoch"] >= patience


def _progress_bar(total: int, done: int, show: bool | None) -> Any:
    """A bar of the kind that terminal or notebook can show; unless asked for, only in a terminal."""
    show = sys.stderr.isatty() if show is None else show
    if show and distributed.rank() == 0:
        from tqdm.auto import tqdm  # looks for a notebook's widgets, and warns where there are none
    else:
        from tqdm import tqdm

        show = False
    return tqdm(total=total, initial=done, unit="step", leave=False, disable=not show)


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


def _check(
    model: nn.Module, train: Split, val: Split | None, recipe: Recipe, *, resume: bool, checkpoint: object
) -> None:
    """Refuses what would fail later, and less clearly."""
    if recipe.patience is not None and val is None:
        raise ValueError("early stopping (patience) needs validation images: hold some out")
    if (batch_size := min(recipe.batch_size, len(train))) % distributed.size():
        raise ValueError(f"{distributed.size()} processes cannot share a batch of {batch_size} equally")
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
