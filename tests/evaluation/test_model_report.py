"""The model report: a page that is complete, says what the metrics say, and loads nothing from outside."""

from __future__ import annotations

import base64
import errno
import itertools
import json
import os
import re
from contextlib import contextmanager
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from resnet_tutorial import cli, files
from resnet_tutorial.data import load_sample
from resnet_tutorial.evaluation import Predictions, model_report, report, write_report


@pytest.fixture
def split():
    return load_sample()[1].per_class(3)


def predictions(split, *, scale: float = 1.0) -> Predictions:
    logits = np.random.default_rng(0).normal(size=(len(split), 10)) * scale
    logits[np.arange(len(split)), split.labels.numpy()] += 1.5
    return Predictions(logits, split.labels.numpy(), split.classes)


def test_the_page_has_the_numbers_and_every_picture_and_can_be_sent_alone(split, tmp_path):
    made = predictions(split)
    page = write_report(tmp_path / "out", made, split, title="A <model>", about={"weights": "a & b"})
    text = page.read_text(encoding="utf-8")
    result = report(made)
    assert "A &lt;model&gt;" in text and "a &amp; b" in text
    assert f"{result.accuracy:.2%}" in text
    for name, value in zip(split.classes, result.f1, strict=True):
        assert re.search(rf"<td>{name}</td>.*<td>{value:.4f}</td>", text)
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="[^"]{20,}">', text)
    for name, shown in zip(model_report.FIGURES, pictures, strict=True):
        content = (page.parent / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG") and base64.b64decode(shown) == content
    assert not re.search(r"https?://|<script|@import", text)
    content = json.loads((page.parent / "report.json").read_text(encoding="utf-8"))
    assert content["metrics"] == result.to_dict()
    assert content["about"] == {"weights": "a & b"}


def test_without_mistakes_there_is_no_page_of_them(split, tmp_path):
    page = write_report(tmp_path, predictions(split, scale=0.0), split, title="t", about={})
    assert "mistakes" not in page.read_text()
    assert not (tmp_path / "mistakes.png").exists()


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def earlier(tmp_path, monkeypatch) -> dict[str, bytes]:
    """The files of an earlier report; the new one has small figures, which are drawn at once."""
    names = [f"{name}.png" for name in model_report.FIGURES]
    for name in (*names, "report.json", "index.html"):
        (tmp_path / name).write_text("earlier")
    small = [(name, name, name, plt.figure(figsize=(1, 1))) for name in model_report.FIGURES]
    monkeypatch.setattr(model_report, "_figures", lambda *_: small)
    return contents(tmp_path)


@pytest.mark.parametrize("last", range(7))
def test_a_disk_that_fills_up_leaves_the_earlier_report_whole(split, tmp_path, monkeypatch, earlier, last):
    """The earlier page stood above figures of the new report."""
    times = itertools.count()

    @contextmanager
    def filling(path, **options):
        with files.atomic(path, **options) as file:
            if next(times) == last:
                raise OSError(errno.ENOSPC, "No space left on device")
            yield file

    monkeypatch.setattr(model_report, "atomic", filling)
    with pytest.raises(ValueError, match=r"^cannot write .*(png|json|html): No space left on device$"):
        write_report(tmp_path, predictions(split), split, title="new", about={})
    assert contents(tmp_path) == earlier


@pytest.mark.parametrize("last", range(7))
def test_the_page_takes_its_name_after_all_that_it_shows(split, tmp_path, monkeypatch, earlier, last):
    """A new page above figures of the earlier report; a failure that does not say which file it met."""
    times, rename = itertools.count(), os.replace

    def failing(source, target):
        if next(times) == last:
            raise OSError(errno.EIO, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(files.os, "replace", failing)
    with pytest.raises(ValueError, match=r"^cannot write .*(png|json|html): Input/output error$"):
        write_report(tmp_path, predictions(split), split, title="new", about={})
    after = contents(tmp_path)
    assert after.keys() == earlier.keys() and after["index.html"] == earlier["index.html"]
    assert sum(after[name] != earlier[name] for name in earlier) == last


def test_figures_that_the_new_report_lacks_are_gone(split, tmp_path):
    """Mistakes of an earlier network lay beside a page that knows none; a file of the reader's stays."""
    perfect = predictions(split, scale=0.0)
    (tmp_path / "mistakes.png").write_text("mine")
    write_report(tmp_path, perfect, split, title="t", about={})
    assert (tmp_path / "mistakes.png").read_text() == "mine"
    write_report(tmp_path, predictions(split), split, title="t", about={})
    write_report(tmp_path, perfect, split, title="t", about={})
    assert len(contents(tmp_path)) == 6 and not (tmp_path / "mistakes.png").exists()


def test_one_class_alone_has_no_curves(split, tmp_path):
    """ROC needs both kinds of image; a folder of one class must still give a report."""
    cats = split.with_classes(["cat"])
    made = Predictions(np.zeros((len(cats), 1)), cats.labels.numpy(), cats.classes)
    text = write_report(tmp_path, made, cats, title="t", about={}).read_text()
    assert "undefined" in text and "roc.png" not in text


def test_odd_names_and_many_classes_give_a_whole_page(split, tmp_path):
    """A class folder whose name is no text ends the report after the training; NaN that is not JSON."""
    names = ("a\udcff", "$x$", *(f"_{k}" for k in range(98)))
    split = replace(split, classes=names)
    logits = np.random.default_rng(0).normal(size=(len(split), 100))
    made = Predictions(logits, split.labels.numpy(), names)
    page = write_report(tmp_path, made, split, title="t", about={})
    assert "$x$" in page.read_text(encoding="utf-8")
    content = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert content["metrics"]["auc"][50] is None
    with pytest.raises(ValueError, match="about 'loss' is nan"):
        write_report(tmp_path / "new", made, split, title="t", about={"loss": float("nan")})
    assert not (tmp_path / "new").exists()


def test_predictions_of_other_images_are_refused(split, tmp_path):
    other = split.subset(range(len(split) - 1, -1, -1))
    with pytest.raises(ValueError, match="their labels differ"):
        write_report(tmp_path, predictions(split), other, title="t", about={})
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_writes_it(tmp_path, monkeypatch, capsys):
    test = load_sample()[1].per_class(2)
    monkeypatch.setattr(cli.commands.data, "load_sample", lambda: (None, test))
    assert cli.main(["evaluate", "cifar10", "--report", str(tmp_path / "out"), "--device", "cpu"]) == 0
    assert "index.html" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.json").exists()
