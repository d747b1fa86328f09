"""The shape of the package: who may import whom, one path for each name, no module that outgrows its page."""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import socket
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import matplotlib
import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "resnet_tutorial"
# "data.sources" for resnet_tutorial/data/sources.py, "data" for its __init__.py, "" for the package's own.
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
LINES = 400  # of a module, docstrings included
FEWEST = 40


def floors() -> list[list[str]]:
    """The floors of the house, top to bottom, as CONTRIBUTING.md draws them."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"### Floors\n.*?```\n(.*?)```", text, re.DOTALL)
    return [line[:19].strip().split(", ") for line in picture.splitlines()]


FLOORS = floors()
FLOOR_OF = {name: level for level, names in enumerate(FLOORS) for name in names}
WINGS = [name for name in MODULES if name and MODULES[name].name == "__init__.py"]
PUBLIC = [*WINGS, *(name for name in FLOOR_OF if name not in WINGS and name != "commands")]


def parse(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"))


def imports(tree: ast.AST, inside: str) -> tuple[set[tuple[str, str]], set[str]]:
    """What the source of the module `inside` imports, at any depth of the code.

    Returns:
        Of ours, pairs of a module and a name in it ("" for the module itself); other top-level packages.
    """
    ours: set[tuple[str, str]] = set()
    others: set[str] = set()
    folder = inside if inside in WINGS or not inside else inside.rpartition(".")[0]

    def add(path: str, name: str = "") -> None:
        first, _, rest = path.partition(".")
        if first != PACKAGE.name:
            others.add(first)
        elif (deeper := f"{rest}.{name}".strip(".")) in MODULES:
            ours.add((deeper, ""))
        else:
            ours.add((rest, name))

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = [PACKAGE.name, *folder.split(".")] if folder else [PACKAGE.name]
                above = above[: len(above) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                add(base, alias.name)
    return ours, others


def room(module: str) -> str:
    """The wing or the room that a module is in."""
    return module.partition(".")[0]


def public(name: str) -> list[str]:
    return importlib.import_module(f"{PACKAGE.name}.{name}").__all__


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


def test_the_picture_shows_every_room():
    """A picture that leaves a room out sends the next reader looking in the wrong place."""
    assert {room(name) for name in MODULES} - {"", "__main__"} == set(FLOOR_OF)


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name):
    """An arrow that runs up, or sideways between wings, would tie the whole package into one knot."""
    if name in ("", "__main__"):
        return
    for module, _ in imports(parse(name), name)[0]:
        here, there = room(name), room(module)
        assert here == there or not there or FLOOR_OF[here] < FLOOR_OF[there], f"{name} imports {module}"


def test_modules_of_a_wing_have_no_circle():
    """Two modules that need each other are one module in two files."""
    graph = {
        name: {m for m, _ in imports(parse(name), name)[0] if m and room(m) == room(name)}
        for name in MODULES
        if name not in WINGS
    }
    list(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("name", MODULES)
def test_other_wings_are_entered_by_their_door(name):
    """`from ..data.sources import x` would make `x` public at a second path."""
    for module, imported in imports(parse(name), name)[0]:
        if room(module) == room(name) or room(module) not in WINGS:
            continue
        as_module = not imported and module.partition(".")[2] in public(room(module))
        by_door = module in WINGS and (not imported or imported in public(module))
        assert as_module or by_door, f"{name} imports {module} {imported}"


def test_every_name_has_one_path():
    """Two places for one name, and readers cannot tell which of them is meant."""
    places: dict[str, list[str]] = {}
    for room_name in PUBLIC:
        for name in public(room_name):
            places.setdefault(name, []).append(room_name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def sources_of_the_rest() -> list[tuple[str, str]]:
    """Every source outside the package that imports it: tests, benchmarks, tools, cells of the book."""
    found = []
    for folder in ("tests", "benchmarks", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found.append((str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")))
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                plain = re.sub(r"^(\s*)[%!].*$", r"\1pass", "".join(cell["source"]), flags=re.MULTILINE)
                found.append((path.name, plain))
    return found


def test_everyone_uses_that_path():
    """A book that imports what is not public breaks with the next tidying. A test may take a whole module."""
    wrong = []
    for place, source in sources_of_the_rest():
        for module, name in imports(ast.parse(source), "")[0]:
            if name and module and name not in public(room(module)):
                wrong.append(f"{place}: {module} {name}")
            if name and module not in ("", *PUBLIC, "commands"):
                wrong.append(f"{place}: {module} {name}")
            if not name and not place.startswith(("tests", "tools")) and module not in ("", *PUBLIC):
                wrong.append(f"{place}: {module}")
    assert not wrong


@pytest.mark.parametrize(
    "source", ["from . import cli", "from .cli import main", "import resnet_tutorial.cli"]
)
def test_imports_are_seen_in_every_spelling(source):
    """The rules above are worth nothing if a spelling of `import` slips through."""
    found = imports(ast.parse(f"def f():\n    {source}"), "commands")[0]
    assert {module for module, _ in found} == {"cli"}


@pytest.mark.parametrize("name", [name for name in MODULES if room(name) == "plotting"])
def test_figures_need_no_torch(name):
    """Figures are drawn from plain arrays: from a record on disk, without a network in memory."""
    assert not imports(parse(name), name)[1] & {"torch", "torchvision"}


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"__main__"}))
def test_no_statement_runs_at_import(name):
    """A call, loop or print at module level makes `import` slow and surprising."""
    allowed = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)
    tree = parse(name)
    for node in tree.body[1:]:  # the first is the docstring
        type_checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        assert type_checking or isinstance(node, allowed), f"{name}, line {node.lineno}: runs at import"
    assert ast.get_docstring(tree), f"{name} says nothing about itself"


@pytest.mark.parametrize("name", sorted(set(MODULES) - {""}))
def test_annotations_are_not_evaluated(name):
    """Without this line, types of newer Python versions break on older ones."""
    tree = parse(name)
    assert any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_as_long_as_their_subject(name):
    count = len(MODULES[name].read_text(encoding="utf-8").splitlines())
    assert count <= LINES, f"{name} has {count} lines, the limit is {LINES}"
    if name not in ("", "__main__", *WINGS):
        assert count >= FEWEST, f"{name} has {count} lines: let it be a part of another"


@pytest.mark.parametrize("name", MODULES)
def test_the_package_never_reads_the_book(name):
    """Installed from a wheel there is no book/ beside the package."""
    tree = parse(name)
    skipped = docstring_lines(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.lineno not in skipped:
            parts = node.value.replace("\\", "/").split("/")
            assert "book" not in parts, f"{name}, line {node.lineno}: names book/"


def test_importing_everything_changes_nothing(tmp_path):
    """No output, no file, no random draw, no changed default of torch or Matplotlib, no network."""
    names = [f"{PACKAGE.name}.{name}" for name in MODULES if name not in ("", "__main__")]
    code = f"""
