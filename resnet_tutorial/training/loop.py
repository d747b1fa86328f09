"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import runtime
from ..data import CIFAR10, Normalize, Split
from ..evaluation import class_sums
from . import distributed
from .memory import named_batch
from .optimizers import MovingAverage, decays
from .pipeline import Pipeline
from .progress import History, Progress, Row, is_finite, saved_precision
from .recipes import Recipe
from .saving import Saving


class DivergedError(RuntimeError):
    """The loss or a weight became infinite or not a number."""


def train_step(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    *,
    scaler: torch.amp.GradScaler,
    dtype: torch.dtype | None = None,
    weight: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Take one step: forward, loss, backward, update.

    Args:
        network: In train mode.
        images: Float32 ``(B, C, H, W)``.
        labels: Int64 ``(B,)``.
        optimizer: With the rates of this step.
        recipe: Says what is added to the loss and where gradients are clipped.
        scaler: Keeps float16 gradients from vanishing; does nothing in other precisions.
        dtype: For autocast, ``None`` for float32.
        weight: Of each class in the loss, float32 ``(K,)``, or ``None``.

    Returns:
        Loss in nats, logits ``(B, K)`` and norm of the whole gradient before clipping, all on the device.

    Example:
        >>> model, recipe = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), Recipe(name="plain", epochs=1)
        >>> optimizer = recipe.make_optimizer(model.parameters())
        >>> images, labels = torch.randn(6, 3, 2, 2), torch.arange(6) % 3
        >>> scaler = torch.amp.GradScaler("cpu", enabled=False)
        >>> for _ in range(9):
        ...     loss, logits, norm = train_step(model, images, labels, optimizer, recipe, scaler=scaler)
        >>> loss.item() < 1.0986  # ln 3, the loss of a guess
        True
    """
    optimizer.zero_grad(set_to_none=True)
    with runtime.autocast(images.device, dtype):
        logits = network(images)  # (B, K)
    loss = F.cross_entropy(logits.float(), labels, weight, label_smoothing=recipe.label_smoothing)
    scaler.scale(loss + l1_penalty(optimizer, recipe.l1)).backward()
    scaler.unscale_(optimizer)
    grad_norm = clip_gradients(optimizer, recipe.grad_clip)
    scaler.step(optimizer)
    scaler.update()
    return loss, logits, grad_norm


def l1_penalty(optimizer: torch.optim.Optimizer, factor: float) -> Tensor | float:
    """Return ``factor`` times the sum of the weights' absolute values, without biases and scales."""
    if not factor:
        return 0.0
    return factor * torch.stack([p.abs().sum() for p in _trained(optimizer) if decays(p)]).sum()


def clip_gradients(optimizer: torch.optim.Optimizer, largest: float | None) -> Tensor:
    """Return the norm of the whole gradient; a larger one is scaled to ``largest``, if that is given."""
    norm = nn.utils.get_total_norm([p.grad for p in _trained(optimizer) if p.grad is not None])
    if largest is not None:
        nn.utils.clip_grads_with_norm_(_trained(optimizer), largest, norm)
    return norm


