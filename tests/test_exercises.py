"""The checks of the exercises: right answers pass, wrong ones do not, each with a word of help."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from resnet_tutorial import cli, exercises
from resnet_tutorial.exercises import EXERCISES, STRICT, as_described, check

BOOK = Path(__file__).parent.parent / "book"
ALL = [(chapter, exercise.number) for chapter, some in EXERCISES.items() for exercise in some]

RIGHT = {
    "1.1": "values = 50_000 * 32 * 32 * 3\nvalues, 4 * values",
    "1.8": "['bn2.bias', 'bn2.weight']",
    "2.1": "conv = (224 + 2 * 3 - 7) // 2 + 1\n[conv, (conv + 2 * 1 - 3) // 2 + 1]",
    "2.2": "def weights(c):\n    return 3 * 9 * c * c, 49 * c * c",
    "2.3": "def fold(conv, bn):\n"
    "    scale = bn.weight / (bn.running_var + bn.eps).sqrt()\n"
    "    return conv.weight * scale.view(-1, 1, 1, 1), bn.bias - scale * bn.running_mean",
    "2.7": "import torch\n"
    "def gradient(z, t, epsilon):\n"
    "    q = torch.full_like(z, epsilon / len(z))\n"
    "    q[t] += 1 - epsilon\n"
    "    return z.softmax(0) - q",
    "2.8": "lambda b, n: 2 / ((1 + b**2) * n)",
    "3.1": "def parameters(n):\n    return 97_216 * n - 21_926",
    "3.2": "[depth for depth in range(20, 61) if depth % 6 == 2]",
    "3.3": "16 * 32 + 2 * 32 + 32 * 64 + 2 * 64",
    "3.5": "from resnet_tutorial.models import Bottleneck\n"
    "class PaperBottleneck(Bottleneck):\n"
    "    def __init__(self, in_channels, channels, *, stride=1, shortcut='B'):\n"
    "        super().__init__(in_channels, channels, stride=stride, shortcut=shortcut)\n"
    "        self.conv1.stride, self.conv2.stride = (stride, stride), (1, 1)",
    "3.6": "from resnet_tutorial.models import create\n"
    "create('preact_resnet20', in_channels=1, num_classes=20)",
    "4.1": "steps, left = divmod(45_000, 128)\nsteps, left, 32_000 // steps + 1",
    "4.2": "x, v = 1.0, 0.0\nfor _ in range(3):\n    v = 0.9 * v + 2 * x\n    x -= 0.1 * v\nx",
    "4.3": "import math\n100, 0.1 * (1 / 25 + 24 / 25 / 100), 0.05 * (1 + math.cos(math.pi * 299 / 300))",
    "5.1": "from resnet_tutorial.models import count_parameters, resnet20\n"
    "260, count_parameters(resnet20(num_classes=4)) / 260",
    "5.2": "0.1 / 2.6**4",
    "5.7": "max(r for r in range(1, 11) if r * (10 + 64) < 10 * 64)",
    "6.1": "29 / 40, 14 / 19, 14 / 20, 28 / 39, (0.8 + 0.7 + 0.7) / 3",
    "6.2": "round(1.96**2 * 0.94 * 0.06 / 0.005**2)",
}
WRONG = {
    "1.1": "50_000 * 32 * 32, 4 * 50_000 * 32 * 32",
    "1.8": "['conv2.weight', 'bn2.weight', 'bn2.bias']",
    "2.1": "112, 55",
    "2.2": "def weights(c):\n    return 3 * 9 * c, 49 * c",
    "2.3": "def fold(conv, bn):\n    return conv.weight, bn.bias",
    "2.7": "def gradient(z, t, epsilon):\n    p = z.softmax(0)\n    p[t] -= 1\n    return p",
    "2.8": "lambda b, n: 2 / n",
    "3.1": "lambda n: 97_216 * n",
    "3.2": "[20, 32, 44, 56]",
    "3.3": "16 * 32 + 32 * 64",
    "3.5": "from resnet_tutorial.models import Bottleneck\nBottleneck",
    "3.6": "from resnet_tutorial.models import create\ncreate('preact_resnet20', num_classes=20)",
    "4.1": "352, 72, 91",
    "4.2": "0.46",
    "4.3": "200, 0.1, 0",
    "5.1": "256, 1054",
    "5.2": "0.1 / 2.6**3",
    "5.7": "9",
    "6.1": "29 / 40, 14 / 20, 14 / 19, 28 / 39, 29 / 40",
    "6.2": "1000",
}


def chapter_file(chapter: int) -> Path:
    (path,) = BOOK.glob(f"{chapter:02d}_*.ipynb")
    return path


def notebook(folder: Path, chapter: int, *sources: str) -> Path:
    """A reader's copy of a chapter, with cells added at its end."""
    content = json.loads(chapter_file(chapter).read_text(encoding="utf-8"))
    for number, source in enumerate(sources):
        cell = {"cell_type": "code", "id": f"answer-{number}", "metadata": {}, "outputs": []}
        cell |= {"execution_count": None, "source": source.splitlines(keepends=True)}
        content["cells"].append(cell)
    path = folder / chapter_file(chapter).name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def answer(number: str, source: str) -> str:
    return f"# Your answer to Exercise {number}\n{source}"


