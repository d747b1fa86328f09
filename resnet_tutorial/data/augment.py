"""Batched augmentation of images, on the CPU or the GPU.

Everything here takes a whole batch of uint8 images ``(N, C, H, W)``, in any memory format, and gives each
image its own random draw without a Python loop. Results are channels-last. Crop and flip copy whole rows of
pixels, found by the place where each starts in the padded images or in their mirror images. What
``Augment.apply`` does never makes the host wait for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PAD_MODES = ("zero", "reflect")
FLIPS = ("random", "alternating", "none")


def crop(images: Tensor, offsets: Tensor, *, padding: int = 4, mode: str = "zero") -> Tensor:
    """Pad each image on all sides and cut a window of the original size at its own offset.

    He et al. (2016a), section 4.2, use 4 black pixels on each side of a 32 x 32 image.

    Args:
        images: uint8 ``(N, C, H, W)``; so is the result, channels-last.
        offsets: int64 ``(N, 2)`` from ``draw_offsets``, top and left, in 0..2 * padding.
        padding: Pixels added on each side.
        mode: ``"zero"`` (black) or ``"reflect"`` (mirrored at the border pixel, which is not repeated).

    Raises:
        ValueError: If images or offsets have another shape, type or range, or mode or padding do not suit.

    Example:
        >>> image = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3)
        >>> crop(image, torch.tensor([[0, 1]]), padding=1)[0, 0].tolist()  # the window is one row higher
        [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    """
    Augment(padding, mode)  # knows which values are allowed
    _check_images(images, padding=padding, reflect=mode == "reflect")
    _check_draws("offsets", offsets, (len(images), 2), torch.int64)
    # Beyond the range the gather would read from the neighbouring row without an error.
    low, high = (int(offsets.min()), int(offsets.max())) if len(offsets) else (0, 0)
    if low < 0 or high > 2 * padding:
        raise ValueError(f"offsets from {low} to {high}: with padding {padding} give 0..{2 * padding}")
    return _crop_and_flip(images, to_device(offsets, images.device), None, padding=padding, mode=mode)


def flip(images: Tensor, mask: Tensor) -> Tensor:
    """Mirror, left to right, the images ``(N, C, H, W)``, uint8, where ``mask`` is true; channels-last.

    The mask is bool ``(N,)``, from ``draw_flips`` or ``alternating_flips``.

    Raises:
        ValueError: If images or mask have another shape or type.

    Example:
        >>> images = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).view(2, 1, 1, 2)
        >>> flip(images, torch.tensor([True, False])).flatten().tolist()
        [2, 1, 3, 4]
    """
    _check_images(images)
    _check_draws("mask", mask, (len(images),), torch.bool)
    return _crop_and_flip(images, None, to_device(mask, images.device))


def cutout(images: Tensor, centres: Tensor, *, size: int) -> Tensor:
    """Paint a black square over each image; the part of it outside the image is lost.

    DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout"
    (arXiv:1708.04552). The centre is any pixel, so that some squares are cut by the border, as in the paper.

    Args:
        images: uint8 ``(N, C, H, W)``, not modified; so is the result, channels-last.
        centres: int64 ``(N, 2)`` from ``draw_centres``, row and column; squares start ``size // 2`` before.
        size: Side of the square, in pixels; 0 paints nothing.

    Raises:
        ValueError: If images or centres have another shape or type, or the size is negative.

    Example:
        >>> white = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
        >>> black = cutout(white, torch.tensor([[0, 16]]), size=8)[0, 0] == 0
        >>> int(black.sum())  # half of the 64 pixels are above the image
        32
    """
    _check_images(images)
    _check_draws("centres", centres, (len(images), 2), torch.int64)
    if size < 0:
        raise ValueError(f"size {size}: give a number of pixels, 0 or more")
    return _cutout(images, to_device(centres, images.device), size)


@dataclass(frozen=True, eq=False)
class Draws:
    """What is drawn for each of n images; ``None`` for what is not asked for.

    Attributes:
        offsets: Where the crops start, int64 ``(n, 2)``.
        flips: Which images are mirrored, bool ``(n,)``.
        centres: Where the squares of cutout are, int64 ``(n, 2)``.

    Example:
        >>> epoch = Augment().draw(50_000, 32, 32, generator=torch.Generator().manual_seed(0))
        >>> batch = epoch[128:256]
        >>> batch.offsets.shape, batch.flips.shape, batch.centres
        (torch.Size([128, 2]), torch.Size([128]), None)
    """

    offsets: Tensor | None
    flips: Tensor | None
    centres: Tensor | None

    def __getitem__(self, index: slice | Tensor) -> Draws:
        """Return the draws of some of the images."""
        return self._each(lambda draws: draws[index])

    def to(self, device: torch.device | str) -> Draws:
        """Return the draws on ``device``, without making the host wait for a GPU."""
        return self._each(lambda draws: to_device(draws, device))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Draws:
        return Draws(*(d if d is None else change(d) for d in (self.offsets, self.flips, self.centres)))


@dataclass(frozen=True)
class Augment:
    """Random crop, horizontal flip and cutout of a batch, in this order, each image with its own draw.

    Attributes:
        padding: Pixels added on each side before cropping; 0 leaves the crop out.
        pad_mode: ``"zero"`` or ``"reflect"``.
        flip: ``"random"`` (each image with probability one half), ``"alternating"`` (the caller passes a mask
            from ``alternating_flips``), or ``"none"``.
        cutout: Side of the black square, in pixels; 0 leaves it out.

    Raises:
        ValueError: If a setting is unknown or negative.

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
        for name, value, choices in (("pad_mode", self.pad_mode, PAD_MODES), ("flip", self.flip, FLIPS)):
            if value not in choices:
                raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(choices)}")
        for name, pixels in (("padding", self.padding), ("cutout", self.cutout)):
            if pixels < 0:
                raise ValueError(f"{name} {pixels}: give a number of pixels, 0 or more")

    def draw(
        self,
        n: int,
        height: int,
        width: int,
        *,
        generator: torch.Generator | None = None,
        flip_mask: Tensor | None = None,
    ) -> Draws:
        """Draw what ``apply`` needs for n images of height x width pixels: offsets, then flips, then centres.

        The draws lie on the device of ``generator`` (torch's global one, on the CPU, if ``None``).
        ``flip_mask``, bool ``(n,)``, is needed with ``flip="alternating"`` and allowed with nothing else.

        Raises:
            ValueError: If the mask is missing, unwanted, or of another shape or type.
        """
        if (self.flip == "alternating") != (flip_mask is not None):
            given = f"flip={self.flip!r} with{'out' if flip_mask is None else ''} a flip_mask"
            advice = "pass alternating_flips(...) as flip_mask with flip='alternating', and only then"
            raise ValueError(f"{given}: {advice}")
        if flip_mask is not None:
            _check_draws("flip_mask", flip_mask, (n,), torch.bool)
        offsets = draw_offsets(n, self.padding, generator=generator) if self.padding else None
        flips = draw_flips(n, generator=generator) if self.flip == "random" else flip_mask
        centres = draw_centres(n, height, width, generator=generator) if self.cutout else None
        return Draws(offsets, flips, centres)

    def apply(self, images: Tensor, draws: Draws) -> Tensor:
        """Augment a batch, uint8 ``(N, C, H, W)``, with what was drawn for it; the result is channels-last.

        The images are not modified; ``draws`` are from ``draw``, on the device of the images.

        Raises:
            ValueError: If the images do not suit, or the draws are for other settings or other numbers.
        """
        _check_images(images, padding=self.padding, reflect=self.pad_mode == "reflect")
        needed = self.padding > 0, self.flip != "none", self.cutout > 0
        wanted = [len(images) if one else None for one in needed]
        given = [None if d is None else len(d) for d in (draws.offsets, draws.flips, draws.centres)]
        if given != wanted:
            raise ValueError(f"offsets, flips, centres are of {given} images: {self} on these needs {wanted}")
        images = _crop_and_flip(images, draws.offsets, draws.flips, padding=self.padding, mode=self.pad_mode)
        return images if draws.centres is None else _cutout(images, draws.centres, self.cutout)

    def __call__(
        self, images: Tensor, *, generator: torch.Generator | None = None, flip_mask: Tensor | None = None
    ) -> Tensor:
        """Draw for a batch and apply that at once; see ``draw`` and ``apply``."""
        _check_images(images)
        draws = self.draw(len(images), *images.shape[2:], generator=generator, flip_mask=flip_mask)
        return self.apply(images, draws.to(images.device))


