"""What lies where a command is to write: an earlier file of its own may be replaced, and no other."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

from . import models
from .data import Split
from .files import LARGEST_JSON, read_sized
from .training import History

__all__ = ["miss_best", "refuse_foreign"]


def refuse_foreign(path: Path | None, *, what: str) -> None:
    """Raise ``ValueError`` if ``path`` is a file, and not empty, that is no earlier one of the same kind.

    Args:
        path: The file to write, or ``None``.
        what: ``report``, ``record``, ``logits``, ``table`` or ``ONNX network``.

    Example:
        >>> size = Path("answers.csv").write_text("my own table")
        >>> refuse_foreign(Path("answers.csv"), what="table")
        Traceback (most recent call last):
        ValueError: answers.csv is there and is no earlier table: give another name, or remove it
    """
    if path is not None and path.is_file() and path.stat().st_size and not KINDS[what](path):
        raise ValueError(f"{path} is there and is no earlier {what}: give another name, or remove it")


def _json_of(*keys: str) -> Callable[[Path], bool]:
    def ours(path: Path) -> bool:
        try:
            found = json.loads(read_sized(path, LARGEST_JSON))
        except (ValueError, RecursionError):
            return False
        return isinstance(found, dict) and found.keys() >= {*keys}

    return ours


def _logits(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as parts:
            return {"logits.npy", "classes.npy"} <= {*parts.namelist()}
    except zipfile.BadZipFile:
        return False


def _begins(start: bytes) -> Callable[[Path], bool]:
    def ours(path: Path) -> bool:
        with path.open("rb") as file:
            return file.read(len(start)) == start

    return ours


KINDS: dict[str, Callable[[Path], bool]] = {
    "report": _json_of("accuracy", "n"),
    "record": _json_of("format", "name", "test"),
    "logits": _logits,
    "table": _begins(b"file,class_1,"),
    # ONNX is a message whose first field, a number, is the version of the format.
    "ONNX network": _begins(b"\x08"),
}


def miss_best(out: Path, val: Split | None) -> None:
    """Warn if the best network of a run that goes on cannot be had: only a better one will be written.

    Args:
        out: The folder of the run, with its checkpoint.
        val: Its validation images, if there are any.

    Example:
        >>> import torch
        >>> from torch import nn, optim
        >>> from resnet_tutorial.training import Progress
        >>> model = nn.Linear(2, 2)
        >>> sgd, scaler = optim.SGD(model.parameters()), torch.amp.GradScaler("cpu", enabled=False)
        >>> Progress({}, History(), model, sgd, scaler, None, torch.device("cpu")).save("checkpoint.pt")
        >>> miss_best(Path(), None)  # no epoch is done, so nothing is missed
    """
    path = out / "best.safetensors"
    best = History.from_checkpoint(out / "checkpoint.pt").best()
    if best is None or val is None:
        return
    try:
        epoch = models.load_weights(path)[1].get("epoch", 0)
        problem = f"is of epoch {epoch}, not of {best['epoch']}" if epoch < best["epoch"] else ""
    except (FileNotFoundError, ValueError) as error:
        problem = f"cannot be used ({error})"
    if problem:
        warnings.warn(f"{path} {problem}: it is written again only if a later epoch is better", stacklevel=2)
