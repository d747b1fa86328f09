"""From indices to batches: the input pipeline, with all images as uint8 on the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data import Augment, Normalize, Split, alternating_flips


@dataclass
class Pipeline:
    """Looks images up, augments and normalises them, a whole batch at a time.

    Attributes:
        split: The images, on the device where they are needed.
        augment: Applied to the uint8 images.
        normalize: Turns them into floats.
        generator: Source of the augmentation.
        seed: Of the alternating flips.

    Example:
        >>> from resnet_tutorial.data import CIFAR10
        >>> from resnet_tutorial.data import load_sample
        >>> train, test = load_sample()
        >>> load = Pipeline(train, Augment(), CIFAR10, torch.Generator().manual_seed(0))
        >>> load.start_epoch(0)
        >>> images, labels = load(torch.arange(16))
        >>> images.shape, images.dtype, labels.shape
        (torch.Size([16, 3, 32, 32]), torch.float32, torch.Size([16]))
    """

    split: Split
    augment: Augment
    normalize: Normalize
    generator: torch.Generator
    seed: int = 0

    def __post_init__(self) -> None:
        """Lay the values of a pixel side by side, as the network wants them."""
        self.pixels = self.split.images.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C)

    def start_epoch(self, epoch: int) -> None:
        """Called before the batches of an epoch, counted from 0."""
        self.flips = None
        if self.augment.flip == "alternating":
            flips = alternating_flips(len(self.split), epoch, seed=self.seed)
            self.flips = flips.to(self.split.images.device)

    def __call__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The batch of these images: float32 ``(B, C, H, W)``, channels-last, and labels ``(B,)``."""
        flips = None if self.flips is None else self.flips[indices]
        # Unlike indexing with [], this copies whole images.
        images = self.pixels.index_select(0, indices).permute(0, 3, 1, 2)  # (B, C, H, W), channels-last
        images = self.augment(images, generator=self.generator, flip_mask=flips)
        return self.normalize(images), self.split.labels[indices]
