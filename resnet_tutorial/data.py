"""Labelled images: the embedded sample of CIFAR-10, the full data set, and folders of your own pictures.

Everything here is a `Split`: all images as one uint8 tensor, small enough for memory and quick to augment.
"""

from __future__ import annotations

import io
import json
import os
import sys
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image, features

from . import mirrors
from .cifar_files import content_sha256
from .folder import load_folder, load_image
from .splits import Split

__all__ = [
    "CIFAR10_CLASSES",
    "Split",
    "cache_dir",
    "load_cifar10",
    "load_folder",
    "load_image",
    "load_sample",
]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_sample() -> tuple[Split, Split]:
    """The embedded part of CIFAR-10: `(train, test)` of 2,000 and 1,000 images of 32 x 32; needs no network.

    These are the first 200 training and 100 test images of each class, in the official order. Tensors are
    fresh in every call, so that changing one in place cannot reach the next caller. Source: Krizhevsky,
    "Learning Multiple Layers of Features from Tiny Images", technical report, 2009.

    Raises:
        ValueError: the installed files are damaged, or Pillow was built without WebP.

    Example:
        >>> train, test = load_sample()
        >>> train
        Split('sample train', 2000 images of 32x32, 10 classes)
        >>> test.counts().unique()  # images of each class
        tensor([100])
    """
    train, test = (
        _as_split(images, labels, name=f"sample {part}")
        for part, (images, labels) in _sample_arrays().items()
    )
    return train, test


@lru_cache(maxsize=1)
def _sample_arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For "train" and "test": images uint8 `(N, 32, 32, 3)`, labels uint8 `(N,)`, checked by hash."""
    if not features.check("webp"):
        raise ValueError(
            "this Pillow cannot read WebP, the format of the sample: reinstall it (pip install -U pillow)"
        )
    assets = resources.files(__package__) / "assets"
    about = json.loads((assets / "sample.json").read_text(encoding="utf-8"))
    arrays = {}
    for part, entry in about["parts"].items():
        try:
            with Image.open(io.BytesIO((assets / entry["file"]).read_bytes())) as montage:
                images = _untile(np.asarray(montage.convert("RGB")))
        except OSError as error:
            raise ValueError(
                f"the embedded {entry['file']} is unreadable ({error}): reinstall resnet_tutorial"
            ) from error
        labels = np.array(entry["labels"], dtype=np.uint8)
        found = content_sha256(images), content_sha256(labels)
        if found != (entry["images_sha256"], entry["labels_sha256"]):
            raise ValueError(
                f"the embedded {entry['file']} is damaged (SHA-256 differs): reinstall resnet_tutorial"
            )
        arrays[part] = images, labels
    return arrays


def _untile(montage: np.ndarray) -> np.ndarray:
    """Cut a picture of tiles, uint8 `(32 R, 32 C, 3)`, into images `(R * C, 32, 32, 3)`, row by row."""
    rows, columns = montage.shape[0] // 32, montage.shape[1] // 32
    return montage.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(rows * columns, 32, 32, 3)


def cache_dir() -> Path:
    """Where downloads are kept: `RESNET_TUTORIAL_DATA`, else `resnet_tutorial` in the user's caches.

    Example:
        >>> os.environ["RESNET_TUTORIAL_DATA"] = "disk/pictures"
        >>> cache_dir().name
        'pictures'
    """
    if chosen := os.environ.get("RESNET_TUTORIAL_DATA"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "resnet_tutorial"


def load_cifar10(*, root: str | os.PathLike | None = None, download: bool = False) -> tuple[Split, Split]:
    """All of CIFAR-10: `(train, test)` of 50,000 and 10,000 images of 32 x 32 in the official order.

    Looked for in `root`, `cache_dir()` and `./data`: the package's own file, torchvision's
    `cifar-10-batches-py`, the official `cifar-10-batches-bin`. The content is checked by SHA-256 in every
    case.

    Args:
        root: directory to look in first and to keep a download in; `cache_dir()` if None.
        download: whether the network may be used when nothing is found (about 140 to 170 MB).

    Raises:
        FileNotFoundError: nothing is on the disk and `download` is false, or `root` is no directory.
        ValueError: what is on the disk is damaged and `download` is false.
        mirrors.DownloadError: every source failed; the message names each and says what to do.

    Example:
        The first line is not tried out by the tests, since it may download.

        >>> train, test = load_cifar10(download=True)  # doctest: +SKIP
        >>> load_cifar10(root="nowhere")
        Traceback (most recent call last):
        FileNotFoundError: root='nowhere' is not a directory: name the one that holds CIFAR-10, ...
    """
    if root is not None and not download and not Path(root).expanduser().is_dir():
        raise FileNotFoundError(
            f"root={str(root)!r} is not a directory: name the one that holds CIFAR-10, or pass download=True"
        )
    folders = [
        Path(folder).expanduser() for folder in ((root,) if root is not None else ()) + (cache_dir(), "data")
    ]
    arrays = mirrors.fetch(folders[0], also_look_in=folders[1:], download=download)
    return (
        _as_split(arrays.train_images, arrays.train_labels, name="CIFAR-10 train"),
        _as_split(arrays.test_images, arrays.test_labels, name="CIFAR-10 test"),
    )


def _as_split(images: np.ndarray, labels: np.ndarray, *, name: str) -> Split:
    """Split from uint8 `(N, 32, 32, 3)` and `(N,)`; the tensors are copies."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()  # (N, 3, 32, 32)
    return Split(pixels, torch.from_numpy(labels).long(), CIFAR10_CLASSES, name)
