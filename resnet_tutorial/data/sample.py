"""The embedded sample of CIFAR-10: real data without a network."""

from __future__ import annotations

import io
import json
from functools import lru_cache

import numpy as np
from PIL import Image, features

from ..files import ASSETS
from .sources import as_split, content_sha256
from .splits import Split


def load_sample() -> tuple[Split, Split]:
    """Load the embedded part of CIFAR-10: ``(train, test)`` of 2,000 and 1,000 images of 32 x 32.

    These are the first 200 training and 100 test images of each class, in the official order. Tensors are
    fresh in every call, so that changing one in place cannot reach the next caller. Source: Krizhevsky,
    "Learning Multiple Layers of Features from Tiny Images", technical report, 2009.

    Raises:
        ValueError: If the installed files are damaged, or Pillow was built without WebP.

    Example:
        >>> train, test = load_sample()
        >>> train
        Split('sample train', 2000 images of 32x32, 10 classes)
        >>> test.counts().unique()  # images of each class
        tensor([100])
    """
    arrays = _arrays().items()
    train, test = (as_split(images.copy(), labels, f"sample {part}") for part, (images, labels) in arrays)
    return train, test


@lru_cache(maxsize=1)
def _arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read and check "train" and "test": images uint8 ``(N, 32, 32, 3)``, labels uint8 ``(N,)``."""
    if not features.check("webp"):
        raise ValueError("this Pillow cannot read WebP, the format of the sample: pip install -U pillow")
    about = json.loads((ASSETS / "sample.json").read_text(encoding="utf-8"))
    arrays = {}
    for part, entry in about["parts"].items():
        broken = f"the embedded {entry['file']} is {{}}: reinstall resnet_tutorial"
        try:
            file = io.BytesIO((ASSETS / entry["file"]).read_bytes())
            with Image.open(file, formats=("WEBP",)) as montage:
                tiles = np.asarray(montage.convert("RGB"))  # (32 R, 32 C, 3)
        except OSError as error:
            raise ValueError(broken.format(f"unreadable ({error})")) from error
        rows, columns = tiles.shape[0] // 32, tiles.shape[1] // 32
        images = tiles.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
        labels = np.array(entry["labels"], dtype=np.uint8)
        hashes = content_sha256(images), content_sha256(labels)
        if hashes != (entry["images_sha256"], entry["labels_sha256"]):
            raise ValueError(broken.format("damaged (SHA-256 differs)"))
        arrays[part] = images, labels
    return arrays
