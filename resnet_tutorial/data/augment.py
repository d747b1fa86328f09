"""Batched augmentation of images, on the CPU or the GPU.

Everything here takes a whole batch of uint8 images ``(N, C, H, W)`` and gives each image its own random draw
without a Python loop. Crop and flip copy whole rows of pixels: each row of the result is found by the place
where it starts in the padded images or in their mirror images. The host never waits for a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .normalize import is_channels_last

PAD_MODES = ("zero", "reflect")
FLIPS = ("random", "alternating", "none")


def _check_images(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise ValueError(
            f"images are {images.dtype} of shape {tuple(images.shape)}; give torch.uint8 of shape"
            " (N, C, H, W), before normalisation"
        )


def _check_draws(name: str, draws: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(draws.shape) != shape or draws.dtype != dtype:
        raise ValueError(
            f"{name} is {draws.dtype} of shape {tuple(draws.shape)}; these images need"
            f" {dtype} of shape {shape}"
        )


def _crop_and_flip(
    images: Tensor, offsets: Tensor | None, mask: Tensor | None, *, padding: int = 0, mode: str = "zero"
) -> Tensor:
    """Crop the padded images, then mirror those marked by ``mask``; see `crop` and `flip`."""
    n, _, height, width = images.shape
    # As they lie in memory: N images of P planes, H rows, W pixels, S values a pixel.
    interleaved = is_channels_last(images)
    x = images.permute(0, 2, 3, 1)[:, None] if interleaved else images.contiguous()[..., None]
    planes, values = x.shape[1], x.shape[4]
    if offsets is not None:
        x = _pad(x, padding, mode)
        h, w = x.shape[2:4]
        top, left = to_device(offsets, x.device).unbind(1)
        plane = torch.arange(n * planes, device=x.device).view(n, planes)
        row = top[:, None] + torch.arange(height, device=x.device)  # (N, H)
        starts = ((plane[:, :, None] * h + row[:, None, :]) * w + left[:, None, None]) * values  # (N, P, H)
        size = width * values
        windows = x.as_strided((x.numel() - size + 1, size), (1, 1))  # one at every position
        x = windows.index_select(0, starts.flatten()).view(n, planes, height, width, values)
    if mask is not None:
        which = torch.arange(n, device=x.device) + n * to_device(mask, x.device)
        x = torch.cat([x, x.flip(3)]).index_select(0, which)
    return x[:, 0].permute(0, 3, 1, 2) if interleaved else x[..., 0]


def _pad(x: Tensor, p: int, mode: str) -> Tensor:
    """Images (N, P, H, W, S) with p rows and columns more on each side."""
    x = F.pad(x, (0, 0, p, p, p, p))
    if mode == "reflect" and p:  # `F.pad` cannot do this for uint8
        x[:, :, :, :p] = x[:, :, :, p + 1 : 2 * p + 1].flip(3)
        x[:, :, :, -p:] = x[:, :, :, -2 * p - 1 : -p - 1].flip(3)
        x[:, :, :p] = x[:, :, p + 1 : 2 * p + 1].flip(2)
        x[:, :, -p:] = x[:, :, -2 * p - 1 : -p - 1].flip(2)
    return x


def _check_crop(images: Tensor, padding: int, mode: str) -> None:
    if mode not in PAD_MODES:
        raise ValueError(f"pad mode {mode!r} is unknown; choose one of {', '.join(PAD_MODES)}")
    if padding < 0 or (mode == "reflect" and padding >= min(images.shape[2:])):
        raise ValueError(
            f"padding {padding} does not suit images of {images.shape[2]} x {images.shape[3]};"
            " give 0 or more, for reflect less than the side"
        )


def crop(images: Tensor, offsets: Tensor, *, padding: int = 4, mode: str = "zero") -> Tensor:
    """Pad each image on all sides and cut a window of the original size at its own offset.

    He et al. (2016), section 4.2, use 4 black pixels on each side of a 32 x 32 image.

    Args:
        images: uint8 ``(N, C, H, W)``.
        offsets: int64 ``(N, 2)`` from `draw_offsets`, top and left, in 0..2 * padding.
        padding: pixels added on each side.
        mode: ``"zero"`` (black) or ``"reflect"`` (mirrored at the border pixel, which is not repeated).

    Returns:
        uint8 ``(N, C, H, W)`` in the memory format of ``images``.

    Raises:
        ValueError: for images that are not uint8 in four dimensions, for offsets of another shape, type or
            range, and for an unknown mode or an unsuitable padding.

    Example:
        >>> image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
        >>> crop(image, torch.tensor([[0, 1]]), padding=1)[0, 0].tolist()  # the window is one row higher
        [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    """
    _check_images(images)
    _check_crop(images, padding, mode)
    _check_draws("offsets", offsets, (len(images), 2), torch.int64)
    # Beyond the range the gather would read from the neighbouring row without an error.
    low, high = (int(offsets.min()), int(offsets.max())) if len(offsets) else (0, 0)
    if low < 0 or high > 2 * padding:
        raise ValueError(
            f"offsets run from {low} to {high}; with padding {padding} they must be in 0..{2 * padding}"
        )
    return _crop_and_flip(images, offsets, None, padding=padding, mode=mode)


def flip(images: Tensor, mask: Tensor) -> Tensor:
    """Mirror, left to right, the images where ``mask`` is true.

    Args:
        images: uint8 ``(N, C, H, W)``.
        mask: bool ``(N,)`` from `draw_flips` or `alternating_flips`.

    Returns:
        uint8 ``(N, C, H, W)`` in the memory format of ``images``.

    Raises:
        ValueError: for images that are not uint8 in four dimensions, or a mask of another shape or type.

    Example:
        >>> images = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).view(2, 1, 1, 2)
        >>> flip(images, torch.tensor([True, False])).flatten().tolist()
        [2, 1, 3, 4]
    """
    _check_images(images)
    _check_draws("mask", mask, (len(images),), torch.bool)
    return _crop_and_flip(images, None, mask)


def cutout(images: Tensor, centres: Tensor, *, size: int, fill: int = 0) -> Tensor:
    """Paint a square over each image; the part of it outside the image is lost.

    DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout"
    (arXiv:1708.04552). The centre is any pixel, so that some squares are cut by the border, as in the paper.

    Args:
        images: uint8 ``(N, C, H, W)``. Not modified.
        centres: int64 ``(N, 2)`` from `draw_centres`, row and column; the square starts ``size // 2`` before.
        size: side of the square, in pixels; 0 paints nothing.
        fill: value painted, 0..255.

    Returns:
        uint8 ``(N, C, H, W)`` in the memory format of ``images``.

    Raises:
        ValueError: for images that are not uint8 in four dimensions, for centres of another shape or type,
            for a negative size and for a fill outside 0..255.

    Example:
        >>> white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
        >>> black = cutout(white, torch.tensor([[0, 16]]), size=8)[0, 0] == 0
        >>> int(black.sum())  # half of the 64 pixels are above the image
        32
    """
    _check_images(images)
    _check_draws("centres", centres, (len(images), 2), torch.int64)
    if size < 0 or not 0 <= fill <= 255:
        raise ValueError(
            f"size {size} and fill {fill} do not suit; give a size of 0 or more and a fill in 0..255"
        )
    first = to_device(centres, images.device) - size // 2
    rows = torch.arange(images.shape[2], device=images.device) - first[:, :1]  # (N, H), 0 at the square's top
    columns = torch.arange(images.shape[3], device=images.device) - first[:, 1:]  # (N, W), 0 at its left
    inside_rows = (rows >= 0) & (rows < size)
    inside_columns = (columns >= 0) & (columns < size)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]  # (N, 1, H, W)
    return images.masked_fill(inside, fill)


@dataclass(frozen=True)
class Augment:
    """Random crop, horizontal flip and cutout of a batch, in this order, each image with its own draw.

    Attributes:
        padding: pixels added on each side before cropping; 0 leaves the crop out.
        pad_mode: ``"zero"`` or ``"reflect"``.
        flip: ``"random"`` (each image with probability one half), ``"alternating"`` (the caller passes a mask
            from `alternating_flips`), or ``"none"``.
        cutout: side of the black square, in pixels; 0 leaves it out.

    Example:
        >>> images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> augment = Augment(padding=4, flip="random", cutout=8)
        >>> once, again = (augment(images, generator=torch.Generator().manual_seed(0)) for _ in range(2))
        >>> torch.equal(once, again), torch.equal(once, images)
        (True, False)
    """

    padding: int = 4
    pad_mode: str = "zero"
    flip: str = "random"
    cutout: int = 0

    def __post_init__(self) -> None:
        """Refuse unknown settings here, not in the middle of a training run."""
        if self.pad_mode not in PAD_MODES:
            raise ValueError(f"pad mode {self.pad_mode!r} is unknown; choose one of {', '.join(PAD_MODES)}")
        if self.flip not in FLIPS:
            raise ValueError(f"flip {self.flip!r} is unknown; choose one of {', '.join(FLIPS)}")
        if self.padding < 0 or self.cutout < 0:
            raise ValueError(f"padding {self.padding} and cutout {self.cutout} are pixels; give 0 or more")

    def __call__(
        self, images: Tensor, *, generator: torch.Generator | None = None, flip_mask: Tensor | None = None
    ) -> Tensor:
        """Augment a batch.

        Args:
            images: uint8 ``(N, C, H, W)``. Not modified.
            generator: source of all draws; torch's global one if None.
            flip_mask: bool ``(N,)``, needed with ``flip="alternating"`` and allowed with nothing else.

        Returns:
            uint8 ``(N, C, H, W)`` in the memory format of ``images``.

        Raises:
            ValueError: for images that are not uint8 in four dimensions, and for a mask missing or unwanted.
        """
        _check_images(images)
        _check_crop(images, self.padding, self.pad_mode)
        if (self.flip == "alternating") != (flip_mask is not None):
            raise ValueError(
                f"flip={self.flip!r} with{'out' if flip_mask is None else ''} a flip_mask; pass"
                " alternating_flips(...) as flip_mask with flip='alternating', and only then"
            )
        n, _, height, width = images.shape
        offsets = None
        if self.padding:
            offsets = draw_offsets(n, self.padding, generator=generator, device=images.device)
        if self.flip == "random":
            flip_mask = draw_flips(n, generator=generator, device=images.device)
        elif flip_mask is not None:
            _check_draws("flip_mask", flip_mask, (n,), torch.bool)
        if offsets is not None or flip_mask is not None:
            images = _crop_and_flip(images, offsets, flip_mask, padding=self.padding, mode=self.pad_mode)
        if self.cutout:
            centres = draw_centres(n, height, width, generator=generator, device=images.device)
            images = cutout(images, centres, size=self.cutout)
        return images


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
