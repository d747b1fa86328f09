"""Recorded results: training runs and tables of measurements, as small JSON files that anyone can check.

A number in the book is either computed on the page or read from such a file. A run's file holds the command,
the recipe, the whole history, the machine and the versions; the logits on the test images lie beside it, so
that every metric can be computed again.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Self

import numpy as np

from .evaluation import Predictions
from .files import atomic
from .training import RECIPES, Recipe

__all__ = [
    "MACHINE",
    "Measurement",
    "Run",
    "by_network",
    "by_seed",
    "changed",
    "compare",
    "data_summary",
    "in_words",
    "load_all",
    "save_logits",
    "source_version",
]

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """What every record says about itself.

    Attributes:
        name: The file's name without its ending.
        command: What to type to make it again.
        setup: The machine, the versions and the settings.
        commit: The version of this package's source, ``None`` if it is not under Git.
        date: When it was made, as YYYY-MM-DD.
        format: Version of the form of these files.
    """

    name: str
    command: str
    setup: dict[str, Any]
    commit: str | None = field(default_factory=lambda: source_version())
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())
    format: int = FORMAT

    def save(self, folder: str | Path) -> Path:
        """Writes ``folder/name.json``; the file appears whole or not at all. Returns its path."""
        path = Path(folder) / f"{self.name}.json"
        with atomic(path, parents=True) as file:
            file.write((json.dumps(dataclasses.asdict(self), indent=1) + "\n").encode())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads a record.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, or a record of another kind or of another name than its file's.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            record = cls(**content)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a {cls.__name__}: {error}") from None
        if record.format != FORMAT or record.name != path.stem:
            raise ValueError(f"{path} has format {record.format} and name {record.name!r}")
        return record


@dataclass(frozen=True, kw_only=True)
class Run(_Recorded):
    """A training run that was carried to its end and then measured once on the test images.

    Attributes:
        model: ``name``, ``config`` and number of ``parameters``.
        recipe: All fields of the recipe.
        changes: Those that were changed from the recipe of that name.
        seed: Of weights, order and augmentation.
        data: ``name``, and for each of ``train``, ``val`` and ``test`` the number of ``images`` and their
            ``fingerprint`` (``None`` where there are none).
        history: One row an epoch, as in :class:`~resnet_tutorial.training.History`.
        seconds: Wall time of training, compiling and validation included, the test not.
        test: ``accuracy`` of the last weights, single view; ``accuracy_flip``, image and mirror image
            averaged; ``loss`` in nats; ``logits_sha256``, of the file of logits.

    Example:
        >>> kept, digest = save_logits("runs", "two", Predictions([[2, 0], [0, 3]], [0, 0], ("a", "b")))
        >>> about = {"command": "make", "setup": {}, "history": [], "model": {}, "recipe": {}, "changes": {}}
        >>> test = {"accuracy": float(kept.correct.mean()), "logits_sha256": digest}
        >>> run = Run(name="two", seed=0, data={}, seconds=1.5, test=test, **about)
        >>> again = Run.load(run.save("runs"))
        >>> again == run, again.predictions("runs").correct
        (True, array([ True, False]))
    """

    model: dict[str, Any]
    recipe: dict[str, Any]
    changes: dict[str, Any]
    seed: int
    data: dict[str, Any]
    history: list[dict[str, Any]]
    seconds: float
    test: dict[str, Any]

    def check(self, folder: str | Path) -> None:
        """Compares the record with itself, with its logits in the folder and with the recipes of today.

        Raises:
            FileNotFoundError: If the logits are missing.
            ValueError: If something does not agree; the message says what.
        """
        known = RECIPES.get(self.recipe["name"])
        if known is None:
            raise ValueError(f"{self.name}: there is no recipe {self.recipe['name']!r} any more")
        if (now := _plain(known.but(**self.changes))) != self.recipe:
            differ = sorted(k for k in now.keys() | self.recipe if now.get(k) != self.recipe.get(k))
            raise ValueError(f"{self.name}: recipe {known.name!r} has changed since in {', '.join(differ)}")
        epochs = [row["epoch"] for row in self.history]
        if not epochs or epochs != list(range(1, len(epochs) + 1)):
            raise ValueError(f"{self.name}: the history's epochs are not 1, 2, ...")
        if self.recipe["epochs"] and self.recipe["patience"] is None and len(epochs) != self.recipe["epochs"]:
            raise ValueError(f"{self.name}: {len(epochs)} of {self.recipe['epochs']} epochs were run")
        predictions = self.predictions(folder)
        if len(predictions) != self.data["test"]["images"]:
            raise ValueError(f"{self.name}: logits of {len(predictions)} images")
        if (again := float(predictions.correct.mean())) != self.test["accuracy"]:
            raise ValueError(f"{self.name}: accuracy {self.test['accuracy']}, from the logits {again}")

    def predictions(self, folder: str | Path) -> Predictions:
        """The logits on the test images, with labels and class names.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it is not the one that was recorded.
        """
        path = Path(folder) / f"{self.name}.npz"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: it holds the logits of {self.name}.json")
        if _sha256(path) != self.test["logits_sha256"]:
            raise ValueError(f"{path} is not the file that was recorded")
        with np.load(path, allow_pickle=False) as content:
            return Predictions(content["logits"], content["labels"].astype(np.int64), content["classes"])


@dataclass(frozen=True, kw_only=True)
class Measurement(_Recorded):
    """A table of measurements.

    Attributes:
        title: What was measured, with units.
        columns: Their names.
        rows: One list a row, numbers and text.
        notes: How it was measured.
    """

    title: str
    columns: list[str]
    rows: list[list[Any]]
    notes: list[str]

    def check(self) -> None:
        """Raises ``ValueError`` if a row has another length than the header, or there is none."""
        if not self.rows or any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.name}: every row needs {len(self.columns)} cells")

    def column(self, name: str) -> list[Any]:
        """One column; ``ValueError`` if there is none of that name."""
        return [row[self.columns.index(name)] for row in self.rows]


def save_logits(folder: str | Path, name: str, predictions: Predictions) -> tuple[Predictions, str]:
    """Writes ``folder/name.npz``, logits as float16; returns what will be read, and the file's SHA-256."""
    path = Path(folder) / f"{name}.npz"
    half = predictions.logits.astype(np.float16)
    labels = predictions.labels.astype(np.uint16)
    with atomic(path, parents=True) as file:
        np.savez_compressed(file, logits=half, labels=labels, classes=np.array(predictions.classes))
    return Predictions(half, predictions.labels, predictions.classes), _sha256(path)


