"""From a network and images to its logits (``predict``); from logits to every metric (``report``).

The two steps are apart on purpose: logits are saved once, and whatever is asked of them later is computed
from the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..data import CIFAR10, Normalize, Split
from ..runtime import autocast
from .predictions import Predictions

PIXELS = 1_500_000  # of a batch, by default: 500 images of 32 x 32, or 29 of 224 x 224


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into eval mode inside; afterwards each module, a frozen one too, returns to its mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _single(model: nn.Module) -> nn.Module:
    """Return the network of this process alone.

    ``DistributedDataParallel`` talks to the other processes at each batch, and would wait for ever for one
    that has fewer of them.
    """
    inner = getattr(model, "_orig_mod", model)  # of a compiled network
    return inner.module if isinstance(inner, DistributedDataParallel) else model


def _compute_logits(
    model: nn.Module,
    images: Tensor,
    classes: Sequence[str] | None,
    normalize: Normalize,
    batch_size: int | None,
    device: torch.device | str | None,
    flip: bool,
    dtype: torch.dtype | None,
) -> Tensor:
    """Run the network over images ``(N, C, H, W)``, in order; float32 ``(N, K)`` on the CPU."""
    if batch_size is None:
        batch_size = min(500, max(1, PIXELS // images.shape[2:].numel()))
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: give 1 or more")
    model = _single(model)
    if device is None:
        first = next(model.parameters(), None)
        device = images.device if first is None else first.device
    device = torch.device(device)
    model.to(device)
    parts = []
    size = min(batch_size, len(images))
    with _evaluating(model), torch.inference_mode(), autocast(device, dtype):
        for done in range(0, len(images), size):
            # The last batch starts earlier: with one size for all, a network is compiled and tuned once.
            start = min(done, len(images) - size)
            batch = normalize(images[start : start + size].to(device))  # (B, C, H, W)
            # A copy: the next run of a compiled network may write to the same memory.
            logits = model(batch).to(torch.float32, copy=True)
            if flip:
                logits = (logits + model(batch.flip(3)).float()) / 2
            outputs = logits.shape[1:].numel() if classes is None else len(classes)
            if logits.shape != (size, outputs):
                raise ValueError(
                    f"the network gives {tuple(logits.shape)} for {size} images: use one that gives"
                    f" ({size}, {outputs}), as there are {outputs} classes"
                )
            parts.append(logits[done - start :])  # stays on the device, so that no batch waits for a copy
        return torch.cat(parts).cpu()


def predict(
    model: nn.Module,
    data: Split | Tensor,
    *,
    classes: Sequence[str] | None = None,
    normalize: Normalize = CIFAR10,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    flip: bool = False,
    dtype: torch.dtype | None = None,
) -> Predictions:
    """Compute the logits of every image, in eval mode and without gradients.

    Running statistics are not touched, and every module returns to the mode in which it was.

    Args:
        model: Maps ``(B, C, H, W)`` to logits ``(B, K)``; may be compiled.
        data: A split of N images, or uint8 images ``(N, C, H, W)`` without labels.
        classes: Names of the K logits of images without a split; ``"0"``, ``"1"``, ... if ``None``.
        normalize: As in the network's training.
        batch_size: Images a step, which changes speed and memory; by default 500, or fewer large ones.
        device: Where to compute; the model is moved there. Where the model is, if ``None``.
        flip: Average the logits of each image and of its mirror image (test-time augmentation).
        dtype: Type for autocast, such as ``torch.bfloat16``; plain float32 if ``None``.

    Raises:
        ValueError: If the network has another number of outputs than there are classes, the images have
            another form, ``batch_size`` is below 1, or a logit is not finite.

    Example:
        >>> from resnet_tutorial.data import load_sample
        >>> from resnet_tutorial.models import create
        >>> train, test = load_sample()
        >>> network = create("resnet20", weights="cifar10")
        >>> predictions = predict(network, test.subset([0, 1, 4]))
        >>> predictions.logits.shape, [test.classes[k] for k in predictions.predicted]
        ((3, 10), ['cat', 'ship', 'frog'])
        >>> predict(network, test.images[:3]).labels is None  # pictures alone
        True
    """
    images, labels = (data.images, data.labels.cpu().numpy()) if isinstance(data, Split) else (data, None)
    if isinstance(data, Split):
        if classes is not None:
            raise ValueError(f"classes {tuple(classes)} for a split that has its own: leave them out")
        classes = data.classes
    elif images.dtype != torch.uint8 or images.ndim != 4 or not images.numel():
        given = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
        raise ValueError(f"images are {given}: give a Split, or uint8 (N, C, H, W) with N above 0")
    logits = _compute_logits(model, images, classes, normalize, batch_size, device, flip, dtype)
    names = map(str, range(logits.shape[1])) if classes is None else classes
    return Predictions(logits.numpy(), labels, tuple(names))


def loss_and_accuracy(
    model: nn.Module,
    split: Split,
    *,
    normalize: Normalize = CIFAR10,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    flip: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[float, float]:
    """Return mean cross-entropy in nats and accuracy in 0..1; what a training loop watches. See ``predict``.

    A diverged network gives a loss of NaN here, not an error, so that the loop can report it. The model may
    be compiled or wrapped in ``DistributedDataParallel``.

    Example:
        >>> from resnet_tutorial.data import load_sample
        >>> from resnet_tutorial.models import cifar_resnet
        >>> train, test = load_sample()
        >>> loss, accuracy = loss_and_accuracy(cifar_resnet(8, width=4), test.per_class(5))
        >>> round(loss, 1)  # a new network knows nothing: ln 10 is 2.303
        2.3
    """
    how: dict[str, Any] = {"batch_size": batch_size, "device": device, "flip": flip, "dtype": dtype}
    loss, right, _ = class_sums(model, split, normalize=normalize, **how).sum(1).tolist()
    return loss / len(split), right / len(split)


def class_sums(
    model: nn.Module,
    split: Split,
    *,
    normalize: Normalize = CIFAR10,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    flip: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return, over the images of each class, cross-entropy in nats, right ones and their number.

    Sums rather than means, float64 ``(3, K)``, so that several processes can add theirs; see ``predict`` for
    the options.

    Example:
        >>> from resnet_tutorial.data import load_sample
        >>> from resnet_tutorial.models import cifar_resnet
        >>> train, test = load_sample()
        >>> class_sums(cifar_resnet(8, width=4), test.per_class(5))[2, :3]
        tensor([5., 5., 5.], dtype=torch.float64)
    """
    logits = _compute_logits(model, split.images, split.classes, normalize, batch_size, device, flip, dtype)
    labels = split.labels.cpu()
    loss = F.cross_entropy(logits.double(), labels, reduction="none")
    sums = torch.stack([loss, (logits.argmax(1) == labels).double(), torch.ones_like(loss)])  # (3, N)
    return torch.zeros(3, len(split.classes), dtype=torch.float64).index_add_(1, labels, sums)
