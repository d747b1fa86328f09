"""Files that are complete or not there, and results that wait until others have taken their place."""

from __future__ import annotations

import glob
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout

__all__ = ["ASSETS", "atomic", "claimed", "refuse_unwritable", "remove_stale", "waiting", "workspace"]

ASSETS = Path(__file__).with_name("assets")  # what comes with the package: images, weights, figure style
STALE = 86_400.0  # seconds without a write after which nobody can be at work on a partial file
WORKSPACE = ".resnet-tutorial-partial-"  # how the names of workspaces begin: nobody else's do
LOCK = ".resnet-tutorial-lock"
# Inside a directory of results: what waits there until others have taken its place, and what is on its way.
ASIDE, MOVING = ".resnet-tutorial-earlier", ".resnet-tutorial-moving"


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
    # In the same directory: to be renamed, not copied. The longest name that may be has 255 bytes.
    start = f".{target.name[:50]}."
    partial = target.with_name(f"{start}{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target.parent, f"{glob.escape(start)}*.partial")
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    except (OSError, RuntimeError) as error:
        # torch.save reports a full disk as a RuntimeError, raised while it handles the OSError; Ctrl-C, too.
        cause = error if isinstance(error, OSError) else error.__context__
        if isinstance(cause, KeyboardInterrupt):
            raise cause from None
        if not isinstance(cause, OSError) or cause.filename not in (None, str(partial), str(target.parent)):
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


def refuse_unwritable(path: str | Path, *, what: str) -> None:
    """Raise ``ValueError`` if no file can be made in the directory ``path``, there or not yet.

    Ask before long work, not after it.

    Example:
        >>> Path("note.txt").touch()
        >>> refuse_unwritable("note.txt/results", what="results")
        Traceback (most recent call last):
        ValueError: cannot write to note.txt/results: ...note.txt is no directory: give another place for ...
    """
    place = Path(os.path.realpath(path))
    dangling = os.path.islink(path) and not os.path.exists(path)
    while not os.path.lexists(place):
        place = place.parent
    if dangling:
        reason = "it is a link that leads nowhere"
    elif not place.is_dir():
        reason = f"{place} is no directory"
    elif f"{place}/".startswith(("/dev/", "/proc/")):
        reason = "it belongs to the system"
    elif not os.access(place, os.W_OK | os.X_OK):
        reason = "no permission"
    else:
        return
    raise ValueError(f"cannot write to {path}: {reason}: give another place for {what}")


def waiting(path: Path) -> str:
    """Say where the file of an earlier run waits that an unfinished run is to replace; empty if none does.

    Example:
        >>> waiting(Path("model.safetensors"))
        ''
    """
    for place in (path.parent / ASIDE, path.parent / MOVING):
        if (place / path.name).is_file():
            return f"; that of an earlier run waits at {place / path.name} until the new run is finished"
    return ""


@contextmanager
def claimed(
    out: Path,
    names: Sequence[str],
    *,
    state: str,
    resume: bool,
    overwrite: bool,
    final: str | None = None,
    hopeless: type[Exception] | tuple[type[Exception], ...] = (),
) -> Iterator[None]:
    """Keep a directory of results to this process: no earlier ones are lost, no other run writes there.

    Earlier results that are to be replaced wait in a hidden directory inside it, until the new run has its
    ``final`` file. A run that ends without a ``state``, or by a ``hopeless`` error, has them put back, now or
    by the next run. With a state they go on waiting: the new run can be resumed.

    Args:
        out: The directory; made if it is missing, and removed again if it stays empty.
        names: Of the files that a run writes, ``state`` among them.
        state: The one from which a run goes on.
        resume: Whether this run goes on from there.
        overwrite: Whether earlier results may be replaced.
        final: The file that a finished run has; by default ``state``.
        hopeless: Errors after which it is of no use to go on from the state.

    Raises:
        ValueError: If it cannot be written to, another run has it, or earlier results are in the way.
        KeyboardInterrupt: If the block does; the message says whether the run can go on.

    Example:
        >>> options = {"state": "run.pt", "resume": False, "overwrite": True}
        >>> with claimed(Path("run"), ["run.pt", "net.pt"], **options):
        ...     count = Path("run/net.pt").write_text("old"), Path("run/run.pt").write_text("old")
        >>> with claimed(Path("run"), ["run.pt", "net.pt"], **options):
        ...     Path("run/net.pt").exists()  # and no new state is written
        False
        >>> Path("run/net.pt").read_text()
        'old'
    """
    refuse_unwritable(out, what="the results (--out)")
    made = [place for place in (out, *out.parents) if not place.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK, timeout=0).acquire()
    except Timeout:
        raise ValueError(f"another run writes to {out}: choose another folder (--out)") from None
    except OSError as error:
        raise ValueError(f"cannot write to {out}: {error.strerror or error}") from None
    final = final or state
    back = fresh = False
    with lock:
        try:
            _settle(out, names, state, final)
            found = [out / name for name in names if os.path.lexists(out / name)]
            if resume and out / state not in found:
                raise ValueError(f"no checkpoint at {out / state}: start the run without --resume")
            if found and not (resume or overwrite):
                onward = "go on with it (--resume), " if out / state in found and state != final else ""
                raise ValueError(
                    f"{out} holds the results of an earlier run: {onward}"
                    "choose another folder (--out), or replace them (--overwrite)"
                )
            if found and not resume:
                if odd := [path for path in found if path.is_symlink() or not path.is_file()]:
                    raise ValueError(
                        f"{odd[0]} is no regular file: remove it, or choose another folder (--out)"
                    )
                if (out / ASIDE).exists():  # what is found is of a run that was never finished
                    for name in (state, *names):
                        (out / name).unlink(missing_ok=True)
                else:
                    _move(out, out / MOVING, names)
                    (out / MOVING).rename(out / ASIDE)
            fresh = not found
            try:
                yield
            except hopeless:
                back = True
                raise
            except KeyboardInterrupt as error:
                raise type(error)(_told(out, state, final)) from None
        finally:
            try:
                _settle(out, names, state, final, back=back)
                if fresh and not (out / state).exists():  # what there is can neither go on nor be used
                    for name in names:
                        (out / name).unlink(missing_ok=True)
            finally:
                (out / LOCK).unlink(missing_ok=True)
                with suppress(OSError):  # it holds results
                    for place in made:
                        place.rmdir()


def _told(out: Path, state: str, final: str) -> str:
    """Say what an interrupted run leaves."""
    if not (out / state).exists() or state == final:
        return "nothing of this run is kept, start it again"
    kept = (
        f"; the earlier results wait in {out / ASIDE} until it is finished" if (out / ASIDE).exists() else ""
    )
    return f"the same command with --resume goes on{kept}"


def _settle(out: Path, names: Sequence[str], state: str, final: str, *, back: bool = False) -> None:
    """Drop the results put aside if a new run is finished, put them back if it has left no state."""
    for place in (out / ASIDE, out / MOVING):
        if os.path.lexists(place) and (place.is_symlink() or not place.is_dir()):
            raise ValueError(f"{place} is no directory of earlier results: remove it")
    if (out / ASIDE).is_dir():
        new = (out / final).exists()
        if not new and not back and (out / state).exists():
            return
        for name in names:
            if new:
                (out / ASIDE / name).unlink(missing_ok=True)
            elif not (out / ASIDE / name).exists():
                (out / name).unlink(missing_ok=True)
        if new:
            (out / ASIDE).rmdir()
        else:
            (out / ASIDE).rename(out / MOVING)
    if (out / MOVING).is_dir():
        _move(out / MOVING, out, names)
        (out / MOVING).rmdir()


def _move(source: Path, target: Path, names: Sequence[str]) -> None:
    target.mkdir(exist_ok=True)
    for name in names:
        if os.path.lexists(source / name):
            (source / name).replace(target / name)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Join the first names, and say how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


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
