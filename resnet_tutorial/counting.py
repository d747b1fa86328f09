"""Counting what a network costs: parameters and multiply-adds."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn


def count_parameters(model: nn.Module) -> int:
    """Count the parameters, frozen ones included; running statistics are not parameters.

    Example:
        >>> count_parameters(nn.Linear(64, 10))
        650
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(model: nn.Module, input_size: int | Sequence[int]) -> int:
    """Count the multiply-adds of convolutions and linear layers for one image: the FLOPs of He et al. 2016.

    Args:
        model: any network of ``nn.Conv2d`` and ``nn.Linear`` layers; it is not run and not changed.
        input_size: (channels, height, width) of the image, or one number for a square colour image.

    Example:
        >>> from resnet_tutorial.models import resnet20
        >>> f"{count_multiply_adds(resnet20(), 32):,}"
        '40,551,040'
    """
    shape = (3, input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += layer.weight.numel() * output[0, 0].numel()  # each weight once for each pixel of the output

    twin = copy.deepcopy(model).to("meta").eval()  # has shapes, but neither memory nor arithmetic
    for module in twin.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    twin(torch.empty(1, *shape, device="meta"))
    return total
