"""Files from elsewhere run no code, and nothing that is typed or read is evaluated."""

from __future__ import annotations

import ast
import os
import pickle
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

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
# By their full names, whatever they are imported as.
RUNS_CODE = re.compile(
    r"eval|exec|__import__|__builtins__|builtins\.(eval|exec|compile|__import__)"
    r"|os\.(system|popen|startfile|(exec|spawn|posix_spawn)\w+)"
    r"|subprocess\.(getoutput|getstatusoutput)|asyncio\.create_subprocess_shell"
    r"|importlib\.(import_module|reload|__import__|(util|machinery)\.\w+)"
    r"|(runpy|code|codeop|imp|pty|ctypes)\.\w+"
    r"|(pickle|_pickle|dill|cloudpickle)\.(loads?|_?Unpickler)|marshal\.loads?|shelve\.\w+|joblib\.load"
    r"|pandas\.read_pickle|yaml\.(?!safe_)\w*load\w*|shutil\.unpack_archive"
    r"|torch\.hub\.load\w*|torch\.jit\.load|torch\.package\.\w+|torch\.(ops|classes)\.load_library"
    r"|torch\.utils\.cpp_extension\.\w+"
)
SHELLS = {"sh", "bash", "dash", "zsh", "cmd", "cmd.exe", "powershell", "pwsh"}
ALLOWED = [
    # It moves two pipes to the numbers that the browser wants; nothing that is read is in the command.
    "tools/browser.py: bash in __enter__",
    # A reader's own answers are Python; "resnet-tutorial check --help" says that they are run.
    "resnet_tutorial/exercises.py: exec in _definitions",
    "resnet_tutorial/exercises.py: compile in _definitions",
    "resnet_tutorial/exercises.py: exec in _value",
    "resnet_tutorial/exercises.py: eval in _value",
    *["resnet_tutorial/exercises.py: compile in _value"] * 2,
    # Its find_class refuses all but arrays.
    "resnet_tutorial/data/sources.py: pickle.Unpickler in _NumpyOnly",
    # It reads what it has compressed itself.
    "benchmarks/finetuning.py: PIL.Image.open in jpeg",
]
HARMLESS = {"shell": "False", "allow_pickle": "False", "weights_only": "True"}  # options of any call
SAFELY = {
    "torch.load": {"weights_only": "True"},
    "numpy.load": {"allow_pickle": "False"},
    "PIL.Image.open": {"formats": "any"},  # without them it runs Ghostscript on an EPS
}


def imported(tree: ast.AST) -> dict[str, str]:
    """What the names that a source imports stand for: of `import numpy as np`, np for numpy."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for part in node.names:
                first = part.name.partition(".")[0]  # what `import torch.nn` binds
                names[part.asname or first] = part.name if part.asname else first
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {part.asname or part.name: f"{module}.{part.name}" for part in node.names}
    return names


def nodes(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every node below, with the function or class it is in; a call comes before what it calls."""
    for node in ast.iter_child_nodes(tree):
        yield inside, node
        scope = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from nodes(node, node.name if scope else inside)


