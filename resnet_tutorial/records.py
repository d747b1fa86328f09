"""Training runs, each with its logits, and tables of measurements: small JSON files that anyone can check."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Self, TypedDict

import numpy as np
import torch

from . import models
from .data import Split
from .evaluation import Predictions, predict, report
from .files import atomic, refuse_unwritable
from .runtime import source_version
from .training import RECIPES, History, Recipe, Row
from .untrusted import LARGEST_JSON, read_sized

# fmt: off
__all__ = [
    "Measurement", "Run", "by_seed", "changed", "compare", "in_words", "load_all",
    "record_run", "refuse_existing",
]
# fmt: on

CIFAR10_SIZE = 32  # pixels
MACHINE = ("device", "threads", "compile", "precision", "torch")  # what the time of a run depends on


class Data(TypedDict):
    """What was learnt from, held out and measured on: of each split ``images`` and ``fingerprint``."""

    name: str
    train: dict[str, Any]
    val: dict[str, Any] | None
    test: dict[str, Any]


class Tested(TypedDict):
    """What the last weights reach on the test images."""

    accuracy: float  # of a single view, in 0..1
    accuracy_flip: float  # image and mirror image averaged
    loss: float  # in nats, of a single view
    logits_sha256: str  # of the file


@dataclass(frozen=True, kw_only=True)
class _Recorded:
    """What every record says about itself."""

    name: str  # the file's, without its ending
    command: str  # what to type to make it again
    setup: dict[str, Any]  # the machine, the versions and the settings
    commit: str | None = field(default_factory=source_version)  # of this package's source
    date: str = field(default_factory=lambda: datetime.date.today().isoformat())
    format: int = 1  # of these files

    def save(self, folder: str | Path) -> Path:
        """Write ``folder/name.json``; ``ValueError`` if a number is not finite, or it cannot be written."""
        path = Path(folder) / f"{self.name}.json"
        text = json.dumps(asdict(self), indent=1, allow_nan=False)
        with atomic(path, parents=True) as file:
            file.write((text + "\n").encode())
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a record; ``ValueError`` if it is damaged, of another kind, or its name is not the file's."""
        path = Path(path)
        try:
            record = cls(**json.loads(read_sized(path, LARGEST_JSON)))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a {cls.__name__}: {error}") from None
        if record.format != 1 or record.name != path.stem:
            raise ValueError(f"{path} has format {record.format} and name {record.name!r}")
        return record


