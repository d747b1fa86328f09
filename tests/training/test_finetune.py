"""Fine-tuning: what must move does, what is frozen does not."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from resnet_tutorial import models, training

NETWORKS = {
    "ours": lambda: models.cifar_resnet(8, width=4, shortcut="B"),
    "preact": lambda: models.cifar_resnet(8, width=4, block="preact"),
    "torchvision": lambda: torchvision.models.resnet18(weights=None, num_classes=10),
}
HEAD = ["fc.weight", "fc.bias"]


@pytest.fixture(params=NETWORKS)
def model(request) -> nn.Module:
    return NETWORKS[request.param]()


def _train_a_step(model: nn.Module) -> set[str]:
    """Take two real optimiser steps in train mode; return the names of all tensors that changed."""
    before = copy.deepcopy(model.state_dict())
    optimiser = torch.optim.SGD(
        training.parameter_groups(model, lr=0.5, weight_decay=1e-2), momentum=0.9, nesterov=True
    )
    model.train()
    for _ in range(2):
        optimiser.zero_grad()
        F.cross_entropy(model(torch.randn(4, 3, 16, 16)), torch.tensor([0, 1, 2, 3])).backward()
        optimiser.step()
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def _statistics(names: set[str]) -> set[str]:
    return {name for name in names if "running" in name or "tracked" in name}


def test_frozen_parameters_do_not_move_and_the_head_does(model):
    """Weight decay or momentum moving frozen weights; a head that is frozen too."""
    training.freeze_backbone(model)
    changed = _train_a_step(model)
    assert changed - _statistics(changed) == set(HEAD)


def test_statistics_drift_unless_batchnorm_is_frozen(model):
    """requires_grad=False alone leaves batch normalisation drifting; model.train() must not thaw it."""
    training.freeze_backbone(model)
    assert _statistics(_train_a_step(model)), "the trap this guards against is gone: simplify"
    training.freeze_batchnorm(model)
    model.eval()
    model.train()
    assert _statistics(_train_a_step(model)) == set()


def test_frozen_batchnorm_normalises_as_in_eval_mode():
    """Frozen statistics that are kept but not used (momentum 0) would still normalise by the batch."""
    model = NETWORKS["ours"]()
    model.train()
    with torch.no_grad():
        model(torch.randn(8, 3, 32, 32) * 3)  # statistics other than the initial 0 and 1
    x = torch.randn(4, 3, 16, 16)
    expected = model.eval()(x)
    assert not torch.allclose(copy.deepcopy(model).train()(x), expected)
    assert torch.equal(training.freeze_batchnorm(model).train()(x), expected)


def test_frozen_batchnorm_survives_copies():
    """An override kept in a closure would be lost, or act on the original, in a copy of the model."""
    model = training.freeze_batchnorm(NETWORKS["ours"]())
    names = list(model.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert list(twin.state_dict()) == names
        twin.train()
        assert twin.training and not twin.bn1.training


def test_batchnorm_of_one_stage_can_be_frozen():
    """Freezing a part must leave the rest alone."""
    model = NETWORKS["ours"]()
    training.freeze_batchnorm(model.layer1)
    drifted = _statistics(_train_a_step(model))
    assert drifted and not any(name.startswith("layer1.") for name in drifted)


@pytest.mark.parametrize("order", ["freeze first", "head first"])
def test_the_new_head_is_trainable_in_either_order(model, order):
    """Freezing after the head was replaced freezes the new head too, and nothing learns."""
    steps = [lambda: training.freeze_backbone(model), lambda: training.replace_head(model, 7)]
    for step in steps if order == "freeze first" else steps[::-1]:
        step()
    assert training.trainable(model) == HEAD
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_replacing_the_head_of_a_wholly_frozen_model(model):
    """A new head that inherits requires_grad=False."""
    model.requires_grad_(False)
    body = {name: value.clone() for name, value in model.state_dict().items() if name not in HEAD}
    assert training.replace_head(model, 3) is model
    assert training.trainable(model) == HEAD
    assert model.fc.bias.shape == (3,)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in body.items())


def test_the_new_head_keeps_type_and_config():
    """A float32 head on a float64 network fails in the forward pass; a stale config fails when saved."""
    model = training.replace_head(NETWORKS["ours"]().double(), 3)
    assert model(torch.randn(2, 3, 32, 32, dtype=torch.float64)).dtype == torch.float64
    assert model.config["num_classes"] == 3


def test_unfreeze_opens_a_stage_and_all_after_it(model):
    """Opening one stage but not the later ones, or the earlier ones too."""
    training.freeze_backbone(model)
    training.unfreeze(model, "layer3")
    opened = {name.split(".")[0] for name in training.trainable(model)}
    later = {name.split(".")[0] for name, _ in model.named_parameters()} & {"layer3", "layer4", "norm", "fc"}
    assert opened == later
    training.unfreeze(model, "stem")
    assert len(training.trainable(model)) == len(list(model.parameters()))


def test_groups_hold_each_trainable_parameter_once(model):
    """A parameter in two groups is updated twice; one in none is never updated."""
    for stage in ("stem", "layer2", "head"):
        training.freeze_backbone(model)
        training.unfreeze(model, stage)
        for everything_decays in (True, False):
            groups = training.parameter_groups(
                model, lr=0.1, decay=0.5, weight_decay=1e-4, decay_all=everything_decays
            )
            grouped = [id(p) for group in groups for p in group["params"]]
            assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_rates_fall_from_head_to_stem(model):
    """Rates the wrong way round train the general early layers fastest."""
    groups = training.parameter_groups(model, lr=0.1, decay=0.5)
    stages = sum(name.startswith("layer") for name, _ in model.named_children())
    assert [group["name"] for group in groups] == [
        "head",
        *(f"layer{k}" for k in range(stages, 0, -1)),
        "stem",
    ]
    assert [group["lr"] for group in groups] == pytest.approx([0.1 * 0.5**k for k in range(stages + 2)])
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert rate[id(model.fc.weight)] > rate[id(model.layer2[0].conv1.weight)] > rate[id(model.conv1.weight)]


def test_norm_and_bias_can_be_spared_weight_decay(model):
    """Decay on scales and biases where it was declined, or none on the weights."""
    decayed = {
        id(p)
        for group in training.parameter_groups(model, lr=0.1, weight_decay=0.1, decay_all=False)
        if group["weight_decay"] == 0.1
        for p in group["params"]
    }
    weights = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert decayed == weights
    everything = training.parameter_groups(model, lr=0.1, weight_decay=0.1)
    assert {group["weight_decay"] for group in everything} == {0.1}


@pytest.mark.parametrize(
    ("method", "images", "trained", "kept"),
    [
        ("head", 5000, "head", "stem layer1 layer2 layer3"),
        ("last-stage", 100, "layer3 head", "stem layer1 layer2 layer3"),
        ("last-stage", 2000, "layer3 head", "stem layer1 layer2"),
        ("gradual", 5000, "stem layer1 layer2 layer3 head", "stem layer1 layer2 layer3"),
        ("all", 1999, "stem layer1 layer2 layer3 head", "stem layer1 layer2 layer3"),
        ("all", 2000, "stem layer1 layer2 layer3 head", ""),
    ],
)
def test_a_method_trains_its_stages_and_keeps_its_statistics(method, images, trained, kept):
    """A stage too many or too few that learns, or statistics that drift in a frozen one."""
    model = training.choose_method(models.resnet20(), method, images=images)
    parts = {name: nn.ModuleList(modules) for name, modules in training.stages(model).items()}
    assert [name for name, part in parts.items() if training.trainable(part)] == trained.split()
    assert all(not training.trainable(part) for name, part in parts.items() if name not in trained)
    norms = {
        name: [m for m in part.modules() if isinstance(m, nn.BatchNorm2d)] for name, part in parts.items()
    }
    frozen = [
        name for name in parts if norms[name] and isinstance(norms[name][0], training.FrozenBatchNorm2d)
    ]
    assert frozen == kept.split()


def test_batchnorm_alone_trains_scales_shifts_and_head():
    """The method `bn` with statistics held fast, or with a convolution that learns."""
    model = training.choose_method(models.resnet20(), "bn", images=100)
    assert not any(isinstance(module, training.FrozenBatchNorm2d) for module in model.modules())
    norms = {name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)}
    trained = set(training.trainable(model))
    assert trained == set(HEAD) | {f"{name}.{kind}" for name in norms for kind in ("weight", "bias")}


def test_nothing_decays_unless_asked(model):
    """A decay that nobody gave pulls trained weights to zero."""
    assert {group["weight_decay"] for group in training.parameter_groups(model, lr=0.1)} == {0.0}


def test_bad_input_is_refused_in_one_line(model):
    """Unknown stage, no classes, nothing to train, rates out of range, a model without `fc`."""
    with pytest.raises(ValueError, match=r"unknown stage 'layer9': choose one of stem, layer1, .*head$"):
        training.unfreeze(model, "layer9")
    with pytest.raises(ValueError, match="num_classes must be a whole number of at least 1, got 0"):
        training.replace_head(model, 0)
    for wrong in ({"lr": 0}, {"lr": 0.1, "decay": 0}, {"lr": 0.1, "decay": 2}, {"lr": 1, "weight_decay": -1}):
        given = ", ".join(
            f"{k}={v}" for k, v in ({"lr": 0, "decay": 1.0, "weight_decay": 0.0} | wrong).items()
        )
        with pytest.raises(ValueError, match=f"need lr > 0, .*, got {given}$"):
            training.parameter_groups(model, **wrong)
    with pytest.raises(ValueError, match="nothing is trainable"):
        training.parameter_groups(model.requires_grad_(False), lr=0.1)
    for operation in (training.freeze_backbone, lambda m: training.replace_head(m, 2)):
        with pytest.raises(ValueError, match="last layer is a linear `fc`, got Sequential"):
            operation(nn.Sequential(nn.Conv2d(3, 4, 3)))
