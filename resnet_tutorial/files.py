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
    """Open a binary file that takes its name only once it is whole and on the disk.

    The block writes to a hidden file beside the target. Whatever ends the block early (an exception, Ctrl-C,
    a full disk), that file is removed and an older one of the target's name stays as it was. A symbolic link
    stays a link: the file that it names is written. ``parents`` makes missing directories.

    Raises:
        ValueError: If the file cannot be written; one line that names it and the reason.

    Example:
        >>> with atomic("note.txt") as file:
        ...     count = file.write(b"whole")
        ...     Path("note.txt").exists()
        False
        >>> Path("note.txt").read_bytes()
        b'whole'
    """
    target = Path(os.path.realpath(path))
    if reason := _no_file(path, target):
        raise ValueError(f"cannot write {path}: {reason}: give the name of a file")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")  # same directory: renamed, not copied
    try:
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target.parent, f".{glob.escape(target.name)}.*.partial")
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError, raised while it handles the OSError.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        folder = target.parent
        reason = (cause.strerror or str(cause)) if folder.is_dir() else f"{folder} is not a directory"
        raise ValueError(f"cannot write {path}: {reason}") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _no_file(path: str | Path, target: Path) -> str | None:
    """Say why ``target``, which ``path`` leads to, must not be replaced; ``None`` if it may be."""
    # What links under /dev and /proc lead to often has no name: only the place tells.
    if any(str(place).startswith(("/dev/", "/proc/")) for place in (os.path.abspath(path), target)):
        return "it belongs to the system"
    if target.is_dir():
        return "it is a directory"
    if target.is_symlink():
        return "its links lead in a circle"
    return "it is a device or a pipe" if target.exists() and not target.is_file() else None


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """Make a directory that is gone afterwards; inside ``folder``, so that a file can be renamed out of it.

    Example:
        >>> with workspace(Path()) as work:
        ...     work.is_dir()
        True
        >>> work.exists()
        False
    """
    with tempfile.TemporaryDirectory(prefix=WORKSPACE, dir=folder, ignore_cleanup_errors=True) as work:
        yield Path(work)


def remove_stale(folder: Path, pattern: str, *, age: float = STALE) -> None:
    """Remove files and directories in ``folder`` that match a glob and had no write for ``age`` seconds.

    A process that is killed cannot tidy up; the next one does. What cannot be removed is left alone, and the
    folder need not exist. A directory is as old as the newest write to anything inside it.

    Example:
        >>> for name in (".a.partial", "a"):
        ...     Path(name).touch()
        >>> remove_stale(Path(), ".*.partial", age=-1)
        >>> Path(".a.partial").exists(), Path("a").exists()
        (False, True)
    """
    before = time.time() - age
    for entry in folder.glob(pattern):
        with suppress(OSError):
            if all(found.lstat().st_mtime <= before for found in (entry, *entry.rglob("*"))):
                remove = shutil.rmtree if entry.is_dir() else os.unlink
                remove(entry)
