"""Random views of photographs, by torchvision's transforms."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

SMALLEST = 0.75  # share of a photo's area that a view shows at least
LIGHT = 0.1  # largest change of brightness, contrast and saturation, as a share
DRAWS = 8  # of a batch: its images share one among several, as a draw for each would keep a GPU waiting


def photo_views(images: Tensor, *, seed: int) -> Tensor:
    """Cut out, mirror and relight photos at random, as ImageNet networks are trained, but more gently.

    ``RandomResizedCrop``, ``RandomHorizontalFlip`` and ``ColorJitter`` of ``torchvision.transforms.v2``, with
    one draw for each eighth of the batch; the batch is of other photos in every epoch. The seed decides all;
    the global generator is left as it was.

    Args:
        images: uint8 ``(N, 3, H, W)``, on any device. Not modified.
        seed: Of the draws.

    Returns:
        uint8 ``(N, 3, H, W)``.

    Example:
        >>> images = torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8)
        >>> views = photo_views(images, seed=0)
        >>> views.shape, torch.equal(views, photo_views(images, seed=0)), torch.equal(views, images)
        (torch.Size([16, 3, 32, 32]), True, False)
    """
    height, width = images.shape[2:]
    transform = _transform(height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.cat([transform(part) for part in images.split(-(-len(images) // DRAWS))])


@lru_cache
def _transform(height: int, width: int) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2  # takes a second, which most commands do not need

    light = v2.ColorJitter(brightness=LIGHT, contrast=LIGHT, saturation=LIGHT)
    views = v2.RandomResizedCrop((height, width), scale=(SMALLEST, 1.0), antialias=True)
    transform: Callable[[Tensor], Tensor] = v2.Compose([views, v2.RandomHorizontalFlip(), light])
    return transform
