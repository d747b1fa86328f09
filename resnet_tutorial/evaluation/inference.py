"""From a network and a split to its logits (`predict`); from logits to every metric (`report`).

The two steps are apart on purpose: logits are saved once, and whatever is asked of them later is computed
from the file.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import CIFAR10, Normalize, Split
from .predictions import Predictions


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards each module returns to its mode (a frozen batch norm stays in eval)."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _compute_logits(
    model: nn.Module,
    split: Split,
    *,
    normalize: Normalize,
    batch_size: int,
    device: torch.device | str | None,
    flip: bool,
    dtype: torch.dtype | None,
) -> Tensor:
    """Run the network over a split, in order; float32 ``(N, K)`` on the CPU."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give 1 or more")
    if device is None:
        first = next(model.parameters(), None)
        device = split.images.device if first is None else first.device
    device = torch.device(device)
    model.to(device)
    mixed = contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)
    parts = []
    with _evaluating(model), torch.inference_mode(), mixed:
        for start in range(0, len(split), batch_size):
            images = normalize(split.images[start : start + batch_size].to(device))  # (B, 3, H, W)
            logits = model(images).float()
            if flip:
                logits = (logits + model(images.flip(3)).float()) / 2
            if logits.shape != (len(images), len(split.classes)):
                raise ValueError(
                    f"the network gives {tuple(logits.shape)} for {len(images)} images, but {split.name!r}"
                    f" has {len(split.classes)} classes: use a network with that many outputs"
                )
            parts.append(logits)  # stays on the device, so that no batch waits for a copy
        return torch.cat(parts).cpu()


def predict(
    model: nn.Module,
    split: Split,
    *,
    normalize: Normalize = CIFAR10,
    batch_size: int = 500,
    device: torch.device | str | None = None,
    flip: bool = False,
    dtype: torch.dtype | None = None,
) -> Predictions:
    """Compute the logits of every image, in eval mode and without gradients.

    Running statistics are not touched, and every module returns to the mode in which it was.

    Args:
        model: maps ``(B, 3, H, W)`` to logits ``(B, K)``.
        split: N images with labels.
        normalize: as in the network's training.
        batch_size: images a step; changes speed and memory, not the result.
        device: where to compute; the model is moved there. Where the model is, if None.
        flip: average the logits of each image and of its mirror image (test-time augmentation).
        dtype: type for autocast, such as ``torch.bfloat16``; plain float32 if None.

    Raises:
        ValueError: the network has another number of outputs than the split has classes, ``batch_size`` is
            below 1, or a logit is not finite.

    Example:
        >>> from resnet_tutorial.data import load_sample
        >>> from resnet_tutorial.models import create
        >>> train, test = load_sample()
        >>> predictions = predict(create("resnet20", weights="cifar10"), test.subset([0, 1, 4]))
        >>> predictions.logits.shape, [test.classes[k] for k in predictions.predicted]
        ((3, 10), ['cat', 'ship', 'frog'])
    """
    logits = _compute_logits(
        model, split, normalize=normalize, batch_size=batch_size, device=device, flip=flip, dtype=dtype
    )
    return Predictions(logits.numpy(), split.labels.cpu().numpy(), split.classes)


def loss_and_accuracy(
    model: nn.Module,
    split: Split,
    *,
    normalize: Normalize = CIFAR10,
    batch_size: int = 500,
    device: torch.device | str | None = None,
    flip: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[float, float]:
    """Mean cross-entropy in nats, and accuracy in 0..1; what a training loop watches. See `predict`.

    A diverged network gives a loss of NaN here, not an error, so that the loop can report it.

    Example:
        >>> from resnet_tutorial.data import load_sample
        >>> from resnet_tutorial.models import cifar_resnet
        >>> train, test = load_sample()
        >>> loss, accuracy = loss_and_accuracy(cifar_resnet(8, width=4), test.per_class(5))
        >>> round(loss, 1)  # a new network knows nothing: ln 10 is 2.303
        2.3
    """
    logits = _compute_logits(
        model, split, normalize=normalize, batch_size=batch_size, device=device, flip=flip, dtype=dtype
    )
    labels = split.labels.cpu()
    accuracy = (logits.argmax(1) == labels).double().mean()
    return F.cross_entropy(logits.double(), labels).item(), accuracy.item()
