"""Recorded runs beside each other: which of them may be averaged, and which compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import mean, stdev
from typing import Any

from .runs import Run

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
