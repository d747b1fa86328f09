"""Records: what is written is read back, every disagreement is found, and the book's own records hold."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_tutorial import cli, records
from resnet_tutorial.data import Split, load_sample
from resnet_tutorial.evaluation import Predictions, report
from resnet_tutorial.models import count_parameters, create
from resnet_tutorial.records import (
    Measurement,
    Run,
    by_seed,
    changed,
    compare,
    load_all,
    record_run,
    refuse_existing,
)
from resnet_tutorial.training import RECIPES, History, get_recipe

RESULTS = Path(__file__).parent.parent / "book" / "results"


def predictions(n: int = 40) -> Predictions:
    rng = np.random.default_rng(0)
    return Predictions(rng.normal(size=(n, 3)), rng.integers(0, 3, n), ("a", "b", "c"))


def record(folder: Path, *, seed: int = 0, accuracy: float | None = None) -> Run:
    recipe = get_recipe("modern").but(epochs=2)
    name = f"resnet20-modern-epochs2-s{seed}"
    logits = predictions().save(folder / f"{name}.npz", dtype=np.float16)
    kept, model = report(Predictions.load(logits)), create("resnet20", num_classes=3)
    return Run(
        name=name,
        command="resnet-tutorial train",
        setup={"device": "a CPU", "torch": "2"},
        model={"name": "resnet20", "config": model.config, "parameters": count_parameters(model)},
        recipe=json.loads(json.dumps(dataclasses.asdict(recipe))),
        changes=changed(recipe),
        seed=seed,
        data={
            "name": "cifar10",
            "train": {"images": 50_000, "fingerprint": "x"},
            "val": None,
            "test": {"images": 40, "fingerprint": "y"},
        },
        history=[{"epoch": 1}, {"epoch": 2}],
        seconds=10.0 + seed,
        test={
            "accuracy": kept.accuracy if accuracy is None else accuracy,
            "accuracy_flip": kept.accuracy,
            "loss": kept.loss,
            "logits_sha256": hashlib.sha256(logits.read_bytes()).hexdigest(),
        },
    )


def test_a_record_survives_the_disk_and_agrees_with_itself(tmp_path):
    made = record(tmp_path)
    assert Run.load(made.save(tmp_path)) == made
    made.check(tmp_path)
    again = made.predictions(tmp_path)
    np.testing.assert_allclose(again.logits, predictions().logits, atol=2e-3)  # float16
    assert (again.labels == predictions().labels).all()
    assert again.classes == ("a", "b", "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": {"name": "gone"}}, "no recipe 'gone' any more"),
        ({"changes": {}}, "has changed since in epochs"),
        ({"history": [{"epoch": 1}]}, "1 of 2 epochs"),
        ({"history": [{"epoch": 2}, {"epoch": 1}]}, "epochs are not 1, 2"),
        ({"data": {"test": {"images": 41}}}, "logits of 40 images, not of 41"),
        ({"test": {"accuracy": 0.99, "logits_sha256": None}}, "not the file that was recorded"),
        ({"test": {"accuracy": 0.99}}, r"accuracy 0\.99, loss .*, from the logits 0\."),
        ({"test": {"loss": 0.5}}, r"accuracy .*, loss 0\.5, from the logits"),
        ({"test": {"loss": math.nan}}, "loss nan, from the logits"),
        ({"model": {"parameters": 269_722}}, "269722 parameters, by the config 269267"),
        ({"model": {"name": "plain20"}}, "the config is not that of plain20"),
        ({"model": {"name": "resnet56"}}, "the config is not that of resnet56"),
        ({"model": {"name": "mine"}}, "unknown network 'mine'"),
        ({"model": {"config": {"block": "vgg"}}}, "not the config of a ResNet"),
    ],
)
def test_every_disagreement_is_found(tmp_path, change, message):
    """A record that no longer describes its run must not be shown."""
    right = record(tmp_path)
    for key in ("model", "test"):
        if key in change:
            change = {key: getattr(right, key) | change[key]}
    with pytest.raises(ValueError, match=message) as error:
        dataclasses.replace(right, **change).check(tmp_path)
    assert str(error.value).startswith(f"{right.name}.json: ") and "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["model", "recipe", "changes", "data", "history", "test"])
@pytest.mark.parametrize("value", [None, {}, [], "x", 3])
def test_a_field_of_another_kind_is_told_in_one_line(tmp_path, key, value):
    """A KeyError in the middle of a page, which says neither what is wrong nor in which file."""
    right = record(tmp_path)
    with pytest.raises(ValueError, match=rf"^{right.name}\.json: ") as error:
        dataclasses.replace(right, **{key: value}).check(tmp_path)
    assert "\n" not in str(error.value)


def test_a_number_that_is_not_finite_is_never_written(tmp_path):
    """Strict readers refuse a whole file for one NaN; older files that have one are still read."""
    made = record(tmp_path)
    wrong = dataclasses.replace(made, seconds=math.inf)
    with pytest.raises(ValueError, match="Out of range"):
        wrong.save(tmp_path)
    assert list(tmp_path.glob("*.json")) == []
    path = made.save(tmp_path)
    path.write_text(path.read_text().replace('"seconds": 10.0', '"seconds": Infinity'))
    assert Run.load(path) == wrong


def test_a_changed_recipe_is_found(tmp_path, monkeypatch):
    """Whoever edits a recipe must notice which results it made."""
    made = record(tmp_path)
    monkeypatch.setitem(RECIPES, "modern", RECIPES["modern"].but(lr=0.123))
    with pytest.raises(ValueError, match="recipe 'modern' has changed since in lr"):
        made.check(tmp_path)


def test_missing_and_damaged_files(tmp_path):
    made = record(tmp_path)
    path = made.save(tmp_path)
    (tmp_path / f"{made.name}.npz").unlink()
    with pytest.raises(FileNotFoundError, match="holds the logits"):
        made.check(tmp_path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(ValueError, match="is not a Run"):
        Run.load(path)
    with pytest.raises(FileNotFoundError):
        Run.load(tmp_path / "absent.json")
    made.save(tmp_path).rename(tmp_path / "other.json")
    with pytest.raises(ValueError, match="has format 1 and name"):
        Run.load(tmp_path / "other.json")


def test_the_arithmetic_of_a_recorded_run_is_that_of_the_paper_network():
    """Half of it, or a third, comes out if additions or the backward pass are not counted."""
    run = Run.load(RESULTS / "resnet20-modern-epochs30-s0.json")
    forward = 2 * 40_551_040  # He et al. count multiply-adds
    assert run.petaflop == 3 * forward * 30 * 390 * 128 / 1e15


def test_runs_that_differ_in_the_seed_only_are_averaged(tmp_path):
    first, second = record(tmp_path, seed=0), record(tmp_path, seed=1)
    second.test["accuracy"] += 0.1
    other = dataclasses.replace(first, recipe=first.recipe | {"name": "paper"})
    other.test["accuracy"] = first.test["accuracy"]
    rows = compare([first, other, second])
    assert [(row["recipe"], row["n"]) for row in rows] == [("modern, epochs 2", 2), ("paper, epochs 2", 1)]
    assert rows[0]["accuracy"] == pytest.approx(first.test["accuracy"] + 0.05)
    assert rows[0]["accuracy_sd"] == pytest.approx(0.1 / 2**0.5)
    assert rows[0]["seconds"] == 10.5
    assert rows[1]["accuracy_sd"] is None


@pytest.mark.parametrize(
    "other",
    [
        {"recipe": {"name": "modern", "epochs": 3}},
        {"model": {"name": "resnet56"}},
        {"data": {"name": "sample", "train": {"images": 8}, "val": None, "test": None}},
        {"data": {"name": "cifar10", "train": {"images": 9}, "val": None, "test": None}},
        {"data": {"name": "cifar10", "train": {"images": 8}, "val": {"images": 1}, "test": None}},
        {"data": {"name": "cifar10", "train": {"images": 8}, "val": None, "test": {"images": 9}}},
        *({"setup": {"device": "CPU"} | {key: "another"}} for key in records.MACHINE),
    ],
    ids=str,
)
def test_only_runs_that_differ_in_the_seed_alone_are_averaged(tmp_path, other):
    """A mean of minutes with and without compiling, or of accuracies on other test images."""
    data = {"name": "cifar10", "train": {"images": 8, "fingerprint": "a"}, "val": None, "test": None}
    first = dataclasses.replace(record(tmp_path), data=data, setup={"device": "CPU"})
    second = dataclasses.replace(
        first, seed=1, data=data | {"train": {"images": 8, "fingerprint": "b"}}, date="2000-01-01"
    )
    assert by_seed([first, second]) == [[first, second]]
    assert by_seed([first, dataclasses.replace(second, **other)])[0] == [first]


def test_a_table_needs_rows_of_one_length(tmp_path, monkeypatch):
    table = Measurement(
        name="speed", command="x", setup={}, title="t", columns=["a", "b"], rows=[[1, 2]], notes=[]
    )
    table.check()
    assert Measurement.load(table.save(tmp_path)) == table
    assert table.column("b") == [2]
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        dataclasses.replace(table, rows=[[1]]).check()
    with pytest.raises(ValueError, match="is not a Run"):
        Run.load(tmp_path / "speed.json")
    with monkeypatch.context() as patch, pytest.raises(ValueError, match=r"speed\.json has .* at most 9 are"):
        patch.setattr(records, "LARGEST_JSON", 9)
        Measurement.load(tmp_path / "speed.json")
    made = record(tmp_path)
    made.save(tmp_path)
    assert load_all(tmp_path) == ([made], [table])
    assert load_all(tmp_path / "absent") == ([], [])


def test_a_recipe_without_a_name_of_ours_cannot_be_recorded():
    with pytest.raises(ValueError, match="unknown recipe 'mine': choose one of quick, "):
        changed(dataclasses.replace(get_recipe("quick"), name="mine"))
    assert changed(get_recipe("quick").but(epochs=3, lr=0.2)) == {"epochs": 3, "lr": 0.2}


@pytest.mark.parametrize("name, changes", [("paper", {"epochs": 3}), ("modern", {"steps": 9})])
def test_the_number_of_epochs_and_that_of_steps_are_one_change(name, changes):
    assert changed(get_recipe(name).but(**changes)) == changes


def recorded(
    folder: Path, *, name: str = "new", val: Split | None = None, overwrite: bool = False, **other: Any
) -> Run:
    """Record an untrained network, measured on eight images."""
    train, test = (split.subset(range(8)) for split in load_sample())
    recipe = get_recipe("quick").but(epochs=1)
    history = History([{"epoch": 1, "seconds": 9.5}], dataclasses.asdict(recipe), {"seed": 3})
    about = {"command": "make", "network": "resnet8", "model": create("resnet8"), "history": history}
    about |= {"data": "sample", "train": train, "val": val, "test": test}
    return record_run(folder, name, overwrite=overwrite, **about | other)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"network": "resnet20"}, "the network is no resnet20"),
        ({"name": "../new"}, r"cannot name a record '\.\./new'"),
        ({"name": ""}, "cannot name a record ''"),
        ({"history": History([], dataclasses.asdict(get_recipe("quick")), {"seed": 3})}, "history is empty"),
    ],
)
def test_what_would_be_no_record_leaves_no_file(tmp_path, wrong, message):
    """Logits without a record, a record outside the folder, or one that its own check refuses."""
    with pytest.raises(ValueError, match=message):
        recorded(tmp_path / "results", **wrong)
    assert list(tmp_path.rglob("*")) == []


def test_what_is_recorded_agrees_with_itself_and_says_what_was_done(tmp_path):
    """A record that its own check refuses, or that names other images than those it was made with."""
    train, test = (split.subset(range(8)) for split in load_sample())
    for val in (None, train.subset(range(4))):
        made = recorded(tmp_path, val=val, overwrite=True)
        made.check(tmp_path)
        assert Run.load(tmp_path / "new.json") == made
        assert made.data == {
            "name": "sample",
            "train": {"images": 8, "fingerprint": train.fingerprint},
            "val": val and {"images": 4, "fingerprint": val.fingerprint},
            "test": {"images": 8, "fingerprint": test.fingerprint},
        }
    assert (made.seed, made.seconds, made.changes) == (3, 9.5, {"epochs": 1})
    assert made.model["name"] == "resnet8" and made.model["parameters"] == count_parameters(create("resnet8"))


def test_a_record_is_replaced_only_when_asked(tmp_path):
    """Hours of training that end by destroying the record of other hours."""
    refuse_existing(tmp_path, "new")
    first = recorded(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    message = r"new\.json exists: record into another folder, or replace it \(overwrite=True, --overwrite\)$"
    for again in (lambda: refuse_existing(tmp_path, "new"), lambda: recorded(tmp_path)):
        with pytest.raises(ValueError, match=message):
            again()
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    refuse_existing(tmp_path, "new", overwrite=True)
    recorded(tmp_path, overwrite=True).check(tmp_path)
    assert Run.load(tmp_path / "new.json").test["logits_sha256"] != first.test["logits_sha256"]


@pytest.mark.parametrize("killed_at", ["before the record", "after it"])
def test_a_kill_while_a_record_is_replaced_leaves_a_whole_one(tmp_path, monkeypatch, killed_at):
    """Of the old record and the new logits, or the other way round, neither was of use any more."""
    first, replace = recorded(tmp_path), records.os.replace

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    def killed_at_the_logits(old: Any, new: Any) -> None:
        (killed if Path(new).name == "new.npz" else replace)(old, new)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        if killed_at == "before the record":
            patched.setattr(Run, "save", killed)
        else:
            patched.setattr(records.os, "replace", killed_at_the_logits)
        recorded(tmp_path, overwrite=True)
    kept = Run.load(tmp_path / "new.json")
    kept.check(tmp_path)
    assert (kept == first) == (killed_at == "before the record")
    recorded(tmp_path, overwrite=True).check(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.json", "new.npz"]


def test_a_record_older_than_a_field_of_its_recipe_is_compared_with_new_ones(tmp_path):
    """Two runs of one recipe stood apart, since one was made before `best_by` was there to choose."""
    new = recorded(tmp_path)
    path = tmp_path / "new.json"
    record = json.loads(path.read_text())
    assert record["recipe"].pop("best_by") == "loss"
    path.write_text(json.dumps(record))
    assert by_seed([new, Run.load(path)]) == [[new, new]]


@pytest.mark.slow
def test_the_command_line_records_a_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [
        *("train", "--model", "resnet8", "--epochs", "1", "--batch-size", "200"),
        *("--val-fraction", "0", "--record", "results"),
    ]
    assert cli.main(words) == 0
    assert "recorded in" in capsys.readouterr().out
    (path,) = (tmp_path / "results").glob("*.json")
    made = Run.load(path)
    made.check(tmp_path / "results")
    assert path.stem == "resnet8-quick-epochs1-batch_size200-s0"
    assert made.changes == {"epochs": 1, "batch_size": 200}
    assert made.command == "resnet-tutorial " + " ".join(words)
    assert cli.main(["train", "--data", str(tmp_path), "--record", "results"]) == 2


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_the_books_records_hold(path):
    """A result whose recipe or logits have changed is no longer a result."""
    if "recipe" in json.loads(path.read_text()):
        Run.load(path).check(RESULTS)
    else:
        Measurement.load(path).check()


def test_every_file_of_logits_belongs_to_a_record():
    assert {path.stem for path in RESULTS.glob("*.npz")} <= {path.stem for path in RESULTS.glob("*.json")}
