"""The exercises whose answers a program can judge; what is explained, drawn or measured is not among them."""

from __future__ import annotations

import ast
import contextlib
import faulthandler
import gc
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .evaluation import wilson_interval
from .models import Bottleneck, ResNet, cifar_resnet, count_parameters, resnet20
from .training import RECIPES, freeze_backbone, parameter_groups, trainable
from .untrusted import LARGEST_JSON

__all__ = ["EXERCISES", "STRICT", "Exercise", "Verdict", "as_described", "check", "check_notebook"]

MEMORY = 8 * 10**9  # bytes for the answers of a notebook; PyTorch on its own takes one eighth of it
STRICT = "RESNET_TUTORIAL_STRICT"  # set where the book is built or tested


@dataclass(frozen=True)
class Exercise:
    """An exercise whose answer a program can judge.

    Example:
        >>> area = Exercise("0.1", "the area of a square of side 3", lambda answer: answer == 9)
        >>> area.right(9), area.right(12)
        (True, False)
    """

    number: str  # in the book, such as "3.2"
    answer: str  # what the last line of the reader's cell should be
    right: Callable[[Any], bool]  # may raise whatever a wrong answer makes it raise


def _numbers(*expected: float, within: float = 1e-6) -> Callable[[Any], bool]:
    """Make a check for these numbers, in this order, up to a relative difference."""

    def right(answer: Any) -> bool:
        given = np.asarray(answer, dtype=float).ravel()
        return given.shape == (len(expected),) and bool(np.allclose(given, expected, rtol=within, atol=1e-12))

    return right


def _folds(fold: Callable[[nn.Conv2d, nn.BatchNorm2d], tuple[Tensor, Tensor]]) -> bool:
    conv, bn = nn.Conv2d(4, 6, 3, padding=1, bias=False).double(), nn.BatchNorm2d(6).double().eval()
    for name in ("weight", "bias", "running_mean", "running_var"):
        nn.init.uniform_(bn.state_dict()[name], 0.5, 2)
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    weight, bias = fold(conv, bn)
    return torch.allclose(F.conv2d(x, weight, bias, padding=1), bn(conv(x)))


