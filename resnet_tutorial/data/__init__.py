"""Labelled images: the sample of CIFAR-10, the full set, your own pictures; their augmentation."""

from __future__ import annotations

from .augment import (
    FLIPS,
    PAD_MODES,
    Augment,
    alternating_flips,
    crop,
    cutout,
    draw_centres,
    draw_flips,
    draw_offsets,
    flip,
)
from .folder import load_folder, load_image
from .normalize import CIFAR10, IMAGENET, Normalize
from .sources import CIFAR10_CLASSES, DamagedError, DownloadError, cache_dir, load_cifar10, load_sample
from .splits import Split

__all__ = [
    "CIFAR10",
    "CIFAR10_CLASSES",
    "FLIPS",
    "IMAGENET",
    "PAD_MODES",
    "Augment",
    "DamagedError",
    "DownloadError",
    "Normalize",
    "Split",
    "alternating_flips",
    "cache_dir",
    "crop",
    "cutout",
    "draw_centres",
    "draw_flips",
    "draw_offsets",
    "flip",
    "load_cifar10",
    "load_folder",
    "load_image",
    "load_sample",
]
