"""From a split to batches: the input pipeline, with all images as uint8 on the device."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..data import Augment, Draws, Normalize, Split, alternating_flips, photo_views, take, to_device
from . import distributed

T = TypeVar("T")


class Pipeline:
    """Give the batches of each epoch: shuffled, augmented and normalised, a whole batch at a time.

    Order, crops, flips and cutouts of an epoch depend on the seed and the number of the epoch, and on nothing
    else; they are drawn once an epoch and copied to the device once. Of several processes each computes its
    own share of a batch only.

    Args:
        split: N images, on the device where the batches are needed, or on disk.
        augment: Applied to the uint8 images.
        normalize: Turns them into floats.
        batch_size: Images a batch, of all processes together; an epoch's last, incomplete batch is dropped.
        seed: Of order and augmentation.
        views: ``photo`` also draws ``data.photo_views`` of a batch.
        device: Where the batches are needed, if images on disk are to be read batch by batch.

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
        self,
        split: Split,
        augment: Augment,
        normalize: Normalize,
        *,
        batch_size: int,
        seed: int = 0,
        views: str = "none",
        device: torch.device | None = None,
    ) -> None:
        if not 1 <= batch_size <= len(split):
            raise ValueError(f"batch_size={batch_size}: give 1 to {len(split)}, the number of images")
        self.split, self.augment, self.normalize = split, augment, normalize
        self.batch_size, self.seed, self.views = batch_size, seed, views
        self.device = device or split.images.device

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
        shares = []
        for batch in range(len(self))[skip:][:most]:
            start = batch * self.batch_size
            shares.append(distributed.share(self.batch_size, start))
        taken: Iterator[tuple[Tensor, slice]] = (
            (take(self.split.images, order[mine]), mine) for mine in shares
        )  # uint8 (B, C, H, W)
        if self.split.images.device != self.device:
            taken = _ahead(taken)
        for pixels, mine in taken:
            images = self.augment.apply(to_device(pixels, self.device), draws[mine])
            if self.views == "photo":
                images = photo_views(images, seed=_entropy(self.seed, number, mine.start))
            labels = to_device(self.split.labels.index_select(0, order[mine]), self.device)
            yield self.normalize(images), labels

    def _draw(self, number: int) -> tuple[Tensor, Draws]:
        """Return the order of the images, ``(len(self) * batch_size,)``, and what is drawn for each."""
        generator = torch.Generator().manual_seed(_entropy(self.seed, number))
        order = torch.randperm(len(self.split), generator=generator)[: len(self) * self.batch_size]
        mask = None
        if self.augment.flip == "alternating":
            mask = alternating_flips(len(self.split), number, seed=self.seed)[order]
        height, width = self.split.images.shape[2:]
        draws = self.augment.draw(len(order), height, width, generator=generator, flip_mask=mask)
        return to_device(order, self.split.images.device), draws.to(self.device)


def _entropy(*numbers: int) -> int:
    """Mix numbers into a seed, so that neighbouring ones have nothing in common."""
    return int(np.random.SeedSequence([number % 2**32 for number in numbers]).generate_state(1)[0])


def _ahead(batches: Iterator[T]) -> Iterator[T]:
    """Prepare each next batch in a thread, while the present one is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch
