"""Muon on filter banks, groups without decay, the moving average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from resnet_tutorial.models import create
from resnet_tutorial.training import Muon, optimizers


def convolution(memory_format=torch.contiguous_format) -> nn.Conv2d:
    return nn.Conv2d(6, 8, 3).to(memory_format=memory_format)


def muon(parameters, **changes) -> Muon:
    return Muon(parameters, **({"lr": 0.1, "other_lr": 0.02, "momentum": 0.9, "weight_decay": 0.0} | changes))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("of_gradient", [torch.contiguous_format, torch.channels_last])
def test_a_step_moves_the_filters_by_nearly_orthonormal_rows(memory_format, of_gradient):
    """A gradient read in another order of columns than the filters would still look plausible."""
    layer = convolution(memory_format)
    before = layer.weight.detach().clone()
    gradient = torch.randn(8, 6, 3, 3)
    layer.weight.grad = gradient.contiguous(memory_format=of_gradient)
    muon([layer.weight]).step()
    step = (before - layer.weight.detach()).flatten(1) / 0.1  # (8, 54)
    values = torch.linalg.svdvals(step)
    assert values.min() > 0.5 and values.max() < 1.5  # torch's Newton-Schulz stops there
    u, _, v = torch.linalg.svd(gradient.flatten(1), full_matrices=False)
    alike = nn.functional.cosine_similarity(step.flatten(), (u @ v).flatten(), dim=0)
    assert alike > 0.95


def test_other_parameters_take_a_step_of_sgd_at_their_own_rate():
    layer = convolution()
    before = layer.bias.detach().clone()
    layer.weight.grad, layer.bias.grad = torch.randn_like(layer.weight), torch.ones(8)
    muon(layer.parameters()).step()
    torch.testing.assert_close(before - layer.bias.detach(), torch.full((8,), 0.02 * (1 + 0.9)))  # Nesterov


def test_rates_of_the_groups_reach_both_parts():
    """A schedule that sets `param_groups` must not be ignored by the optimisers inside."""
    layer = convolution()
    optimizer = muon(layer.parameters())
    optimizer.param_groups[0]["lr"] = 0.0
    before = [p.detach().clone() for p in layer.parameters()]
    for parameter in layer.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


def test_weight_decay_shrinks_filters_only():
    layer = convolution()
    before = [p.detach().clone() for p in layer.parameters()]
    for parameter in layer.parameters():
        parameter.grad = torch.zeros_like(parameter)
    muon(layer.parameters(), weight_decay=0.5).step()
    torch.testing.assert_close(layer.weight.detach(), before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(layer.bias, before[1])


def test_parameters_without_gradient_stay():
    layer = convolution()
    before = layer.weight.detach().clone()
    layer.bias.grad = torch.ones(8)
    muon(layer.parameters()).step()
    assert torch.equal(layer.weight, before)


def test_the_state_goes_on_exactly():
    """Momentum that is lost in a checkpoint changes every later step."""
    gradients = [torch.randn(8, 6, 3, 3) for _ in range(4)]

    def run(layer, optimizer, steps):
        for gradient in steps:
            layer.weight.grad = gradient.clone()
            layer.bias.grad = gradient.mean((1, 2, 3))
            optimizer.step()

    whole = convolution()
    halves = convolution()
    halves.load_state_dict(whole.state_dict())
    run(whole, muon(whole.parameters()), gradients)
    first = muon(halves.parameters())
    run(halves, first, gradients[:2])
    second = muon(halves.parameters())
    second.load_state_dict(first.state_dict())
    run(halves, second, gradients[2:])
    assert torch.equal(whole.weight, halves.weight)
    assert torch.equal(whole.bias, halves.bias)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_steps_are_those_of_torchs_muon(memory_format):
    """Banks computed together must not mix, and tall, wide and square ones each have a rate of their own."""
    shapes = [(8, 3, 3, 3), (8, 3, 3, 3), (4, 8, 1, 1), (27, 1, 3, 3), (9, 1, 3, 3)]
    banks = [nn.Parameter(torch.randn(shape).to(memory_format=memory_format)) for shape in shapes]
    twins = [nn.Parameter(bank.detach().clone().flatten(1)) for bank in banks]
    ours = muon(banks, weight_decay=0.1)
    theirs = torch.optim.Muon(twins, lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        for bank, twin in zip(banks, twins, strict=True):
            bank.grad = torch.randn_like(bank)
            twin.grad = bank.grad.clone().flatten(1)
        ours.step()
        theirs.step()
    for bank, twin in zip(banks, twins, strict=True):
        # Both round to bfloat16, whose steps are 2**-8 of a value.
        torch.testing.assert_close(bank.detach().flatten(1), twin.detach(), rtol=0, atol=0.1 * 3 * 2**-6)


class Calls(TorchDispatchMode):
    """Counts calls of operators, whatever a processor's kernels call in turn."""

    count = 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.count += 1
        return operator(*args, **(kwargs or {}))


