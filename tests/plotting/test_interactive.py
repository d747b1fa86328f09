"""Figures to move: their numbers, their controls by mouse and key, and the static picture in their place."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics
from torch.nn import functional as F

from resnet_tutorial import plotting as pl
from resnet_tutorial.evaluation import Predictions, report
from resnet_tutorial.files import ASSETS
from resnet_tutorial.training import RECIPES, SCHEDULES

SCRIPTS = ASSETS / "interactive"
CLASSES = ("cat", "dog", "frog")
IMAGE = [[1, 0, 2, 1], [0, 1, 1, 0], [2, 1, 0, 1], [1, 0, 1, 2]]
KERNEL = [[1, 0, -1], [2, 0, -2], [1, 0, -1]]
STEPS = 200
NAMES = ["x", "a", "y"]
VALUES, GRADIENTS = [[1, -2], [0.5, -1], [1.5, 0]], [[7, 8], [0.25, 0], [3, 4]]
FORWARD, BACKWARD = ["given", "half of it", "x + a"], ["two paths", "a copy", "from behind"]


def scores() -> tuple[np.ndarray, np.ndarray]:
    """Logits (300, 3) that are right for most images, with ties, and labels."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    logits = np.round(rng.normal(0, 1, (300, 3)) + 1.5 * np.eye(3)[labels], 1)
    return logits, labels


def recipes() -> dict:
    return {name: recipe.but(steps=STEPS) for name, recipe in RECIPES.items()}


