"""From a split to batches: the input pipeline, with all images as uint8 on the device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..data import Augment, Draws, Normalize, Split, alternating_flips, take, to_device
from . import distributed


class Pipeline:
    """Give the batches of each epoch: shuffled, augmented and normalised, a whole batch at a time.

    Order, crops, flips and cutouts of an epoch depend on the seed and the number of the epoch, and on nothing
    else; they are drawn once an epoch and copied to the device once. Of several processes each computes its
    own share of a batch only.

    Args:
        split: N images, on the device where the batches are needed.
        augment: Applied to the uint8 images.
        normalize: Turns them into floats.
        batch_size: Images a batch, of all processes together; an epoch's last, incomplete batch is dropped.
        seed: Of order and augmentation.

    Raises:
        ValueError: If a batch would have no image, or more than there are.

    Example:
        >>> from resnet_tutorial.data import CIFAR10, load_sample
        >>> load = Pipeline(load_sample()[0], Augment(), CIFAR10, batch_size=16)
        >>> images, labels = next(load.epoch(0))
        >>> images.shape, images.dtype, labels.shape
        (torch.Size([16, 3, 32, 32]), torch.float32, torch.Size([16]))
    """

    def __init__(
        self, split: Split, augment: Augment, normalize: Normalize, *, batch_size: int, seed: int = 0
    ) -> None:
        if not 1 <= batch_size <= len(split):
            raise ValueError(f"batch_size={batch_size}: give 1 to {len(split)}, the number of images")
        self.split, self.augment, self.normalize = split, augment, normalize
        self.batch_size, self.seed = batch_size, seed

    def __len__(self) -> int:
        """Count the batches of an epoch."""
        return len(self.split) // self.batch_size

    def epoch(
        self, number: int, *, skip: int = 0, most: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the batches of an epoch.

        Args:
            number: Of the epoch, from 0.
            skip: How many of the first batches to leave out, since they were used before.
            most: How many of the rest to give; all by default.

        Yields:
            Images, float32 ``(B, C, H, W)`` in channels-last memory, and labels ``(B,)``.
        """
        if number < 0 or skip < 0:
            raise ValueError(f"epoch {number}, skip={skip}: give numbers from 0")
        order, draws = self._draw(number)
        for batch in range(len(self))[skip:][:most]:
            start = batch * self.batch_size
            mine = distributed.share(self.batch_size, start)
            chosen = order[mine]
            images = self.augment.apply(take(self.split.images, chosen), draws[mine])  # uint8 (B, C, H, W)
            yield self.normalize(images), self.split.labels.index_select(0, chosen)

    def _draw(self, number: int) -> tuple[Tensor, Draws]:
        """Return the order of the images, ``(len(self) * batch_size,)``, and what is drawn for each."""
        entropy = np.random.SeedSequence((self.seed % 2**32, number))
        generator = torch.Generator().manual_seed(int(entropy.generate_state(1)[0]))
        order = torch.randperm(len(self.split), generator=generator)[: len(self) * self.batch_size]
        mask = None
        if self.augment.flip == "alternating":
            mask = alternating_flips(len(self.split), number, seed=self.seed)[order]
        height, width = self.split.images.shape[2:]
        draws = self.augment.draw(len(order), height, width, generator=generator, flip_mask=mask)
        device = self.split.images.device
        return to_device(order, device), draws.to(device)