@dataclass(frozen=True, kw_only=True)
class Run(_Recorded):
    """A training run that was carried to its end and then measured once on the test images."""

    model: dict[str, Any]  # name, config and number of parameters
    recipe: dict[str, Any]  # all fields
    changes: dict[str, Any]  # what was changed from the recipe of that name
    seed: int  # of weights, order and augmentation
    data: Data
    history: list[Row]
    seconds: float | None  # of training and validation; None if the machine did other work, too
    test: Tested

    def __post_init__(self) -> None:
        """Complete a recipe that is older than some of its fields: nobody could change those then."""
        if isinstance(self.recipe, dict):  # else check tells
            defaults = {field.name: field.default for field in fields(Recipe) if field.default is not MISSING}
            object.__setattr__(self, "recipe", _plain(defaults) | self.recipe)

    @property
    def petaflop(self) -> float:
        """The training's arithmetic in 1e15 operations, three forward passes for each image of a step."""
        with torch.device("meta"):
            network = models.ResNet.from_config(self.model["config"])
        forward = 2 * models.count_multiply_adds(network, CIFAR10_SIZE)  # a multiplication and an addition
        batch = self.recipe["batch_size"]
        steps = self.recipe["steps"] or len(self.history) * (self.data["train"]["images"] // batch)
        return float(3 * forward * batch * steps / 1e15)

    def check(self, folder: str | Path) -> None:
        """Compute again what can be: network, accuracy and loss, and what the recipe means today.

        Raises:
            FileNotFoundError: If the logits, a file in the folder, are missing.
            ValueError: If something does not agree or is not there; the message says what.
        """
        try:
            self._compare(self.predictions(folder))
        except ValueError as error:
            raise ValueError(f"{self.name}.json: {error}") from None
        except (AttributeError, KeyError, TypeError) as error:
            told = f"a field is missing or of another kind ({type(error).__name__}: {error})"
            raise ValueError(f"{self.name}.json: {told}") from None

    def _compare(self, predictions: Predictions) -> None:
        network, test, recipe = self.model, self.test, self.recipe
        known = RECIPES.get(recipe["name"])
        if known is None:
            raise ValueError(f"there is no recipe {recipe['name']!r} any more")
        if (now := _plain(asdict(known.but(**self.changes)))) != recipe:
            differ = sorted(key for key in now.keys() | recipe if now.get(key) != recipe.get(key))
            raise ValueError(f"recipe {known.name!r} has changed since in {', '.join(differ)}")
        with torch.device("meta"):
            built = models.ResNet.from_config(network["config"])
            named = models.create(network["name"], num_classes=len(predictions.classes))
        if named.config != built.config:
            raise ValueError(f"the config is not that of {network['name']}")
        if (parameters := models.count_parameters(built)) != network["parameters"]:
            raise ValueError(f"{network['parameters']} parameters, by the config {parameters}")
        epochs, planned = [row["epoch"] for row in self.history], recipe["epochs"]
        if not epochs or epochs != list(range(1, len(epochs) + 1)):
            raise ValueError("the history's epochs are not 1, 2, ...")
        if planned and recipe["patience"] is None and len(epochs) != planned:
            raise ValueError(f"{len(epochs)} of {planned} epochs were run")
        if len(predictions) != (images := self.data["test"]["images"]):
            raise ValueError(f"logits of {len(predictions)} images, not of {images}")
        again = report(predictions)
        if test["accuracy"] != again.accuracy or not abs(test["loss"] - again.loss) < 1e-3:  # of float16
            told = f"accuracy {test['accuracy']}, loss {test['loss']}"
            raise ValueError(f"{told}, from the logits {again.accuracy} and {again.loss}")

    def predictions(self, folder: str | Path) -> Predictions:
        """Read the logits on the test images; ``ValueError`` if the file is another than was recorded."""
        path = Path(folder) / f"{self.name}.npz"
        there = [place for place in (path, _arriving(path)) if place.is_file()]
        if not there:
            raise FileNotFoundError(f"{path} is missing: it holds the logits of {self.name}.json")
        for place in there:
            if hashlib.sha256(place.read_bytes()).hexdigest() == self.test["logits_sha256"]:
                return Predictions.load(place)
        raise ValueError(f"{path} is not the file that was recorded")


def _arriving(path: Path) -> Path:
    """Name the place of new logits until their record is written: a kill leaves the old pair, or the new."""
    return path.with_suffix(".new.npz")


@dataclass(frozen=True, kw_only=True)
class Measurement(_Recorded):
    """A table of measurements."""

    title: str  # what was measured, with units
    columns: list[str]  # their names
    rows: list[list[Any]]  # numbers and text
    notes: list[str]  # how it was measured

    def check(self) -> None:
        """Raise ``ValueError`` if a row has another length than the header, or there is none."""
        if not self.rows or any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.name}.json: every row needs {len(self.columns)} cells")

    def column(self, name: str) -> list[Any]:
        """Return one column; ``ValueError`` if there is none of that name."""
        return [row[self.columns.index(name)] for row in self.rows]


def refuse_existing(folder: str | Path, name: str, *, overwrite: bool = False) -> None:
    """Raise ``ValueError`` if the folder has a record of that name: ask before the training, not after it.

    Example:
        >>> Path("s0.json").touch()
        >>> refuse_existing(".", "s0")
        Traceback (most recent call last):
        ValueError: s0.json exists: record into another folder, or replace it (overwrite=True, --overwrite)
    """
    if not name or name != Path(name).name:
        raise ValueError(f"cannot name a record {name!r}: give a file name without a folder")
    refuse_unwritable(folder, what="records (--record)")
    logits = Path(folder) / f"{name}.npz"
    for path in (Path(folder) / f"{name}.json", logits, _arriving(logits)):
        if path.is_dir() or (path.exists() and not overwrite):
            advice = "record into another folder, or replace it (overwrite=True, --overwrite)"
            raise ValueError(f"{path} exists: {advice}")