def faults(source: str, path: str) -> list[str]:
    """What in a source could run what it reads, called or only named, under whatever name it is imported.

    What is put together while it runs, such as `getattr(os, name)`, is not seen.
    """
    tree = ast.parse(source)
    names, safe, found = imported(tree), set(), []

    def full(node: ast.AST) -> str:
        first, *rest = ast.unparse(node).split(".")
        return ".".join([names.get(first, "" if rest else first), *rest])

    for inside, node in nodes(tree):
        said = []
        if isinstance(node, ast.Call):
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            wanted = SAFELY.get(full(node.func), {"": ""})
            if all(name in options and value in ("any", options[name]) for name, value in wanted.items()):
                safe.add(node.func)
            if full(node.func) == "compile":  # which is also the name of an option
                said.append("compile")
            said += [f"{name}=" for name, value in HARMLESS.items() if options.get(name, value) != value]
        elif isinstance(node, ast.List | ast.Tuple) and node.elts:
            first = node.elts[0]
            said = [first.value] if isinstance(first, ast.Constant) and first.value in SHELLS else []
        elif isinstance(node, ast.ImportFrom):
            said = [one for part in node.names if RUNS_CODE.fullmatch(one := f"{node.module}.{part.name}")]
            said += [f"{node.module}.*"] * any(part.name == "*" for part in node.names)
        elif isinstance(node, ast.Name | ast.Attribute):
            name = full(node)
            unpacks = isinstance(node, ast.Attribute) and node.attr in ("extract", "extractall")
            if RUNS_CODE.fullmatch(name) or unpacks or (name in SAFELY and node not in safe):
                said.append(name)
        found += [f"{path}: {name} in {inside or 'the module'}" for name in said]
    return list((Counter(found) - Counter(ALLOWED)).elements())  # each is allowed once


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path):
    """A recipe, a file name or a download that is code.

    Scanned are the modules of the package, the tools, the benchmarks and the book's extension; neither the
    chapters nor the tests.
    """
    assert faults(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)",
        "exec(compile(text, '', 'exec'))",
        "compile(text, '', 'exec')",
        "list(map(eval, texts))",
        "import os; os.system(text)",
        "import os; run = os.system",
        "import os as o; o.execvp(text, [])",
        "from os import system; system(text)",
        "import builtins as b; b.eval(text)",
        "import subprocess; subprocess.run(text, shell=True)",
        "import subprocess; subprocess.getoutput(text)",
        "import subprocess; subprocess.run(['bash', '-c', text])",
        "import subprocess; subprocess.run(('sh', '-c', text))",
        "import importlib; importlib.import_module(text)",
        "from importlib import util; util.module_from_spec(spec)",
        "import tarfile; tarfile.open(path).extractall(folder)",
        "import shutil; shutil.unpack_archive(path)",
        "import pickle; pickle.loads(content)",
        "import pickle as p; p.loads(content)",
        "from pickle import loads; loads(content)",
        "from pickle import loads as read",
        "from pickle import *",
        "import pickle; pickle.Unpickler(file)",
        "import yaml; yaml.load(text)",
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "from torch import load; load(path)",
        "import torch; list(map(torch.load, paths))",
        "import torch; torch.hub.load(text, text)",
        "from torch import hub; hub.load(text, text)",
        "import numpy as np; np.load(path)",
        "import numpy; numpy.load(path, allow_pickle=True)",
        "import numpy as np; np.lib.format.read_array(file, allow_pickle=True)",
        "from PIL import Image; Image.open(path)",
        "import PIL.Image; list(map(PIL.Image.open, paths))",
    ],
)
def test_what_would_run_code_is_found(line):
    """A check that finds nothing anywhere is none."""
    assert faults(f"def f():\n    {line}\n", "resnet_tutorial/files.py")


def test_what_runs_nothing_is_let_pass():
    """A check that finds everything anywhere is taken out."""
    harmless = """
import re, subprocess, pickle, yaml, numpy as np, torch
model.eval()
re.compile("x")
fit(compile=compile)
code.strip()
subprocess.run(["ls"])
pickle.dumps(x)
yaml.safe_load(x)
torch.load(path, weights_only=True)
torch.hub.get_dir()
np.load(file, allow_pickle=False)
PIL.Image.open(path, formats=("PNG",))
"""
    assert not faults(harmless, "resnet_tutorial/files.py")


def test_nothing_is_allowed_that_is_not_there(monkeypatch):
    """A place that was allowed for a reason, and is free for any other when that is gone."""
    allowed = Counter(ALLOWED)
    monkeypatch.setattr(sys.modules[__name__], "ALLOWED", [])
    for line, times in allowed.items():
        path = line.partition(":")[0]
        assert faults((ROOT / path).read_text(encoding="utf-8"), path).count(line) == times


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


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for Ghostscript is a shell script")
def test_no_program_draws_a_picture(tmp_path, monkeypatch, capsys):
    """Pillow has Ghostscript draw an EPS, whatever the file is called."""
    monkeypatch.chdir(tmp_path)
    Path("gs").write_text(f"#!/bin/sh\n/bin/mkdir -p {tmp_path}/sprung\n")
    Path("gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # it has not looked yet
    Path("x.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with Image.open("x.png") as picture, pytest.raises(OSError):
        picture.load()
    os.rmdir("sprung")  # the trap springs
    assert cli.main(["predict", "x.png"]) == 2
    assert "x.png: it is no picture of a known kind" in capsys.readouterr().err
    assert not Path("sprung").exists()


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
