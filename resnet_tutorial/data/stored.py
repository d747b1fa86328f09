"""Decoded pictures on disk: one memory-mapped file a folder, so that each photo is decoded once."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..files import atomic
from .pictures import Picture, read_pictures
from .preprocess import Preprocess

Key = tuple[str, int, int]  # path, size and time of change of a picture
DIGEST = 16  # bytes of a hash


class Handle:
    """An open file that closes with the last object that holds it, and stays open whatever takes its name.

    It also knows which images in it were compared with their hashes: once is enough, at the first reading.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self.number, self.name = os.dup(file.fileno()), file.name
        self.checked: set[int] = set()

    def __del__(self) -> None:
        os.close(self.number)


@dataclass(frozen=True, eq=False)
class Stored:
    """Images in a file of decoded pixels; looks like uint8 ``(N, 3, H, W)``, and an index reads some.

    A map is opened for each batch and closed again, so that the pages of the file never count as this
    process's memory for long. An index raises ``ValueError`` if pixels are not those that were written.

    Attributes:
        file: Of whole images, channels last, one after the other.
        side: Of an image, in pixels.
        rows: Which images of the file these are, int64 ``(N,)``.
        hashes: Of each one's pixels.

    Example:
        >>> count = Path("two.pixels").write_bytes(bytes(2 * 12) + b"end")
        >>> black = pixel_hash(np.zeros((2, 2, 3), np.uint8))
        >>> with open("two.pixels", "rb") as file:
        ...     images = Stored(Handle(file), 2, np.arange(2), (black, "other"))
        >>> images.shape, images[:1].shape, images.select(torch.tensor([1])).hashes
        (torch.Size([2, 3, 2, 2]), torch.Size([1, 3, 2, 2]), ('other',))
        >>> images[1:]
        Traceback (most recent call last):
        ValueError: two.pixels is damaged: delete it, then the photos are decoded anew
    """

    file: Handle
    side: int
    rows: np.ndarray
    hashes: tuple[str, ...]
    dtype = torch.uint8
    ndim = 4
    device = torch.device("cpu")

    @property
    def shape(self) -> torch.Size:
        """What it would be as a tensor."""
        return torch.Size((len(self.rows), 3, self.side, self.side))

    def __len__(self) -> int:
        return len(self.rows)

    def numel(self) -> int:
        """Count the values."""
        return self.shape.numel()

    def __getitem__(self, index: slice | Tensor | np.ndarray | Sequence[int]) -> Tensor:
        """Read images: uint8 ``(M, 3, H, W)``, channels-last."""
        places = np.arange(len(self))[index if isinstance(index, slice) else np.asarray(index)]
        rows = self.rows[places]
        shape = int(self.rows.max(initial=0)) + 1, self.side, self.side, 3
        with mmap.mmap(self.file.number, 0, access=mmap.ACCESS_READ) as whole:
            pixels = np.frombuffer(whole, np.uint8, int(np.prod(shape))).reshape(shape)
            chosen = pixels[rows]
            del pixels  # else the map could not be closed
        for k, row in enumerate(rows.tolist()):
            if row not in self.file.checked and pixel_hash(chosen[k]) != self.hashes[places[k]]:
                raise ValueError(f"{self.file.name} is damaged: delete it, then the photos are decoded anew")
        self.file.checked.update(rows.tolist())
        return torch.from_numpy(chosen).permute(0, 3, 1, 2)

    def select(self, indices: Tensor) -> Stored:
        """Return some of the images, still in the file."""
        chosen = indices.cpu().numpy()
        return replace(self, rows=self.rows[chosen], hashes=tuple(self.hashes[k] for k in chosen))


def pixel_hash(pixels: np.ndarray) -> str:
    """Return 32 hexadecimal digits that only equal pixels ``(H, W, 3)`` share.

    Example:
        >>> pixel_hash(np.zeros((2, 2, 3), np.uint8)) == pixel_hash(np.ones((2, 2, 3), np.uint8))
        False
    """
    return _digest(np.ascontiguousarray(pixels).data).hex()


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()


@dataclass(frozen=True)
class Decoded:
    """Pictures of a folder: images of the readable ones, their places, and what is wrong with the others."""

    images: Tensor | Stored | None
    places: list[int]
    errors: list[str]
    largest: list[int]


def decode(folder: Path, files: Sequence[str], how: Preprocess, *, cache: Path | None) -> Decoded:
    """Decode files of a folder, on all cores, or take from the cache what it has.

    The cache is one file for the folder and the kind of preprocessing. A picture in it counts as the same one
    while path, size and time of change agree; new ones are added. It is written as a whole and then takes its
    name: of two processes the last one wins, and on a full disk the pictures stay in memory, with a warning.
    """
    keys: list[Key] = []
    for name in files:
        about = (folder / name).stat()
        keys.append((name, about.st_size, about.st_mtime_ns))
    if cache is None:
        return _in_memory([folder / name for name in files], how)
    place = json.dumps([os.path.realpath(folder), how.stored()])
    path = cache / f"{hashlib.sha256(place.encode()).hexdigest()[:24]}.pixels"
    index = _Index.open(path, how.size)
    if index is None or not index.has(keys):
        try:
            _write(path, folder, keys, how, index)
            index = _Index.open(path, how.size)
        except ValueError as error:
            warnings.warn(f"the photos are decoded anew each time: {error}", stacklevel=2)
            index = None
    if index is None or not index.has(keys):  # another process may have put an older list there
        return _in_memory([folder / name for name in files], how)
    return index.take(keys, how.size)