def record_run(
    folder: str | Path,
    name: str,
    *,
    command: str,
    network: str,
    model: models.ResNet,
    history: History,
    data: str,
    train: Split,
    val: Split | None,
    test: Split,
    overwrite: bool = False,
) -> Run:
    """Measure a trained network on the test images, in float32, and write the record and its logits.

    Its ``history`` says the recipe and the seed; ``network`` is the name that ``create`` takes, ``command``
    what to type to make the record again, ``data`` the name of the images, ``val`` those held out, if any.

    Raises:
        ValueError: If there is a record of this name or no recipe of that name, the network is another, the
            history is empty, or a file cannot be written.

    Example:
        >>> from resnet_tutorial.data import load_sample
        >>> few, recipe = load_sample()[1].subset(range(8)), RECIPES["quick"].but(epochs=1)
        >>> history = History([{"epoch": 1, "seconds": 9.5}], asdict(recipe), {"seed": 0})
        >>> about = {"command": "make", "network": "resnet8", "model": models.create("resnet8"), "val": None}
        >>> run = record_run("runs", "new", history=history, data="sample", train=few, test=few, **about)
        >>> run.check("runs")
        >>> Run.load("runs/new.json") == run, len(run.predictions("runs")), run.changes
        (True, 8, {'epochs': 1})
    """
    refuse_existing(folder, name, overwrite=overwrite)
    recipe = Recipe(**history.recipe)
    changes = changed(recipe)  # refuses one that nobody could run again
    with torch.device("meta"):
        if models.create(network, num_classes=len(test.classes)).config != model.config:
            raise ValueError(f"the network is no {network}: give the name that it was made with")
    if not history.rows:
        raise ValueError("the history is empty: record a run that was carried to its end")
    single, flipped = (predict(model, test, flip=flip) for flip in (False, True))
    logits = Path(folder) / f"{name}.npz"
    path = single.save(_arriving(logits), dtype=np.float16)
    kept, digest = report(Predictions.load(path)), hashlib.sha256(path.read_bytes()).hexdigest()
    flip = float(flipped.correct.mean())
    tested = Tested(accuracy=kept.accuracy, accuracy_flip=flip, loss=kept.loss, logits_sha256=digest)
    learnt, held, measured = (
        {"images": len(split), "fingerprint": split.fingerprint} if split else {}
        for split in (train, val, test)
    )
    run = Run(
        name=name,
        command=command,
        setup=history.setup,
        model={"name": network, "config": model.config, "parameters": models.count_parameters(model)},
        recipe=_plain(asdict(recipe)),
        changes=changes,
        seed=history.setup["seed"],
        data=Data(name=data, train=learnt, val=held or None, test=measured),
        history=history.rows,
        seconds=history.rows[-1]["seconds"],
        test=tested,
    )
    run.save(folder)
    os.replace(path, logits)
    return run


def load_all(folder: str | Path) -> tuple[list[Run], list[Measurement]]:
    """Read a folder's records, by name; none without a folder, ``ValueError`` if a JSON file is no record.

    Example:
        >>> about = {"command": "make", "setup": {}, "title": "Rows", "columns": ["s"], "notes": []}
        >>> path = Measurement(name="speed", rows=[[2.5], [3.5]], **about).save("results")
        >>> runs, tables = load_all("results")
        >>> len(runs), tables[0].column("s")
        (0, [2.5, 3.5])
    """
    paths = sorted(Path(folder).glob("*.json"))
    runs = [path for path in paths if b'"recipe"' in read_sized(path, LARGEST_JSON)]
    return list(map(Run.load, runs)), [Measurement.load(path) for path in paths if path not in runs]


def changed(recipe: Recipe) -> dict[str, Any]:
    """Return what to give ``but`` of the recipe of this name in ``RECIPES``; ``ValueError`` if there is none.

    Example:
        >>> changed(RECIPES["paper"].but(epochs=3))  # in place of its number of steps
        {'epochs': 3}
    """
    if recipe.name not in RECIPES:
        raise ValueError(f"unknown recipe {recipe.name!r}: choose one of {', '.join(RECIPES)} to record it")
    ours, original = _plain(asdict(recipe)), _plain(asdict(RECIPES[recipe.name]))
    differ = {key: value for key, value in ours.items() if value != original[key]}
    other = {"epochs": "steps", "steps": "epochs"}  # one given clears the other
    return {key: value for key, value in differ.items() if value is not None or other.get(key) not in differ}