def _trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


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
    on_best: Callable[[Row], None] | None = None,
    checkpoint: str | Path | None = None,
    save_every: int | None = None,
    resume: bool = False,
) -> History:
    """Train a classifier in place, with the whole data set in the device's memory, if it fits.

    Each step is :func:`train_step`, the lines of any textbook. Around it is what makes the loop fast: nothing
    is read from the device in an epoch, no image is handled alone.

    The order of the images and their augmentation depend on the seed and the epoch alone: one seed, one run.
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
        precision: As in :func:`~resnet_tutorial.runtime.pick_precision`; a resumed run keeps its own if this
            is ``"auto"``.
        compile: Whether to compile the network, on a GPU with CUDA graphs; pays in long runs.
        groups: Parameter groups for the optimiser, each with its own ``lr`` (fine-tuning); their ratio to
            each other is kept while the schedule changes them. Default: all trainable parameters.
        progress: Whether to show a bar; ``None`` shows it in a terminal and in a notebook.
        on_epoch: Called with each row of the history (by process 0); with a moving average of the weights,
            the model has the averaged ones at that time.
        on_best: Called after it when the epoch is the best so far (``recipe.best_by``), in resumed runs too.
            ``fit`` keeps no copy of these weights, which would cost memory in every run: save them here.
        checkpoint: File that holds the state of the run. It is written after every epoch and, on Ctrl-C,
            after the step under way; then ``KeyboardInterrupt`` is raised.
        save_every: Also write it every so many steps.
        resume: Go on from the checkpoint; on a CPU the run ends with the same bytes as without the break.

    Returns:
        The history of the run.

    Raises:
        FileNotFoundError: If there is no checkpoint to resume from.
        ValueError: If the data cannot train this model, or the checkpoint is of another run.
        DivergedError: If the loss or a weight is no longer finite.
        BatchTooLargeError: If a GPU's memory does not hold a batch.

    Example:
        >>> from resnet_tutorial.data import load_sample
        >>> from resnet_tutorial.models import cifar_resnet
        >>> train, val = load_sample()[0].per_class(20).split(0.5)
        >>> fit(cifar_resnet(8, width=4), train, val, Recipe(name="short", epochs=2)).column("epoch")
        [1, 2]
    """
    _check(model, train, val, recipe, groups, resume=resume, checkpoint=checkpoint)
    device = runtime.pick_device(device or distributed.local_device())
    if resume and checkpoint is not None and precision == "auto":
        precision = saved_precision(checkpoint)
    dtype = runtime.pick_precision(device, precision)
    model.to(device).to(memory_format=torch.channels_last)
    network = distributed.parallel(runtime.compiled(model, device) if compile else model)

    batch_size = min(recipe.batch_size, len(train))
    how: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "views": recipe.views, "device": device}
    load = Pipeline(train.to(device), recipe.augment(), normalize, **how)
    weight = class_weights(train).to(device) if recipe.class_weights else None
    shape = torch.Size((batch_size, *train.images.shape[1:]))
    val = None if val is None else val.to(device)
    total = recipe.total_steps(len(load))
    setup = {
        "seed": seed,
        "precision": runtime.precision_name(dtype),
        "compile": compile,
        "processes": distributed.size(),
        **{"train": len(train), "val": len(val or ()), "batch_size": batch_size, "steps": total},
    }
    history = History([], dataclasses.asdict(recipe), setup | runtime.describe(device))
    optimizer = recipe.make_optimizer(recipe.parameter_groups(model) if groups is None else groups)
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    average = MovingAverage(model, recipe.ema) if recipe.ema else None
    identity = {} if checkpoint is None else _identity(history, model, train, val, groups, normalize)
    state = Progress(identity, history, model, optimizer, scaler, average, device)
    if resume and checkpoint is not None:
        state.load(checkpoint)
        first, last = (min((len(history.rows) + more) * len(load), total) for more in (0, 1))
        counted = (state.step - first) * batch_size
        if not first <= state.step <= last or (distributed.rank() == 0 and state.sums[0] != counted):
            told = f"step {state.step} and {state.sums[0]:g} images do not fit {len(history.rows)} epochs"
            raise ValueError(f"{checkpoint} is damaged: {told}: start the run again without resuming")

    how = {"normalize": normalize, "dtype": dtype, "flip": recipe.test_flip}
    each: dict[str, Any] = {"scaler": scaler, "dtype": dtype, "weight": weight}
    bar = _progress_bar(total, state.step, progress)
    with bar, _tuned(), Saving(state, checkpoint, save_every) as saving:
        while _goes_on(state, total, len(load), recipe.patience):
            model.train()
            epoch = len(history.rows)
            done = state.step - epoch * len(load)  # not 0 where the run was resumed inside the epoch
            with named_batch(model, optimizer, shape, device, dtype):
                for images, labels in load.epoch(epoch, skip=done, most=total - state.step):
                    factor = recipe.lr_at(state.step, total) / recipe.lr
                    _set_rates(optimizer, base_lrs, factor, state.step / total)
                    step = train_step(network, images, labels, optimizer, recipe, **each)
                    state.count(*step, labels)
                    bar.update()
                    saving.after_step()

            row = state.end_epoch(lr=recipe.lr_at(state.step - 1, total))
            with _averaged(average):
                distributed.align_buffers(model)
                if val is not None:
                    row.update(_validate(network, val, **how))
                row["seconds"] = state.elapsed()
                _refuse_diverged(row, state, recipe)
                history.rows.append(row)
                bar.set_postfix_str(f"loss {row['train_loss']:.3f}")
                _report(row, on_epoch, on_best if history.best() is row else None)
            saving.save()
    if average is not None:
        average.swap()
    return history


def _goes_on(state: Progress, total: int, steps_per_epoch: int, patience: int | None) -> bool:
    """Whether an epoch is under way, or there are steps left and the validation loss has not stalled."""
    rows = state.history.rows
    best = state.history.best()
    stalled = patience is not None and best is not None and len(rows) - best["epoch"] >= patience
    return state.step > len(rows) * steps_per_epoch or (state.step < total and not stalled)


def _refuse_diverged(row: Row, state: Progress, recipe: Recipe) -> None:
    """Raise unless losses and weights are finite: a dead network is neither measured further nor saved."""
    if not math.isfinite(row["train_loss"]):
        what = f"the loss is {row['train_loss']} since step {state.failed or state.step}"
    elif not math.isfinite(row["val_loss"] or 0.0):
        what = f"the validation loss is {row['val_loss']}"
    elif not is_finite(state.model):
        what = "the weights are no longer finite"
    else:
        return
    raise DivergedError(
        f"{what} (epoch {row['epoch']}): "
        f"try a learning rate below {recipe.lr}, a longer warm-up, or gradient clipping"
    )


def _report(row: Row, *listeners: Callable[[Row], None] | None) -> None:
    """Tell who wants to know, in one process."""
    for listener in listeners:
        if listener is not None and distributed.rank() == 0:
            listener(row)


