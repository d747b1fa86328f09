"""Residual networks: blocks, the network, networks by name, and networks as files."""

from __future__ import annotations

# fmt: off
from .blocks import (
    BasicBlock, Bottleneck, PreActBlock, ZeroPadShortcut, conv1x1, conv3x3,
)
from .builders import (
    IMAGENET_LAYOUTS, MODELS, cifar_resnet, count_multiply_adds, count_parameters, create, imagenet_resnet,
    load_model, resnet18, resnet18_cifar, resnet20, resnet32, resnet34, resnet44, resnet50, resnet56,
    resnet101, resnet110, resnet152,
)
from .resnet import ResNet, linear_head
from .weights import SHIPPED_WEIGHTS, imagenet_weights, load_weights, save_model, save_weights, shipped

__all__ = [
    "IMAGENET_LAYOUTS", "MODELS", "SHIPPED_WEIGHTS", "BasicBlock", "Bottleneck", "PreActBlock", "ResNet",
    "ZeroPadShortcut", "cifar_resnet", "conv1x1", "conv3x3", "count_multiply_adds", "count_parameters",
    "create", "imagenet_resnet", "imagenet_weights", "linear_head", "load_model", "load_weights", "resnet18",
    "resnet18_cifar", "resnet20", "resnet32", "resnet34", "resnet44", "resnet50", "resnet56", "resnet101",
    "resnet110", "resnet152", "save_model", "save_weights", "shipped",
]
# fmt: on