def _smoothed(gradient: Callable[[Tensor, int, float], Any]) -> bool:
    z = torch.randn(10, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(F.cross_entropy(z[None], torch.tensor([4]), label_smoothing=0.1), z)
    return torch.allclose(torch.as_tensor(gradient(z.detach(), 4, 0.1)), expected)


def _strides_first(block: type[Bottleneck]) -> bool:
    made = block(16, 8, stride=2)
    moved = (made.conv1.stride, made.conv2.stride) == ((2, 2), (1, 1))
    return moved and bool(made(torch.zeros(1, 16, 8, 8)).shape == (1, 32, 4, 4))


def _for_grey_images(model: ResNet) -> bool:
    images = torch.zeros(2, 1, 64, 64)
    features, logits = model.forward_features(images), model(images)
    return bool(features.shape[2:] == (16, 16) and logits.shape == (2, 20))


def _momentum(answer: Any) -> bool:
    theta = nn.Parameter(torch.tensor(1.0, dtype=torch.float64))
    sgd = torch.optim.SGD([theta], lr=0.1, momentum=0.9)
    for _ in range(3):
        sgd.zero_grad()
        (theta**2).backward()
        sgd.step()
    return _numbers(theta.item())(answer)


def _one_cycle(answer: Any) -> bool:
    step, first, last = answer
    rates = [RECIPES["quick"].lr_at(t, 400) for t in range(400)]
    highest = np.isclose(rates[int(step)], max(rates))
    return bool(highest) and _numbers(rates[0], rates[-1], within=0.02)((first, last))


def _probe(answer: Any) -> bool:
    model = freeze_backbone(resnet20(num_classes=4))
    head = sum(model.get_parameter(name).numel() for name in trainable(model))
    return _numbers(head, count_parameters(model) / head, within=0.01)(answer)


def _stem_rate(answer: Any) -> bool:
    groups = parameter_groups(resnet20(), lr=0.1, decay=1 / 2.6)
    (stem,) = [group["lr"] for group in groups if group["name"] == "stem"]
    return _numbers(stem, within=0.02)(answer)


def _enough_images(answer: Any) -> bool:
    low, high = wilson_interval(round(0.94 * int(answer)), int(answer))
    return 0.0049 < (high - low) / 2 < 0.0051


def _confusion(answer: Any) -> bool:
    c = np.array([[8, 2, 0], [4, 14, 2], [0, 3, 7]])
    recall, precision, accuracy = c.diagonal() / c.sum(1), c.diagonal() / c.sum(0), c.trace() / c.sum()
    f1 = 2 * precision * recall / (precision + recall)
    return _numbers(accuracy, precision[1], recall[1], f1[1], recall.mean(), within=0.002)(answer)


_ALL = (
    Exercise("1.1", "two numbers of bytes: as uint8, as 32-bit floats", _numbers(153_600_000, 614_400_000)),
    Exercise("1.8", "the names of the parameters", lambda names: {*names} == {"bn2.weight", "bn2.bias"}),
    Exercise("2.1", "the side after the convolution, and after the pooling", _numbers(112, 56)),
    Exercise(
        "2.2",
        "a function of C that returns both numbers of weights, the three 3x3 first",
        lambda f: all(_numbers(27 * c**2, 49 * c**2)(f(c)) for c in (1, 8, 64)),
    ),
    Exercise("2.3", "a function of conv and bn that returns weight and bias", _folds),
    Exercise("2.7", "a function of z (K,), t and epsilon that returns the gradient (K,)", _smoothed),
    Exercise(
        "2.8",
        "a function of b and n that returns the variance",
        lambda f: all(_numbers(2 / ((1 + b**2) * n))(f(b, n)) for b, n in ((0.0, 9), (0.3, 144))),
    ),
    Exercise(
        "3.1",
        "a function of n that returns the number of parameters",
        lambda f: all(f(n) == count_parameters(cifar_resnet(6 * n + 2)) for n in (3, 5, 9)),
    ),
    Exercise("3.2", "the depths, as a list", _numbers(20, 26, 32, 38, 44, 50, 56)),
    Exercise(
        "3.3",
        "the number of parameters that option B adds",
        lambda n: n == count_parameters(resnet20(shortcut="B")) - count_parameters(resnet20()),
    ),
    Exercise("3.5", "the class of the block", _strides_first),
    Exercise("3.6", "the network", _for_grey_images),
    Exercise("4.1", "three numbers: steps, images left out, epoch", _numbers(351, 72, 92)),
    Exercise("4.2", "theta after three steps", _momentum),
    Exercise("4.3", "three numbers: the step, the first rate, the last rate", _one_cycle),
    Exercise("5.1", "two numbers: parameters of the probe, and how many times as many", _probe),
    Exercise("5.2", "the rate of the stem", _stem_rate),
    Exercise("5.7", "the largest rank that pays for the head of our network", _numbers(8)),
    Exercise("6.1", "accuracy; precision, recall, F1 of the second class; macro recall", _confusion),
    Exercise("6.2", "the number of images", _enough_images),
)
EXERCISES = {  # by chapter
    chapter: tuple(exercise for exercise in _ALL if exercise.number.startswith(f"{chapter}."))
    for chapter in range(1, 7)
}
MARK = re.compile(r"\s*#\s*your answer to exercise\s+0*(\d+\.\d+)\b.*", re.IGNORECASE)
HEADING = re.compile(r"^#+ Exercise|\{exercise", re.MULTILINE)  # cells after the first one hold the solutions


@dataclass(frozen=True, repr=False)
class Verdict:
    """What became of one exercise.

    Example:
        >>> Verdict(EXERCISES[3][1], "right")
        3.2   right
    """

    exercise: Exercise
    state: str  # "right", "not right", "failed" or "missing"
    help: str = ""  # what to do about it; empty if the answer is right

    def __repr__(self) -> str:
        return f"{self.exercise.number:5} {self.state}" + (f": {self.help}" if self.help else "")


def check(number: str, answer: Any) -> Verdict:
    """Judge an answer beside its exercise: as the last line of a cell this shows the verdict.

    Raises:
        ValueError: If no exercise of that number has a check.

    Example:
        >>> check("3.2", [20, 26])
        3.2   not right: give the depths, as a list
    """
    known = {exercise.number: exercise for exercise in _ALL}
    if number not in known:
        raise ValueError(f"exercise {number!r} has no check: choose one of {', '.join(known)}")
    return _compare(known[number], answer)


def as_described(holds: object, message: str) -> None:
    """Say whether a result is the one that the text describes.

    A reader may have changed the settings: then a line says so. Where the book is built or tested, and the
    environment variable ``RESNET_TUTORIAL_STRICT`` is set, the text would be wrong.

    Raises:
        AssertionError: If it is not, in a strict environment.

    Example:
        >>> as_described(0.1 < 0.2, "training lowers the loss")
        >>> as_described(0.3 < 0.2, "training lowers the loss")
        The text describes the default settings; yours differ: not true here that training lowers the loss.
    """
    if holds:
        return
    if os.environ.get(STRICT):
        raise AssertionError(message)
    print(f"The text describes the default settings; yours differ: not true here that {message.rstrip('.')}.")


def check_notebook(
    chapter: int, notebook: str | Path | None = None, *, seconds: float | None = None
) -> list[Verdict]:
    r"""Judge the answers in a notebook, by default the chapter's in this folder or in one right below it.

    The answers are run, as they would be in the notebook. With ``seconds``, for each answer, they run in
    another process: one that is not judged in time, ends the program or fills the memory leaves the others'
    verdicts.

    Raises:
        FileNotFoundError: If there is no such notebook.
        ValueError: If the chapter has no exercise with a check, or the file is no notebook.

    Example:
        >>> cells = [{"cell_type": "code", "source": ["# Your answer to Exercise 3.2\n", "[20, 32]"]}]
        >>> size = Path("03_mine.ipynb").write_text(json.dumps({"cells": cells}))
        >>> check_notebook(3, "03_mine.ipynb")[1]
        3.2   not right: give the depths, as a list
    """
    if chapter not in EXERCISES:
        known = ", ".join(map(str, EXERCISES))
        raise ValueError(f"chapter {chapter} has no exercise that can be checked: choose one of {known}")
    path = _find(chapter) if notebook is None else Path(notebook)
    if not os.path.lexists(path):
        raise FileNotFoundError(f"no notebook at {path}: give the .ipynb file with your answers")
    if not path.is_file():
        raise ValueError(f"{path} is not a notebook: give the .ipynb file with your answers")
    if seconds is not None:
        _read(path)  # refuses what is no notebook, here rather than there
        return _in_a_child(chapter, path, seconds)
    return list(_judged(EXERCISES[chapter], path))


def _in_a_child(chapter: int, path: Path, seconds: float) -> list[Verdict]:
    """Judge one answer after the other in another process; after an answer that ends it, in the next."""
    verdicts: list[Verdict] = []
    # A reader's own random.py is for the answers, not for the packages, which import another.
    program = "import sys; from resnet_tutorial import exercises; sys.path.append(''); "
    program += "exercises._report(*sys.argv[1:])"
    nowhere = subprocess.DEVNULL  # an answer may print for ever
    with tempfile.TemporaryDirectory() as folder:
        told, late = Path(folder, "verdicts"), Path(folder, "late")
        while rest := EXERCISES[chapter][len(verdicts) :]:
            for file in (told, late):
                file.write_text("")
            arguments = map(str, (chapter, path, rest[0].number, seconds, told, late))
            command = [sys.executable, "-P", "-c", program, *arguments]
            subprocess.run(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)
            states = [json.loads(line) for line in told.read_text().splitlines()]
            too_late = f"it did not end within {seconds:g} seconds"
            problem = too_late if late.stat().st_size else "it ended the program"
            verdicts += [Verdict(exercise, *state) for exercise, state in zip(rest, states, strict=False)]
            if len(states) < len(rest):
                verdicts.append(Verdict(rest[len(states)], "failed", problem))
    return verdicts


def _report(chapter: str, path: str, first: str, seconds: str, told: str, late: str) -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):  # not on Windows; or there is a lower limit
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    numbers = [exercise.number for exercise in EXERCISES[int(chapter)]]
    judged = _judged(EXERCISES[int(chapter)][numbers.index(first) :], Path(path))
    with open(late, "w") as watch:
        while True:  # each answer has its own time, which the imports of a busy machine do not use up
            faulthandler.dump_traceback_later(float(seconds), exit=True, file=watch)
            if (verdict := next(judged, None)) is None:
                break
            with open(told, "a") as file:
                print(json.dumps([verdict.state, verdict.help]), file=file)
            gc.collect()  # what one answer has taken is the next one's
        faulthandler.cancel_dump_traceback_later()