def only(folder: Path, answers: dict[str, str]) -> Path:
    """A notebook of nothing but answers."""
    cells = [{"cell_type": "code", "source": answer(number, text)} for number, text in answers.items()]
    (folder / "mine.ipynb").write_text(json.dumps({"cells": cells}))
    return folder / "mine.ipynb"


def judge(folder: Path, number: str, source: str) -> exercises.Verdict:
    chapter = int(number.split(".")[0])
    verdicts = exercises.check_notebook(chapter, notebook(folder, chapter, answer(number, source)))
    (verdict,) = [verdict for verdict in verdicts if verdict.exercise.number == number]
    return verdict


@pytest.mark.parametrize("number", [number for _, number in ALL])
def test_right_answers_pass_and_wrong_ones_do_not(number, tmp_path):
    """A check that says "right" to anything teaches nothing; one that refuses the solution is worse."""
    right = judge(tmp_path, number, RIGHT[number])
    assert right.state == "right", right
    wrong = judge(tmp_path, number, WRONG[number])
    assert wrong.state == "not right" and wrong.exercise.answer in wrong.help


@pytest.mark.parametrize(("chapter", "number"), ALL)
def test_the_book_has_the_exercise(chapter, number):
    """A renumbered exercise would be checked against the answer of another."""
    text = chapter_file(chapter).read_text(encoding="utf-8")
    assert f":label: ex-0{number.replace('.', '-')}\\n" in text


def test_an_unanswered_chapter_is_all_missing(tmp_path):
    """The first thing that a reader sees must say how to go on; the folded solutions are no answers."""
    for chapter in EXERCISES:
        verdicts = exercises.check_notebook(chapter, notebook(tmp_path, chapter))
        assert {verdict.state for verdict in verdicts} == {"missing"}
        assert all(f"# Your answer to Exercise {v.exercise.number}" in str(v) for v in verdicts)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("valid", "NameError: name 'valid' is not defined"),  # from the folded solution of this exercise
        ("closed_form", "NameError"),
        ("depths = [20]", "the last line is no value"),
        ("", "the last line is no value"),
        ("[20", "SyntaxError"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
    ],
)
def test_a_cell_that_fails_is_told_apart_from_a_wrong_answer(source, told, tmp_path):
    """Somebody with a typing mistake must not start to doubt the answer."""
    verdict = judge(tmp_path, "3.2", source)
    assert verdict.state == "failed" and told in verdict.help
    assert "\n" not in str(verdict)


@pytest.mark.parametrize("mark", ["# your answer to exercise 3.2", "#Your answer to Exercise 03.2: depths"])
def test_small_differences_in_the_mark_do_no_harm(mark, tmp_path):
    """Chapters write 3.2 or 03.2, and readers write as they like."""
    verdicts = exercises.check_notebook(3, notebook(tmp_path, 3, f"{mark}\n{RIGHT['3.2']}"))
    assert [v.exercise.number for v in verdicts if v.state == "right"] == ["3.2"]


def test_the_last_of_two_answers_counts(tmp_path):
    """Readers try again below."""
    path = notebook(tmp_path, 3, answer("3.2", WRONG["3.2"]), answer("3.2", RIGHT["3.2"]))
    assert [v.state for v in exercises.check_notebook(3, path)][1] == "right"


