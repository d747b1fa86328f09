"""Normalisation: from pixels to what a network wants to see."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalize:
    """Per-channel standardisation, ``(x / 255 - mean) / std``.

    Attributes:
        mean: Mean of each channel, for values in 0..1.
        std: Standard deviation of each channel, for values in 0..1.

    Raises:
        ValueError: If the two have not one value a channel, or a ``std`` is not above 0.

    Example:
        >>> white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
        >>> [round(value, 2) for value in CIFAR10(white)[0, :, 0, 0].tolist()]
        [2.06, 2.13, 2.12]
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        """Store plain tuples of floats, so that values read from JSON compare equal."""
        object.__setattr__(self, "mean", tuple(float(value) for value in self.mean))
        object.__setattr__(self, "std", tuple(float(value) for value in self.std))
        if not self.mean or len(self.mean) != len(self.std) or min(self.std) <= 0:
            given = f"mean {self.mean} and std {self.std}"
            raise ValueError(f"{given}: give one value a channel, each std above 0")

    def __call__(self, images: Tensor) -> Tensor:
        """Standardise a batch ``(N, C, H, W)``, uint8 or floats in 0..1, which is not modified.

        Returns:
            float32 ``(N, C, H, W)``, channels-last.

        Raises:
            ValueError: If the shape, the type or the range of values is another.
        """
        if images.dim() != 4 or images.shape[1] != len(self.mean):
            raise ValueError(f"images of shape {tuple(images.shape)}: give (N, {len(self.mean)}, H, W)")
        if images.is_floating_point():
            low, high = (images.min().item(), images.max().item()) if images.numel() else (0.0, 1.0)
            if low < -1e-3 or high > 1 + 1e-3:
                given = f"float images with values from {low:g} to {high:g}"
                raise ValueError(f"{given}: give 0..1 (divide by 255) or uint8")
        elif images.dtype != torch.uint8:
            raise ValueError(f"images are {images.dtype}: give torch.uint8, or floats in 0..1")
        y = images.to(torch.float32, memory_format=torch.channels_last, copy=True)
        largest = 255.0 if images.dtype == torch.uint8 else 1.0
        factor, offset = _constants(self, largest, y.shape[3], y.device)
        # An innermost dimension of C = 3 is too short to vectorise: work on rows of W * C values instead.
        y.permute(0, 2, 3, 1).flatten(2).mul_(factor).add_(offset)
        return y


@lru_cache(maxsize=64)
def _constants(
    normalize: Normalize, largest: float, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return factor and offset of a row, float32 ``(W * C,)``: ``x / (largest * std) - mean / std``.

    A GPU waits for each copy of new ones, so they are kept.
    """
    scale = [1 / (largest * std) for std in normalize.std]
    shift = [-mean / std for mean, std in zip(normalize.mean, normalize.std, strict=True)]
    with torch.inference_mode(False):  # else they could not take part in a backward pass later
        factor, offset = torch.tensor([scale, shift], dtype=torch.float32, device=device).repeat(1, width)
    return factor, offset


# Statistics of the 50,000 training images of CIFAR-10.
CIFAR10 = Normalize(mean=(0.49139968, 0.48215841, 0.44653091), std=(0.24703223, 0.24348513, 0.26158784))
# What torchvision's ImageNet weights were trained with.
IMAGENET = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
