"""Rebuild the embedded sample of CIFAR-10 from the full data set.

Usage: python tools/make_sample.py [--download]

Takes the first 200 training and 100 test images of each class, keeps them in the official order, and writes
each part as one lossless WebP picture of 50 tiles a row, with labels, original indices and hashes in
``sample.json``. The choice involves no random number, so the pixels are the same wherever this runs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from resnet_tutorial.data import CIFAR10_CLASSES, load_cifar10, sources

ASSETS = Path(__file__).resolve().parents[1] / "resnet_tutorial" / "assets"
PER_CLASS = {"train": 200, "test": 100}
COLUMNS = 50


def main() -> None:
    """Write sample-train.webp, sample-test.webp and sample.json into the package's assets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--download", action="store_true", help="fetch the full data set if it is not on the disk"
    )
    splits = load_cifar10(download=parser.parse_args().download)
    parts = {}
    for (part, n), split in zip(PER_CLASS.items(), splits, strict=True):
        labels = split.labels.numpy().astype(np.uint8)
        chosen = np.sort(
            np.concatenate([np.flatnonzero(labels == k)[:n] for k in range(len(CIFAR10_CLASSES))])
        )
        images = split.images.permute(0, 2, 3, 1).numpy()[chosen]  # (N, 32, 32, 3)
        file = ASSETS / f"sample-{part}.webp"
        Image.fromarray(tile(images, columns=COLUMNS)).save(
            file, lossless=True, method=6, quality=100, exact=True
        )
        parts[part] = {
            "file": file.name,
            "images_sha256": sources.content_sha256(images),
            "labels_sha256": sources.content_sha256(labels[chosen]),
            "labels": labels[chosen].tolist(),
            "indices": chosen.tolist(),
        }
        print(f"{file.name}: {len(chosen)} images, {file.stat().st_size:,} bytes")
    about = {
        "title": "Part of CIFAR-10: the first 200 training and 100 test images of each class",
        "source": "https://www.cs.toronto.edu/~kriz/cifar.html",
        "citation": "Krizhevsky, A. (2009). Learning Multiple Layers of Features from Tiny Images. "
        "Technical report, University of Toronto.",
        "layout": f"lossless WebP, tiles of 32 x 32 pixels, {COLUMNS} a row, row by row; official order",
        "hashes": "SHA-256 of the uint8 bytes of images (N, 32, 32, 3) and labels (N,)",
        "indices": "positions, from 0, in the official training and test sets",
        "classes": list(CIFAR10_CLASSES),
        "parts": parts,
    }
    (ASSETS / "sample.json").write_text(json.dumps(about) + "\n", encoding="utf-8")


def tile(images: np.ndarray, *, columns: int) -> np.ndarray:
    """Lay images uint8 ``(N, 32, 32, 3)`` out by row as one picture ``(32 N / columns, 32 columns, 3)``."""
    rows = len(images) // columns
    return images.reshape(rows, columns, 32, 32, 3).swapaxes(1, 2).reshape(rows * 32, columns * 32, 3)


if __name__ == "__main__":
    main()