def _judged(exercises: Iterable[Exercise], path: Path) -> Iterator[Verdict]:
    answers, taught = _read(path)
    namespace = _definitions(taught)
    for exercise in exercises:
        yield _judge(exercise, answers.get(exercise.number), namespace)


def _read(path: Path) -> tuple[dict[str, str], list[str]]:
    """Return the answers in a notebook by number, and the code before its exercises; run nothing."""
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path} has more than {LARGEST_JSON // 10**6} MB: clear its output, and save it")
    try:
        cells = json.loads(path.read_bytes())["cells"]
        read = [(cell["cell_type"], "".join(cell["source"])) for cell in cells]
    except (ValueError, KeyError, TypeError, IsADirectoryError, RecursionError):
        raise ValueError(f"{path} is not a notebook: give the .ipynb file with your answers") from None
    answers = {match[1]: text for kind, text in read if kind == "code" and (match := MARK.match(text))}
    taught = takewhile(lambda cell: cell[0] != "markdown" or not HEADING.search(cell[1]), read)
    return answers, [text for kind, text in taught if kind == "code" and not MARK.match(text)]


def _find(chapter: int) -> Path:
    name = f"{chapter:02d}_*.ipynb"
    found = sorted(Path().glob(name)) + sorted(Path().glob(f"*/{name}"))
    if not found:
        advice = "go to the folder of the chapters, or name the file"
        raise FileNotFoundError(f"no notebook {name} in this folder: {advice}")
    return found[0]


def _definitions(sources: Iterable[str]) -> dict[str, Any]:
    """Collect imports, functions and classes of some cells, without running anything else in them."""
    namespace: dict[str, Any] = {"__name__": "__answers__"}
    wanted = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
    for source in sources:
        nodes: list[ast.stmt] = []
        with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
            nodes = [node for node in ast.parse(_plain(source)).body if isinstance(node, wanted)]
        for node in nodes:
            with contextlib.suppress(Exception, SystemExit):  # one that needs a chapter's result is left out
                exec(compile(ast.Module([node], []), "<chapter>", "exec"), namespace)
    return namespace


def _plain(source: str) -> str:
    """Return a cell without magics, which are not Python."""
    return re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)