@dataclass(frozen=True)
class _Index:
    """What a file of pixels holds: for each key its row (-1 if unreadable), hash, error, largest value."""

    file: Handle
    entries: dict[Key, tuple[int, str, str, int]]

    @classmethod
    def open(cls, path: Path, side: int) -> _Index | None:
        """Read the list at the end of the file; ``None`` if there is no file, or it is damaged."""
        try:
            with path.open("rb") as file:
                file.seek(-8 - DIGEST, os.SEEK_END)
                digest, size = file.read(DIGEST), int.from_bytes(file.read(8), "little")
                start = file.seek(-8 - DIGEST - size, os.SEEK_END)
                listed = file.read(size)
                if _digest(listed) != digest:
                    return None
                entries = {(a, b, c): (row, *rest) for a, b, c, row, *rest in json.loads(listed)}
                if start != sum(row >= 0 for row, *_ in entries.values()) * side * side * 3:
                    return None
                return cls(Handle(file), entries)
        except (OSError, OverflowError, ValueError, TypeError):
            return None

    def has(self, keys: Sequence[Key]) -> bool:
        return all(key in self.entries for key in keys)

    def take(self, keys: Sequence[Key], side: int) -> Decoded:
        found = [self.entries[key] for key in keys]
        places = [k for k, (row, *_) in enumerate(found) if row >= 0]
        rows = np.array([found[k][0] for k in places], np.int64)
        images = Stored(self.file, side, rows, tuple(found[k][1] for k in places)) if places else None
        return Decoded(images, places, [e[2] for e in found if e[0] < 0], [found[k][3] for k in places])


def _write(path: Path, folder: Path, keys: Sequence[Key], how: Preprocess, old: _Index | None) -> None:
    """Write all pictures; those of an older file are copied."""
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    needed = len(keys) * how.size**2 * 3
    if (free := shutil.disk_usage(parent).free) < needed:
        raise ValueError(f"{path.parent} has {free / 1e6:.0f} MB free, {needed / 1e6:.0f} are needed")
    entries_before = {} if old is None else old.entries
    known = {key: entries_before[key] for key in keys if key in entries_before}
    fresh = iter(_shown([folder / key[0] for key in keys if key not in known], how))
    entries, count = [], 0
    with atomic(path, parents=True) as file:
        for key in keys:
            if old is not None and key in known:
                row, digest, error, largest = known[key]
                pixels = None
                if row >= 0:
                    pixels = (
                        Stored(old.file, how.size, np.array([row]), (digest,))[:1].permute(0, 2, 3, 1).numpy()
                    )
            else:
                pixels, error, largest = next(fresh)
                digest = "" if pixels is None else pixel_hash(pixels)
            entries.append([*key, -1 if pixels is None else count, digest, error, largest])
            if pixels is not None:
                file.write(np.ascontiguousarray(pixels).data)
                count += 1
        listed = json.dumps(entries).encode()
        file.write(listed + _digest(listed) + len(listed).to_bytes(8, "little"))


def load_images(
    paths: Sequence[Path], *, size: int | Preprocess = 32, on_error: str = "raise"
) -> tuple[Tensor, list[Path]]:
    """Read pictures on all cores, as uint8 ``(N, 3, size, size)``; see ``load_image``.

    Returns:
        The images, and the paths that they are of: all, or with ``on_error="skip"`` those that are readable.

    Raises:
        FileNotFoundError: If one is not there.
        ValueError: If pictures are unreadable and not to be skipped, or none is left.

    Example:
        >>> from PIL import Image
        >>> Image.new("RGB", (40, 30), "red").save("red.png")
        >>> load_images([Path("red.png"), Path("red.png")])[0].shape
        torch.Size([2, 3, 32, 32])
    """
    done = _in_memory(paths, size if isinstance(size, Preprocess) else Preprocess(size))
    told = "; ".join(done.errors[:20])
    if done.errors and on_error == "raise":
        raise ValueError(f"{told}; repair or leave out what is named, or skip it (--skip-unreadable)")
    if not isinstance(done.images, Tensor):
        raise ValueError(f"no readable picture: {told}" if told else "no picture is given")
    if done.errors:
        warnings.warn(f"skipped {len(done.errors)} unreadable: {told}", stacklevel=2)
    return done.images, [paths[k] for k in done.places]


def _in_memory(paths: Sequence[Path], how: Preprocess) -> Decoded:
    pixels, places, errors, largest = [], [], [], []
    for k, picture in enumerate(_shown(paths, how)):
        if picture.pixels is None:
            errors.append(picture.error)
        else:
            pixels.append(picture.pixels)
            places.append(k)
            largest.append(picture.largest)
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) if pixels else None  # (N, 3, size, size)
    return Decoded(images, places, errors, largest)


def _shown(paths: Sequence[Path], how: Preprocess) -> Sequence[Picture] | tqdm[Picture]:
    """Read pictures behind a bar, on a terminal and if there are many."""
    quiet = len(paths) < 200 or not sys.stderr.isatty()
    return tqdm(read_pictures(paths, how), total=len(paths), unit="photo", leave=False, disable=quiet)
