"""What every test gets: fixed seeds, no network, no window, no trace of the user's own cache or settings."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # before anything imports pyplot: a test machine has no screen

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

if "PYTEST_XDIST_WORKER" in os.environ:  # the cores are shared with other processes of tests
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test draws the same numbers, alone or among others, in any order."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _ctrl_c() -> None:
    """Tests of interruption work in a background job too, where the shell has Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reaching out of this machine fails the test.

    `pytest.fail` raises no `Exception`, so code that tries one mirror after another cannot swallow it.
    """

    def check(host: object) -> None:
        if host and not str(host).startswith(LOOPBACK):
            pytest.fail(f"the test tried to reach {host}; tests run without a network")

    def guarded(method):
        def call(self: socket.socket, *args):
            address = args[-1]  # connect(address), sendto(data[, flags], address)
            if self.family in (socket.AF_INET, socket.AF_INET6):
                check(address[0])
            return method(self, *args)

        return call

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))

    lookup = socket.getaddrinfo

    def getaddrinfo(host, *args, **kwargs):
        check(host.decode() if isinstance(host, bytes) else host)
        return lookup(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.fixture(autouse=True)
def _clean_settings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test reads the data set in the user's cache or takes the user's choice of profile."""
    monkeypatch.setenv("RESNET_TUTORIAL_DATA", str(tmp_path_factory.getbasetemp() / "no-data"))
    monkeypatch.delenv("RESNET_TUTORIAL_PROFILE", raising=False)


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    """Style settings and open figures end with the test that made them."""
    with matplotlib.rc_context():
        yield
        plt.close("all")


@pytest.fixture(scope="session")
def build_book() -> Callable[..., None]:
    """What builds a small book strictly, in a folder that has its pages, contents and configuration."""
    pytest.importorskip("jupyter_book")

    def build(book: Path, *options: str) -> None:
        for folder in ("_static", "_ext", "_extra"):
            shutil.copytree(Path(__file__).parent.parent / "book" / folder, book / folder)
        program = "from jupyter_book.cli.main import main; main()"
        command = [sys.executable, "-c", program, "build", "-W", "--keep-going", *options, book.name]
        done = subprocess.run(command, cwd=book.parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return build


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """One headless browser for all tests; `browser.open(page)` shows another page."""
    path = Path(__file__).parent.parent / "tools" / "browser.py"
    spec = importlib.util.spec_from_file_location("browser", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        found = module.find_browser()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with module.Browser(found, timeout=120) as opened:
        yield opened
