"""Recipes: arithmetic of schedules, validation of fields, and the optimiser they build."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from resnet_tutorial.training import RECIPES, Muon, Recipe, get_recipe, read_changes


def constant(**changes):
    return Recipe(**({"name": "test", "epochs": 2} | changes))


def test_paper_recipe_follows_section_4_2():
    """A drifted constant here would make every comparison with the paper's table wrong."""
    paper = get_recipe("paper")
    assert (paper.steps, paper.batch_size, paper.lr) == (64_000, 128, 0.1)
    assert (paper.momentum, paper.weight_decay, paper.nesterov) == (0.9, 1e-4, False)
    rates = [paper.lr_at(step, 64_000) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_the_warm_up_of_110_layers_is_constant():
    """He et al. train ResNet-110 at 0.01 for about 400 iterations; a ramp would be another experiment."""
    paper = get_recipe("paper110")
    rates = [paper.lr_at(step, 64_000) for step in (0, 399, 400, 31_999, 32_000, 48_000)]
    assert rates == pytest.approx([0.01, 0.01, 0.1, 0.1, 0.01, 0.001])


def test_step_milestones_scale_with_a_shortened_run():
    """Milestones in absolute steps would never be reached when --epochs shortens the run."""
    short = get_recipe("paper").but(epochs=4)
    assert short.steps is None
    total = short.total_steps(100)
    assert total == 400
    assert [short.lr_at(step, total) for step in (199, 200, 300)] == pytest.approx([0.1, 0.01, 0.001])


def test_one_cycle_rises_then_falls_to_almost_zero():
    """An off-by-one in the warm-up would start at zero or leave the last steps at a high rate."""
    recipe = constant(schedule="one-cycle", warmup=0.25, lr=1.0)
    rates = [recipe.lr_at(step, 1000) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 25, rel=0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) in (249, 250)
    assert rates[:250] == sorted(rates[:250])
    assert rates[250:] == sorted(rates[250:], reverse=True)
    assert 0 < rates[-1] < 1e-4


def test_cosine_is_half_way_at_half_time():
    recipe = constant(schedule="cosine", lr=0.4)
    assert recipe.lr_at(0, 100) == pytest.approx(0.4)
    assert recipe.lr_at(50, 100) == pytest.approx(0.2)


def test_linear_warmup_never_wastes_a_step_at_rate_zero():
    recipe = constant(warmup=0.1, lr=0.5)
    rates = [recipe.lr_at(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.05 * k for k in range(1, 11)])
    assert rates[10:] == [0.5] * 90


@pytest.mark.parametrize("name", RECIPES)
def test_every_named_recipe_gives_positive_rates_throughout(name):
    recipe = RECIPES[name]
    assert recipe.name == name
    assert all(0 < recipe.lr_at(step, 500) <= recipe.lr for step in range(500))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"steps": 10}, "exactly one of epochs and steps"),
        ({"epochs": None}, "exactly one of epochs and steps"),
        ({"epochs": 0}, "epochs must be greater than 0"),
        ({"batch_size": -1}, "batch_size must be greater than 0"),
        ({"lr": float("nan")}, "lr must be greater than 0"),
        ({"lr": 10**400}, "lr must be greater than 0 and finite, not 1000"),
        ({"epochs": 10**400}, "epochs must be greater than 0 and finite"),
        ({"weight_decay": 10**400}, "weight_decay must be 0 or greater and finite"),
        ({"optimizer": "sgdd"}, "unknown optimizer '.*': choose one of sgd, adam"),
        ({"schedule": "linear"}, "unknown schedule '.*': choose one of constant, step"),
        ({"flip": "vertical"}, "unknown flip '.*': choose one of random"),
        ({"pad_mode": "wrap"}, "unknown pad_mode '.*': choose one of zero"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1"),
        ({"label_smoothing": -0.1}, "label_smoothing must be at least 0"),
        ({"weight_decay": -1e-4}, "weight_decay must be 0 or greater"),
        ({"schedule": "step"}, "milestones must be given"),
        ({"milestones": (0.5,)}, "milestones must be given"),
        ({"schedule": "step", "milestones": (0.7, 0.5)}, "rising fractions"),
        ({"schedule": "step", "milestones": (32_000,)}, "rising fractions"),
        ({"optimizer": "adam", "nesterov": True}, "nesterov must be off"),
        ({"grad_clip": 0.0}, "grad_clip must be greater than 0"),
        ({"optimizer": "muon"}, "other_lr must be given for Muon"),
        ({"other_lr": 0.1}, "other_lr must be given for Muon, and only there"),
        ({"optimizer": "muon", "other_lr": 0.1, "momentum": 0.0}, "momentum must be above 0 for Muon"),
        ({"warmup_lr": 0.01}, "warmup_lr must be left out unless there is a warm-up"),
        ({"l1": -1.0}, "l1 must be 0 or greater"),
        ({"ema": 1.0}, "ema must be at least 0 and below 1"),
        ({"patience": 0}, "patience must be greater than 0"),
    ],
)
def test_bad_values_name_the_field_and_the_rule(changes, names):
    with pytest.raises(ValueError, match=names) as error:
        constant(**changes)
    assert "\n" not in str(error.value)


