"""The shape of the package: who may import whom, no work at import time, no module that outgrows its page."""

from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest

PACKAGE = Path(__file__).parent.parent / "resnet_tutorial"
MODULES = {path.stem: path for path in sorted(PACKAGE.glob("*.py"))}

# What each module may import of ours. The arrows point one way:
# cli -> commands -> train -> evaluate -> data -> mirrors, and finetune -> models -> resnet -> blocks.
# CONTRIBUTING.md draws it.
ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "__main__": {"cli"},
    "answers": {"exercises"},
    "augment": {"draws", "normalize"},
    "blocks": set(),
    "charts": {"style"},
    "checkpoint": {"files"},
    "cifar_files": {"files"},
    "cli": {"commands", "distributed", "mirrors", "recipes", "runtime", "train"},
    "commands": set(MODULES) - {"__main__", "cli", "commands"},
    "comparison": {"runs"},
    "counting": set(),
    "data": {"cifar_files", "folder", "mirrors", "splits"},
    "diagrams": {"style"},
    "distributed": set(),
    "draws": set(),
    "evaluate": {"augment", "data", "metrics", "predictions"},
    "exercises": {"finetune", "metrics", "models", "recipes"},
    "files": set(),
    "finetune": {"blocks", "models"},
    "folder": {"splits"},
    "history": {"files"},
    "metrics": {"predictions"},
    "mirrors": {"cifar_files", "files"},
    "model_report": {"data", "files", "metrics", "plotting", "predictions"},
    "models": {"blocks", "checkpoint", "counting", "resnet", "weights"},
    "monitor": {"augment", "data", "evaluate", "history", "plotting"},
    "normalize": set(),
    "optimizers": set(),
    "pictures": {"style"},
    "pipeline": {"augment", "data"},
    "plotting": {"charts", "diagrams", "pictures", "style"},
    "predictions": {"files"},
    "progress": {"distributed", "files", "history"},
    "recipe": {"augment", "optimizers"},
    "recipes": {"recipe"},
    "resnet": {"blocks"},
    "runs": {"files", "predictions", "recipes"},
    "runtime": set(),
    "splits": set(),
    "style": set(),
    "train": {
        "augment",
        "data",
        "distributed",
        "evaluate",
        "history",
        "pipeline",
        "progress",
        "recipes",
        "runtime",
    },
    "weights": {"checkpoint", "resnet"},
}

LINES = 280  # of a module, docstrings included: about 250, so that it is read in one sitting


def parse(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> tuple[set[str], set[str]]:
    """(our modules, other top-level packages) that the source imports, at any depth of the code."""
    ours, others = set(), set()

    def add(name: str) -> None:
        first, _, rest = name.partition(".")
        if first == PACKAGE.name:
            ours.add(rest.partition(".")[0] or "__init__")
        else:
            others.add(first)

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(filter(None, [PACKAGE.name if node.level else "", node.module]))
            if base == PACKAGE.name:  # `from . import data, __version__`
                ours |= {alias.name if alias.name in MODULES else "__init__" for alias in node.names}
            else:
                add(base)
    return ours - {"__init__"}, others


def docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            first = node.body[0]
            lines |= set(range(first.lineno, first.end_lineno + 1))
    return lines


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name):
    """A cycle, or `blocks` that suddenly needs `data`, would tie the whole package into one knot."""
    assert name in ALLOWED, f"{name}.py is new: say in ALLOWED what it may import of ours"
    extra = imports(parse(name))[0] - ALLOWED[name]
    assert not extra, f"{name}.py may not import {', '.join(sorted(extra))}"


def test_the_allowed_imports_have_no_cycle():
    """A wrong edit of ALLOWED could permit what it is there to forbid."""
    remaining = {name: set(allowed) for name, allowed in ALLOWED.items()}
    while remaining:
        leaves = {name for name, allowed in remaining.items() if not allowed & set(remaining)}
        assert leaves, f"cycle among {sorted(remaining)}"
        remaining = {name: allowed for name, allowed in remaining.items() if name not in leaves}


@pytest.mark.parametrize(
    "source", ["from . import cli", "from .cli import main", "import resnet_tutorial.cli"]
)
def test_imports_are_seen_in_every_spelling(source):
    """The rules above are worth nothing if a spelling of `import` slips through."""
    assert imports(ast.parse(f"def f():\n    {source}"))[0] == {"cli"}


@pytest.mark.parametrize("name", ["plotting", "charts", "diagrams", "pictures", "style"])
def test_figures_need_no_torch(name):
    """Figures are drawn from plain arrays: from a record on disk, without a network in memory."""
    assert not imports(parse(name))[1] & {"torch", "torchvision"}


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"__main__"}))
def test_no_statement_runs_at_import(name):
    """A call, loop or print at module level makes `import` slow and surprising."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    tree = parse(name)
    for node in tree.body[1:]:  # the first is the docstring
        type_checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        assert type_checking or isinstance(node, allowed), f"{name}.py, line {node.lineno}: runs at import"
    assert ast.get_docstring(tree), f"{name}.py says nothing about itself"


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"__init__"}))
def test_annotations_are_not_evaluated(name):
    """Without this line, types of newer Python versions break on older ones."""
    tree = parse(name)
    assert any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)


@pytest.mark.parametrize("name", MODULES)
def test_modules_stay_readable(name):
    count = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert count <= LINES, f"{name}.py has {count} lines, the limit is {LINES}"


@pytest.mark.parametrize("name", MODULES)
def test_the_package_never_reads_the_book(name):
    """Installed from a wheel there is no book/ beside the package."""
    tree = parse(name)
    skipped = docstring_lines(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.lineno not in skipped:
            parts = node.value.replace("\\", "/").split("/")
            assert "book" not in parts, f"{name}.py, line {node.lineno}: names book/"


def test_importing_everything_changes_nothing(tmp_path):
    """No output, no file, no random draw, no changed default of torch or Matplotlib, no network."""
    names = [f"{PACKAGE.name}.{name}" for name in MODULES if name not in ("__init__", "__main__")]
    code = f"""
import random, socket
import matplotlib, numpy, torch, torchvision, sklearn.metrics, matplotlib.pyplot

def forbidden(*args):
    raise AssertionError("network at import")

socket.socket.connect = forbidden
def state():
    return (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist(),
            torch.get_num_threads(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision(),
            matplotlib.get_backend(), dict(matplotlib.rcParams))

before = state()
import importlib
for name in {names!r}:
    importlib.import_module(name)
    assert state() == before, name + " changed a global setting"
"""
    # Matplotlib's own cache, or it announces on a slow machine that it makes a new one.
    cache = {"MPLBACKEND": "Agg", "MPLCONFIGDIR": matplotlib.get_cachedir()}
    environment = os.environ | cache | {"PYTHONPATH": str(PACKAGE.parent), "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout, done.stderr) == ("", "")
    leftovers = [path for path in tmp_path.rglob("*") if path.is_file() and "matplotlib" not in str(path)]
    assert leftovers == []


def test_the_network_is_closed_to_tests():
    """A test that downloads passes here and fails for a reader on a train."""
    with pytest.raises(pytest.fail.Exception, match="tried to reach"):
        socket.create_connection(("192.0.2.1", 80), timeout=0.1)
    with pytest.raises(pytest.fail.Exception, match="tried to reach"):
        socket.getaddrinfo("example.org", 443)
