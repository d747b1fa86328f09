"""Chapters are played with: cells run again, settings changed; nothing ends in an error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest

from resnet_tutorial.data import CIFAR10, load_sample
from resnet_tutorial.models import create, save_model
from resnet_tutorial.training import fit, get_recipe

nbclient = pytest.importorskip("nbclient")

BOOK = Path(__file__).parent.parent / "book"
NOTEBOOKS = sorted(path.name for path in BOOK.glob("*.ipynb"))


@pytest.fixture(autouse=True)
def _reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader's kernel: an outcome other than the described one is said, and the chapter goes on."""
    monkeypatch.delenv("RESNET_TUTORIAL_STRICT", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(BOOK.parent))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # threads that wait for each other take minutes
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")


def code_cells(name: str) -> list[nbformat.NotebookNode]:
    """The cells of code of a chapter."""
    return [c for c in nbformat.read(BOOK / name, as_version=4).cells if c.cell_type == "code"]


def execute(cells: list[nbformat.NotebookNode]) -> str:
    """Run cells in one kernel, in the book's folder; returns what is printed, and the tables."""
    notebook = nbformat.v4.new_notebook(cells=cells)
    resources = {"metadata": {"path": str(BOOK)}}
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=900, resources=resources).execute()
    outputs = [output for cell in cells for output in cell.outputs]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    return "".join(
        output.get("text") or output.get("data", {}).get("text/markdown", "") for output in outputs
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_cells_may_be_run_again_from_last_to_first(name):
    """A name with two meanings, or a folder that is gone, breaks what a reader goes back to."""
    cells = code_cells(name)
    again = [nbformat.v4.new_code_cell(cell.source) for cell in reversed(cells)]
    execute(cells + again)


@dataclass(frozen=True)
class Play:
    """Changes that a reader makes in a chapter, and what must then be read or not be read."""

    chapter: str
    changes: dict[str, str]  # what stands in one cell, exactly once -> what the reader writes
    shown: tuple[str, ...]  # in what is printed or titled
    gone: tuple[str, ...] = ()


PLAYS = {
    "quick start, deeper, higher rate": Play(
        "00_quick_start.ipynb",
        {
            "n = 1  # blocks": "n = 2  # blocks",
            "epochs = 12\n": "epochs = 13\n",
            'recipe = get_recipe("quick").but(epochs=epochs)': (
                'recipe = get_recipe("quick")\n'
                "recipe = recipe.but(epochs=epochs, lr=3 * recipe.lr, batch_size=32)"
            ),
            'words = ["airplane", "automobile", "ship", "truck"]': 'words = ["cat", "dog", "horse"]',
            "each = 20  # pictures": "each = 10  # pictures",
        },
        ("14 layers", "after epoch 13", "13 epochs: ", "30 photos", "guessing: 33%"),
        ("8 layers", "12 epochs", "25%"),
    ),
    "background, shallower, higher rate": Play(
        "01_background.ipynb",
        {
            "rate, steps = 0.5, 100": "rate, steps = 1.5, 120",
            "depth = 56  # 6 n + 2": "depth = 32  # 6 n + 2",
            "deep_layers = 56  # 20": "deep_layers = 26  # 20",
        },
        ("32 layers; from the last", "26 layers, ", "not true here that the line is found"),
        ("56 layers; from the last",),
    ),
    "block, other stack and classes": Play(
        "02_block_math.ipynb",
        {
            "DEPTH, WIDTH, SIDE = 27, 4, 6": "DEPTH, WIDTH, SIDE = 9, 6, 5",
            "n_classes = 10\n": "n_classes = 5\n",
            "depth=100, n=256, batch=256": "depth=30, n=64, batch=128",
            "STEEP, STEPS = 40.0, 60": "STEEP, STEPS = 20.0, 50",
            'network = create("resnet20")\n': 'network = create("resnet32")\n',
        },
        ("no preference: 1.609", "ResNet-32, multiply-adds"),
        ("no preference: 2.303", "ResNet-20, multiply-adds"),
    ),
    "network, other depth": Play(
        "03_building_resnet.ipynb",
        {"N_BLOCKS = 3  # in each": "N_BLOCKS = 2  # in each", "sample.images[:16]": "sample.images[:24]"},
        ("logits of 24 images agree", "'layer3': 53", "receptive field of 53x53"),
        ("of 16 images",),
    ),
    "training, other depth, batches and rates": Play(
        "04_training_on_gpu.ipynb",
        {
            "HELD_OUT = 0.1 ": "HELD_OUT = 0.2 ",
            "BATCH, RATE = 50, 0.05": "BATCH, RATE = 32, 0.15",
            "B, LR = 50, 0.05": "B, LR = 40, 0.15",
            "(20, 10) if full else (8, 4)": "(20, 10) if full else (14, 5)",
            "LOW, GOOD, HIGH = 0.002, 0.05, 2.0": "LOW, GOOD, HIGH = 0.006, 0.15, 6.0",
            "STEPS, SEEDS, TEST_BATCH = 80, 3, 50": "STEPS, SEEDS, TEST_BATCH = 60, 2, 25",
            "T, PEAK, WARMUP = 1_000, 0.1, 0.25": "T, PEAK, WARMUP = 800, 0.3, 0.2",
            "SMALL, LARGE = 8, 32": "SMALL, LARGE = 16, 64",
            "EPSILON, CLIP = 0.1, 0.1": "EPSILON, CLIP = 0.2, 0.5",
            'PROFILED = "resnet20"': 'PROFILED = "resnet14"',
            'name="short", epochs=6,': 'name="short", epochs=4,',
        },
        ("400 for validation", "ResNet-14", "epoch 5: ", "rate 0.15: ", "batches of 64", "best of 4 epochs"),
        ("ResNet-8", "rate 0.05: ", "batches of  8", "best of 6 epochs"),
    ),
    "fine-tuning, other classes, budgets, quality and rates": Play(
        "05_fine_tuning.ipynb",
        {
            "QUALITY, RATES = 10, (0.003, 0.01, 0.1)": "QUALITY, RATES = 30, (0.009, 0.03, 0.3)",
            'VEHICLES, SIZES = ("airplane", "automobile", "ship", "truck"), (5, 25, 100)': (
                'VEHICLES, SIZES = ("airplane", "ship", "truck"), (10, 50)'
            ),
            "ETA, DELTA, N_TUNED = 0.1, 0.5, 100": "ETA, DELTA, N_TUNED = 0.3, 0.4, 60",
            "N_GRADUAL = 25 ": "N_GRADUAL = 15 ",
            "RANK = 2\n": "RANK = 3\n",
            'WRITTEN = {"airplane": 200, "automobile": 120, "ship": 60, "truck": 20}': (
                'WRITTEN = {"cat": 40, "dog": 80, "ship": 20}'
            ),
            'KEPT = {"airplane": 90, "automobile": 60, "ship": 40, "truck": 30}': (
                'KEPT = {"cat": 30, "dog": 20, "ship": 10}'
            ),
        },
        ("JPEG 30   clean", "chosen: 0.", "60 images a class", "vehicles, rate 0.3", "222 numbers trained"),
        ("JPEG 10   clean", "100 images a class", "148 numbers"),
    ),
    "pitfalls, other numbers": Play(
        "07_pitfalls.ipynb",
        {
            "steps = 60\n": "steps = 40\n",
            "fifty = train.per_class(5)": "fifty = train.per_class(3)",
            "images_a_class, divisions = 20, 50, 500": "images_a_class, divisions = 12, 20, 200",
        },
        ("chosen among 12: ",),
        ("chosen among 20",),
    ),
    "evaluation, another class": Play(
        "06_evaluation.ipynb",
        {
            'chosen_class = "cat"': 'chosen_class = "dog"',
            "wanted_errors = 1 / 3": "wanted_errors = 1 / 2",
            "suspects = 6": "suspects = 5",
            'looked_at = "horse"': 'looked_at = "ship"',
            "covered_cells, images_covered = 16, 200": "covered_cells, images_covered = 8, 100",
            "noise_images = 100": "noise_images = 50",
            "least = 0.005 ": "least = 0.01 ",
        },
        (
            "dog: TP",
            "dog scores higher",
            "dogs kept",
            "8 cells covered",
            "of 50 images of noise",
            "for 1 points",
        ),
        ("cat: TP", "cats kept", "16 cells covered", "of 100 images", "for 0.5 points"),
    ),
    "evaluation, a network of one's own": Play(
        "06_evaluation.ipynb",
        {'weights = shipped("resnet20", "cifar10")': 'weights = "OWN"'},
        ("recipe 'mine', 4 epochs", "computed here", "your network"),
        ("recorded: 10,000",),
    ),
}


@pytest.mark.parametrize("play", PLAYS.values(), ids=PLAYS)
def test_each_setting_stands_once(play):
    """A chapter whose setting was renamed was played with unchanged, where nobody looks for an hour."""
    code = "\n\n".join(cell.source for cell in code_cells(play.chapter))
    assert {old: code.count(old) for old in play.changes} == dict.fromkeys(play.changes, 1)


def own_weights(path: Path) -> Path:
    """A network that a reader trained, of another depth than the book's."""
    train, _ = load_sample()
    network, recipe = create("resnet8"), get_recipe("quick").but(name="mine", epochs=4)
    fit(network, train.per_class(100), None, recipe, device="cpu", progress=False)
    made_by = {"name": recipe.name, "epochs": recipe.epochs}
    return save_model(path, network, classes=train.classes, normalize=CIFAR10, recipe=made_by)


@pytest.mark.slow
@pytest.mark.parametrize("play", PLAYS.values(), ids=PLAYS)
def test_settings_may_be_changed(play, tmp_path):
    """A changed setting ended in a bare AssertionError, or left labels that were no longer true."""
    cells = code_cells(play.chapter)
    for old, new in play.changes.items():
        (cell,) = [c for c in cells if old in c.source]
        assert cell.source.count(old) == 1, old
        if "OWN" in new:
            new = new.replace("OWN", str(own_weights(tmp_path / "mine.safetensors")))
        cell.source = cell.source.replace(old, new)
    text = execute(cells)
    assert [words for words in play.shown if words not in text] == []
    assert [words for words in play.gone if words in text] == []
