"""A report on photos: temperature, balanced accuracy, classes never predicted, files, names in any script."""

from __future__ import annotations

import warnings

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from resnet_tutorial.data import Split
from resnet_tutorial.evaluation import Predictions, fit_temperature, report, write_report
from resnet_tutorial.plotting import fonts_for


def test_the_temperature_makes_probabilities_honest():
    """A network that is 98 % sure and right in three of four cases."""
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 6, (4000, 3))
    labels = np.array(
        [rng.choice(3, p=p / p.sum()) for p in np.exp(logits / 4 - (logits / 4).max(1)[:, None])]
    )
    predictions = Predictions(logits, labels, ("a", "b", "c"))
    assert fit_temperature(predictions) == pytest.approx(4, rel=0.1)
    cooler = predictions.tempered(fit_temperature(predictions))
    assert report(cooler).ece < 0.03 < report(predictions).ece
    assert np.array_equal(cooler.predicted, predictions.predicted)


def test_images_that_cannot_tell_leave_it_at_one():
    """All right on a few validation photos: the best temperature is zero, and every answer 100 %."""
    right = Predictions(np.eye(2)[[0, 1] * 20] * 3, [0, 1] * 20, ("a", "b"))
    few = Predictions(np.eye(2)[[0, 1] * 5] * 3, [0, 0] * 5, ("a", "b"))
    assert fit_temperature(right) == fit_temperature(few) == 1.0


@pytest.fixture
def pets() -> tuple[Predictions, Split]:
    """Three classes, one of which is never predicted."""
    labels = torch.tensor([0, 0, 0, 1, 2, 2])
    logits = np.eye(3)[[0, 0, 0, 1, 0, 1]] * 2
    names = tuple(f"{'abc'[k]}/{i}.png" for i, k in enumerate(labels.tolist()))
    images = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
    classes = ("cat", "dog", "n<ewt")
    return Predictions(logits, labels.numpy(), classes), Split(images, labels, classes, "pets", names)


def test_what_a_rare_class_suffers_is_said(pets, tmp_path):
    """67 % right, and nobody sees that one class is never found."""
    predictions, split = pets
    result = report(predictions)
    assert result.never_predicted == ("n<ewt",)
    assert "balanced  0.6667" in str(result) and "never predicted, though it occurs: n<ewt" in str(result)
    page = write_report(tmp_path, predictions, split, title="Pets", about={}).read_text()
    assert "Never predicted, though among the images: n&lt;ewt." in page and "Wrong predictions: 2" in page
    assert "c/4.png" in page and "c/5.png" in page and "a/0.png" not in page
    rest = split.subset(split.labels < 2)
    found = Predictions(predictions.logits[:4], predictions.labels[:4], predictions.classes)
    assert "ever predicted" not in write_report(tmp_path, found, rest, title="Pets", about={}).read_text()


def test_a_hundred_classes_have_a_report(tmp_path):
    """Names over names, and a legend that is cut off."""
    labels = torch.arange(200) % 100
    logits = np.random.default_rng(0).normal(size=(200, 100))
    classes = tuple(f"species {k}" for k in range(100))
    split = Split(torch.zeros(200, 3, 8, 8, dtype=torch.uint8), labels, classes, "many")
    write_report(tmp_path, Predictions(logits, labels.numpy(), classes), split, title="Many", about={})
    for name in ("roc", "confusion"):
        height, width, _ = plt.imread(tmp_path / f"{name}.png").shape
        assert max(height, width) < 2500


def test_names_in_other_scripts_have_a_font_or_one_hint(pets, tmp_path):
    """Boxes in place of Chinese names, though the system has a font, or two hundred warnings."""
    predictions, split = pets
    names = ("猫", "Hündin", "сом")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = fonts_for(names)
        told = [str(one.message) for one in caught]
        page = write_report(
            tmp_path,
            Predictions(predictions.logits, predictions.labels, names),
            Split(split.images, split.labels, names, "pets"),
            title="Haustiere",
            about={},
        )
    assert bool(found) != bool(told) and len(caught) == 2 * len(told)
    assert all("no font here has 猫: install one" in text for text in told)
    assert "猫" in page.read_text(encoding="utf-8")
    assert fonts_for(["cat", "Hündin", "сом"]) == []
