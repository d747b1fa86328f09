"""The plain edition in JupyterLab, in a browser: no markup in what is shown, no open solution, no error."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
sys.path[:0] = [str(ROOT / "tools"), str(BOOK / "_ext")]
pytest.importorskip("pybtex")
import plain_edition  # noqa: E402
from browser import Browser, find_browser  # noqa: E402

NOTEBOOKS = sorted(path.name for path in BOOK.glob("*.ipynb"))
FIRST = "00_quick_start.ipynb"  # what a newcomer opens
MARKUP = re.compile(
    r"\{(?:term|cite|ref|numref|eq|doc|glue)[:\w]*\}|:::|```|^\([\w:-]+\)=|\\tag|\\begin\{|\b(?:fig|eq|sec)-\d\d-|"
    r"</?(?:details|summary)>|^> |\*\*|\$\$",
    re.MULTILINE,
)
PROSE = "[...document.querySelectorAll('.jp-Notebook .jp-RenderedMarkdown')]"
CODE = "[...document.querySelectorAll('.jp-Notebook .jp-CodeCell')]"


def wait(browser: Browser, condition: str, *, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not browser.evaluate(condition):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {condition}"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[str]:
    """The address of a JupyterLab with a working copy of the chapters."""
    if importlib.util.find_spec("jupyterlab") is None:
        pytest.skip("needs JupyterLab")
    folder = tmp_path_factory.mktemp("lab")
    plain_edition.write(BOOK, folder / "chapters", edited=True)
    settings = folder / "settings" / "@jupyterlab"
    # Every cell is in the page, also one that is not in sight.
    for name, chosen in {
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        path = settings / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(chosen), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "IPYTHONDIR": str(folder / "ipython")}
    places |= {"JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"), "RESNET_TUTORIAL_STRICT": "1"}
    places["PYTHONPATH"] = str(ROOT)
    places["OMP_NUM_THREADS"] = "1"  # on a busy machine threads that wait for each other take minutes
    options = ["--no-browser", "--expose-app-in-browser", f"--port={port}", "--IdentityProvider.token="]
    options += ["--ServerApp.disable_check_xsrf=True", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    command = [sys.executable, "-m", "jupyterlab", *options, f"--notebook-dir={folder / 'chapters'}"]
    with open(folder / "log", "wb") as log:
        server = subprocess.Popen(command, env=os.environ | places, stdout=log, stderr=log, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            assert server.poll() is None, (folder / "log").read_text()
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5).close()
                break
            except OSError:
                time.sleep(0.3)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        path = find_browser()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    with Browser(path) as tab:
        yield tab


def show(browser: Browser, lab: str, name: str) -> list[dict]:
    """Open a chapter and wait until it is drawn; returns its cells."""
    browser.open(f"{lab}/lab/tree/{name}?reset", width=1400)
    cells = json.loads(urllib.request.urlopen(f"{lab}/api/contents/{name}", timeout=30).read())["content"][
        "cells"
    ]
    texts = sum(cell["cell_type"] == "markdown" for cell in cells)
    wait(browser, f"{PROSE}.filter(e => e.innerText.trim()).length >= {texts}", seconds=90)
    wait(browser, "!document.querySelector('.jp-Notebook .MathJax_Processing')", seconds=60)
    time.sleep(2)  # equations
    return cells


def markup(browser: Browser) -> list[str]:
    """Raw markup in what is shown, outside of code."""
    text = browser.evaluate(
        f"{PROSE}.map(e => {{ const c = e.cloneNode(true);"
        " c.querySelectorAll('code, pre, mjx-container').forEach(x => x.remove()); return c.textContent; })"
        ".join('\\n')"
    )
    return MARKUP.findall(text)


def run_all(browser: Browser, *, seconds: float) -> list[str]:
    """Run every cell; returns the errors that are shown."""
    browser.evaluate(
        "window.done = 0; jupyterapp.commands.execute('notebook:run-all-cells').then(() => { done = 1; }); 1"
    )
    wait(browser, "window.done", seconds=seconds)
    kinds = ["application/vnd.jupyter.error", "application/vnd.jupyter.stderr"]
    query = ", ".join(f'[data-mime-type="{kind}"]' for kind in kinds)
    return browser.evaluate(f"[...document.querySelectorAll('{query}')].map(e => e.innerText)")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == FIRST else pytest.mark.slow) for name in NOTEBOOKS]
)
def test_a_chapter_shows_no_markup_and_no_solution(name, lab, browser):
    """Raw roles, boxes and labels stood in half of all paragraphs, and every solution under its question."""
    cells = show(browser, lab, name)
    assert markup(browser) == []
    assert browser.evaluate("document.querySelectorAll('.jp-Notebook mjx-merror').length") == 0
    shown = browser.evaluate(
        f"{CODE}.map(e => !e.querySelector('.jp-Cell-inputWrapper .jp-Placeholder:not([hidden])')"
        " && e.querySelector('.jp-Cell-inputWrapper .jp-Editor')?.checkVisibility() === true)"
    )
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(shown) == len(code) and any(shown)
    folded = [cell["metadata"].get("jupyter", {}).get("source_hidden", False) for cell in code]
    assert shown == [not hidden for hidden in folded]
    assert all(hidden for cell, hidden in zip(code, folded, strict=True) if "Solution" in cell["source"][:30])
    open_boxes = browser.evaluate(
        "[...document.querySelectorAll('.jp-Notebook details')].filter(e => e.open).length"
    )
    assert open_boxes == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_chapter_runs_from_top_to_bottom(name, lab, browser):
    """What runs in the build must run where readers run it."""
    show(browser, lab, name)
    assert run_all(browser, seconds=600) == []
    assert markup(browser) == []
    browser.evaluate("jupyterapp.commands.execute('notebook:shutdown-kernel')")
