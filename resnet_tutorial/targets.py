"""What lies where a command is to write: an earlier file of its own may be replaced, and no other."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from . import models
from .data import Split
from .evaluation import REPORT_FILES
from .files import refuse_unwritable
from .training import History
from .untrusted import LARGEST_JSON, read_sized

__all__ = ["miss_best", "refuse_among_photos", "refuse_foreign", "refuse_outputs"]

OPTIONS = {
    "report": "numbers (--json)",
    "logits": "logits (--logits)",
    "table": "table (--csv)",
    "ONNX network": "network",
}
PAGE = "page (--report)"


def refuse_outputs(files: Mapping[str, Path | None], page: Path | None = None) -> None:
    """Raise ``ValueError`` if an output cannot be written, would replace a foreign file, or another output.

    Ask before long work, not after it.

    Args:
        files: What to write, by kind: those of ``refuse_foreign``.
        page: The folder of a report.

    Example:
        >>> refuse_outputs({"report": Path("a.npz"), "logits": Path("a.npz")})
        Traceback (most recent call last):
        ValueError: a.npz is to be the numbers (--json) and the logits (--logits): give two names
    """
    places: dict[str, str] = {}
    if page is not None:
        refuse_unwritable(page, what=f"the {PAGE}")
        found = next((name for name in REPORT_FILES if (page / name).exists()), None)
        if found and not _json_of("title", "about", "metrics")(page / "report.json"):
            raise ValueError(f"{page} has {found}, of no earlier report: give another folder for the {PAGE}")
        places = {os.path.realpath(page / name): PAGE for name in ("", *REPORT_FILES)}
    for kind, path in files.items():
        if path is not None:
            what = OPTIONS[kind]
            refuse_unwritable(path.parent, what=f"the {what}")
            refuse_foreign(path, what=kind)
            if (other := places.setdefault(os.path.realpath(path), what)) != what:
                raise ValueError(f"{path} is to be the {other} and the {what}: give two names")


def refuse_among_photos(out: Path, folder: str | Path, files: Iterable[str]) -> None:
    """Raise ``ValueError`` if results in ``out`` lie in a folder of photos, whose class they would hide.

    Example:
        >>> refuse_among_photos(Path("pets/cat/run"), "pets", ["cat/1.png", "dog/1.png"])
        Traceback (most recent call last):
        ValueError: pets/cat/run is among the photos of pets: give another folder
    """
    root, place = Path(os.path.realpath(folder)), Path(os.path.realpath(out))
    taken = {root / parent for name in files for parent in Path(name).parents if parent.name}
    if not taken.isdisjoint([place, *place.parents]):
        raise ValueError(f"{out} is among the photos of {folder}: give another folder")


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
        except (ValueError, RecursionError, FileNotFoundError):
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


def _onnx(path: Path) -> bool:
    """Whether it begins with ONNX's version, a number below 32, and another field: no safetensors does."""
    with path.open("rb") as file:
        start = file.read(9)
    return start[:1] == b"\x08" and start[1:2] < b" " and start[8:] != b"{"


KINDS: dict[str, Callable[[Path], bool]] = {
    "report": _json_of("accuracy", "n"),
    "record": _json_of("format", "name", "test"),
    "logits": _logits,
    "table": _begins(b"file,class_1,"),
    "ONNX network": _onnx,
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
        good = type(epoch) is int and epoch >= best["epoch"]
        problem = "" if good else f"is of epoch {epoch!r:.40}, not of {best['epoch']}"
    except (FileNotFoundError, ValueError) as error:
        problem = f"cannot be used ({error})"
    if problem:
        warnings.warn(f"{path} {problem}: it is written again only if a later epoch is better", stacklevel=2)
