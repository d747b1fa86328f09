"""The shipped networks: that they load, name their classes, and know something."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from resnet_tutorial import data, evaluation, models
from resnet_tutorial.models import weights
from resnet_tutorial.records import Run

RESULTS = Path(__file__).parents[2] / "book" / "results"
RECORD = "resnet20-modern-epochs30-s0"
FULL_DATA = os.environ.get("RESNET_TUTORIAL_DATA")  # before a fixture hides it from the tests


@pytest.mark.parametrize(("name", "at_least"), [("cifar10", 0.85), ("animals", 0.85)])
def test_shipped_networks_recognise_the_sample_test_images(name, at_least):
    """A wrong file, class order or normalisation would bring the accuracy down to chance."""
    model, metadata = models.load_model(models.shipped("resnet20", name))
    _, test = data.load_sample()
    test = test.with_classes(metadata["classes"]).per_class(40)
    _, accuracy = evaluation.loss_and_accuracy(model, test)
    assert accuracy >= at_least


def test_shipped_weights_load_by_name_into_a_network_of_their_own_shape():
    ten = models.resnet20(weights="cifar10")
    six = models.resnet20(weights="animals", num_classes=6)
    assert ten.fc.out_features == 10
    assert six.fc.out_features == 6
    assert not torch.equal(ten.conv1.weight, six.conv1.weight)
    with pytest.raises(ValueError, match=r"shipped: .*cifar10"):
        models.resnet20(weights="flowers")


def test_a_changed_file_is_refused(monkeypatch, tmp_path):
    """One flipped bit in a weight would go unnoticed without the hash."""
    original = models.shipped("resnet20", "cifar10")
    content = bytearray(original.read_bytes())
    content[-1] ^= 1
    (tmp_path / original.name).write_bytes(content)
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    with pytest.raises(ValueError, match="not the file that was shipped"):
        models.resnet20(weights="cifar10")


def test_the_shipped_network_says_what_was_recorded():
    """The file, the sample and the record must be of one run: logits agree, not just an accuracy."""
    recorded = Run.load(RESULTS / f"{RECORD}.json").predictions(RESULTS)
    # The sample holds the first test images of each class, in the order of the full test set.
    _, sample = data.load_sample()
    of_class = int(sample.counts()[0])
    rank = np.array([np.sum(recorded.labels[:i] == k) for i, k in enumerate(recorded.labels)])
    chosen = rank < of_class
    assert (recorded.labels[chosen] == sample.labels.numpy()).all()
    live = evaluation.predict(models.resnet20(weights="cifar10"), sample)
    np.testing.assert_allclose(live.logits, recorded.logits[chosen], atol=0.02, rtol=0.01)
    assert live.correct.mean() == pytest.approx(recorded.correct[chosen].mean(), abs=0.002)


@pytest.mark.slow
def test_the_shipped_network_reaches_its_recorded_accuracy_on_all_test_images(monkeypatch):
    if FULL_DATA is not None:
        monkeypatch.setenv("RESNET_TUTORIAL_DATA", FULL_DATA)
    else:
        monkeypatch.delenv("RESNET_TUTORIAL_DATA")
    try:
        _, test = data.load_cifar10()
    except FileNotFoundError:
        pytest.skip("all of CIFAR-10 is not on the disk")
    recorded = Run.load(RESULTS / f"{RECORD}.json")
    live = evaluation.predict(models.resnet20(weights="cifar10"), test)
    assert live.correct.mean() == pytest.approx(recorded.test["accuracy"], abs=2e-4)  # float16 may turn ties


def test_the_model_card_has_the_recorded_numbers():
    card = (models.shipped("resnet20", "cifar10").parent / "weights.md").read_text(encoding="utf-8")
    test = Run.load(RESULTS / f"{RECORD}.json").test
    assert RECORD in card
    for name in ("accuracy", "accuracy_flip"):
        assert f"{100 * test[name]:.2f} %" in card