def figures() -> dict[str, pl.Interactive]:
    logits, labels = scores()
    images = np.random.default_rng(1).integers(0, 255, (300, 32, 32, 3), dtype=np.uint8)
    rates = {name: [recipe.lr_at(t, STEPS) for t in range(STEPS)] for name, recipe in recipes().items()}
    return {
        "convolution": pl.interactive_convolution(IMAGE, KERNEL, padding=1),
        "block": pl.interactive_block(
            NAMES, VALUES, GRADIENTS, forward=FORWARD, backward=BACKWARD, sources={2: (1, 0)}
        ),
        "threshold": pl.interactive_threshold(logits, labels, CLASSES, selected=1),
        "confusion": pl.interactive_confusion(labels, logits.argmax(axis=1), images, CLASSES),
        "schedules": pl.interactive_schedules(
            {n: vars(r) for n, r in recipes().items()}, rates, schedules=SCHEDULES
        ),
        "calibration": pl.interactive_calibration(logits, labels),
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """All six figures, one below the other."""
    parts = [f'<section id="{name}">{figure._repr_html_()}</section>' for name, figure in figures().items()]
    path = tmp_path_factory.mktemp("figures") / "page.html"
    head = '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>t</title></head>'
    path.write_text(f"{head}<body>{''.join(parts)}</body></html>", encoding="utf-8")
    return path


@pytest.fixture
def shown(browser, page):
    """The page in the browser, with functions that find a control and read what the figure says."""
    browser.open(page)

    class Shown:
        def __init__(self, name: str) -> None:
            self.name = name

        def find(self, selector: str, n: int = 0) -> str:
            return f"document.querySelectorAll('#{self.name} {selector}')[{n}]"

        def read(self, selector: str = ".rt-said[role=status]", n: int = 0) -> str:
            return browser.evaluate(f"{self.find(selector, n)}.textContent")

        def table(self, n: int = 0) -> list[list[str]]:
            return browser.evaluate(
                f"[...{self.find('table', n)}.tBodies[0].rows].map("
                r"(row) => [...row.cells].map((cell) => cell.textContent.replaceAll('\u2212', '-').trim()))"
            )

        def set(self, n: int, value: float) -> None:
            """Move a slider or choose an option as a script would."""
            browser.evaluate(
                f"(() => {{ const e = {self.find('input, #' + self.name + ' select', n)}; e.value = {value};"
                " e.dispatchEvent(new Event(e.tagName === 'SELECT' ? 'change' : 'input')); })()"
            )

    return Shown


def numbers(text: str) -> list[float]:
    text = text.replace("\N{MINUS SIGN}", "-")
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", text)]


def test_the_window_computes_the_convolution(browser, shown):
    """A sum that differs from PyTorch's would teach another operation."""
    figure = shown("convolution")
    x, w = (torch.tensor(values, dtype=torch.float64)[None, None] for values in (IMAGE, KERNEL))
    for stride in (1, 2, 3):
        for padding in (0, 1, 2):
            figure.set(0, stride)
            figure.set(1, padding)
            expected = F.conv2d(x, w, stride=stride, padding=padding)[0, 0].tolist()
            assert [[float(cell) for cell in row] for row in figure.table(2)] == expected
    figure.set(0, 1)
    figure.set(1, 0)
    figure.set(2, 0)
    assert figure.read().replace("\N{MINUS SIGN}", "-").endswith(" = -1")
    browser.press("ArrowRight", on=figure.find("input", 2))
    assert figure.read().startswith("Row 0, column 1 of the result: ") and figure.read().endswith(" = 1")
    browser.click(figure.find("table:last-of-type td", 0))  # of the image: nothing happens
    browser.click(figure.find("div:last-child > table td", 2))  # of the result: the window goes there
    assert figure.read().startswith("Row 1, column 0 of the result: ") and figure.read().endswith(" = 3")
    terms = figure.read().split(": ")[1].split(" = ")[0].replace("\N{MINUS SIGN}", "-")
    assert eval(terms.replace("\u00b7", "*")) == 3


def test_the_block_goes_forward_and_back(browser, shown):
    """A row shown too early gives the answer away; one computed from the wrong rows explains nothing."""
    figure = shown("block")

    def marked(kind: str) -> list[str]:
        return browser.evaluate(
            f"[...document.querySelectorAll('#block .{kind}')].map((cell) => cell.textContent)"
        )

    assert figure.table() == [["x", "1", "-2", "", ""], ["a", "", "", "", ""], ["y", "", "", "", ""]]
    assert figure.read() == "Step 1 of 6, forward, x: given"
    browser.press("Enter", on=figure.find("button", 1))
    browser.click(figure.find("button", 1))
    assert figure.table()[2] == ["y", "1.5", "0", "", ""]
    assert marked("rt-on") == ["1", "\N{MINUS SIGN}2", "0.5", "\N{MINUS SIGN}1"]  # y is made from x and a
    browser.press("End", on=figure.find("input"))
    assert figure.table() == [
        ["x", "1", "-2", "7", "8"],
        ["a", "0.5", "-1", "0.25", "0"],
        ["y", "1.5", "0", "3", "4"],
    ]
    assert figure.read() == "Step 6 of 6, backward, x: two paths"
    assert marked("rt-here") == ["7", "8"] and marked("rt-on") == ["0.25", "0", "3", "4"]
    browser.press("ArrowLeft", on=figure.find("input"))
    assert figure.read() == "Step 5 of 6, backward, a: a copy" and figure.table()[0][3:] == ["", ""]


def test_the_threshold_gives_the_metrics_of_scikit_learn(browser, shown):
    """Precision of another rule, or an area that is not the chapter's, would contradict the text."""
    figure = shown("threshold")
    logits, labels = scores()
    probability = Predictions(logits, labels, CLASSES).probabilities
    for k in range(3):
        figure.set(0, k)
        positive, score = labels == k, probability[:, k]
        area, average = numbers(figure.read(".rt-said:not([role])"))
        assert math.isclose(area, metrics.roc_auc_score(positive, score), abs_tol=6e-4)
        assert math.isclose(average, metrics.average_precision_score(positive, score), abs_tol=6e-4)
        for log_odds in (-2, 0, 1):
            figure.set(1, 70 + 10 * log_odds)
            called = score >= 1 / (1 + math.exp(-log_odds))
            counts = [[int(cell) for cell in row[1:]] for row in figure.table()]
            assert counts == metrics.confusion_matrix(~positive, ~called).tolist()
            precision, recall, _, f1, fpr = numbers(figure.read())
            expected = metrics.precision_score(positive, called), metrics.recall_score(positive, called)
            assert np.allclose((precision, recall), expected, atol=6e-4)
            assert math.isclose(f1, metrics.f1_score(positive, called), abs_tol=6e-4)
            assert math.isclose(fpr, called[~positive].mean(), abs_tol=6e-5)


def test_rarer_positives_lower_precision_and_leave_the_roc_curve(browser, shown):
    """That ROC curves flatter is what the slider is there to show."""
    figure = shown("threshold")
    logits, labels = scores()
    assert figure.read(".rt-title") == "Images"
    score = Predictions(logits, labels, CLASSES).probabilities[:, 1]
    roc = figure.find("svg polyline", 1) + ".getAttribute('points')"
    before = browser.evaluate(roc), figure.read()
    browser.press("End", on=figure.find("input", 1))
    assert browser.evaluate(roc) == before[0] and figure.read() != before[1]
    assert figure.read(".rt-title") == "Images, each dog counted as 1/1000 of one"
    weights = np.where(labels == 1, 1 / 1000, 1)
    _, average = numbers(figure.read(".rt-said:not([role])"))
    expected = metrics.average_precision_score(labels == 1, score, sample_weight=weights)
    assert math.isclose(average, expected, abs_tol=6e-4)


def test_a_cell_shows_its_images(browser, shown):
    """The images of another cell would explain the wrong confusion."""
    figure = shown("confusion")
    logits, labels = scores()
    counts = metrics.confusion_matrix(labels, logits.argmax(axis=1))
    assert [[int(cell) for cell in row[1:]] for row in figure.table()] == counts.tolist()

    browser.click(figure.find("td button", 1))
    first = figure.read()
    assert first.startswith(f"True cat, predicted dog: {counts[0, 1]} of 100 images")
    tiles = f"[...document.querySelectorAll('#{figure.name} .rt-panels > span')].map((e) => e.style.cssText)"
    seen = browser.evaluate(tiles)
    assert len(seen) == min(6, counts[0, 1]) == len(set(seen))
    browser.press("Space", on=figure.find("td button", 0))
    browser.press("ArrowRight")
    browser.press("ArrowDown")
    browser.press("Enter")
    assert figure.read().startswith(f"True dog, predicted dog: {counts[1, 1]} of 100 images")
    assert not set(browser.evaluate(tiles)) & set(seen)
    tabs = (
        f"[...document.querySelectorAll('#{figure.name} td button')].filter((b) => b.tabIndex === 0).length"
    )
    assert browser.evaluate(tabs) == 1, "nine cells are one stop of the Tab key"


def test_the_tab_key_leads_to_the_chosen_cell(browser, shown):
    """A frame around the first cell looked like a choice that nobody had made."""
    figure = shown("confusion")
    stops = f"[...document.querySelectorAll('#{figure.name} td button')].filter((b) => b.tabIndex === 0)"
    chosen = stops + ".map((b) => b.getAttribute('aria-pressed'))"
    assert browser.evaluate(chosen) == ["true"]
    browser.click(figure.find("td button", 4))
    assert browser.evaluate(chosen) == ["true"]


def test_the_images_of_a_cell_are_those_of_the_data():
    """One index off, and every cell shows its neighbour's images."""
    shades = np.array([10, 60, 110, 160, 210, 250], dtype=np.uint8)
    images = np.broadcast_to(shades[:, None, None, None], (6, 8, 8, 3)).copy()
    figure = pl.interactive_confusion([0, 0, 0, 1, 1, 1], [0, 1, 0, 1, 0, 1], images, ("cat", "dog"), show=1)
    data = json.loads(figure.html.rsplit("residualFigures),\n", 1)[1].split(");\n</script>")[0])
    assert data["counts"] == [[2, 1], [1, 2]]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["sprite"].split(",")[1]))))
    found = [[int(sheet[4, 8 * cell[0] + 4, 0]) for cell in row] for row in data["places"]]
    assert np.abs(np.array(found) - [[10, 60], [210, 160]]).max() <= 3


