"""The examples in the docstrings do what they say, and nothing in the API reference lacks one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType

import pytest

import resnet_tutorial
from resnet_tutorial.exercises import STRICT

PREFIX = f"{resnet_tutorial.__name__}."
MODULES = sorted(
    module.name.removeprefix(PREFIX)
    for module in pkgutil.walk_packages(resnet_tutorial.__path__, PREFIX)
    if not module.name.endswith(("__main__", ".assets"))
)
BOOK = Path(__file__).parent.parent / "book"
# Not on the pages: the functions behind `cli.main`, which take its parsed arguments.
NOT_SHOWN = {"commands"}
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def load(name: str) -> ModuleType:
    return importlib.import_module(PREFIX + name)


def on_the_pages() -> list[str]:
    """What the API pages show as a whole: wings, rooms, and modules that a wing hands on."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(BOOK.glob("api*.md")))
    return re.findall(r"automodule:: resnet_tutorial\.([\w.]+)", text)


def public(module: ModuleType) -> dict[str, object]:
    """The functions and classes of ours that a module says are public; autodoc shows the same."""
    found = {name: getattr(module, name) for name in module.__all__}
    return {
        name: value for name, value in found.items() if inspect.isclass(value) or inspect.isfunction(value)
    }


def has_example(name: str, value: type | object, tests: list[doctest.DocTest]) -> bool:
    """Whether a function or class has an example of its own or, a class, at a method.

    For an exception that of a function which says that it raises it is enough, for another class any that
    makes one.
    """
    if any(test.name == name or test.name.startswith(f"{name}.") for test in tests):
        return True
    if not inspect.isclass(value):
        return False
    if issubclass(value, Exception):
        return any(f"{name}:" in test.docstring for test in tests)
    return any(f"{name}(" in line.source + line.want for test in tests for line in test.examples)


def examples(values: dict[str, object]) -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder()
    return [test for name, value in values.items() for test in finder.find(value, name) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name, tmp_path, monkeypatch):
    """An example that no longer runs teaches the reader a mistake."""
    if name == "training.monitor":
        pytest.importorskip("tensorboard")
    module = load(name)
    monkeypatch.chdir(tmp_path)  # where the examples write their files
    monkeypatch.delenv(STRICT, raising=False)  # as for a reader
    failed, _ = doctest.testmod(module, optionflags=FLAGS, raise_on_error=False)
    assert failed == 0, f"{failed} examples of {name} are wrong; see the output"


def test_the_api_reference_has_every_room_once():
    rooms = {name.partition(".")[0] for name in MODULES} - NOT_SHOWN
    shown = on_the_pages()
    assert len(shown) == len(set(shown)) and {name for name in shown if "." not in name} == rooms
    for name in set(shown) - rooms:
        wing, _, module = name.partition(".")
        assert module in load(wing).__all__, f"{name} is on a page, but its wing does not hand it on"


def test_everything_in_the_api_reference_has_an_example():
    """A reader looks a function up to see how it is called."""
    shown = {name: public(load(name)) for name in on_the_pages()}
    assert sum(map(len, shown.values())) > 80
    tests = examples({name: value for values in shown.values() for name, value in values.items()})
    without = {
        f"{module}.{name}"
        for module, values in shown.items()
        for name, value in values.items()
        if not has_example(name, value, tests)
    }
    assert not without, f"give an example to {', '.join(sorted(without))}, or make it private"


def test_a_missing_example_is_noticed():
    """A check that finds nothing missing, whatever is asked, would hold nothing."""
    module = ModuleType("taught")
    exec(
        "class Wrong(ValueError):\n    'Raised by nobody.'\n\n"
        "class Part:\n    'No example.'\n\n"
        "def told():\n    '''Example:\n\n    >>> 1\n    1\n    '''\n\n"
        "def untold():\n    'No example.'\n\n"
        "__all__ = ['Wrong', 'Part', 'told', 'untold']",
        vars(module),
    )
    values = public(module)
    without = {name for name, value in values.items() if not has_example(name, value, examples(values))}
    assert without == {"Wrong", "Part", "untold"}


def test_a_wrong_example_is_noticed():
    """A runner that never fails would hold nothing."""
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert (
        doctest.DocTestRunner(verbose=False, optionflags=FLAGS).run(wrong, out=lambda text: None).failed == 1
    )
