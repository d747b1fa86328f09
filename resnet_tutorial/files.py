"""Writing files so that each is complete or not there, and clearing away what killed processes left."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

__all__ = ["ASSETS", "atomic", "remove_stale", "workspace"]

ASSETS = Path(__file__).with_name("assets")  # what comes with the package: images, weights, figure style
STALE = 86_400.0  # seconds without a write after which nobody can be at work on a partial file
WORKSPACE = ".resnet-tutorial-partial-"  # how the names of workspaces begin: nobody else's do


@contextmanager
def atomic(path: str | Path, *, parents: bool = False) -> Iterator[BinaryIO]:
    """A binary file that takes its name only once it is whole and on the disk.

    The block writes to a hidden file beside the target. Whatever ends the block early (an exception, Ctrl-C,
    a full disk), that file is removed and an older one of the target's name stays as it was.

    Args:
        path: the file to write.
        parents: make missing directories.

    Raises:
        ValueError: the file cannot be written; one line that names it and the reason.

    Example:
        >>> Path("note.txt").write_bytes(b"whole")
        5
        >>> with atomic("note.txt") as file:
        ...     count = file.write(b"ha")
        ...     raise ValueError("stopped half way")
        Traceback (most recent call last):
        ValueError: stopped half way
        >>> Path("note.txt").read_bytes()
        b'whole'
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"cannot write {path}: it is a directory; give a file name")
    if path.exists() and not path.is_file():  # a rename onto /dev/null would replace it
        raise ValueError(f"cannot write {path}: it is a device or a pipe; give a file name")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")  # same directory: a rename, never a copy
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path.parent, f".{glob.escape(path.name)}.*.partial")
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError, raised while it handles the OSError.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        reason = cause.strerror or cause
        if not path.parent.is_dir():
            reason = f"{path.parent} is not a directory"
        raise ValueError(f"cannot write {path}: {reason}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """A directory that is gone afterwards; inside `folder`, so that moving a file out of it is atomic."""
    with tempfile.TemporaryDirectory(prefix=WORKSPACE, dir=folder, ignore_cleanup_errors=True) as work:
        yield Path(work)


def remove_stale(folder: Path, pattern: str, *, age: float = STALE) -> None:
    """Remove what matches in `folder` and has not been written to for `age` seconds.

    A process that is killed cannot tidy up; the next one does. What cannot be removed is left alone.

    Args:
        folder: where to look; need not exist.
        pattern: a glob pattern of names, for files and directories.
        age: seconds since the newest write, in a directory that of anything inside it.
    """
    before = time.time() - age
    for entry in folder.glob(pattern):
        with suppress(OSError):
            if any(found.lstat().st_mtime > before for found in (entry, *entry.rglob("*"))):
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()