# Added to the seed of the alternating flips: a run seeds its own generator with the same number, and equal
# seeds would tie the flips to the first draws of that run. Only 32 bits of a seed count on the CPU.
FLIP_STREAM = 0x9E3779B9


def to_device(draws: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on ``device``, without making the host wait for a GPU.

    The host waits for a copy from ordinary memory, and with it for all that the GPU was given before; a copy
    from pinned memory takes its place in the queue.

    Example:
        >>> to_device(torch.arange(3), "cpu")
        tensor([0, 1, 2])
    """
    if torch.device(device).type == "cuda" and draws.device.type == "cpu":
        return draws.pin_memory().to(device, non_blocking=True)
    return draws.to(device)


def draw_offsets(n: int, padding: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw int64 ``(n, 2)``: top and left of each crop in its padded image, uniformly in 0..2 * padding.

    Where both are ``padding`` the image is not shifted. The result lies on the generator's device: one of the
    CPU gives the same draws for images on any device.

    Example:
        >>> offsets = draw_offsets(1000, 4, generator=torch.Generator().manual_seed(0))
        >>> offsets.shape, int(offsets.min()), int(offsets.max())
        (torch.Size([1000, 2]), 0, 8)
    """
    return _draw(2 * padding + 1, (n, 2), generator)


def draw_flips(n: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw bool ``(n,)``: which images to mirror, each with probability one half.

    Example:
        >>> mask = draw_flips(10000, generator=torch.Generator().manual_seed(0))
        >>> round(float(mask.float().mean()), 1)
        0.5
    """
    return _draw(2, (n,), generator).bool()


def alternating_flips(n: int, epoch: int, *, seed: int) -> Tensor:
    """Say which of ``n`` images to mirror in an epoch, so that each is mirrored exactly every other epoch.

    Epoch 0 is random for each image, then every image alternates: two epochs show both views of each image
    once, where independent draws repeat a view half the time. From Jordan, "94% on CIFAR-10 in 3.29 Seconds
    on a Single GPU" (arXiv:2404.00498). The result is bool ``(n,)`` on the CPU, for the whole data set; the
    seed is the same for all epochs of a run, and a generator seeded with it draws other numbers.

    Example:
        >>> first, second, third = (alternating_flips(1000, epoch, seed=0) for epoch in range(3))
        >>> bool((first != second).all()), bool((first == third).all())
        (True, True)
    """
    first = draw_flips(n, generator=torch.Generator().manual_seed(seed + FLIP_STREAM))
    return first if epoch % 2 == 0 else ~first


def draw_centres(n: int, height: int, width: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw int64 ``(n, 2)``: row and column of a pixel of each image, uniformly, as centres for cutout.

    Example:
        >>> centres = draw_centres(1000, 32, 16, generator=torch.Generator().manual_seed(0))
        >>> centres.amax(dim=0)  # the last row and the last column
        tensor([31, 15])
    """
    return torch.stack([_draw(high, (n,), generator) for high in (height, width)], dim=1)


def _draw(high: int, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Draw whole numbers from 0 to ``high - 1`` on the generator's device."""
    device = generator.device if generator is not None else None
    return torch.randint(0, high, shape, generator=generator, device=device)


def _crop_and_flip(
    images: Tensor, offsets: Tensor | None, mask: Tensor | None, *, padding: int = 0, mode: str = "zero"
) -> Tensor:
    """Crop the padded images, then mirror those marked by ``mask``; see ``crop`` and ``flip``."""
    n, channels, height, width = images.shape
    x = images.permute(0, 2, 3, 1).contiguous()  # (N, H, W, C), as it lies in memory
    if offsets is not None and n:
        x = _pad(x, padding, mode)
        h, w = x.shape[1:3]
        top, left = offsets.unbind(1)
        row = (torch.arange(n, device=x.device) * h + top)[:, None] + torch.arange(height, device=x.device)
        starts = (row * w + left[:, None]) * channels  # (N, H)
        size = width * channels
        windows = x.as_strided((x.numel() - size + 1, size), (1, 1))  # one at every position
        x = windows.index_select(0, starts.flatten()).view(n, height, width, channels)
    if mask is not None:
        which = torch.arange(n, device=x.device) + n * mask
        x = torch.cat([x, x.flip(2)]).index_select(0, which)
    return x.permute(0, 3, 1, 2)


def _pad(x: Tensor, p: int, mode: str) -> Tensor:
    """Return images (N, H, W, C) with p rows and columns more on each side."""
    x = F.pad(x, (0, 0, p, p, p, p))
    if mode == "reflect" and p:  # `F.pad` cannot do this for uint8
        x[:, :, :p] = x[:, :, p + 1 : 2 * p + 1].flip(2)
        x[:, :, -p:] = x[:, :, -2 * p - 1 : -p - 1].flip(2)
        x[:, :p] = x[:, p + 1 : 2 * p + 1].flip(1)
        x[:, -p:] = x[:, -2 * p - 1 : -p - 1].flip(1)
    return x


def _cutout(images: Tensor, centres: Tensor, size: int) -> Tensor:
    first = centres - size // 2
    rows = torch.arange(images.shape[2], device=images.device) - first[:, :1]  # (N, H), from its top
    columns = torch.arange(images.shape[3], device=images.device) - first[:, 1:]  # (N, W), from its left
    in_rows, in_columns = ((line >= 0) & (line < size) for line in (rows, columns))
    inside = in_rows[:, :, None, None] & in_columns[:, None, :, None]  # (N, H, W, 1)
    return images.permute(0, 2, 3, 1).masked_fill(inside, 0).permute(0, 3, 1, 2)


def _check_images(images: Tensor, *, padding: int = 0, reflect: bool = False) -> None:
    if images.dtype != torch.uint8 or images.dim() != 4:
        given = f"{images.dtype} of shape {tuple(images.shape)}"
        raise ValueError(f"images are {given}: give torch.uint8 of shape (N, C, H, W), before normalisation")
    if reflect and padding >= min(images.shape[2:]):
        size = " x ".join(map(str, images.shape[2:]))
        raise ValueError(f"padding {padding} of {size} pixels: give for reflect less than the side")


def _check_draws(name: str, draws: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    if tuple(draws.shape) != shape or draws.dtype != dtype:
        given = f"{draws.dtype} of shape {tuple(draws.shape)}"
        raise ValueError(f"{name} is {given}: give {dtype} of shape {shape}")