def test_the_rates_are_those_of_the_recipes(browser, shown):
    """The formula stands twice, in Python and in the script: they must not drift apart."""
    figure = shown("schedules")
    for i, recipe in enumerate(recipes().values()):
        figure.set(0, i)
        for step in (0, 1, 20, 49, 99, 100, 150, 199):
            figure.set(4, step)
            found = numbers(figure.read())[-1]
            assert math.isclose(found, recipe.lr_at(step, STEPS), rel_tol=5e-3, abs_tol=1e-9), recipe.name
    figure.set(0, list(RECIPES).index("paper"))
    browser.press("ArrowDown", on=figure.find("select", 1))  # step -> cosine
    for _ in range(10):
        browser.press("ArrowRight", on=figure.find("input", 1))  # a warm-up over 10 %
    changed = recipes()["paper"].but(schedule="cosine", milestones=(), warmup=0.1)
    for step in (0, 10, 150):
        figure.set(4, step)
        assert figure.read().startswith("cosine, warm-up over 10 % of the run")
        assert math.isclose(numbers(figure.read())[-1], changed.lr_at(step, STEPS), rel_tol=5e-3)


def test_curves_are_named_at_the_line(browser, shown):
    """Four grey curves without names are one grey tangle."""
    figure = shown("schedules")
    texts = browser.evaluate(
        "[...document.querySelectorAll('#schedules svg text')].map((e) => e.textContent)"
    )
    assert [text for text in texts if text in RECIPES] == list(RECIPES)
    figure.set(1, SCHEDULES.index("one-cycle"))
    browser.press("Home", on=figure.find("input", 1))
    assert figure.read().startswith("one-cycle, which without a warm-up is cosine")