def calls(optimizer) -> int:
    optimizer.step()  # makes the state
    with Calls() as counted:
        optimizer.step()
    return counted.count


def test_a_step_needs_few_operations():
    """Bank by bank the 19 of a ResNet-20 take three times as many calls: a GPU would wait for the host."""
    model = create("resnet20").to(memory_format=torch.channels_last)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    banks = [parameter for parameter in model.parameters() if parameter.ndim == 4]
    assert calls(muon(banks)) <= sum(calls(muon([bank])) for bank in banks) / 3


def test_a_step_that_the_scaler_calls_off_changes_nothing():
    """Infinite gradients of float16 training would end up in the momentum, and stay."""
    layer = convolution()
    optimizer = muon(layer.parameters(), weight_decay=0.1)

    def step(value: float, found_inf: float) -> None:
        for parameter in layer.parameters():
            parameter.grad = torch.full_like(parameter, value) + 0.1 * torch.arange(len(parameter)).view(
                -1, *[1] * (parameter.ndim - 1)
            )
        optimizer.found_inf = torch.tensor([found_inf])
        optimizer.step()

    step(1.0, 0.0)
    before = [p.detach().clone() for p in layer.parameters()]
    state = [value.clone() for value in tensors(optimizer.state_dict())]
    step(float("inf"), 1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(state, tensors(optimizer.state_dict()), strict=True))
    step(1.0, 0.0)
    assert not any(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))


def tensors(value) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [tensor for item in values for tensor in tensors(item)]


def test_biases_and_scales_are_not_decayed_unless_all_are():
    """Two rules for what is exempt, one for recipes and one for fine-tuning, would drift apart."""
    parameters = list(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)).parameters())
    (everything,) = optimizers.decay_groups(parameters, weight_decay=0.1, decay_all=True)
    assert everything["params"] == parameters
    weights, exempt = optimizers.decay_groups(parameters, weight_decay=0.1, decay_all=False)
    assert [p.ndim for p in weights["params"]] == [4, 2] and weights["weight_decay"] == 0.1
    assert [p.ndim for p in exempt["params"]] == [1] * 4 and exempt["weight_decay"] == 0
    assert optimizers.decay_groups(parameters[:1], weight_decay=0.1, decay_all=False) == [
        {"params": parameters[:1], "weight_decay": 0.1}
    ]


def test_the_average_follows_running_statistics_and_leaves_counters_alone():
    """A counter of batches that is averaged is a number of no batches."""
    norm = nn.BatchNorm2d(3)
    average = optimizers.MovingAverage(norm, 0.75)
    means = []
    for _ in range(3):
        norm(torch.randn(4, 3, 2, 2))
        average.update()
        means.append(norm.running_mean.clone())
    expected = 0.75 * (0.75 * means[0] + 0.25 * means[1]) + 0.25 * means[2]
    average.swap()
    torch.testing.assert_close(norm.running_mean, expected)
    assert int(norm.num_batches_tracked) == 3
    average.swap()
    assert torch.equal(norm.running_mean, means[2])


@pytest.mark.parametrize("wrong", [{"lr": -1}, {"other_lr": 0}, {"momentum": 0}, {"weight_decay": -1}])
def test_muon_refuses_what_torch_refuses(wrong):
    """A negative rate climbs, and nothing said so."""
    with pytest.raises(ValueError, match="give rates above 0"):
        Muon([torch.zeros(2)], **{"lr": 0.1, "other_lr": 0.1, "momentum": 0.9, "weight_decay": 0.0} | wrong)


def test_muon_trains_a_group_that_is_added_later():
    """Its filters were trained, its biases never."""
    first, later = nn.Conv2d(2, 2, 3), nn.Conv2d(2, 2, 3)
    optimizer = Muon(first.parameters(), lr=0.1, other_lr=0.1, momentum=0.9, weight_decay=0.0)
    optimizer.add_param_group({"params": list(later.parameters()), "lr": 0.05})
    before = [p.detach().clone() for p in later.parameters()]
    (first(torch.randn(1, 2, 4, 4)).sum() + later(torch.randn(1, 2, 4, 4)).sum()).backward()
    optimizer.step()
    assert not any(torch.equal(p, old) for p, old in zip(later.parameters(), before, strict=True))