def _judge(exercise: Exercise, source: str | None, namespace: dict[str, Any]) -> Verdict:
    if source is None:
        begin = f"begin a cell with  # Your answer to Exercise {exercise.number}"
        return Verdict(exercise, "missing", f"{begin}  and end it with {exercise.answer}")
    torch.manual_seed(0)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            given = _value(source, dict(namespace))
    except KeyboardInterrupt:  # the reader's
        raise
    except BaseException as error:
        message = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if isinstance(error, MemoryError):
            message = f"it takes too much memory, more than {MEMORY // 10**9} GB"
        if isinstance(error, NameError):
            message += " (only the chapter's imports and definitions are there: make the rest in the cell)"
        return Verdict(exercise, "failed", message)
    return _compare(exercise, given)


def _compare(exercise: Exercise, answer: Any) -> Verdict:
    with contextlib.suppress(Exception):  # of a wrong kind: a number where a function is asked for, say
        if exercise.right(answer):
            return Verdict(exercise, "right")
    return Verdict(exercise, "not right", f"give {exercise.answer}")


def _value(source: str, namespace: dict[str, Any]) -> Any:
    """Run a cell; return the value of its last line, as a notebook shows it, or what that line defines."""
    body = ast.parse(_plain(source)).body
    last = body[-1] if body else None
    name = last.name if isinstance(last, ast.FunctionDef | ast.ClassDef) else None
    expression = ast.Expression(last.value) if isinstance(last, ast.Expr) else None
    exec(compile(ast.Module(body[:-1] if expression else body, []), "<answer>", "exec"), namespace)
    if expression:
        return eval(compile(expression, "<answer>", "eval"), namespace)
    if name is None:
        raise ValueError("the last line is no value: put the answer there, as a value, a function or a class")
    return namespace[name]