import random, socket, warnings
import matplotlib, numpy, torch, torchvision, sklearn.metrics, matplotlib.pyplot

def forbidden(*args):
    raise AssertionError("network at import")

socket.socket.connect = forbidden
def state():
    return (random.getstate(), str(numpy.random.get_state()), torch.get_rng_state().tolist(),
            torch.get_num_threads(), torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision(),
            matplotlib.get_backend(), dict(matplotlib.rcParams))

warnings.simplefilter("error")  # of the libraries, only those that we bring about
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
        [sys.executable, "-c", code],
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


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_speak_with_one_voice(name):
    """Three dialects in one reference make a reader look for a difference that is not there."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    for node in ast.walk(parse(name)):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        if text is None:
            continue
        where = f"{name}: {getattr(node, 'name', 'module')}"
        plain = re.sub(r"``.+?``|:\w+:`.+?`|^ *>>>.*|^ *\.\.\. .*", "", text, flags=re.MULTILINE | re.DOTALL)
        assert "`" not in plain.split("Example:")[0], f"{where}: code stands between double backticks"
        raised = re.search(r"^Raises:\n((?: {4}.*\n?)+)", text, flags=re.MULTILINE)
        for line in re.findall(r"^ {4}(\S.*)", raised[1] if raised else "", flags=re.MULTILINE):
            assert re.match(r"[\w.]+: If ", line), f"{where}: {line!r} does not say when (`Error: If ...`)"
