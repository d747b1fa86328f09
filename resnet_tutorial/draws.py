"""Random draws for augmentation: each image gets its own, from a generator that can be seeded and saved.

Drawing and applying are separate, so that a test can apply the same draws with torchvision and compare pixel
for pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Added to the seed of the alternating flips: a run seeds its own generator with the same number, and equal
# seeds would tie the flips to the first draws of that run. Only 32 bits of a seed count on the CPU.
FLIP_STREAM = 0x9E3779B9


def to_device(draws: Tensor, device: torch.device | str | None) -> Tensor:
    """The draws on `device` (None: where they are), without making the host wait for a GPU.

    The host waits for a copy from ordinary memory, and with it for all that the GPU was given before; a copy
    from pinned memory takes its place in the queue.
    """
    device = draws.device if device is None else torch.device(device)
    if device.type == "cuda" and draws.device.type == "cpu":
        return draws.pin_memory().to(device, non_blocking=True)
    return draws.to(device)


def draw_offsets(
    n: int,
    padding: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw where each crop starts in its padded image, uniformly and independently for rows and columns.

    Args:
        n: number of images.
        padding: pixels added on each side.
        generator: source of randomness. The draw happens on its device, so that a CPU generator gives the
            same draws for images on any device.
        device: where the result should lie; the generator's device if None.

    Returns:
        int64 ``(n, 2)``, top and left, in 0..2 * padding; ``padding`` means not shifted.

    Example:
        >>> offsets = draw_offsets(1000, 4, generator=torch.Generator().manual_seed(0))
        >>> offsets.shape, int(offsets.min()), int(offsets.max())
        (torch.Size([1000, 2]), 0, 8)
    """
    where = generator.device if generator is not None else device
    return to_device(torch.randint(0, 2 * padding + 1, (n, 2), generator=generator, device=where), device)


def draw_flips(
    n: int, *, generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Draw bool ``(n,)``: which images to mirror, each with probability one half.

    Example:
        >>> mask = draw_flips(10000, generator=torch.Generator().manual_seed(0))
        >>> round(float(mask.float().mean()), 1)
        0.5
    """
    where = generator.device if generator is not None else device
    mask = torch.randint(0, 2, (n,), generator=generator, device=where, dtype=torch.bool)
    return to_device(mask, device)


def alternating_flips(n: int, epoch: int, *, seed: int) -> Tensor:
    """Say which of ``n`` images to mirror in an epoch, so that each is mirrored exactly every other epoch.

    Epoch 0 is random for each image, then every image alternates: two epochs show both views of each image
    once, where independent draws repeat a view half the time. From Jordan, "94% on CIFAR-10 in 3.29 Seconds
    on a Single GPU" (arXiv:2404.00498).

    Args:
        n: number of images in the data set; index the result with the indices of a batch.
        epoch: number of the epoch, from 0.
        seed: the same for all epochs of a run; a generator seeded with it draws other numbers.

    Returns:
        bool ``(n,)`` on the CPU.

    Example:
        >>> first, second, third = (alternating_flips(1000, epoch, seed=0) for epoch in range(3))
        >>> bool((first != second).all()), bool((first == third).all())
        (True, True)
    """
    first = draw_flips(n, generator=torch.Generator().manual_seed(seed + FLIP_STREAM))
    return first if epoch % 2 == 0 else ~first


def draw_centres(
    n: int,
    height: int,
    width: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Draw int64 ``(n, 2)``: row and column of a pixel of each image, uniformly, as centres for cutout.

    Example:
        >>> centres = draw_centres(1000, 32, 16, generator=torch.Generator().manual_seed(0))
        >>> centres.amax(dim=0)  # the last row and the last column
        tensor([31, 15])
    """
    where = generator.device if generator is not None else device
    rows = torch.randint(0, height, (n,), generator=generator, device=where)
    columns = torch.randint(0, width, (n,), generator=generator, device=where)
    return to_device(torch.stack([rows, columns], dim=1), device)