def _plain(recipe: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's fields as JSON gives them back."""
    return dict(json.loads(json.dumps(recipe)))


def in_words(recipe: str, changes: Mapping[str, Any]) -> str:
    """Return a recipe's name, and what was changed in it.

    Example:
        >>> in_words("modern", {"epochs": 30})
        'modern, epochs 30'
    """
    return ", ".join([recipe, *(f"{key} {value}" for key, value in sorted(changes.items()))])


def by_seed(records: Iterable[Run]) -> list[list[Run]]:
    """Group runs that differ in nothing but their seed: the only ones that may be averaged.

    Of the training and validation images the numbers must agree; which they are may depend on the seed.

    Example:
        >>> about = dict.fromkeys(("command", "recipe", "changes", "history", "seconds", "test"))
        >>> about |= {"model": {"name": "resnet8"}, "data": dict.fromkeys(("name", "train", "val", "test"))}
        >>> made = enumerate(["CPU", "CPU", "another CPU"])
        >>> runs = [Run(name=f"s{seed}", seed=seed, setup={"device": d}, **about) for seed, d in made]
        >>> [[run.name for run in group] for group in by_seed(runs)]
        [['s0', 's1'], ['s2']]
    """
    groups: dict[str, list[Run]] = {}
    for run in records:
        numbers = [split and split["images"] for split in (run.data["train"], run.data["val"])]
        learnt = run.model["name"], run.recipe, run.data["name"], numbers, run.data["test"]
        groups.setdefault(repr((learnt, [run.setup.get(key) for key in MACHINE])), []).append(run)
    return list(groups.values())


def compare(records: Iterable[Run]) -> list[dict[str, Any]]:
    """Average runs that differ in their seed only (:func:`by_seed`): one row each, best accuracy first.

    ``n`` counts the seeds and ``images`` those for training; accuracies and ``seconds`` are means (of
    those that were timed, ``None`` for none), ``petaflop`` is the arithmetic of one run, and ``accuracy_sd``
    is ``None`` for one seed.

    Example:
        >>> made = dict.fromkeys(("command", "changes", "history"), {}) | {"setup": {"device": "CPU"}}
        >>> made |= {"recipe": {"name": "quick", "batch_size": 50, "steps": 480}}
        >>> config = models.create("resnet8").config
        >>> made |= {"model": {"name": "resnet8", "parameters": 75290, "config": config}}
        >>> made |= {"data": {"name": "sample", "train": {"images": 2000}, "val": None, "test": None}}
        >>> tests = [{"accuracy": share, "accuracy_flip": share} for share in (0.5, 0.75)]
        >>> (row,) = compare(Run(name="", seed=seed, test=tests[seed], seconds=9, **made) for seed in (0, 1))
        >>> row["model"], row["n"], row["accuracy"]
        ('resnet8', 2, 0.625)
    """
    rows: list[dict[str, Any]] = []
    for group in by_seed(records):
        run, accuracies = group[0], [run.test["accuracy"] for run in group]
        deviation = stdev(accuracies) if len(group) > 1 else None
        flipped = mean(run.test["accuracy_flip"] for run in group)
        times = [run.seconds for run in group if run.seconds is not None]
        seconds = mean(times) if times else None
        what = {"model": run.model["name"], "recipe": in_words(run.recipe["name"], run.changes)}
        data = {"n": len(group), "data": run.data["name"], "images": run.data["train"]["images"]}
        test = {"accuracy": mean(accuracies), "accuracy_sd": deviation, "accuracy_flip": flipped}
        cost = {"seconds": seconds, "parameters": run.model["parameters"], "device": run.setup["device"]}
        cost |= {"threads": run.setup.get("threads"), "petaflop": run.petaflop}
        rows.append({**what, **data, **test, **cost, "precision": run.setup.get("precision")})
    return sorted(rows, key=lambda row: -row["accuracy"])
