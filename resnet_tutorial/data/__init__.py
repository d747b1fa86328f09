"""Labelled images: the sample of CIFAR-10, the full set, your own pictures; their augmentation."""

from __future__ import annotations

# fmt: off
from .augment import (
    Augment, Draws, alternating_flips, crop, cutout, draw_centres, draw_flips, draw_offsets, flip,
    to_device,
)
from .folder import find_pictures, load_folder
from .normalize import CIFAR10, IMAGENET, Normalize
from .parts import PartList, load_parts
from .photo_views import photo_views
from .pictures import load_image
from .preprocess import Preprocess
from .sample import load_sample
from .sources import CIFAR10_CLASSES, DownloadError, cache_dir, load_cifar10
from .splits import Split, take
from .stored import load_images

__all__ = [
    "CIFAR10", "CIFAR10_CLASSES", "IMAGENET", "Augment", "DownloadError", "Draws", "Normalize", "PartList",
    "Preprocess", "Split", "alternating_flips", "cache_dir", "crop", "cutout", "draw_centres", "draw_flips",
    "draw_offsets", "find_pictures", "flip", "load_cifar10", "load_folder", "load_image", "load_images",
    "load_parts", "load_sample", "photo_views", "take", "to_device",
]
# fmt: on