def load_all(folder: str | Path) -> tuple[list[Run], list[Measurement]]:
    """All records in a folder, by name; none if there is no such folder.

    Raises:
        ValueError: If a JSON file there is no record.

    Example:
        >>> about = {"command": "make", "setup": {}, "title": "Rows", "columns": ["s"], "notes": []}
        >>> path = Measurement(name="speed", rows=[[2.5], [3.5]], **about).save("results")
        >>> runs, tables = load_all("results")
        >>> len(runs), tables[0].column("s")
        (0, [2.5, 3.5])
    """
    runs: list[Run] = []
    tables: list[Measurement] = []
    for path in sorted(Path(folder).glob("*.json")):
        if '"recipe"' in path.read_text(encoding="utf-8"):
            runs.append(Run.load(path))
        else:
            tables.append(Measurement.load(path))
    return runs, tables


def changed(recipe: Recipe) -> dict[str, Any]:
    """What to give ``but`` of the recipe of this name in ``RECIPES``; ``ValueError`` if there is none."""
    if recipe.name not in RECIPES:
        raise ValueError(f"recipe {recipe.name!r} is not in RECIPES: nobody could run it again")
    ours, original = _plain(recipe), _plain(RECIPES[recipe.name])
    differ = {key: value for key, value in ours.items() if value != original[key]}
    other = {"epochs": "steps", "steps": "epochs"}  # one given clears the other
    return {key: value for key, value in differ.items() if value is not None or other.get(key) not in differ}


def data_summary(name: str, **splits: Any) -> dict[str, Any]:
    """Number of images and fingerprint of each split; a split may be ``None``."""
    about = {
        key: None if split is None else {"images": len(split), "fingerprint": split.fingerprint}
        for key, split in splits.items()
    }
    return {"name": name, **about}


def source_version() -> str | None:
    """The commit of this package's source, with a plus sign if files were changed since."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", str(here)) else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _plain(recipe: Recipe) -> dict[str, Any]:
    """The recipe's fields as JSON gives them back."""
    return json.loads(json.dumps(dataclasses.asdict(recipe)))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


MACHINE = ("device", "threads", "compile", "precision", "torch")  # what the time of a run depends on


def in_words(recipe: str, changes: Mapping[str, Any]) -> str:
    """A recipe's name, and what was changed in it.

    Example:
        >>> in_words("modern", {"epochs": 30})
        'modern, epochs 30'
    """
    return ", ".join([recipe, *(f"{key} {value}" for key, value in sorted(changes.items()))])


