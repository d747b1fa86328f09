"""Checks of a reader's answers to the book's exercises.

A reader answers in a cell of the chapter's notebook that begins with ``# Your answer to Exercise 3.2`` and
whose last line is the answer: a value, or the function or class that the exercise asks for. The check runs
the imports and definitions of the chapter, then these cells, and nothing else; so it takes seconds.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .exercises import EXERCISES, Exercise

MARK = re.compile(r"\s*#\s*your answer to exercise\s+0*(\d+\.\d+)\b.*", re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """What became of one exercise: "right", "not right", "failed" or "missing", with a word of help.

    Example:
        >>> print(Verdict(EXERCISES[3][1], "right"))
        3.2   right
    """

    exercise: Exercise
    state: str
    help: str = ""

    def __str__(self) -> str:
        """One line for the terminal."""
        return f"{self.exercise.number:5} {self.state}" + (f": {self.help}" if self.help else "")


def check(chapter: int, notebook: str | os.PathLike | None = None) -> list[Verdict]:
    r"""Judge the answers in a chapter's notebook.

    Args:
        chapter: its number.
        notebook: the file with the answers; by default the chapter's notebook in this folder or the next.

    Raises:
        FileNotFoundError: there is no such notebook.
        ValueError: the chapter has no exercise with a check, or the file is no notebook.

    Example:
        >>> lines = ["# Your answer to Exercise 3.2\n", "[20, 32]"]
        >>> notebook = json.dumps({"cells": [{"cell_type": "code", "source": lines}]})
        >>> with open("03_mine.ipynb", "w") as file:
        ...     size = file.write(notebook)
        >>> print(check(3, "03_mine.ipynb")[1])
        3.2   not right: the last line should be the depths, as a list
    """
    if chapter not in EXERCISES:
        known = ", ".join(map(str, EXERCISES))
        raise ValueError(f"chapter {chapter} has no exercise that can be checked: choose one of {known}")
    path = _find(chapter) if notebook is None else Path(notebook)
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        taught = [cell for cell in _before_exercises(cells) if cell["cell_type"] == "code"]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{path} is not a notebook: give the .ipynb file with your answers") from None
    answers = {match[1]: source for source in code if (match := MARK.match(source))}
    namespace = _definitions("".join(cell["source"]) for cell in taught)
    return [_judge(exercise, answers.get(exercise.number), namespace) for exercise in EXERCISES[chapter]]


def _find(chapter: int) -> Path:
    name = f"{chapter:02d}_*.ipynb"
    found = sorted(Path().glob(name)) + sorted(Path().glob(f"*/{name}"))
    if not found:
        raise FileNotFoundError(
            f"no notebook {name} in this folder: go to the folder of the chapters, or name the file"
        )
    return found[0]


def _before_exercises(cells: list[dict]) -> Iterator[dict]:
    """The cells that teach; those after the first heading of an exercise hold the solutions."""
    for cell in cells:
        if cell["cell_type"] == "markdown" and re.search(r"^#+ Exercise \d", "".join(cell["source"]), re.M):
            return
        yield cell


def _definitions(sources: Iterator[str]) -> dict[str, Any]:
    """Imports, functions and classes of some cells, without running anything else in them."""
    namespace: dict[str, Any] = {"__name__": "__answers__"}
    for source in sources:
        if MARK.match(source):
            continue
        plain = re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)  # magics are not Python
        with contextlib.suppress(SyntaxError):
            for node in ast.parse(plain).body:
                if isinstance(node, ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef):
                    # A definition that needs a result of the chapter is left out.
                    with contextlib.suppress(Exception):
                        exec(compile(ast.Module([node], []), "<chapter>", "exec"), namespace)
    return namespace


def _judge(exercise: Exercise, source: str | None, namespace: dict[str, Any]) -> Verdict:
    if source is None:
        begin = f"begin a cell with  # Your answer to Exercise {exercise.number}"
        return Verdict(exercise, "missing", f"{begin}  and end it with {exercise.answer}")
    torch.manual_seed(0)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            given = _value(source, dict(namespace))
    except Exception as error:
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        if isinstance(error, NameError):
            message += " (only the chapter's imports and definitions are there: make the rest in the cell)"
        return Verdict(exercise, "failed", message)
    try:
        right = bool(exercise.right(given))
    except Exception:  # a wrong kind of answer: a number where a function is asked for, say
        right = False
    if right:
        return Verdict(exercise, "right")
    return Verdict(exercise, "not right", f"the last line should be {exercise.answer}")


def _value(source: str, namespace: dict[str, Any]) -> Any:
    """Run a cell; the value of its last line, as a notebook shows it, or what its last line defines."""
    body = ast.parse(source).body
    last = body[-1] if body else None
    name = last.name if isinstance(last, ast.FunctionDef | ast.ClassDef) else None
    expression = body.pop().value if isinstance(last, ast.Expr) else None
    exec(compile(ast.Module(body, []), "<answer>", "exec"), namespace)
    if expression is not None:
        return eval(compile(ast.Expression(expression), "<answer>", "eval"), namespace)
    if name is None:
        raise ValueError("the last line is no value: put the answer there, as a value, a function or a class")
    return namespace[name]
