"""Blocks and shortcuts: shapes, values worked out by hand, and the mistakes that tutorials make."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resnet_tutorial.models import (
    BasicBlock,
    Bottleneck,
    PreActBlock,
    ZeroPadShortcut,
    blocks,
    conv1x1,
    conv3x3,
)

make_shortcut = blocks.make_shortcut


@pytest.mark.parametrize(("size", "stride", "expected"), [(8, 1, 8), (8, 2, 4), (7, 2, 4), (1, 2, 1)])
def test_convolutions_halve_the_resolution_rounding_up(size, stride, expected):
    """A padding that loses a row would make branch and shortcut disagree at odd sizes."""
    x = torch.randn(2, 3, size, size)
    for conv in (conv3x3(3, 5, stride), conv1x1(3, 5, stride)):
        assert conv(x).shape == (2, 5, expected, expected)
        assert conv.bias is None


def test_zero_padding_shortcut_against_a_result_by_hand():
    """Taking the wrong pixels, averaging them, or padding pixels instead of channels."""
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    x = torch.cat([x, -x], dim=1)  # (1, 2, 4, 4)
    kept = torch.tensor([[0.0, 2.0], [8.0, 10.0]])
    zeros = torch.zeros(2, 2)
    expected = torch.stack([zeros, kept, -kept, zeros])[None]  # one new channel before, one after
    module = ZeroPadShortcut(2, 4, stride=2)
    assert torch.equal(module(x), expected)
    assert list(module.parameters()) == [] and module.state_dict() == {}
    odd = ZeroPadShortcut(2, 5)(x)  # three new channels: one before, two after
    assert torch.equal(odd[:, 1:3], x) and odd[:, [0, 3, 4]].abs().sum() == 0


def test_shortcut_kinds():
    """B that projects everywhere, C that does not, A with parameters, "none" that still adds."""
    same, changed = (16, 16, 1), (16, 32, 2)
    assert isinstance(make_shortcut("A", *same), nn.Identity)
    assert isinstance(make_shortcut("A", *changed), ZeroPadShortcut)
    assert isinstance(make_shortcut("B", *same), nn.Identity)
    for projection in (make_shortcut("B", *changed), make_shortcut("C", *changed), make_shortcut("C", *same)):
        assert [type(layer) for layer in projection] == [nn.Conv2d, nn.BatchNorm2d]
    assert [type(layer) for layer in make_shortcut("B", *changed, norm=False)] == [nn.Conv2d]
    assert make_shortcut("none", *same) is None and make_shortcut("none", *changed) is None
    # A change of stride alone, or of channels alone, is a change of shape.
    assert not isinstance(make_shortcut("B", 16, 16, 2), nn.Identity)
    assert not isinstance(make_shortcut("B", 16, 32, 1), nn.Identity)


def test_unusable_shortcuts_are_refused():
    """A typing error that silently builds another network."""
    with pytest.raises(ValueError, match="unknown shortcut 'D': choose one of A, B, C, none"):
        make_shortcut("D", 16, 16)
    with pytest.raises(ValueError, match="only adds channels, got 32 to 16"):
        make_shortcut("A", 32, 16)


@pytest.mark.parametrize("shortcut", blocks.SHORTCUTS)
@pytest.mark.parametrize("block", blocks.BLOCKS.values(), ids=blocks.BLOCKS)
def test_output_shape_of_every_block(block, shortcut):
    """A branch and a shortcut of different shapes, at even and odd sizes."""
    for size, stride, expected in ((8, 1, 8), (8, 2, 4), (7, 2, 4)):
        y = block(4, 4, stride=stride, shortcut=shortcut)(torch.randn(2, 4, size, size))
        assert y.shape == (2, 4 * block.expansion, expected, expected)


def _eval_with_random_statistics(block: nn.Module) -> nn.Module:
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_var, module.weight.data):
                values.uniform_(0.5, 2)
            for values in (module.running_mean, module.bias.data):
                values.normal_()
    return block.eval()


def _conv(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, layer.weight, stride=layer.stride, padding=layer.padding)


def _norm(layer: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    mean, var, scale, shift = (
        values[None, :, None, None]
        for values in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


@pytest.mark.parametrize("shortcut", ["B", "none"])
def test_basic_block_is_the_formula(shortcut):
    """ReLU before the addition, BN after it or none in the projection, a tensor added to itself."""
    block = _eval_with_random_statistics(BasicBlock(4, 8, stride=2, shortcut=shortcut))
    x = torch.randn(2, 4, 6, 6)
    branch = _norm(block.bn2, _conv(block.conv2, _norm(block.bn1, _conv(block.conv1, x)).relu()))
    added = _norm(block.downsample[1], _conv(block.downsample[0], x)) if shortcut == "B" else 0
    torch.testing.assert_close(block(x), (branch + added).relu())


def test_bottleneck_is_the_formula_with_the_stride_on_its_3x3():
    """The stride on the first 1x1, as in the paper, loads the same weights and gives other logits."""
    block = _eval_with_random_statistics(Bottleneck(4, 2, stride=2))
    x = torch.randn(2, 4, 6, 6)
    out = _norm(block.bn1, _conv(block.conv1, x)).relu()
    assert out.shape[-1] == 6
    out = _norm(block.bn2, _conv(block.conv2, out)).relu()
    branch = _norm(block.bn3, _conv(block.conv3, out))
    projected = _norm(block.downsample[1], _conv(block.downsample[0], x))
    torch.testing.assert_close(block(x), (branch + projected).relu())


@pytest.mark.parametrize("shortcut", ["A", "B", "none"])
def test_preactivation_block_is_the_formula(shortcut):
    """A ReLU after the addition, or a shortcut taken from the wrong side of the first activation."""
    block = _eval_with_random_statistics(PreActBlock(4, 8, stride=2, shortcut=shortcut))
    x = torch.randn(2, 4, 6, 6)
    active = _norm(block.bn1, x).relu()
    branch = _conv(block.conv2, _norm(block.bn2, _conv(block.conv1, active)).relu())
    if shortcut == "B":
        branch = branch + _conv(block.downsample[0], active)
    elif shortcut == "A":
        branch = branch + ZeroPadShortcut(4, 8, 2)(x)
    torch.testing.assert_close(block(x), branch)


@pytest.mark.parametrize("block", blocks.BLOCKS.values(), ids=blocks.BLOCKS)
def test_zero_init_leaves_the_shortcut_alone(block):
    """Zeroing the wrong layer: the branch must vanish, and still receive a gradient."""
    channels = 4 * block.expansion
    module = block(channels, 4, shortcut="A")
    module.zero_init()
    x = torch.randn(2, channels, 6, 6).abs()  # positive: the last ReLU changes nothing
    y = module(x)
    torch.testing.assert_close(y, x)
    (y * torch.randn_like(y)).sum().backward()
    assert any(p.grad.abs().sum() > 0 for p in module.parameters())


@pytest.mark.parametrize("block", blocks.BLOCKS.values(), ids=blocks.BLOCKS)
def test_the_input_is_not_written_to(block):
    """An in-place ReLU or addition that changes what the shortcut, or the caller, still needs."""
    x = torch.randn(2, 4 * block.expansion, 6, 6)
    before = x.clone()
    block(4 * block.expansion, 4)(x)
    assert torch.equal(x, before)


def test_zero_padding_keeps_the_memory_format():
    """A shortcut that falls back to NCHW would make a channels_last network convert at every stage."""
    x = torch.randn(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    assert ZeroPadShortcut(4, 8, 2)(x).is_contiguous(memory_format=torch.channels_last)
