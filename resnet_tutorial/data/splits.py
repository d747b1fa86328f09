"""``Split``: labelled images in memory, the form in which all data go through this package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor

from .stored import Stored, pixel_hash


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images with their labels: one part (training, validation, test) of a data set.

    A split is never changed after it was made: every method returns a new one. The constructor (if images
    are channels-last) and ``to`` (on the same device) share the tensors given to them; the methods that
    choose images copy. PyTorch cannot make a tensor read-only, so treat them as such: ``fingerprint`` is
    computed once.

    Attributes:
        images: uint8 ``(N, 3, H, W)``, N >= 1, channels-last in memory: the values of a pixel side by side.
            Those of a large folder stay on disk; an index or a slice reads some of them.
        labels: int64 ``(N,)``, on the same device, each an index into ``classes``.
        classes: The K class names, all different.
        name: What the split is called in tables and figures.
        files: Where each image came from, below its folder; empty if they came from no files.

    Raises:
        ValueError: If the parts do not fit together.

    Example:
        >>> images, labels = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
        >>> both = Split(images, labels, ("cat", "dog"), "four")
        >>> both
        Split('four', 4 images of 32x32, 2 classes)
        >>> rest, held_out = both.split(0.5, seed=0)
        >>> held_out.counts()
        tensor([1, 1])
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    files: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        images, labels, classes = self.images, self.labels, tuple(self.classes)
        if not isinstance(images, Tensor | Stored) or images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images are {_described(images)}: give a uint8 tensor (N, 3, H, W)")
        if images.shape[1] != 3 or images.numel() == 0:
            raise ValueError(
                f"images of shape {tuple(images.shape)}: give (N, 3, H, W) with at least one image; repeat a "
                "grey channel three times, and give more than three channels to a training loop of your own"
            )
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
            raise ValueError(f"labels are {_described(labels)}: give an int64 tensor (N,)")
        if len(labels) != len(images) or labels.device != images.device:
            raise ValueError(
                f"{len(images)} images on {images.device}, {len(labels)} labels on {labels.device}: give "
                "each image one label, on the same device"
            )
        if isinstance(self.classes, str) or not all(isinstance(name, str) and name for name in classes):
            raise ValueError(f"classes are {self.classes!r}: give a tuple of names")
        if len(set(classes)) != len(classes):
            raise ValueError(f"class names {classes}: give names that differ from each other")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(classes):
            raise ValueError(
                f"labels run from {low} to {high}: {len(classes)} classes allow 0 to {len(classes) - 1}"
            )
        if self.files and len(self.files) != len(images):
            raise ValueError(f"{len(self.files)} files for {len(images)} images: give one for each, or none")
        if isinstance(images, Tensor):
            images = images.contiguous(memory_format=torch.channels_last)
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "classes", classes)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        height, width = self.images.shape[2:]
        return f"Split({self.name!r}, {len(self)} images of {height}x{width}, {len(self.classes)} classes)"

    def counts(self) -> Tensor:
        """Return the number of images of each class: int64 ``(K,)``, on the CPU."""
        return torch.bincount(self.labels.cpu(), minlength=len(self.classes))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of shape, pixels, labels and class names; the split's name is left out.

        Of images on disk, the hashes of their pixels take the place of the pixels.
        """
        digest = hashlib.sha256(json.dumps([list(self.images.shape), list(self.classes)]).encode())
        if isinstance(self.images, Stored):
            digest.update("".join(self.hashes()).encode())
            digest.update(self.labels.numpy().astype("<i8").data)
            return digest.hexdigest()
        for images in self.images.split(1024):  # in the order (N, 3, H, W), a few at a time: it takes a copy
            digest.update(images.cpu().contiguous().numpy().data)
        digest.update(self.labels.cpu().numpy().astype("<i8").data)
        return digest.hexdigest()

    def hashes(self) -> tuple[str, ...]:
        """Return what only images of equal pixels have in common, 32 hexadecimal digits of each."""
        if isinstance(self.images, Stored):
            return self.images.hashes
        return tuple(pixel_hash(image) for image in self.images.cpu().permute(0, 2, 3, 1).numpy())

    def subset(self, indices: Tensor | np.ndarray | Sequence[int], *, name: str | None = None) -> Split:
        """Copy the images at ``indices``: integers ``(M,)`` from 0, in the order given, or a mask ``(N,)``.

        Raises:
            ValueError: If an index is out of range, or nothing is chosen.
        """
        chosen = torch.as_tensor(indices, device=self.labels.device)
        if chosen.ndim != 1 or chosen.numel() == 0 or chosen.is_floating_point() or chosen.is_complex():
            raise ValueError(f"indices are {_described(chosen)}: give a non-empty list of integers or a mask")
        if chosen.dtype == torch.bool:
            if len(chosen) != len(self):
                raise ValueError(f"a mask of {len(chosen)} entries: give one for each of {len(self)} images")
            chosen = chosen.nonzero().squeeze(1)
        elif int(chosen.min()) < 0 or int(chosen.max()) >= len(self):
            raise ValueError(
                f"indices run from {int(chosen.min())} to {int(chosen.max())}: {len(self)} images allow 0 to "
                f"{len(self) - 1}"
            )
        chosen = chosen.long()
        if isinstance(self.images, Stored):
            images = cast(Tensor, self.images.select(chosen))
        else:
            images = take(self.images, chosen)
        files = tuple(self.files[k] for k in chosen.tolist()) if self.files else ()
        return replace(self, images=images, labels=self.labels[chosen], name=name or self.name, files=files)

    def per_class(self, n: int, *, seed: int | None = None) -> Split:
        """Take ``n`` images of every class in present order: the first, or with a ``seed`` a random draw.

        Raises:
            ValueError: If ``n`` is not positive, or a class has fewer than ``n`` images.
        """
        counts = self.counts()
        if n < 1 or n > int(counts.min()):
            scarce = int(counts.argmin())
            raise ValueError(
                f"per_class({n}): give n from 1 to at most {int(counts[scarce])}, as many images as class "
                f"{self.classes[scarce]!r} has"
            )
        return self.subset(torch.cat([row[:n] for row in self._by_class(seed)]).sort().values)

    def with_classes(self, names: Sequence[str], *, name: str | None = None) -> Split:
        """Take only the images of these classes, in their present order, labelled by position in ``names``.

        Raises:
            ValueError: If a class is unknown or named twice, or no image is left.
        """
        names = tuple(names)
        if unknown := [entry for entry in names if entry not in self.classes]:
            raise ValueError(f"no class {unknown[0]!r}: choose among {', '.join(self.classes)}")
        label_of = torch.full((len(self.classes),), -1)
        label_of[[self.classes.index(entry) for entry in names]] = torch.arange(len(names))
        labels = label_of.to(self.labels.device)[self.labels]
        if not bool((labels >= 0).any()):
            raise ValueError(f"{self.name!r} has no image of {', '.join(names)}")
        part = self.subset(labels >= 0, name=name)
        return replace(part, labels=labels[labels >= 0], classes=names)

    def labelled_as(self, classes: Sequence[str]) -> Split:
        """Return the images of these classes, labelled by position among them; some may have no image.

        Raises:
            ValueError: If no image is left.

        Example:
            >>> images, labels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])
            >>> Split(images, labels, ("a", "b"), "two").labelled_as(("b", "c", "a")).labels
            tensor([2, 0])
        """
        classes = tuple(classes)
        common = [name for name in classes if name in self.classes]
        if not common:
            raise ValueError(
                f"{self.name} has none of the classes {', '.join(classes)}: it has {', '.join(self.classes)}"
            )
        part = self.with_classes(common)
        places = torch.tensor([classes.index(name) for name in common], device=part.labels.device)
        return replace(part, labels=places[part.labels], classes=classes)

    def split(self, fraction: float, *, seed: int = 0) -> tuple[Split, Split]:
        """Divide into ``(rest, held_out)``, drawn at random within each class, both in their present order.

        ``held_out`` has ``round(fraction * N)`` images, and of each class ``fraction`` times its count:
        exactly where that is a whole number, otherwise rounded so that the total is right (largest
        remainders). The draw has a generator of its own; the same seed gives the same division on every
        device.

        Raises:
            ValueError: If ``fraction`` is not between 0 and 1, or one of the two parts would be empty.
        """
        wanted = fraction * self.counts().double()
        total = round(fraction * len(self)) if 0 < fraction < 1 else 0
        if not 0 < total < len(self):
            raise ValueError(
                f"split({fraction}) of {len(self)} images: use a fraction that leaves images in both parts"
            )
        sizes = (wanted + 1e-9).floor().long()  # 0.29 * 100 is 28.999999999999996
        largest = (wanted - sizes).argsort(descending=True, stable=True)
        sizes[largest[: total - int(sizes.sum())]] += 1
        held_out = torch.zeros(len(self), dtype=torch.bool)
        for row, n in zip(self._by_class(seed), sizes.tolist(), strict=True):
            held_out[row[:n]] = True
        rest = self.subset(~held_out, name=f"{self.name} (rest)")
        return rest, self.subset(held_out, name=f"{self.name} (held out)")

    def to(self, device: torch.device | str) -> Split:
        """Return the same split with its tensors on ``device``.

        Images on disk stay there for a CPU, and for a GPU whose free memory they would take half of.
        """
        if not isinstance(self.images, Stored):
            return replace(self, images=self.images.to(device), labels=self.labels.to(device))
        device = torch.device(device)
        if device.type != "cuda" or self.images.numel() > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        how = {"dtype": torch.uint8, "device": device, "memory_format": torch.channels_last}
        images = torch.empty(self.images.shape, **how)
        for start in range(0, len(self), 256):
            images[start : start + 256] = self.images[start : start + 256].to(device)
        return replace(self, images=images, labels=self.labels.to(device))

    def _by_class(self, seed: int | None) -> list[Tensor]:
        """Return the indices of each class: in order without a seed, else shuffled by its own generator."""
        labels = self.labels.cpu()
        rows = [(labels == k).nonzero().squeeze(1) for k in range(len(self.classes))]
        if seed is None:
            return rows
        generator = torch.Generator().manual_seed(seed)
        return [row[torch.randperm(len(row), generator=generator)] for row in rows]


def take(images: Tensor, indices: Tensor) -> Tensor:
    """Return the images at ``indices``, channels-last; whole images are copied, which is fast.

    Args:
        images: ``(N, C, H, W)``, channels-last, as in a ``Split``.
        indices: int64 ``(M,)`` on the same device.

    Example:
        >>> images = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 8, 8)
        >>> take(images, torch.tensor([2, 0]))[:, 0, 0, 0]
        tensor([2, 0], dtype=torch.uint8)
    """
    if isinstance(images, Stored):
        return images[indices]
    return images.permute(0, 2, 3, 1).index_select(0, indices).permute(0, 3, 1, 2)  # (M, C, H, W)


def _described(value: object) -> str:
    """Describe a tensor by type and shape, anything else by its type, for messages."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
