"""Residual networks by name: for CIFAR-10 (6n+2 layers) and ImageNet (18 to 152).

Source: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016: table 1 for the
ImageNet layout, section 4.2 for the CIFAR-10 layout. Parameter names are torchvision's.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .blocks import BLOCKS
from .resnet import ResNet, check_positive
from .weights import check_model, imagenet_weights, load_into, load_weights, shipped

CIFAR_DEPTHS = (20, 32, 44, 56, 110)  # those of the paper, but for 1202; any 6n+2 can be built
IMAGENET_LAYOUTS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
}
MODELS = (
    *(f"{family}{depth}" for family in ("resnet", "plain", "preact_resnet") for depth in CIFAR_DEPTHS),
    *(f"resnet{depth}" for depth in IMAGENET_LAYOUTS),
    "resnet18_cifar",
    "resnet8_wide",
    "resnet14_wide",
)


def cifar_resnet(depth: int, *, block: str = "basic", **options: Any) -> ResNet:
    """Build a network of 6n+2 layers: a 3x3 stem, three stages of n blocks of two layers, and the head.

    Block is ``"basic"`` or ``"preact"``; options are those of ``ResNet``, by default ``num_classes=10``,
    ``width=16``, ``stem="cifar"`` and ``shortcut="A"``.

    Raises:
        ValueError: If the depth is not 6n+2 with n of at least 1, or an option is not known.

    Example:
        >>> count_parameters(cifar_resnet(20))
        269722
    """
    check_positive(depth=depth)
    n, rest = divmod(depth - 2, 6)
    if n < 1 or rest:
        nearest = f"{6 * n + 2} and {6 * n + 8}" if n >= 1 else "8"
        raise ValueError(f"depth must be 6n+2 (8, 14, 20, ...), got {depth}: nearest valid is {nearest}")
    if block not in ("basic", "preact"):
        raise ValueError(f"unknown block {block!r}: choose one of basic, preact")
    usual: dict[str, Any] = {"num_classes": 10, "width": 16, "stem": "cifar", "shortcut": "A"}
    return ResNet(BLOCKS[block], (n, n, n), **usual | options)


def imagenet_resnet(depth: int, *, num_classes: int = 1000, **options: Any) -> ResNet:
    """Build a network of four stages with 18, 34, 50, 101 or 152 layers; options are those of ``ResNet``.

    Raises:
        ValueError: If the depth is another, or an option is not known.

    Example:
        >>> f"{count_parameters(imagenet_resnet(18)):,}"
        '11,689,512'
        >>> imagenet_resnet(20)
        Traceback (most recent call last):
        ValueError: no ImageNet layout of depth 20: choose one of 18, 34, 50, 101, 152
    """
    if depth not in IMAGENET_LAYOUTS:
        depths = ", ".join(map(str, IMAGENET_LAYOUTS))
        raise ValueError(f"no ImageNet layout of depth {depth}: choose one of {depths}")
    block, layers = IMAGENET_LAYOUTS[depth]
    return ResNet(BLOCKS[block], layers, num_classes=num_classes, **options)


def create(name: str, *, weights: str | Path | None = None, **options: Any) -> ResNet:
    """Build a network by name: ``resnet20``, ``plain56``, ``preact_resnet20``, ``resnet50``, ...

    A ``resnet`` of depth 18, 34, 50, 101 or 152 has the ImageNet layout; everything else has 6n+2 layers. A
    ``_wide`` one has 48 channels in its first stage and pools after the stem: few, large layers keep a
    processor busier than many small ones.

    Args:
        name: One of ``MODELS``, or the same with another valid depth.
        weights: ``None`` for a new network, the name of weights shipped with the package, ``"imagenet"`` for
            torchvision's, which are fetched once, or a weights file.
        options: Those of ``cifar_resnet`` or ``imagenet_resnet``.

    Raises:
        FileNotFoundError: If there is no such weights file.
        ValueError: If name, depth or an option is unknown, or the weights are damaged or of another network.

    Example:
        >>> create("resnet20", num_classes=5).fc
        Linear(in_features=64, out_features=5, bias=True)
        >>> create("resnet20", weights="cifar10").training  # the shipped network, ready for fine-tuning
        True
    """
    match = re.fullmatch(r"(resnet|plain|preact_resnet)([1-9]\d{0,3})(_cifar|_wide)?", str(name))
    family, depth, variant = match.groups() if match else ("", "0", None)
    build: Callable[..., ResNet] = cifar_resnet
    usual: dict[str, Any] = {}
    if family == "resnet" and int(depth) in IMAGENET_LAYOUTS and variant != "_wide":
        build = imagenet_resnet
        fixed, usual = ({"stem": "cifar"}, {"num_classes": 10}) if variant else ({}, {})
    elif family == "resnet" and variant == "_wide":
        fixed, usual = {"stem": "pool", "shortcut": "B"}, {"width": 48}
    elif match and not variant:
        fixed = {"resnet": {}, "plain": {"shortcut": "none"}, "preact_resnet": {"block": "preact"}}[family]
    else:
        raise ValueError(f"unknown network {name!r}: choose one of {', '.join(MODELS)}")
    for option in fixed.keys() & options.keys():
        raise ValueError(f"{name!r} already means {option}={fixed[option]!r}: leave that option out")
    model = build(int(depth), **usual | fixed | options)
    if weights is not None:
        if weights == "imagenet":
            path = imagenet_weights(name)
        else:
            path = Path(weights) if Path(weights).suffix else shipped(name, str(weights))
        state_dict, metadata = load_weights(path)
        check_model(path, state_dict, metadata)
        load_into(model, state_dict, source=path, config=metadata.get("config", {}))
    return model


# The names as functions: resnet20(num_classes=5) is create("resnet20", num_classes=5).
resnet20, resnet32, resnet44, resnet56, resnet110 = (partial(create, f"resnet{n}") for n in CIFAR_DEPTHS)
resnet18, resnet34, resnet50, resnet101, resnet152 = (partial(create, f"resnet{n}") for n in IMAGENET_LAYOUTS)
resnet18_cifar = partial(create, "resnet18_cifar")


def load_model(path: str | Path, *, name: str | None = None) -> tuple[ResNet, dict[str, Any]]:
    """Read a network, in eval mode on the CPU, and its metadata.

    Args:
        path: A file of ``save_model``; if ``name`` is given, also a bare state dict such as torchvision's.
        name: The network that the file must hold, as for ``create``, with any number of classes.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or contradicts itself, or holds another network.

    Example:
        >>> model, metadata = load_model(shipped("resnet20", "cifar10"))
        >>> model.depth, model.training, metadata["classes"][:3]
        (20, False, ['airplane', 'automobile', 'bird'])
    """
    state_dict, metadata = load_weights(path)
    config = check_model(path, state_dict, metadata)
    with torch.device("meta"):  # shapes without memory: that is taken once the tensors are known to fit
        if name is not None:
            in_channels, num_classes = state_dict["conv1.weight"].shape[1], len(state_dict["fc.bias"])
            model = create(name, in_channels=in_channels, num_classes=num_classes)
        elif not config:
            raise ValueError(f"{path} does not say which network it holds: give its name, such as 'resnet20'")
        else:
            try:
                model = ResNet.from_config(config)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
    load_into(model, state_dict, source=path, config=config)
    return model.eval(), metadata


def count_parameters(model: nn.Module) -> int:
    """Count the parameters, frozen ones included; running statistics are not parameters.

    Example:
        >>> count_parameters(nn.Linear(64, 10))
        650
    """
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(model: nn.Module, input_size: int | Sequence[int]) -> int:
    """Count the multiply-adds of convolutions and linear layers for one image: the FLOPs of He et al. 2016a.

    ``input_size`` is (channels, height, width) of the image, or one number for a square colour image. The
    network, any whose layers have a rule in PyTorch's FLOP counter, is not run and not changed.

    Example:
        >>> from resnet_tutorial.models import resnet20
        >>> f"{count_multiply_adds(resnet20(), 32):,}"
        '40,551,040'
    """
    shape = (3, input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    twin = copy.deepcopy(model).to("meta").eval()  # has shapes, but neither memory nor arithmetic
    with FlopCounterMode(display=False) as counter:
        twin(torch.empty(1, *shape, device="meta"))
    return int(counter.get_total_flops()) // 2  # it counts a multiplication and an addition as two