def test_answers_use_what_the_chapter_defines_and_print_nothing(tmp_path, capsys):
    """Imports and definitions of the chapter are there; its experiments are not run."""
    source = "print(Bottleneck, create)\nassert Block and Network\n" + RIGHT["3.2"]
    assert judge(tmp_path, "3.2", source).state == "right"
    assert capsys.readouterr().out == ""


def test_one_answer_does_not_leak_into_the_next(tmp_path):
    """An answer that works only after another one would fail in a restarted notebook."""
    path = notebook(tmp_path, 3, answer("3.1", "mine = 7\nmine"), answer("3.2", "mine"))
    assert [v.state for v in exercises.check_notebook(3, path)][:2] == ["not right", "failed"]


def test_the_notebook_is_found_in_this_folder_or_the_next(tmp_path, monkeypatch):
    """`resnet-tutorial check 03` is typed in the clone or in the folder of the chapters."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="03_"):
        exercises.check_notebook(3)
    (tmp_path / "book").mkdir()
    shutil.copy(chapter_file(3), tmp_path / "book")
    assert exercises.check_notebook(3)
    monkeypatch.chdir(tmp_path / "book")
    assert exercises.check_notebook(3)


def test_bad_input_is_one_line(tmp_path):
    """A traceback tells a reader nothing."""
    with pytest.raises(ValueError, match="choose one of 1, 2, 3"):
        exercises.check_notebook(99)
    for text in ("not JSON", "{}", "[]"):
        (tmp_path / "a.ipynb").write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match="is not a notebook"):
            exercises.check_notebook(3, tmp_path / "a.ipynb")
    with pytest.raises(ValueError, match="is not a notebook"):
        exercises.check_notebook(3, tmp_path)
    with pytest.raises(FileNotFoundError):
        exercises.check_notebook(3, tmp_path / "absent.ipynb")


def test_an_answer_is_judged_beside_its_exercise():
    """Saving the notebook and going to a terminal, readers did not check at all."""
    assert check("3.2", [20, 26, 32, 38, 44, 50, 56]).state == "right"
    assert repr(check("3.2", [20])) == "3.2   not right: give the depths, as a list"
    assert check("3.2", lambda: None).state == "not right"
    with pytest.raises(ValueError, match=r"exercise '3.9' has no check: choose one of 1.1, "):
        check("3.9", 1)


def test_a_result_that_differs_stops_the_build_and_tells_a_reader(monkeypatch, capsys):
    """A bare AssertionError after a natural change of a setting, or a text that nobody notices is wrong."""
    monkeypatch.setenv(STRICT, "1")
    as_described(True, "it holds")
    with pytest.raises(AssertionError, match="it holds"):
        as_described(False, "it holds")
    monkeypatch.delenv(STRICT)
    as_described(np.bool_(False), "the loss falls.")
    assert capsys.readouterr().out.endswith("not true here that the loss falls.\n")


def test_an_answer_that_never_ends_or_ends_the_program_leaves_the_other_verdicts(tmp_path, capfd):
    """`exit()` printed nothing, with status 0; a loop without an end hung the terminal."""
    answers = {"3.1": "while True: pass", "3.2": RIGHT["3.2"], "3.3": "import os; os._exit(0)"}
    answers |= {"3.5": "raise KeyboardInterrupt", "3.6": "%matplotlib inline\n" + RIGHT["3.6"]}
    verdicts = exercises.check_notebook(3, only(tmp_path, answers), seconds=5)
    assert [verdict.state for verdict in verdicts] == ["failed", "right", "failed", "failed", "right"]
    assert "did not end within 5 seconds" in verdicts[0].help
    assert all("it ended the program" in verdict.help for verdict in verdicts[2:4])
    assert capfd.readouterr() == ("", "")  # a KeyboardInterrupt filled the terminal


def test_an_answer_cannot_fill_the_memory(tmp_path):
    """A list that grows for ever took all memory there is, and what an answer printed filled `check`."""
    pytest.importorskip("resource")  # not on Windows
    grows = f"def f(): pass\nx = []\nfor k in range(30_000): x.append(bytes(10**6))\n{RIGHT['3.1']}"
    prints = f"import os\nfor k in range(300): os.write(1, bytes(10**6))\n{RIGHT['3.3']}"
    answers = {"3.1": grows, "3.2": RIGHT["3.2"], "3.3": prints, "3.5": f"raise ValueError('x' * {10**8})"}
    tracemalloc.start()
    verdicts = exercises.check_notebook(3, only(tmp_path, answers), seconds=60)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [verdict.state for verdict in verdicts] == ["failed", "right", "right", "failed", "missing"]
    assert "takes too much memory, more than 8 GB" in verdicts[0].help
    assert len(verdicts[3].help) < 300 and taken < 10**7


@pytest.mark.parametrize(
    "taught",
    ["x = '\ud800'", "x = " + "-" * 200_000 + "1", "def f(x=__import__('sys').exit(0)): pass"],
    ids=["no text", "nested", "ends"],
)
def test_an_odd_cell_of_the_chapter_is_left_out(tmp_path, taught):
    """A right answer was told to have ended the program."""
    path = only(tmp_path, {"3.2": RIGHT["3.2"]})
    book = json.loads(path.read_text())
    book["cells"].insert(0, {"cell_type": "code", "source": taught})
    path.write_text(json.dumps(book))
    (verdict,) = [v for v in exercises.check_notebook(3, path, seconds=60) if v.exercise.number == "3.2"]
    assert verdict.state == "right", verdict


def test_a_readers_own_modules_are_for_the_answers_alone(tmp_path, monkeypatch):
    """A random.py in the folder of the chapters ended every answer."""
    monkeypatch.chdir(tmp_path)
    Path("random.py").write_text("raise SystemExit")
    Path("mine.py").write_text(f"depths = {RIGHT['3.2'].splitlines()[-1]}")
    path = only(tmp_path, {"3.2": "import mine\nmine.depths"})
    (verdict,) = [v for v in exercises.check_notebook(3, path, seconds=60) if v.exercise.number == "3.2"]
    assert verdict.state == "right", verdict


def test_an_answer_may_raise_whatever_it_likes(tmp_path):
    """`exit()` ended the check, with status 0 and no verdict."""
    answers = {"3.1": "exit()", "3.2": RIGHT["3.2"]}
    answers["3.3"] = "class Odd(BaseException): pass\nraise Odd('x')"
    verdicts = exercises.check_notebook(3, only(tmp_path, answers))
    assert [verdict.state for verdict in verdicts][:3] == ["failed", "right", "failed"]
    assert "SystemExit" in verdicts[0].help and verdicts[2].help == "Odd: x"


def test_ctrl_c_ends_the_check_and_the_answer(tmp_path):
    """An answer that catches everything must not go on when its reader has gone."""
    loop = "while True:\n    try:\n        while True: Path('alive').touch()\n    except BaseException: pass"
    path = only(tmp_path, {"3.1": f"from pathlib import Path\n{loop}"})
    command = [sys.executable, "-m", "resnet_tutorial", "check", "3", "--notebook"]
    process = subprocess.Popen(
        [*command, path],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    for _ in range(1000):
        if (tmp_path / "alive").exists():
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "resnet-tutorial: interrupted\n")
    assert process.returncode == 130
    (tmp_path / "alive").unlink()
    time.sleep(1)
    assert not (tmp_path / "alive").exists()


def test_the_limits_that_help_tells_are_those_that_hold(tmp_path, monkeypatch, capsys):
    """Nobody knew how long an answer may take, until it was stopped."""
    with pytest.raises(SystemExit):
        cli.main(["check", "--help"])
    told = capsys.readouterr().out
    limits = []
    monkeypatch.setattr(exercises, "check_notebook", lambda *args, seconds: limits.append(seconds) or [])
    assert cli.main(["check", "3"]) == 0
    assert f"{limits[0]} seconds" in told and f"{exercises.MEMORY // 10**9} GB" in told


def test_a_notebook_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    """It was read to its end, and then refused."""
    path = only(tmp_path, {"3.2": RIGHT["3.2"]})
    monkeypatch.setattr(exercises, "LARGEST_JSON", 50)
    with pytest.raises(ValueError, match=r"mine\.ipynb has more than 0 MB: clear its output"):
        exercises.check_notebook(3, path)


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "{", '{"cells": [{"cell_type": 1}]}'])
def test_what_is_no_notebook_gives_one_line(tmp_path, text):
    """Deeply nested JSON exhausted the stack."""
    (tmp_path / "no.ipynb").write_text(text)
    with pytest.raises(ValueError, match=r"no\.ipynb is not a notebook: give the \.ipynb file"):
        exercises.check_notebook(3, tmp_path / "no.ipynb")