def test_a_temperature_gives_the_ece_of_the_report(browser, shown):
    """Bins that are closed on the other side, or another logarithm, would contradict the chapter."""
    figure = shown("calibration")
    logits, labels = scores()
    for index, temperature in ((0, 0.25), (40, 1.0), (60, 2.0)):
        figure.set(0, index)
        said, ece, mean, loss = numbers(figure.read())
        predictions = Predictions(logits / temperature, labels, CLASSES)
        expected = report(predictions)
        assert said == temperature
        assert math.isclose(ece, expected.ece, abs_tol=6e-4)
        assert math.isclose(loss, expected.loss, abs_tol=6e-4)
        assert math.isclose(mean, predictions.probabilities.max(axis=1).mean(), abs_tol=6e-4)
    browser.click(figure.find("button", 1))
    best = numbers(figure.read())[3]
    for key in ("ArrowLeft", "ArrowRight"):
        browser.press(key, on=figure.find("input"))
        assert numbers(figure.read())[3] >= best
    browser.press("Enter", on=figure.find("button", 0))
    assert figure.read().startswith("T = 1.00")


def test_controls_have_names_and_nothing_is_fetched(browser, shown, page):
    """A slider without a name is "slider, 3" to a screen reader; a fetched script fails on a train."""
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "slider", "combobox", "image", "img", "table", "group")
    names = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if not node["ignored"] and node.get("role", {}).get("value") in roles
    ]
    assert {role for role, _ in names} >= {"button", "slider", "combobox", "table", "group"}
    assert not [role for role, name in names if not name]
    assert {Path(url).name for url in browser.requests if not url.startswith("data:")} == {page.name}


def test_without_scripts_and_on_paper_there_is_a_picture(browser, page):
    """A reader of the printed book would find an empty place with sliders."""
    visible = """[".rt-paper", "[data-figure]"].map((kind) => [...document.querySelectorAll(kind)].map(
        (e) => e.getBoundingClientRect().height > 20))"""
    browser.open(page)
    assert browser.evaluate(visible) == [[False] * 6, [True] * 6]
    browser.open(page, media="print")
    assert browser.evaluate(visible) == [[True] * 6, [False] * 6]
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        assert browser.evaluate(visible) == [[True] * 6, [False] * 6]
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)


def test_a_figure_comes_alive_as_jupyterlab_inserts_it(browser, page, tmp_path):
    """JupyterLab fills an element that is not yet on the page and copies the scripts into it."""
    content = json.dumps(figures()["calibration"].html).replace("<", "\\u003c")
    lab = tmp_path / "lab.html"
    lab.write_text(
        f"""<!DOCTYPE html><meta charset="utf-8"><body data-jp-theme-light="false"><script>
        for (let n = 0; n < 2; n++) {{ // the same cell shown twice, as in a second view of a notebook
            const host = document.createElement("div");
            host.innerHTML = {content};
            for (const old of host.querySelectorAll("script")) {{
                const fresh = document.createElement("script");
                fresh.textContent = old.textContent;
                old.replaceWith(fresh);
            }}
            document.body.append(host);
        }}</script>""",
        encoding="utf-8",
    )
    browser.open(lab)
    assert browser.evaluate("document.querySelectorAll('.rt-ready input[type=range]').length") == 2
    browser.press("ArrowRight", on="document.querySelectorAll('input')[1]")
    said = browser.evaluate("[...document.querySelectorAll('[role=status]')].map((p) => p.textContent)")
    assert said[0].startswith("T = 1.00") and said[1].startswith("T = 1.04")