def test_unknown_names_list_what_there_is():
    with pytest.raises(ValueError, match="unknown recipe 'fast': choose one of quick, paper"):
        get_recipe("fast")
    with pytest.raises(ValueError, match=r"unknown field 'learning_rate': choose one of .*lr"):
        get_recipe("quick").but(learning_rate=1.0)


def test_recipes_are_frozen():
    """A chapter that changed a shared recipe would change every later run."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        get_recipe("quick").lr = 1.0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sgd", torch.optim.SGD),
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("rmsprop", torch.optim.RMSprop),
    ],
)
def test_each_optimizer_is_built_and_steps(name, kind):
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    optimizer = constant(optimizer=name, lr=0.01, momentum=0.7).make_optimizer(layer.parameters())
    assert isinstance(optimizer, kind)
    options = optimizer.param_groups[0]
    assert options.get("momentum", options.get("betas", (None,))[0]) == 0.7
    layer(torch.ones(4, 3)).sum().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, before)


def test_muon_is_built_from_a_recipe():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    recipe = constant(optimizer="muon", lr=0.1, other_lr=0.02)
    optimizer = recipe.make_optimizer(recipe.parameter_groups(model))
    assert isinstance(optimizer, Muon)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1]


def test_decay_can_spare_norms_and_biases():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    groups = constant(decay_all=False).parameter_groups(model)
    assert [p.ndim for p in groups[0]["params"]] == [4]
    assert groups[1]["weight_decay"] == 0.0
    assert len(groups[1]["params"]) == 3  # convolution bias, scale, shift


def test_nothing_trainable_is_refused():
    """With every parameter frozen an optimiser would fail with a message about an empty list."""
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter is trainable"):
        constant().parameter_groups(model)


@pytest.mark.parametrize(
    "wrong",
    [{"lr": None}, {"epochs": 1.5}, {"epochs": True}, {"name": None}, {"nesterov": "no"}, {"lr": "0.1"}],
)
def test_a_field_of_another_type_is_refused(wrong):
    """A text that is true, half an epoch, or no rate at all failed in the middle of a run."""
    (field,) = wrong
    with pytest.raises(ValueError, match=f"{field} must be of type "):
        Recipe(**{"name": "mine", "epochs": 2} | wrong)


@pytest.mark.parametrize("text", ["-" * 4000 + "1", "-" * 100_000 + "1", "{[]: 1}"], ids=len)
def test_what_python_cannot_read_stays_text(text):
    """A RecursionError, a MemoryError and a TypeError; then a message as long as what was typed."""
    changes = read_changes([f"lr={text}"])
    assert changes == {"lr": text}
    with pytest.raises(ValueError, match="lr must be of type float, not '") as error:
        constant(**changes)
    assert len(str(error.value)) < 200