def by_seed(records: Iterable[Run]) -> list[list[Run]]:
    """Runs that differ in nothing but their seed, together: the only ones that may be averaged.

    Of the training and validation images the numbers must agree; which they are may depend on the seed.

    Example:
        >>> about = {"command": "", "changes": {}, "history": [], "seconds": 60.0, "test": {}}
        >>> about |= {"model": {"name": "resnet20"}, "recipe": {"name": "quick"}}
        >>> about |= {"data": {"name": "sample", "train": {"images": 2000}, "val": None}}
        >>> made = [(0, "CPU"), (1, "CPU"), (2, "another CPU")]
        >>> runs = [Run(name=f"s{seed}", seed=seed, setup={"device": d}, **about) for seed, d in made]
        >>> [[run.name for run in group] for group in by_seed(runs)]
        [['s0', 's1'], ['s2']]
    """
    groups: dict[str, list[Run]] = {}
    for run in records:
        sizes = [(run.data.get(part) or {}).get("images") for part in ("train", "val")]
        images = [run.data["name"], *sizes, run.data.get("test")]
        alike = (run.model["name"], run.recipe, images, _machine(run))
        groups.setdefault(repr(alike), []).append(run)
    return list(groups.values())


def compare(records: Iterable[Run]) -> list[dict[str, Any]]:
    """Runs that differ in their seed only (:func:`by_seed`), as one row each.

    Returns:
        Rows with ``model``, ``recipe`` (see :func:`in_words`), ``data``, ``images`` (for training), ``n``
        (seeds), ``accuracy`` and ``accuracy_flip`` on the test images, ``seconds`` (means), ``accuracy_sd``
        (``None`` for one seed), ``parameters``, ``device`` and its ``threads``, best accuracy first.

    Example:
        >>> about = {"command": "", "setup": {"device": "CPU"}, "changes": {}, "history": [], "seconds": 60.0}
        >>> about |= {"model": {"name": "resnet20", "parameters": 269722}, "recipe": {"name": "quick"}}
        >>> about |= {"data": {"name": "sample", "train": {"images": 2000}}}
        >>> tests = [{"accuracy": share, "accuracy_flip": share} for share in (0.5, 0.75)]
        >>> runs = [Run(name=f"s{seed}", seed=seed, test=test, **about) for seed, test in enumerate(tests)]
        >>> [(row["model"], row["n"], row["accuracy"]) for row in compare(runs)]
        [('resnet20', 2, 0.625)]
    """
    rows = []
    for group in by_seed(records):
        run, accuracies = group[0], [run.test["accuracy"] for run in group]
        rows.append(
            {
                "model": run.model["name"],
                "recipe": in_words(run.recipe["name"], run.changes),
                "n": len(group),
                "data": run.data["name"],
                "images": run.data["train"]["images"],
                "accuracy": mean(accuracies),
                "accuracy_sd": stdev(accuracies) if len(group) > 1 else None,
                "accuracy_flip": mean(run.test["accuracy_flip"] for run in group),
                "seconds": mean(run.seconds for run in group),
                "parameters": run.model["parameters"],
                "device": run.setup["device"],
                "threads": run.setup.get("threads"),
            }
        )
    return sorted(rows, key=lambda row: -row["accuracy"])


def by_network(records: Iterable[Run]) -> list[dict[str, Run]]:
    """Runs that differ in nothing but the network: same recipe, seed, images, machine and settings.

    Returns:
        One dictionary for each such set, from the network's name to its run.

    Example:
        >>> about = {"command": "", "setup": {"device": "CPU"}, "changes": {}, "history": [], "seconds": 60.0}
        >>> about |= {"recipe": {"name": "quick"}, "test": {}}
        >>> about |= {"data": {"name": "sample", "train": {"images": 2000}, "val": None}}
        >>> made = [("resnet20", 0), ("resnet56", 0), ("resnet20", 1)]
        >>> runs = [Run(name=f"{k}-{seed}", model={"name": k}, seed=seed, **about) for k, seed in made]
        >>> [list(group) for group in by_network(runs)]
        [['resnet20', 'resnet56'], ['resnet20']]
    """
    groups: dict[str, dict[str, Run]] = {}
    for run in records:
        data = [run.data[key] for key in ("name", "train", "val")]
        alike = (run.recipe, run.seed, data, _machine(run))
        groups.setdefault(repr(alike), {})[run.model["name"]] = run
    return list(groups.values())


def _machine(run: Run) -> tuple[Any, ...]:
    return tuple(run.setup.get(key) for key in MACHINE)
