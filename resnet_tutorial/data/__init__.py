"""Labelled images: the sample of CIFAR-10, the full set, your own pictures; their augmentation."""

from __future__ import annotations

# fmt: off
from .augment import (
    Augment, Draws, alternating_flips, crop, cutout, draw_centres, draw_flips, draw_offsets, flip,
    to_device,
)
from .folder import load_folder
from .normalize import CIFAR10, IMAGENET, Normalize
from .parts import Entry, load_parts, read_list, save_list
from .photo_views import photo_views
from .pictures import load_image
from .preprocess import Preprocess
from .sample import load_sample
from .sources import CIFAR10_CLASSES, DownloadError, cache_dir, load_cifar10
from .splits import Split, take

__all__ = [
    "CIFAR10", "CIFAR10_CLASSES", "IMAGENET", "Augment", "DownloadError", "Draws", "Entry", "Normalize",
    "Preprocess", "Split", "alternating_flips", "cache_dir", "crop", "cutout", "draw_centres", "draw_flips",
    "draw_offsets", "flip", "load_cifar10", "load_folder", "load_image", "load_parts", "load_sample",
    "photo_views", "read_list", "save_list", "take", "to_device",
]
# fmt: on
