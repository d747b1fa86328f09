"""Files from elsewhere run no code, and nothing that is typed or read is evaluated."""

from __future__ import annotations

import ast
import os
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resnet_tutorial import cli, models
from resnet_tutorial.data import load_cifar10
from resnet_tutorial.evaluation import Predictions, predictions
from resnet_tutorial.training import History, saved_precision

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path
    for folder in ("resnet_tutorial", "tools", "benchmarks", "book/_ext")
    for path in (ROOT / folder).rglob("*.py")
)
RUNS_CODE = {"eval", "exec", "compile", "__import__", "os.system", "os.popen"}
# A reader's own answers to the exercises are Python; "resnet-tutorial check --help" says that they are run.
ALLOWED = {("resnet_tutorial/exercises.py", "_definitions"), ("resnet_tutorial/exercises.py", "_value")}
SAFELY = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def calls(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, str, ast.Call]]:
    """Each call with the function it is in and the name that is called, such as `torch.load`."""
    for node in ast.iter_child_nodes(tree):
        name = node.name if isinstance(node, ast.FunctionDef) else inside
        if isinstance(node, ast.Call):
            yield inside, ast.unparse(node.func), node
        yield from calls(node, name)


def faults(source: str, path: str) -> list[str]:
    found = []
    for inside, name, call in calls(ast.parse(source)):
        options = {option.arg: ast.unparse(option.value) for option in call.keywords}
        last = name.rpartition(".")[2]
        runs = name in RUNS_CODE or last in ("extract", "extractall")  # may write outside of the folder
        if runs and (path, inside) not in ALLOWED:
            found.append(f"{path}: {name} in {inside}")
        if options.get("shell", "False") != "False":
            found.append(f"{path}: a shell reads what {name} runs")
        if name.split(".")[0] in ("pickle", "marshal", "shelve", "joblib") and last in (
            "load",
            "loads",
            "open",
        ):
            found.append(f"{path}: {name}")
        if name == "yaml.load":
            found.append(f"{path}: yaml.load instead of yaml.safe_load")
        if name in SAFELY and options.get(SAFELY[name][0]) != str(SAFELY[name][1]):
            found.append(f"{path}: {name} without {SAFELY[name][0]}={SAFELY[name][1]}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path):
    """A recipe, a file name or a download that is code."""
    assert faults(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "exec(compile(text, '', 'exec'))",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
        "tarfile.open(path).extractall(folder)",
        "pickle.loads(content)",
        "yaml.load(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
    ],
)
def test_what_would_run_code_is_found(line):
    """A check that finds nothing anywhere is none."""
    assert faults(f"def f():\n    {line}\n", "resnet_tutorial/files.py")
    harmless = "model.eval()\nre.compile('x')\nsubprocess.run(['ls'])\ntorch.load(path, weights_only=True)\n"
    assert not faults(harmless, "resnet_tutorial/files.py")


class Trap:
    """Makes a directory where it is unpickled by a reader that trusts."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


def test_the_trap_springs_where_files_are_trusted(tmp_path, monkeypatch):
    """Without this the tests below might pass by a trap that is none."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Trap()))
    assert os.listdir() == ["sprung"]
    os.rmdir("sprung")
    torch.save({"a": Trap()}, "a.pt")
    torch.load("a.pt", weights_only=False)
    assert sorted(os.listdir()) == ["a.pt", "sprung"]


def weights(path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1), "x": Trap()}, path.with_suffix(".pth"))
    models.load_weights(path.with_suffix(".pth"))


def bare_pickle(path: Path) -> None:
    path.with_suffix(".pt").write_bytes(pickle.dumps(Trap()))
    models.load_weights(path.with_suffix(".pt"))


def checkpoint(path: Path) -> None:
    torch.save({"identity": {"seed": 0}, "rows": [], "step": Trap()}, path)
    History.from_checkpoint(path)


def precision(path: Path) -> None:
    torch.save({"identity": {"precision": Trap()}, "rows": []}, path)
    saved_precision(path)


def batch(path: Path) -> None:
    folder = path.parent / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": Trap(), "labels": [0]}, protocol=2))
    load_cifar10(root=path.parent)


def cache(path: Path) -> None:
    with (path.parent / "cifar10-arrays.npz").open("wb") as file:
        np.savez(file, train_images=np.array([Trap()], dtype=object))
    load_cifar10(root=path.parent)


def logits(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, logits=np.array([Trap()], dtype=object), classes=np.array(["a", "b"]))
    Predictions.load(path)


READERS = [weights, bare_pickle, checkpoint, precision, batch, cache, logits]


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_a_malicious_file_is_refused_and_its_code_never_runs(tmp_path, monkeypatch, read):
    """Weights from a forum that run a command when they are opened."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as refused:
        read(tmp_path / "file")
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)
    assert not Path("sprung").exists()


def test_a_small_file_of_logits_cannot_fill_the_memory(tmp_path, monkeypatch):
    """Zeros compress a thousandfold: a file of 3 MB asked for 3 GB of memory."""
    path = Predictions(np.zeros((5_000, 2)), None, ("a", "b")).save(tmp_path / "l.npz")
    monkeypatch.setattr(predictions, "LARGEST", 10_000)
    assert path.stat().st_size < 10_000
    with pytest.raises(ValueError, match=r"l\.npz is damaged .*says that it holds 4\d,\d{3} bytes"):
        Predictions.load(path)


def test_check_says_that_it_runs_what_it_checks(capsys):
    """A notebook of somebody else is a program of somebody else."""
    with pytest.raises(SystemExit):
        cli.main(["check", "--help"])
    told = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert (
        "It is run, and so are the imports" in told and "check no notebook of people you do not trust" in told
    )
