"""When the state of a run is written: after an epoch, every so many steps, when it is asked to end."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

from . import distributed
from .progress import Progress


class Saving:
    """Writes the checkpoint when it is time to.

    Inside the block Ctrl-C and SIGTERM, a request to end, are only noted, so that no step is cut in half:
    after it the checkpoint is written, then ``KeyboardInterrupt`` is raised. A second one interrupts at
    once. Without a path nothing is written, and they mean what they always do.
    """

    def __init__(self, state: Progress, path: str | Path | None, every: int | None) -> None:
        self.state, self.path, self.every = state, path, every
        self.noted = threading.Event()
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Saving:
        if self.path is not None and threading.current_thread() is threading.main_thread():
            # To its processes torchrun sends SIGTERM when one of them died: no time to wait for the others.
            numbers = (signal.SIGINT, signal.SIGTERM)[: 1 if distributed.size() > 1 else 2]
            self.previous = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def _note(self, *_: object) -> None:
        self.noted.set()
        self.__exit__()

    def after_step(self) -> None:
        if self.path is None:
            return
        stop = distributed.anywhere(self.noted.is_set(), self.state.step)
        if stop or (self.every and self.state.step % self.every == 0):
            self.save()
        if stop:
            raise KeyboardInterrupt

    def save(self) -> None:
        if self.path is not None:
            self.state.save(self.path)
