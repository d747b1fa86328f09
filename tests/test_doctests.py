"""The examples in the docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import resnet_tutorial

MODULES = sorted(
    module.name for module in pkgutil.iter_modules(resnet_tutorial.__path__) if module.name != "__main__"
)
# Modules whose public functions and classes each show how they are called.
TAUGHT = ("blocks", "finetune")
MADE_BY_OTHERS = {"FrozenBatchNorm2d"}  # readers meet it through freeze_batchnorm


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name):
    """An example that no longer runs teaches the reader a mistake."""
    module = importlib.import_module(f"resnet_tutorial.{name}")
    failed, _ = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE, raise_on_error=False)
    assert failed == 0, f"{failed} examples of {name} are wrong; see the output"


@pytest.mark.parametrize("name", TAUGHT)
def test_what_the_book_teaches_is_shown_by_example(name):
    """A reader looks a function up to see how it is called."""
    module = importlib.import_module(f"resnet_tutorial.{name}")
    examples = {test.name: test.examples for test in doctest.DocTestFinder().find(module)}
    public = {
        key
        for key, value in vars(module).items()
        if callable(value) and value.__module__ == module.__name__ and not key.startswith("_")
    }
    silent = {key for key in public if not examples[f"{module.__name__}.{key}"]}
    assert len(public) >= 5 and silent <= MADE_BY_OTHERS


def test_a_wrong_example_is_noticed():
    """A runner that never fails would hold nothing."""
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner(verbose=False).run(wrong, out=lambda text: None).failed == 1
