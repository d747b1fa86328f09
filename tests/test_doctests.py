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
import torch

import resnet_tutorial

MODULES = sorted(
    module.name for module in pkgutil.iter_modules(resnet_tutorial.__path__) if module.name != "__main__"
)
API = Path(__file__).parent.parent / "book" / "api.md"
# What the page leaves out as a whole: the functions behind `cli.main`, which take its parsed arguments.
NOT_SHOWN = {"commands"}
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def load(name: str) -> ModuleType:
    return importlib.import_module(f"{resnet_tutorial.__name__}.{name}")


def entries(page: str) -> list[tuple[str, dict[str, set[str]]]]:
    """The page's automodule entries: module, and the names that each option lists."""
    return [
        (
            module,
            {
                option: {name.strip() for name in value.split(",") if name.strip()}
                for option, value in re.findall(r":([\w-]+):(.*)", options)
            },
        )
        for module, options in re.findall(r"automodule:: resnet_tutorial\.(\w+)\n((?: +:.*\n)*)", page)
    ]


def shown(page: str) -> dict[str, set[str]]:
    """Module to the classes and functions that autodoc shows of it: what is public and defined there."""
    names = {}
    for module, options in entries(page):
        own = {
            name
            for name, value in vars(load(module)).items()
            if (inspect.isclass(value) or inspect.isfunction(value))
            and value.__module__ == f"{resnet_tutorial.__name__}.{module}"
            and not name.startswith("_")
        }
        names[module] = (options["members"] or own) - options.get("exclude-members", set())
    return names


def silent(module: ModuleType, names: set[str]) -> set[str]:
    """The names without an example of their own or, for a class, at a method.

    For an exception that of a function which says that it raises it is enough, for another class any that
    makes one.
    """
    tests = [test for test in doctest.DocTestFinder().find(module) if test.examples]

    def has_example(name: str) -> bool:
        own = f"{module.__name__}.{name}"
        if any(test.name == own or test.name.startswith(f"{own}.") for test in tests):
            return True
        value = getattr(module, name)
        if not inspect.isclass(value):
            return False
        if issubclass(value, Exception):
            return any(f"{name}:" in test.docstring for test in tests)
        return any(f"{name}(" in line.source + line.want for test in tests for line in test.examples)

    return {name for name in names if not has_example(name)}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name, tmp_path, monkeypatch):
    """An example that no longer runs teaches the reader a mistake."""
    if name == "optimizers" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    if name == "monitor":
        pytest.importorskip("tensorboard")
    module = load(name)
    monkeypatch.chdir(tmp_path)  # where the examples write their files
    failed, _ = doctest.testmod(module, optionflags=FLAGS, raise_on_error=False)
    assert failed == 0, f"{failed} examples of {name} are wrong; see the output"


def test_everything_in_the_api_reference_has_an_example():
    """A reader looks a function up to see how it is called."""
    names = shown(API.read_text(encoding="utf-8"))
    assert set(MODULES) - set(names) == NOT_SHOWN, (
        "a module is missing in the API reference, or is there again"
    )
    without = {f"{module}.{name}" for module in names for name in silent(load(module), names[module])}
    assert not without, f"give an example to {', '.join(sorted(without))}, or leave it out of the reference"


def test_the_api_reference_leaves_out_only_what_there_is():
    """A name that was renamed would come back to the page, and one that is listed would fail the build."""
    for module, options in entries(API.read_text(encoding="utf-8")):
        listed = options["members"] | options.get("exclude-members", set())
        missing = {name for name in listed if not hasattr(load(module), name)}
        assert not missing, f"{module} has no {', '.join(sorted(missing))}"


def test_a_missing_example_is_noticed():
    """A check that finds nothing missing, whatever is asked, would hold nothing."""
    page = ".. automodule:: resnet_tutorial.runtime\n   :members:\n   :exclude-members: describe\n"
    names = shown(page)["runtime"]
    assert {"pick_device", "pick_precision"} <= names and "describe" not in names
    module = ModuleType("taught")
    exec(
        "class Wrong(ValueError):\n    'Raised by nobody.'\n\n"
        "class Part:\n    'No example.'\n\n"
        "def told():\n    '''Example:\n\n    >>> 1\n    1\n    '''\n\n"
        "def untold():\n    'No example.'\n",
        vars(module),
    )
    assert silent(module, {"Wrong", "Part", "told", "untold"}) == {"Wrong", "Part", "untold"}


def test_a_wrong_example_is_noticed():
    """A runner that never fails would hold nothing."""
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert (
        doctest.DocTestRunner(verbose=False, optionflags=FLAGS).run(wrong, out=lambda text: None).failed == 1
    )
