"""The shipped networks: that they load, name their classes, and know something."""

from __future__ import annotations

import pytest
import torch

from resnet_tutorial import data, evaluate, models, weights


@pytest.mark.parametrize(("name", "at_least"), [("cifar10", 0.75), ("animals", 0.70)])
def test_shipped_networks_recognise_the_sample_test_images(name, at_least):
    """A wrong file, class order or normalisation would bring the accuracy down to chance."""
    model, metadata = models.load_model(models.shipped("resnet20", name))
    _, test = data.load_sample()
    test = test.with_classes(metadata["classes"]).per_class(40)
    _, accuracy = evaluate.loss_and_accuracy(model, test)
    assert accuracy >= at_least


def test_shipped_weights_load_by_name_into_a_network_of_their_own_shape():
    ten = models.resnet20(weights="cifar10")
    six = models.resnet20(weights="animals", num_classes=6)
    assert ten.fc.out_features == 10
    assert six.fc.out_features == 6
    assert not torch.equal(ten.conv1.weight, six.conv1.weight)
    with pytest.raises(ValueError, match=r"shipped: .*cifar10"):
        models.resnet20(weights="imagenet")


def test_a_changed_file_is_refused(monkeypatch, tmp_path):
    """One flipped bit in a weight would go unnoticed without the hash."""
    original = models.shipped("resnet20", "cifar10")
    content = bytearray(original.read_bytes())
    content[-1] ^= 1
    (tmp_path / original.name).write_bytes(content)
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    with pytest.raises(ValueError, match="not the file that was shipped"):
        models.resnet20(weights="cifar10")
