"""Servers that stall, lie or send somewhere else: one line, nothing is kept, and the next download works."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_sources import offline, same, tiny, write_python_archive
from torchvision.datasets import CIFAR10

from resnet_tutorial import files, models
from resnet_tutorial.data import DownloadError, sources
from resnet_tutorial.models import weights

__all__ = ["offline", "tiny"]  # fixtures


class Mirror(http.server.BaseHTTPRequestHandler):
    """Serves ``good`` at /good; each other address is one way to fail."""

    good = b""
    asked: threading.Event  # a request has come, and part of the answer is on its way
    both: threading.Barrier  # of two requests neither is answered before the other one is there

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        good, way = self.good, self.path.strip("/").replace("%20", " ")
        answers = {
            "good": good,
            "truncated": good[:-100],
            "other bytes": bytes(len(good)),
            "a login page": b"<html>Please log in</html>",
            "nothing": b"",
        }
        if way in ("redirect", "loop", "file", "nowhere"):
            self.send_response(302)
            to = {"redirect": "/good", "loop": "/loop", "file": "file:///etc/hostname", "nowhere": "/404"}[
                way
            ]
            self.send_header("Location", to)
            self.end_headers()
        elif way in ("404", "500"):
            self.send_error(int(way))
        elif way == "no http":
            self.wfile.write(b"SSH-2.0-OpenSSH\r\n")
        elif way in ("silent", "stalls", "endless", "endless, not fast"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(good[:-100] if way == "stalls" else b"")
            self.wfile.flush()
            self.asked.set()
            while way == "endless":
                self.wfile.write(bytes(1 << 16))  # until the other end hangs up
            for _ in range(200 * (way == "endless, not fast")):
                self.wfile.write(bytes(len(good) // 20))  # a third of the archive in each time to look at it
                time.sleep(0.075)
            self.server.over.wait(60)
        else:
            if way == "together":
                self.both.wait(60)
                way = "good"
            body = answers[way]
            self.send_response(200)
            self.send_header("Content-Length", str(len(good)))
            self.end_headers()
            self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    over: threading.Event

    def handle_error(self, *_: object) -> None:
        """The other end hung up: that is what it should do."""


@pytest.fixture
def mirror(monkeypatch) -> Iterator[str]:
    """The address of such a server on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Mirror.asked, Mirror.both = threading.Event(), threading.Barrier(2)
    with Server(("127.0.0.1", 0), Mirror) as server:
        server.over = threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.over.set()
        server.shutdown()


@pytest.fixture
def archive(tiny, tmp_path, mirror, monkeypatch) -> str:
    """The same server, which has torchvision's archive of a tiny data set."""
    source = tmp_path / "source"
    Mirror.good = write_python_archive(source, tiny).read_bytes()
    monkeypatch.setattr(CIFAR10, "url", f"{mirror}/good")
    monkeypatch.setattr(sources, "TGZ_BYTES", len(Mirror.good))
    monkeypatch.setenv("PATH", "")  # no npm
    return mirror


FAULTS = {
    "truncated": "MD5 differs",
    "other bytes": "MD5 differs",
    "a login page": "MD5 differs",
    "nothing": "MD5 differs",
    "loop": "infinite loop",
    "file": "Redirection to url",
    "nowhere": "Not Found",
    "404": "Not Found",
    "500": "Internal Server Error",
    "no http": "closed connection|SSH",
    "silent": "timed out",
    "stalls": "timed out",
    "endless": "more than the",
    "endless, not fast": "more than the",
}


@pytest.mark.parametrize("way", FAULTS)
def test_a_faulty_mirror_is_one_line_and_the_next_download_works(tiny, tmp_path, archive, monkeypatch, way):
    """A hang, a traceback, a disk filled by a server that never stops, or what it sent taken for the data."""
    cache = tmp_path / "cache"
    whole = sources.download_torchvision
    monkeypatch.setitem(sources.DOWNLOADS, "torchvision's download", lambda work: whole(work, timeout=0.5))
    with monkeypatch.context() as patch:
        patch.setattr(CIFAR10, "url", f"{archive}/{way.replace(' ', '%20')}")
        start = time.monotonic()
        with pytest.raises(DownloadError, match=FAULTS[way]) as caught:
            sources.fetch([cache], download=True)
    assert time.monotonic() - start < 20 and "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []
    assert same(sources.fetch([cache], download=True), tiny)


def test_a_redirection_to_the_real_content_is_followed(tiny, tmp_path, archive, monkeypatch):
    """What counts is the content, not where it is from."""
    monkeypatch.setattr(CIFAR10, "url", f"{archive}/redirect")
    assert same(sources.fetch([tmp_path / "cache"], download=True), tiny)


PROGRAM = """
import json, sys
from torchvision.datasets import CIFAR10
from resnet_tutorial import cli
from resnet_tutorial.data import sources
CIFAR10.url, sources.PUBLISHED, sources.CONTENT_SHA256 = json.loads(sys.argv[1])
sys.exit(cli.main(["download", "--root", sys.argv[2]]))
"""


def download(url: str, cache: Path) -> subprocess.Popen[str]:
    """`resnet-tutorial download` in a process of its own."""
    about = json.dumps([url, sources.PUBLISHED, sources.CONTENT_SHA256])
    command = [sys.executable, "-c", PROGRAM, about, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("name", "status"), [("SIGKILL", -9), ("SIGTERM", 143), ("SIGINT", 130)])
def test_a_download_that_is_ended_leaves_nothing_that_passes_for_data(tiny, tmp_path, archive, name, status):
    """Half an archive under the name of the whole, or a next download that trips over what is left."""
    cache = tmp_path / "cache"
    child = download(f"{archive}/stalls", cache)
    assert Mirror.asked.wait(120)
    while not any(path.stat().st_size for path in cache.rglob("*.gz")):
        time.sleep(0.01)
    child.send_signal(getattr(signal, name))
    _, told = child.communicate(timeout=60)
    assert child.returncode == status and len(told.splitlines()) == (name != "SIGKILL")
    left = [path.name for path in cache.iterdir()]
    assert len(left) == (name == "SIGKILL") and all(path.startswith(files.WORKSPACE) for path in left)
    assert same(sources.fetch([cache], download=True), tiny)
    assert sorted(os.listdir(cache)) == sorted([*left, sources.CACHE_NAME])


@pytest.mark.slow
def test_two_processes_fill_one_cache(tiny, tmp_path, archive):
    """Two halves of a file that make a whole one of nothing."""
    cache = tmp_path / "cache"
    children = [download(f"{archive}/together", cache) for _ in range(2)]
    told = [child.communicate(timeout=120)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0] and all(
        "20 + 4 images" in text for text in told
    )
    assert os.listdir(cache) == [sources.CACHE_NAME]
    assert same(sources.fetch([cache], download=False), tiny)


def test_weights_from_a_silent_server_are_given_up(tmp_path, mirror, monkeypatch):
    """PyTorch's download waits for ever for a server that says nothing."""
    monkeypatch.setattr(weights, "_imagenet_url", lambda _: f"{mirror}/silent")
    monkeypatch.setattr(weights, "SILENCE", 0.5)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot fetch the weights \(.*timed out\): put http"):
        models.imagenet_weights("resnet18")
    assert time.monotonic() - start < 20 and socket.getdefaulttimeout() is None
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