@pytest.mark.parametrize("path", sorted(SCRIPTS.iterdir()), ids=lambda path: path.name)
def test_a_script_is_small_and_fetches_nothing(path):
    """What stands in every figure is paid for in every figure."""
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) <= 8_000
    assert "</script" not in text and not re.search(r"\bimport\b|\bfetch\(|XMLHttpRequest", text)


def test_ten_thousand_logits_make_a_light_figure():
    """100,000 numbers as text would make a page of a megabyte."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 10_000)
    logits = rng.normal(0, 1, (10_000, 10)) + 4 * np.eye(10)[labels]
    names = [f"class {k}" for k in range(10)]
    assert len(pl.interactive_threshold(logits, labels, names).html) < 300_000
    assert len(pl.interactive_calibration(logits, labels).html) < 200_000


def test_a_name_cannot_break_out_of_the_page():
    """A folder of pictures may have any name; it becomes the name of a class."""
    evil = ("</script><b>", "<!--")
    figure = pl.interactive_threshold([[1.0, 0], [0, 1]], [0, 1], evil)
    assert "</script><b>" not in figure.html and "<!--" not in figure.html
    block = pl.interactive_block(evil, VALUES[:2], GRADIENTS[:2], forward=evil, backward=evil)
    assert "</script><b>" not in block.html and "<b>" not in block.html


LOGITS = [[1.0, 0], [0, 1]]
FIELDS = vars(RECIPES["paper"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pl.interactive_convolution([1, 2], [[1]]), "image has shape"),
        (lambda: pl.interactive_convolution([[1]], [[1, 2], [3, 4]]), "not larger than the image"),
        (lambda: pl.interactive_convolution([[1]], [[1]], stride=4), "stride of 1 to 3"),
        (lambda: pl.interactive_block("xy", [[1]], [[1]], forward="x", backward="x"), "2 names for 1"),
        (lambda: pl.interactive_block("x", [[1]], [[1, 2]], forward="x", backward="x"), "give both"),
        (
            lambda: pl.interactive_block("x", [[1]], [[1]], forward="x", backward="x", sources={0: [0]}),
            "rows above row 0",
        ),
        (lambda: pl.interactive_threshold(LOGITS, [0, 0], ("a", "b")), "no image of class 'b'"),
        (lambda: pl.interactive_threshold(LOGITS, [0, 2], ("a", "b")), "labels run from 0 to 2"),
        (lambda: pl.interactive_threshold(LOGITS, [0, 1], ("a", "b"), selected=2), "selected=2"),
        (lambda: pl.interactive_threshold([[np.nan, 0]], [0], ("a", "b")), "give finite"),
        (lambda: pl.interactive_confusion([0], [0, 1], np.zeros((1, 8, 8, 3), np.uint8), "a"), "one of each"),
        (lambda: pl.interactive_confusion([0], [1], np.zeros((1, 8, 8, 3), np.uint8), "a"), "not in 0..0"),
        (
            lambda: pl.interactive_schedules({"a": FIELDS}, {"b": [1, 2]}, schedules=SCHEDULES),
            "the same names",
        ),
        (
            lambda: pl.interactive_schedules({"a": {"lr": 1}}, {"a": [1, 2]}, schedules=SCHEDULES),
            "no field 'schedule'",
        ),
        (
            lambda: pl.interactive_schedules(
                {"a": {**FIELDS, "schedule": "up"}}, {"a": [1, 2]}, schedules=SCHEDULES
            ),
            "none of constant",
        ),
        (lambda: pl.interactive_calibration(LOGITS, [0]), r"labels \(1,\)"),
        (lambda: pl.interactive_calibration(LOGITS, [0, 1], bins=0), "bins=0"),
    ],
)
def test_bad_input_is_one_line(call, message):
    """A shape error from deep inside of NumPy does not say what to change."""
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
