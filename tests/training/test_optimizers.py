"""Muon on filter banks: an orthonormal step, in either memory format, exact after a checkpoint."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resnet_tutorial.training import Muon

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")


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


def test_a_torch_without_muon_is_refused(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match=r"has no Muon: use torch 2\.9 or newer, or sgd"):
        muon(convolution().parameters())
