"""How a command ends: by a signal, or when nobody reads what it prints."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import NoReturn, TextIO

from .training import distributed

__all__ = ["TerminatedError", "ended_by_sigterm", "patient_output"]


class TerminatedError(KeyboardInterrupt):
    """Somebody asked the process to end; whatever tidies up after Ctrl-C does so after it.

    Example:
        >>> issubclass(TerminatedError, KeyboardInterrupt)
        True
    """


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end a command as Ctrl-C does; torchrun's processes are left to torchrun.

    Raises:
        TerminatedError: If the signal comes and nothing else has taken it.

    Example:
        >>> try:
        ...     with ended_by_sigterm():
        ...         signal.raise_signal(signal.SIGTERM)
        ... except TerminatedError:
        ...     print("asked to end")
        asked to end
    """

    def end(*_: object) -> NoReturn:
        raise TerminatedError

    alone = distributed.size() == 1 and os.environ.get("WORLD_SIZE", "1") in ("", "1")
    free = threading.current_thread() is threading.main_thread()
    if not (alone and free and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL):
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _PatientOutput(io.TextIOBase):
    """Standard output that whoever reads it may close: what is printed then is lost, the work goes on.

    What a terminal would obey, in a file's or a class's name, is shown as a space.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream  # None where the shell has closed it

    def write(self, text: str) -> int:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        # A terminal may not know every character.
        shown = text.encode(encoding, "replace").decode(encoding)
        shown = "".join(letter if letter.isprintable() or letter in "\n\t" else " " for letter in shown)
        self._attempt(lambda stream: stream.write(shown))
        return len(text)

    def flush(self) -> None:
        self._attempt(lambda stream: stream.flush())

    def _attempt(self, action: Callable[[TextIO], object]) -> None:
        if self.stream is None:
            return
        try:
            action(self.stream)
        except OSError as error:
            # Python flushes standard output once more when it ends.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
            self.stream = None
            if not isinstance(error, BrokenPipeError):
                raise


@contextmanager
def patient_output() -> Iterator[None]:
    """Let no closed pipe end the work; a full disk behind standard output is an error like any other.

    Example:
        >>> with patient_output():
        ...     print("a line")
        a line
    """
    with redirect_stdout(_PatientOutput(sys.stdout)) as output:
        yield
        output.flush()
