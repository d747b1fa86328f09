"""A headless Chromium that reads pages of this machine, driven over a pipe; it needs nothing but the browser.

It speaks the Chrome DevTools Protocol: JSON messages, each ended by a NUL byte, on the browser's file
descriptors 3 and 4. So the scripts that use this module run on Linux and macOS.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # inside a container there is none; the pages are our own
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# By the names of the protocol: Windows key code, and the text that the key types.
KEYS = {
    "Enter": (13, "\r"),
    "Space": (32, " "),
    "Home": (36, ""),
    "End": (35, ""),
    "ArrowLeft": (37, ""),
    "ArrowUp": (38, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
}


class BrowserError(RuntimeError):
    """The browser ended, took too long, or refused a command."""


def find_browser(name: str | None = None) -> str:
    """Find the path of the browser called ``name``, or of the first one found.

    Raises:
        FileNotFoundError: if there is none.
    """
    for candidate in [name] if name else NAMES:
        if path := shutil.which(candidate):
            return path
    raise FileNotFoundError(f"no browser called {name or ', '.join(NAMES)}: install one, or name one")


def _moved(descriptor: int) -> int:
    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(descriptor)
    return high


class Browser:
    """One browser with one tab, for use in a ``with`` statement.

    Attributes:
        requests: the addresses that the current page asked for, in order.
    """

    def __init__(self, path: str, *, timeout: float = 180.0) -> None:
        self.path, self.timeout = path, timeout
        self.requests: list[str] = []
        self._ids, self._buffer, self._events = count(1), b"", []

    def __enter__(self) -> Browser:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # The browser wants 3 and 4. A shell puts them there; above 20 the originals are out of their way.
        to_read, to_write = _moved(to_read), _moved(to_write)
        command = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        shell = ["bash", "-c", command, "bash", self.path, *OPTIONS, f"--user-data-dir={self._profile.name}"]
        self._process = subprocess.Popen(
            [*shell, "about:blank"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        tabs = self._send("Target.getTargets")["targetInfos"]
        tab = next(tab["targetId"] for tab in tabs if tab["type"] == "page")
        self._session = None
        self._session = self._send("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)
        os.close(self._write)
        self._profile.cleanup()

    def open(self, page: Path | str, *, width: int = 1280, dark: bool = False, media: str = "") -> None:
        """Show a page and wait until it and its equations are complete.

        Args:
            page: the HTML file, or the address of a server on this machine.
            width: of the window, in CSS pixels.
            dark: whether the reader's system asks for dark colours.
            media: "print" for the print style, "" for the screen.
        """
        self.requests, self._events = [], []
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])
        size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        failed = self.send(
            "Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri()
        ).get("errorText")
        if failed:
            raise BrowserError(f"{page}: {failed}")
        deadline = time.monotonic() + self.timeout
        while "Page.loadEventFired" not in self._events:
            self._receive(deadline)
        self.evaluate("window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => 1) : 1")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; a promise is waited for."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def click(self, element: str) -> None:
        """Click with the mouse on the middle of an element, given as a JavaScript expression."""
        x, y = self.evaluate(
            f"(() => {{ const e = {element};"
            " e.scrollIntoView({ block: 'center', behavior: 'instant' });"
            " const r = e.getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, *, on: str | None = None) -> None:
        """Press a key of ``KEYS`` on what has the focus, or on an element: a JavaScript expression."""
        if on:
            self.evaluate(f"({on}).focus()")
        code, text = KEYS[key]
        about = {"key": text or key, "code": key, "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", **about, **({"text": text} if text else {}))
        self.send("Input.dispatchKeyEvent", type="keyUp", **about)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol on the tab; returns its result."""
        return self._send(method, session=self._session, **params)

    def _send(self, method: str, *, session: str | None = None, **params: Any) -> dict[str, Any]:
        message = {"id": next(self._ids), "method": method, "params": params}
        if session:
            message["sessionId"] = session
        rest = json.dumps(message).encode() + b"\0"
        try:
            while rest:
                rest = rest[os.write(self._write, rest) :]
        except BrokenPipeError:
            raise BrowserError("the browser ended") from None
        deadline = time.monotonic() + self.timeout
        while True:
            answer = self._receive(deadline)
            if answer.get("id") == message["id"]:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise BrowserError(f"no answer for {self.timeout:.0f} s")
            part = os.read(self._read, 1 << 20)
            if not part:
                raise BrowserError("the browser ended")
            self._buffer += part
        text, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self._events.append(message["method"])
            if message["method"] == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
        return message
