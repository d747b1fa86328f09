"""Recorded numbers where readers meet them: they must be those of the records, and change with them."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import re
import shlex
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest

from resnet_tutorial import cli
from resnet_tutorial.data import load_sample
from resnet_tutorial.evaluation import Predictions, report, wilson_interval
from resnet_tutorial.models import count_parameters, create
from resnet_tutorial.records import Measurement, Run, changed, compare, load_all
from resnet_tutorial.training import History, Row, get_recipe

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
RESULTS = BOOK / "results"
HEADER = (
    *("network", "recipe", "training images", "n", "test accuracy, %", "with mirror image, %"),
    *("minutes a run", "PFLOP", "device"),
)


def readme_table(runs: list[Run]) -> str:
    """What the README must show: runs that hold out nothing. Renew: `python tests/test_results_page.py`."""
    lines = [HEADER, (":--", *["--:"] * (len(HEADER) - 2), ":--")]
    for row in compare(run for run in runs if not run.data["val"]):
        spread = "" if row["accuracy_sd"] is None else f" ± {100 * row['accuracy_sd']:.2f}"
        lines.append(
            (
                row["model"],
                row["recipe"],
                f"{row['images']:,}" + ("" if row["data"] == "cifar10" else f" ({row['data']})"),
                str(row["n"]),
                f"{100 * row['accuracy']:.2f}{spread}",
                f"{100 * row['accuracy_flip']:.2f}",
                f"{row['seconds'] / 60:.1f}" if row["seconds"] else "-",
                f"{row['petaflop']:.2f}",
                f"{row['device']}, {row['precision']}",
            )
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def readme_results() -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"^## Results\n(.*?)^## ", text, re.M | re.S)[1]


def test_the_readmes_results_are_those_of_the_records():
    """A number typed into a README outlives the run that it came from."""
    runs, _ = load_all(RESULTS)
    section = readme_results()
    found = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    if runs:
        assert found == readme_table(runs)
    else:
        assert found == "" and "Not yet recorded" in section
    # What stands outside the table and the commands holds no measured number at all.
    prose = re.sub(r"```.*?```|^\|.*$|`[^`]*`", "", section, flags=re.S | re.M)
    assert re.findall(r"\d+\.\d+|\d+ ?%", prose) == []


# The notebooks, on records made for the test

CONFIG = create("resnet20").config  # of the shipped network


def made_run(
    folder: Path,
    *,
    model: str = "resnet20",
    recipe: str = "modern",
    seed: int = 0,
    right: int = 25,
    data: str = "cifar10",
    held_out: bool = False,
    timed: bool = True,
    **changes,
) -> Run:
    """A run whose network classifies `right` of 40 images correctly, after every epoch as many."""
    recipe = get_recipe(recipe).but(**changes)
    labels = np.arange(40) % 10
    logits = np.eye(10)[np.where(np.arange(40) < right, labels, (labels + 1) % 10)]
    words = [model, recipe.name, *(f"{key}{value}" for key, value in changed(recipe).items())]
    name = "-".join([*words, *(["val5000"] if held_out else []), f"s{seed}"])
    path = Predictions(logits, labels, tuple("abcdefghij")).save(folder / f"{name}.npz", dtype=np.float16)
    kept, digest = report(Predictions.load(path)), hashlib.sha256(path.read_bytes()).hexdigest()
    network = create(model)
    share = right / 40
    rows: list[Row] = [
        {
            **{"epoch": i + 1, "seconds": (90.0 + seed) * (i + 1) / recipe.epochs if timed else None},
            **{"train_loss": 2 / (i + 1), "train_accuracy": share},
            **{"val_loss": 2 / (i + 1) if held_out else None, "val_accuracy": share if held_out else None},
        }
        for i in range(recipe.epochs)
    ]
    images = {"images": 45_000 if held_out else 50_000, "fingerprint": "x"}
    run = Run(
        name=name,
        command=f"resnet-tutorial train --seed {seed}",
        setup={"device": "a test CPU", "threads": 3, "precision": "float32", "torch": "9.8.7+cpu"},
        model={"name": model, "config": network.config, "parameters": count_parameters(network)},
        recipe=json.loads(json.dumps(dataclasses.asdict(recipe))),
        changes=changed(recipe),
        seed=seed,
        data={
            **{"name": data, "train": images, "test": images | {"images": 40}},
            "val": images | {"images": 5_000} if held_out else None,
        },
        history=rows,
        seconds=90.0 + seed if timed else None,
        test={
            **{"accuracy": kept.accuracy, "accuracy_flip": 0.8125, "loss": kept.loss},
            "logits_sha256": digest,
        },
    )
    run.save(folder)
    run.check(folder)
    return run


def made_table(folder: Path, name: str, columns: list[str], rows: list[list]) -> Measurement:
    table = Measurement(
        name=name,
        command=f"python benchmarks/{name}.py",
        setup={"device": "a test CPU", "threads": 3, "torch": "9.8.7", "data": "sample"},
        title=f"Title of {name}",
        columns=columns,
        rows=rows,
        notes=["A note of the test."],
    )
    table.save(folder)
    return table


THROUGHPUT = [
    "batch",
    "memory format",
    "precision",
    "compiled",
    "images/s",
    "lowest",
    "highest",
    "first round (s)",
]
ABLATIONS = [
    "variant",
    "what changed",
    "test accuracy (%)",
    "sd",
    "difference to base",
    "sd of the difference",
]
PROCESSES = ["processes", "epoch", "training loss", "validation loss", "seconds"]


def all_records(folder: Path) -> None:
    made_run(folder, epochs=30, right=25)
    for seed, right in enumerate((20, 24, 28)):
        made_run(folder, model="resnet8_wide", recipe="cpu", seed=seed, right=right)
    rows = [[128, "default", "fp32", "no", 100, 90, 110, 1.0]]
    rows += [
        [128, "channels-last", kind, "no", rate, 1, 2, 1.0] for kind, rate in (("fp32", 200), ("bf16", 150))
    ]
    made_table(folder, "throughput-cpu", THROUGHPUT, rows)
    made_table(folder, "processes-cpu", PROCESSES, [[1, 1, 2.5, 2.1, 77.7], [2, 1, 2.6, 2.2, 88.8]])


def page(notebook: str, folder: Path, monkeypatch, capsys, *, only: str = "", **names) -> tuple[str, dict]:
    """Runs the imports and the cells that contain a word; what they show, and what they glue."""
    display = pytest.importorskip("IPython.display")
    shown: list[str] = []
    monkeypatch.setattr(
        display, "display", lambda *items: shown.extend(getattr(i, "data", "") for i in items)
    )
    monkeypatch.chdir(folder)
    cells = json.loads((BOOK / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    code = ["".join(cell["source"]) for cell in code if "setup" not in cell["metadata"].get("tags", [])]
    glued: dict[str, object] = {}
    space = {"full": False, **names}
    exec(code[0], space)
    space["glue"] = lambda name, value, display=False: glued.setdefault(name, value)
    for source in code[1:]:
        if only in source:
            exec(source, space)
    return "\n".join([*shown, capsys.readouterr().out]), glued


def test_without_records_the_results_page_says_so_and_how(tmp_path, monkeypatch, capsys):
    """A notebook opened in Colab has no folder of results beside it."""
    text, _ = page("results", tmp_path, monkeypatch, capsys)
    assert "training runs: 0; tables of measurements: 0" in text and "There are no records here." in text
    parser = cli.build_parser()
    scripts = re.findall(r"^python (benchmarks/\w+\.py)", text, re.M)
    commands = re.findall(r"^resnet-tutorial (.+)$", text, re.M)
    assert len(commands) >= 10 and len(scripts) >= 5
    for command in commands:
        arguments = parser.parse_args(shlex.split(command))
        assert arguments.record == Path("book/results") and arguments.data == "cifar10"
    assert all((ROOT / script).is_file() for script in scripts)


def test_the_results_page_asks_for_one_short_schedule_of_plain_and_residual_networks(
    tmp_path, monkeypatch, capsys
):
    """A request that the matching of records does not understand stays on the page for ever."""

    def wanted() -> set[str]:
        text, _ = page("results", tmp_path, monkeypatch, capsys)
        return set(re.findall(r"^resnet-tutorial .* --model (\w+) --recipe paper --epochs 3 ", text, re.M))

    asked = {"plain20", "plain56", "resnet8", "resnet8_wide", "resnet20", "resnet56"}
    assert wanted() == asked
    (tmp_path / "results").mkdir()
    made_run(tmp_path / "results", recipe="paper", epochs=4, held_out=True)
    made_run(tmp_path / "results", recipe="paper", epochs=3)  # without a curve of validation
    assert wanted() == asked
    made_run(tmp_path / "results", recipe="paper", epochs=3, held_out=True)
    assert wanted() == asked - {"resnet20"}


def test_every_measurement_that_is_asked_for_has_a_script_that_writes_it():
    """Under another name the page would say "not yet recorded" beside the record."""
    cells = json.loads((BOOK / "results.ipynb").read_text(encoding="utf-8"))["cells"]
    (source,) = ("".join(cell["source"]) for cell in cells if "MEASUREMENTS = {" in "".join(cell["source"]))
    asked = dict(re.findall(r'^    "([\w-]+)": "(\w+\.py)', source, re.M))
    assert len(asked) >= 10
    for name, script in asked.items():
        code = (ROOT / "benchmarks" / script).read_text(encoding="utf-8")
        family = name.partition("-")[0]  # the rest may depend on the options
        assert f'name="{name}"' in code or f'name=f"{family}-{{' in code, name


def test_all_records_stand_in_one_table_with_their_commands(tmp_path, monkeypatch, capsys):
    """A reader who wants to run one again must find what to type."""
    (tmp_path / "results").mkdir()
    all_records(tmp_path / "results")
    text, _ = page("results", tmp_path, monkeypatch, capsys)
    lines = iter(text.split("| record |")[1].splitlines()[2:])
    cells = [line.strip("| ").split(" | ") for line in takewhile(lambda line: line.endswith("` |"), lines)]
    rows = {row[0]: row for row in cells}
    runs, tables = load_all(tmp_path / "results")
    for record in (*runs, *tables):
        assert rows[record.name][-1] == f"`{record.command}`"
    assert rows["resnet20-modern-epochs30-s0"][1:4] == ["62.50", "47.03 to 75.78", "90.0 s"]
    assert rows["processes-cpu"][1:5] == ["-", "-", "-", "torch 9.8.7, threads: 3"]
    assert len(rows) == len(runs) + len(tables) == 6


def test_the_results_page_shows_what_the_records_say(tmp_path, monkeypatch, capsys):
    """Rows, means, times and commands; and what is recorded is no longer asked for."""
    (tmp_path / "results").mkdir()
    all_records(tmp_path / "results")
    text, _ = page("results", tmp_path, monkeypatch, capsys)
    assert "training runs: 4; tables of measurements: 2" in text
    assert "| resnet20 | 62.50 | modern, epochs 30 | 50,000 | 1 | 81.25 | 0.36 | 90.0 s (3) | A |" in text
    assert "| resnet8_wide | 60.00 ± 10.00 | cpu | 50,000 | 3 | 81.25 | 0.07 | 91.0 s (3) | A |" in text
    assert "| resnet20 | 8.75 | 37.50 | modern, epochs 30 | 50,000 | 1 | float32 |" in text
    assert "| resnet32 | 7.51" not in text and "not yet recorded" not in text  # one list, of what is wanted
    assert "The paper's own schedule has not been run to its end yet." in text
    assert "Title of throughput-cpu" in text and "A note of the test." in text and "88.8" in text
    assert "resnet-tutorial train --seed 2" in text
    wanted = [line for line in text.splitlines() if "--val-fraction 0" in line]
    assert wanted and not any("resnet8_wide" in line or "--epochs 30" in line for line in wanted)


def test_a_table_of_measurements_has_even_decimals_true_minus_signs_and_a_short_note(
    tmp_path, monkeypatch, capsys
):
    """60.0 beside 59.02 or a hyphen for a minus; a note cut, or a busy machine kept back."""
    (tmp_path / "results").mkdir()
    table = made_table(tmp_path / "results", "ablations", ["a", "b"], [[60.0, -13.7], [59.02, "-"]])
    notes = [
        "Seeds: 3. Load average before the start: 1.65.",
        "To the base.",
        "Of an earlier, interrupted call: 60 of the runs.",
    ]
    dataclasses.replace(table, notes=notes).save(tmp_path / "results")
    text, _ = page("results", tmp_path, monkeypatch, capsys)
    assert "| 60.00 | \N{MINUS SIGN}13.7 |" in text and "| 59.02 | - |" in text
    assert f"{' '.join(notes)} Threads: 3" in text


def test_a_run_on_fewer_classes_is_listed_and_compared_with_none(tmp_path, monkeypatch, capsys):
    """Six classes are easier than ten: beside the paper such a run would look better than it is."""
    (tmp_path / "results").mkdir()
    made_run(tmp_path / "results", epochs=30, right=25)
    made_run(tmp_path / "results", epochs=40, right=39, data="cifar10, 6 classes")
    text, _ = page("results", tmp_path, monkeypatch, capsys)
    assert "| resnet20-modern-s0 | 97.50 |" in text
    assert "| resnet20 | 97.50 | modern | 50,000 (cifar10, 6 classes) | 1 |" in text
    assert "| 37.50 |" in text and "| 2.50 |" not in text  # beside the paper
    assert "\nresnet20-modern-epochs30-s0\n" in text  # the best of those with ten classes
    assert "--model resnet20 --recipe modern --val-fraction 0 --seed 0 " in text  # still wanted


def test_a_changed_record_changes_the_results_page(tmp_path, monkeypatch, capsys):
    """A page that keeps an old number looks exactly like one that is right."""
    (tmp_path / "results").mkdir()
    made_run(tmp_path / "results", epochs=30, right=25)
    before, _ = page("results", tmp_path, monkeypatch, capsys)
    made_run(tmp_path / "results", epochs=30, right=26)
    after, _ = page("results", tmp_path, monkeypatch, capsys)
    assert "| 62.50 |" in before and "| 65.00 |" not in before
    assert "| 65.00 |" in after and "| 62.50 |" not in after


def test_a_run_of_a_busy_machine_is_shown_without_a_time(tmp_path, monkeypatch, capsys):
    """Its accuracy counts, its seconds do not, and no page may stumble over their absence."""
    (tmp_path / "results").mkdir()
    all_records(tmp_path / "results")
    made_run(tmp_path / "results", model="resnet32", epochs=30, right=30, timed=False)
    made_run(tmp_path / "results", model="resnet32", epochs=3, right=30, timed=False, held_out=True)
    made_run(tmp_path / "results", model="resnet8_wide", recipe="cpu", seed=3, right=24, timed=False)
    text, _ = page("results", tmp_path, monkeypatch, capsys)
    assert "| resnet32 | 75.00 | modern, epochs 30 | 50,000 | 1 | 81.25 | 0.62 | not timed | A |" in text
    page("03_building_resnet", tmp_path, monkeypatch, capsys, only="recorded run")
    made_run(tmp_path / "results", epochs=3, right=30, timed=False)
    text, _ = page("04_training_on_gpu", tmp_path, monkeypatch, capsys, only="recorded", **LIVE)
    assert "| resnet20 | 75.00 | modern, epochs 3 | 50,000 | 1 | 81.25 | 0.04 | - fp32 A (3) |" in text
    assert re.search(r"\| resnet8_wide \| 60\.00[^|]*\| cpu \| 50,000 \| 4 \|", text)
    assert "| 2 fp32 A (3) |" in text  # of the three timed


def test_a_damaged_record_stops_the_results_page(tmp_path, monkeypatch, capsys):
    (tmp_path / "results").mkdir()
    run = made_run(tmp_path / "results", epochs=30)
    (tmp_path / "results" / f"{run.name}.npz").write_bytes(b"not what was recorded")
    with pytest.raises(ValueError, match="is not the file that was recorded"):
        page("results", tmp_path, monkeypatch, capsys)


def degradation(folder: Path, *, epochs: int, right: dict[str, int]) -> None:
    for model, number in right.items():
        made_run(folder, model=model, recipe="paper", epochs=epochs, right=number, held_out=True)


def test_chapter_1_opens_with_the_longest_schedule_that_all_four_networks_have(tmp_path, monkeypatch, capsys):
    """Two networks with 30 epochs must not hide four with 3, nor may another machine hide a run."""
    results = tmp_path / "results"
    results.mkdir()
    degradation(results, epochs=3, right={"plain20": 20, "plain56": 10, "resnet20": 24, "resnet56": 26})
    degradation(results, epochs=9, right={"plain20": 39, "resnet20": 38})
    held_out = results / "plain56-paper-epochs3-val5000-s0.json"
    record = json.loads(held_out.read_text(encoding="utf-8"))
    record["history"][-1]["val_accuracy"] = 0.38
    held_out.write_text(json.dumps(record), encoding="utf-8")
    titles: list[str] = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.suptitle", lambda figure, text, **style: titles.append(text)
    )
    text, _ = page("01_background", tmp_path, monkeypatch, capsys, only="recorded run")
    assert titles == ["recorded run: paper, epochs 3, seed 0"]
    minus = "\N{MINUS SIGN}"
    assert f"| paper, epochs 3, seed 0 | +25.0 | {minus}5.0 |" in text
    assert "| paper, epochs 3, seed 0 | 50.0/50.0 | 75.0/62.0 | 40.0/40.0 | 35.0/35.0 |" in text
    assert "| paper, epochs 9, seed 0 | 2.5/2.5 | - | 5.0/5.0 | - |" in text
    assert "| plain56 | 75.0 % | 59.8 to 85.8 % | paper, epochs 3, seed 0 | 1 | a test CPU |" in text
    degradation(results, epochs=9, right={"plain56": 37})
    text, _ = page("01_background", tmp_path, monkeypatch, capsys, only="recorded run")
    assert "| paper, epochs 9, seed 0 | +5.0 |  |" in text
    degradation(results, epochs=9, right={"resnet56": 40})
    another = results / "plain20-paper-epochs9-val5000-s0.json"
    another.write_text(another.read_text(encoding="utf-8").replace("a test CPU", "a GPU"), encoding="utf-8")
    text, _ = page("01_background", tmp_path, monkeypatch, capsys, only="recorded run")
    assert titles[1:] == [titles[0], "recorded run: paper, epochs 9, seed 0\none of 2 schedules"]
    assert text.index("epochs 9,") < text.index("epochs 3,")
    assert f"| +5.0 | {minus}5.0 |" in text and "| 1 | a GPU |" in text


def test_chapter_1_stops_the_build_where_its_puzzle_is_none(tmp_path, monkeypatch, capsys):
    """The text says that the deeper plain network is the worse one: a record may say something else."""
    (tmp_path / "results").mkdir()
    right = {"plain20": 20, "plain56": 21, "resnet20": 24, "resnet56": 26}
    degradation(tmp_path / "results", epochs=3, right=right)
    monkeypatch.setenv("RESNET_TUTORIAL_STRICT", "1")
    with pytest.raises(AssertionError, match="the deeper plain network is the worse one"):
        page("01_background", tmp_path, monkeypatch, capsys, only="recorded run")


def test_chapter_1_runs_without_records(tmp_path, monkeypatch, capsys):
    """A notebook opened in Colab has no folder of results beside it."""
    text, glued = page("01_background", tmp_path, monkeypatch, capsys, only="recorded run")
    assert text.count("There are no records here.") == 2 and glued == {}


def chapter_3(folder: Path, monkeypatch, capsys) -> str:
    """What the cells of records show."""
    tables: list[str] = []
    monkeypatch.setattr("IPython.display.Markdown", lambda text: tables.append(text) or text)
    text, _ = page("03_building_resnet", folder, monkeypatch, capsys, only="recorded runs")
    return "\n".join([*tables, text])


def test_chapter_3_compares_recorded_networks(tmp_path, monkeypatch, capsys):
    """All timed runs of the machine that has most of them, and what the ablations say of the stem."""
    results = tmp_path / "results"
    results.mkdir()
    degradation(results, epochs=3, right={"resnet8": 20, "resnet20": 24, "resnet56": 26, "plain20": 20})
    made_run(results, epochs=30, right=36)
    made_run(results, model="resnet32", epochs=30, right=30, timed=False)
    another = results / "resnet56-paper-epochs3-val5000-s0.json"
    another.write_text(another.read_text(encoding="utf-8").replace("a test CPU", "a GPU"), encoding="utf-8")
    rows = [["base", "nothing", 50.5, 0.5, "-", "-"], ["stem-7x7", "another stem", 40.25, 0.75, -10.25, 0.5]]
    made_table(results, "ablations", ABLATIONS, rows)
    named: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.annotate", lambda axes, text, at, **style: named.append(text))
    text = chapter_3(tmp_path, monkeypatch, capsys)
    assert "A note of the test." in text and "| ImageNet | 40.2 ± 0.8 | 3.1 M |" in text
    assert sorted(named) == ["20", "20", "8"]
    assert "| resnet20 | 90.0 | 1.5 on 3 | 1 | modern, epochs 30 | 50,000 |" in text
    assert "device of all rows: a test CPU" in text
    assert "a GPU" not in text and "resnet32" not in text and "plain20" not in text


def test_chapter_3_shows_every_table_that_it_makes():
    """`table` returns what Jupyter shows only if it comes last in its cell."""
    cells = json.loads((BOOK / "03_building_resnet.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    called = 0
    for source in (source for source in code if "table(" in source):
        *before, last = ast.parse(source).body
        assert not any(ast.unparse(statement).startswith("table(") for statement in before), source
        called += ast.unparse(last).startswith("table(")
    assert called >= 5


def test_chapter_3_runs_without_records(tmp_path, monkeypatch, capsys):
    """A notebook opened in Colab has no folder of results beside it."""
    text = chapter_3(tmp_path, monkeypatch, capsys)
    assert text.count("there are no records here") == 2


def test_chapter_2_shows_the_ablations_that_it_is_about(tmp_path, monkeypatch, capsys):
    """A record of another part of the recipe has nothing to do with the block."""
    text, _ = page("02_block_math", tmp_path, monkeypatch, capsys, only="recorded ablations")
    assert text.count("There are no records here.") == 1
    results = tmp_path / "results"
    results.mkdir()
    rows = [["base", "nothing", 50.5, 0.5, "-", "-"], ["no-decay", "no decay", 49.0, 0.1, -1.5, 0.1]]
    rows += [["no-shortcut", "no shortcut", 40.25, 0.75, -10.25, 0.5]]
    table = made_table(results, "ablations", ABLATIONS, rows)
    dataclasses.replace(table, notes=["Last epoch; seeds: 4. Load average before the start: 1.25."]).save(
        results
    )
    degradation(results, epochs=3, right={"plain20": 10, "resnet20": 24})
    degradation(results, epochs=9, right={"plain20": 20})
    text, _ = page("02_block_math", tmp_path, monkeypatch, capsys, only="recorded ablations")
    assert "no shortcuts | 40.2 ± 0.8 | short | 4 |" in text and "49.0" not in text
    assert "| plain20 | 25.0 | paper, epochs 3, 45,000 images | 1 | a test CPU |" in text


def test_chapter_7_shows_the_ablations(tmp_path, monkeypatch, capsys):
    live = {"RESULTS": Path("results")}
    monkeypatch.delenv("RESNET_TUTORIAL_STRICT", raising=False)  # other numbers than the text's, on purpose
    page("07_pitfalls", tmp_path, monkeypatch, capsys, only="ablations", **live)
    (tmp_path / "results").mkdir()
    rows = [["base", "nothing", 50.5, 0.5, "-", "-"], ["no-decay", "no decay", 49.0, 0.1, -1.5, 0.1]]
    rows += [["best-epoch", "the best epoch", 51.5, 0.5, 1.0, 0.1]]
    made_table(tmp_path / "results", "ablations", ABLATIONS, rows)
    text, _ = page("07_pitfalls", tmp_path, monkeypatch, capsys, only="ablations", **live)
    expected = "recorded, best epoch: accuracy 51.5, sd 0.5\ndifference in points: 1.0, sd 0.1"
    assert expected in text and "A note of the test." in text and "no decay" not in text


LIVE = {
    "run_label": "quick run",
    "first_history": History([dict.fromkeys(("train_loss", "val_loss"), 1.0) | {"epoch": 1}]),
}
for part in ("train_accuracy", "val_accuracy"):
    LIVE["first_history"].rows[0][part] = 0.5


def test_chapter_4_shows_the_records(tmp_path, monkeypatch, capsys):
    """Its tables, and the two recipes of its first figure."""
    (tmp_path / "results").mkdir()
    all_records(tmp_path / "results")
    made_run(tmp_path / "results", recipe="paper", epochs=30, right=23, held_out=True)
    text, _ = page("04_training_on_gpu", tmp_path, monkeypatch, capsys, only="recorded", **LIVE)
    assert "| resnet20 | 62.50 | modern, epochs 30 | 50,000 | 1 | 81.25 | 0.36 | 2 fp32 A (3) |" in text
    assert "| resnet8_wide | 60.00 ± 10.00 | cpu | 50,000 | 3 |" in text
    assert "machine and cores. A: a test CPU\n" in text
    compared = "resnet20, 30 passes: recipe modern against paper (50,000 images against 45,000)"
    assert f"| {compared} | +5.0 points | 1 |" in text
    assert "beside that of one process (sample, recipe quick) | apart by 4.0 % at most | 1 |" in text


def test_chapter_4_judges_the_ablations_by_their_seeds(tmp_path, monkeypatch, capsys):
    """A difference that three seeds do not settle, or one of many tests, sold as an effect."""
    (tmp_path / "results").mkdir()
    rows = [["base", "nothing", 50.0, 1.0, "-", "-"], ["best-epoch", "no change", 50.0, 1.0, 0.0, 0.0]]
    # t = 5 sqrt(3) / 2.013 = 4.303 is Student's 5 % for 3 seeds; Holm doubles the smaller of two.
    rows += [["ema", "an average", 45.0, 1.0, -5.0, 2.013], ["cutout", "squares", 45.0, 1.0, -5.0, 10.0]]
    table = made_table(tmp_path / "results", "ablations", ABLATIONS, rows)
    notes = ["Last epoch; seeds: 3. Load average before the start: 1.25.", "To the base."]
    dataclasses.replace(table, notes=notes).save(tmp_path / "results")
    text, _ = page("04_training_on_gpu", tmp_path, monkeypatch, capsys, only="recorded", **LIVE)
    assert "| nothing | 50.0 |" in text and "no change" not in text
    minus = "\N{MINUS SIGN}"
    assert f"| an average | 45.0 | {minus}5.0 ± 2.0 | 0.050 | 0.100 |" in text
    assert f"| cutout: squares | 45.0 | {minus}5.0 ± 10.0 | 0.478 | 0.478 |" in text
    assert " ".join(notes) in text
    rows = [["base", "nothing", 50.0, "-", "-", "-"], ["ema", "an average", 45.0, "-", -5.0, "-"]]
    one = dataclasses.replace(table, rows=rows, notes=["Last epoch; seeds: 1.", "To the base."])
    one.save(tmp_path / "results")
    text, _ = page("04_training_on_gpu", tmp_path, monkeypatch, capsys, only="recorded", **LIVE)
    assert f"| an average | 45.0 | {minus}5.0 |  |  |" in text


def test_chapter_4_without_records_says_so(tmp_path, monkeypatch, capsys):
    """A notebook opened in Colab has no folder of results beside it."""
    text, _ = page("04_training_on_gpu", tmp_path, monkeypatch, capsys, only="recorded", **LIVE)
    assert text.count("There are no records here.") == 4 and "| --:" not in text


def test_chapter_5_shows_the_records(tmp_path, monkeypatch, capsys):
    """Means and deviations over seeds, and a verdict in pairs that follows from the rows."""
    (tmp_path / "results").mkdir()
    columns = ["method", "images a class", "seed", "test accuracy (%)", "training (s)"]
    reached = {"linear probe": (61.0, 62.0, 63.0), "full": (71.5, 71.75, 74.75), "from scratch": (40, 41, 42)}
    rows = [[method, 5, seed, x, 1.0] for method, got in reached.items() for seed, x in enumerate(got)]
    made_table(tmp_path / "results", "finetuning-classes", columns, rows)
    columns = ["learned from", "images", "seed", "clean (%)", "JPEG 10 (%)"]
    rows = [["nothing", 0, "-", 90.0, 40.0]]
    rows += [["JPEG 10", 200, seed, 80.0 + seed, 60.0] for seed in range(2)]
    made_table(tmp_path / "results", "finetuning-jpeg", columns, rows)

    text, _ = page("05_fine_tuning", tmp_path, monkeypatch, capsys, only="recorded")
    assert "| linear probe | 62.0 ± 1.0 |" in text and "| full | 72.7 ± 1.8 |" in text
    assert "| 5 | full minus linear probe | +10.7 ± 0.6 | 0.003 |" in text
    assert "| 5 | full minus from scratch | +31.7 ± 0.6 | < 0.001 |" in text
    assert "| nothing | 0 | 90.0 | 40.0 |" in text and "| JPEG 10 | 200 | 80.5 ± 0.7 | 60.0 ± 0.0 |" in text
    assert "| vehicles, 5 a class: full minus from scratch | +31.7 ± 0.6 | 3 |" in text
    assert "| JPEG 10: after 200 images of JPEG 10, minus before | +20.0 ± 0.0 | 2 |" in text


def test_chapter_5_without_records_says_so(tmp_path, monkeypatch, capsys):
    """A notebook opened in Colab has no folder of results beside it."""
    text, _ = page("05_fine_tuning", tmp_path, monkeypatch, capsys, only="recorded")
    assert text.count("There are no records here.") == 3 and "| --:" not in text


def chapter_6(tmp_path, monkeypatch, capsys) -> str:
    """The cells of chapter 6 that compare networks, with four images of each class."""
    few = load_sample()[1].per_class(4)
    monkeypatch.setattr("resnet_tutorial.data.load_sample", lambda: (None, few))
    monkeypatch.delenv("RESNET_TUTORIAL_STRICT", raising=False)  # other numbers than the text's, on purpose
    live = {"ece": lambda *values: 0.25, "ece_by_chance": lambda sure: (0.0, 0.125), "limit": 0.125}
    live |= {
        "wilson": lambda right, n: wilson_interval(round(right), n),
        "recipe": {},
        "boot": [(0, 1)] * 2,
        "low": 0.7,
        "high": 1.0,
        "at_90": 0.5,
    }
    return page("06_evaluation", tmp_path, monkeypatch, capsys, only="networks", **live)[0]


def test_chapter_6_shows_the_records(tmp_path, monkeypatch, capsys):
    """Each network on the same images, the pairs, and the ensemble of the runs that differ in their seed."""
    (tmp_path / "results").mkdir()
    all_records(tmp_path / "results")
    text = chapter_6(tmp_path, monkeypatch, capsys)
    assert "| resnet8_wide alone | 60.00 |" in text and "| 3 averaged | 60.00 |" in text
    assert "| alone, with mirror image | 81.25 | - | - |" in text and "| resnet20 alone |" not in text
    assert "| resnet8_wide-cpu-s0 | 0.1 |" in text and "| your network | 0 |" in text  # label smoothing
    # 20, 24 and 28 of the 40 images are right, always the first ones.
    assert "| first | your network | resnet8_wide-cpu-s0 |" in text
    assert re.search(r"\| second minus first \| [\u2212+.\d]+ points \| \+10.00 points \|", text)
    assert re.search(r"\| right only in one: b and c \| \d+ and \d+ \| 0 and 4 \|", text)


def test_chapter_6_without_records_says_so(tmp_path, monkeypatch, capsys):
    """A notebook opened in Colab has no folder of results beside it."""
    text = chapter_6(tmp_path, monkeypatch, capsys)
    assert text.count("needs the folder of recorded runs") == 2
    assert "| your network | 0 |" in text and "| accuracy, single view |" in text


if __name__ == "__main__":
    print(readme_table(load_all(RESULTS)[0]))
