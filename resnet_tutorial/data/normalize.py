"""Normalisation: from pixels to what a network wants to see, and back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Normalize:
    """Per-channel standardisation, ``(x / 255 - mean) / std``.

    Attributes:
        mean: mean of each channel, for values in 0..1.
        std: standard deviation of each channel, for values in 0..1.

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
            raise ValueError(
                f"mean {self.mean} and std {self.std} must have one value a channel, each std above 0"
            )

    def __call__(self, images: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standardise a batch; the arithmetic is done in float32 and the memory format is kept.

        Args:
            images: ``(N, C, H, W)``, uint8, or floating point with values in 0..1. Not modified.
            dtype: type of the result.

        Returns:
            ``(N, C, H, W)`` of ``dtype``.

        Raises:
            ValueError: if the shape, the type or the range of values is another.
        """
        self._check(images)
        if images.dtype == torch.uint8:
            largest = 255.0
        elif images.is_floating_point():
            largest = 1.0
            low, high = (images.min().item(), images.max().item()) if images.numel() else (0.0, 1.0)
            if low < -1e-3 or high > 1 + 1e-3:
                raise ValueError(
                    f"float images have values from {low:g} to {high:g}; give 0..1 (divide by 255) or uint8"
                )
        else:
            raise ValueError(f"images are {images.dtype}; give torch.uint8, or floats in 0..1")
        # One multiplication and one addition a value: x * 1/(largest * std) - mean/std.
        scale = [1 / (largest * std) for std in self.std]
        shift = [-mean / std for mean, std in zip(self.mean, self.std, strict=True)]
        return _scale_and_shift(images, scale, shift).to(dtype)

    def undo(self, x: Tensor) -> Tensor:
        """Turn standardised images ``(N, C, H, W)`` back into float32 in 0..1, clamped, for showing them."""
        self._check(x)
        return _scale_and_shift(x, self.std, self.mean).clamp_(0, 1)

    def _check(self, images: Tensor) -> None:
        if images.dim() != 4 or images.shape[1] != len(self.mean):
            raise ValueError(
                f"images have shape {tuple(images.shape)};"
                f" this normalisation needs (N, {len(self.mean)}, H, W)"
            )


def _scale_and_shift(x: Tensor, scale: list[float] | tuple[float, ...], shift: list[float] | tuple) -> Tensor:
    """Return ``x * scale + shift`` per channel in float32, as a new tensor in the same memory format."""
    y = x.to(torch.float32, copy=True)
    factor, offset = _constants(tuple(scale), tuple(shift), y.device)
    if is_channels_last(y):
        # An innermost dimension of C = 3 is too short to vectorise: work on rows of W * C values instead.
        width = y.shape[3]
        y.permute(0, 2, 3, 1).flatten(2).mul_(factor.repeat(width)).add_(offset.repeat(width))
    else:
        y.mul_(factor[:, None, None]).add_(offset[:, None, None])
    return y


@lru_cache(maxsize=64)
def _constants(
    scale: tuple[float, ...], shift: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The two as float32 ``(C,)`` on the device: a GPU waits for each copy of new ones, so they are kept."""
    with torch.inference_mode(False):  # else they could not take part in a backward pass later
        factor, offset = torch.tensor([scale, shift], dtype=torch.float32, device=device)
    return factor, offset


def is_channels_last(images: Tensor) -> bool:
    """Whether the values of one pixel lie side by side; false where both formats come to the same."""
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


# Statistics of the 50,000 training images of CIFAR-10.
CIFAR10 = Normalize(mean=(0.49139968, 0.48215841, 0.44653091), std=(0.24703223, 0.24348513, 0.26158784))
# What torchvision's ImageNet weights were trained with.
IMAGENET = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