def _set_rates(optimizer: torch.optim.Optimizer, base_lrs: list[float], factor: float, done: float) -> None:
    """Give each group its own rate times a factor, so that their ratio stays; 0 before its time."""
    for group, base in zip(optimizer.param_groups, base_lrs, strict=True):
        group["lr"] = base * factor if done >= group.get("start", 0) else 0.0


def class_weights(split: Split) -> Tensor:
    """Return float32 ``(K,)``: the inverse of each class's share, such that the mean over the images is 1.

    Example:
        >>> images, labels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 0, 0, 1])
        >>> class_weights(Split(images, labels, ("cat", "dog"), "four"))
        tensor([0.6667, 2.0000])
    """
    counts = split.counts().float()
    return torch.where(counts > 0, len(split) / (counts.clamp(min=1) * (counts > 0).sum()), 0.0)


def _validate(network: nn.Module, val: Split, **how: Any) -> Any:
    """Return loss, accuracy and balanced accuracy on the validation images; the processes share them."""
    part = val if distributed.size() == 1 else val.subset(range(len(val))[distributed.share(len(val))])
    loss, right, count = distributed.total(class_sums(network, part, **how))  # (3, K)
    recall = (right / count)[count > 0]
    means = torch.stack([loss.sum() / len(val), right.sum() / len(val), recall.mean()]).tolist()
    return dict(zip(("val_loss", "val_accuracy", "val_balanced_accuracy"), means, strict=True))


@contextlib.contextmanager
def _averaged(average: MovingAverage | None) -> Iterator[None]:
    """Give the network the averaged weights, if there are any, for the time of the block."""
    if average is None:
        yield
        return
    average.swap()
    try:
        yield
    finally:
        average.swap()


@contextlib.contextmanager
def _tuned() -> Iterator[None]:
    """Let cuDNN try out its algorithms inside: it pays where all batches have one size."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _progress_bar(total: int, done: int, show: bool | None) -> Any:
    """Return a bar of the kind that terminal or notebook can show; unless asked for, only in these two."""
    if show is None:
        show = _in_notebook() or (sys.stderr is not None and sys.stderr.isatty())
    if show and distributed.rank() == 0:
        from tqdm.auto import tqdm  # looks for a notebook's widgets, and warns where there are none
    else:
        from tqdm import tqdm

        show = False
    return tqdm(total=total, initial=done, unit="step", leave=False, disable=not show)


def _in_notebook() -> bool:
    """Return whether a notebook's kernel runs this."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _identity(
    history: History,
    model: nn.Module,
    train: Split,
    val: Split | None,
    groups: list[dict[str, Any]] | None,
    normalize: Normalize,
) -> dict[str, Any]:
    """Return what must agree before a run may go on: recipe, seed, data, network, and what is trained."""
    return history.recipe | {
        "seed": history.setup["seed"],
        "precision": history.setup["precision"],
        "training data": train.fingerprint[:12],
        "validation data": None if val is None else val.fingerprint[:12],
        "network": getattr(model, "config", type(model).__name__),
        "trained parameters": [name for name, p in model.named_parameters() if p.requires_grad],
        "groups": [[group["lr"], len(group["params"]), group.get("start", 0)] for group in groups or ()],
        "normalisation": [list(normalize.mean), list(normalize.std)],
    }


def _check(
    model: nn.Module,
    train: Split,
    val: Split | None,
    recipe: Recipe,
    groups: list[dict[str, Any]] | None,
    *,
    resume: bool,
    checkpoint: object,
) -> None:
    """Refuse what would fail later, and less clearly."""
    if recipe.patience is not None and val is None:
        raise ValueError("early stopping (patience) needs validation images: hold some out")
    if len(train) < 2:
        raise ValueError(f"cannot train on {len(train)} image(s): batch normalisation needs at least 2")
    if (batch_size := min(recipe.batch_size, len(train))) % distributed.size():
        raise ValueError(f"{distributed.size()} processes cannot share a batch of {batch_size} equally")
    # By type, as a frozen layer is of another class.
    if batch_size == distributed.size() and any(type(layer) is nn.BatchNorm2d for layer in model.modules()):
        raise ValueError("batch normalisation needs batches of 2 or more images a process (--batch-size)")
    if resume and checkpoint is None:
        raise ValueError("resume needs a checkpoint: say which file to go on from")
    if val is not None and val.classes != train.classes:
        raise ValueError(f"training and validation classes differ: {train.classes} and {val.classes}")
    own = {id(parameter) for parameter in model.parameters()}
    if any(id(parameter) not in own for group in groups or () for parameter in group["params"]):
        raise ValueError(
            "the parameter groups are of another network: make them from the one that is trained"
        )
    head = getattr(model, "fc", None)
    if isinstance(head, nn.Linear) and head.out_features != len(train.classes):
        raise ValueError(
            f"the network has {head.out_features} outputs and the data {len(train.classes)} classes: "
            "build it with num_classes, or replace its head"
        )
