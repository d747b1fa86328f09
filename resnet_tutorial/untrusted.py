"""Files from elsewhere: sizes are looked at before memory is taken, and no code of theirs runs."""

from __future__ import annotations

import mmap
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

__all__ = ["LARGEST_JSON", "damaged", "load_saved", "read_sized", "refuse_swollen"]

LARGEST_JSON = 10**8  # bytes of a record, report or notebook; a report on 1,000 classes has 8 million


def read_sized(path: Path, most: int) -> bytes:
    """Read a regular file, unless it is larger than any real one: looked at before memory is taken.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it has more than ``most`` bytes, or is a pipe, which may never say anything.

    Example:
        >>> count = Path("batch").write_bytes(b"12345")
        >>> read_sized(Path("batch"), 5)
        b'12345'
        >>> read_sized(Path("batch"), 4)
        Traceback (most recent call last):
        ValueError: batch has 5 bytes, at most 4 are possible
    """
    size = path.stat().st_size
    if not path.is_file():
        raise ValueError(f"{path.name} is no regular file")
    if size > most:
        raise ValueError(f"{path.name} has {size:,} bytes, at most {most:,} are possible")
    return path.read_bytes()


def refuse_swollen(path: str | Path, *, most: int | None = None) -> None:
    """Raise ``ValueError`` if a ZIP file says that it holds more than ``most`` bytes; others are left alone.

    By default that is its own size, since PyTorch and ``numpy.savez`` compress nothing; more is a bomb, a
    small file that fills the memory.

    Example:
        >>> with zipfile.ZipFile("zeros.pt", "w", zipfile.ZIP_DEFLATED) as parts:
        ...     parts.writestr("data", bytes(10_000))
        >>> refuse_swollen("zeros.pt", most=10_000)
        >>> refuse_swollen("zeros.pt")
        Traceback (most recent call last):
        ValueError: it says that it holds 10,000 bytes, of ... at most
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as parts:
            inside = sum(part.file_size for part in parts.infolist())
        most = os.stat(path).st_size if most is None else most
        if inside > most:
            raise ValueError(f"it says that it holds {inside:,} bytes, of {most:,} at most")


def load_saved(path: str | Path, device: torch.device | str = "cpu") -> Any:
    """Return what ``torch.save`` wrote, as long as it is tensors, numbers and names: no code of it runs.

    Sizes and check sums are looked at first. A pickle that calls ``bytearray`` is refused: PyTorch's careful
    reader, ``weights_only``, allows that call, a few bytes of which take gigabytes; no state dict needs it.

    Raises:
        ValueError: If a size or a check sum is wrong, or memory is reserved.
        Exception: If it is broken in another way; of any kind, since the unpickler meets arbitrary bytes.

    Example:
        >>> torch.save({"weight": torch.zeros(2)}, "good.pt")
        >>> load_saved("good.pt")
        {'weight': tensor([0., 0.])}
        >>> torch.save(bytearray(9), "bad.pt")
        >>> load_saved("bad.pt")
        Traceback (most recent call last):
        ValueError: it reserves memory on its own
    """
    if zipfile.is_zipfile(path):
        refuse_swollen(path)
        with zipfile.ZipFile(path) as parts:
            if broken := parts.testzip():  # torch.load does not look at the check sums
                raise ValueError(f"the check sum of {broken} is wrong")
            pickles = [parts.read(name) for name in parts.namelist() if name.endswith("data.pkl")]
        found = any(b"bytearray" in one for one in pickles)
    else:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            found = whole.find(b"bytearray") >= 0
    if found:
        raise ValueError("it reserves memory on its own")
    with warnings.catch_warnings(action="ignore"):  # of PyTorch's, on odd kinds of tensors
        return torch.load(path, map_location=device, weights_only=True)


def damaged(path: str | Path, error: Exception, *, what: str) -> str:
    """Say in one line that a file is not ``what`` it should be, with the beginning of the reader's own error.

    Example:
        >>> damaged("a.pt", EOFError(), what="a checkpoint")
        'a.pt is damaged or not a checkpoint: EOFError'
    """
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"{path} is damaged or not {what}: {reason[:120]}"
