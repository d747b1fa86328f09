"""Residual networks for CIFAR-10 (6n+2 layers) and ImageNet (18 to 152), with saving, loading and counting.

Source: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016: table 1 for the
ImageNet layout, section 4.2 for the CIFAR-10 layout. Parameter names are torchvision's.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import checkpoint
from .blocks import BLOCKS, PreActBlock, conv3x3

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
)


class ResNet(nn.Module):
    """Stem, stages of residual blocks, head.

    Stage k = 0, 1, ... has ``layers[k]`` blocks of ``width * 2**k`` channels (times the block's expansion),
    and every stage but the first halves the resolution in its first block.

    In a pre-activation network the stem's BN and ReLU take the place of the first block's own, ahead of both
    its paths, and one more BN and ReLU follow the last block (He et al. 2016b, appendix).

    Args:
        block: a class of ``blocks``: BasicBlock, Bottleneck or PreActBlock.
        layers: number of blocks in each stage.
        num_classes: number of logits.
        in_channels: channels of the images: 3 for colour, 1 for grey.
        width: channels of the stem and of the first stage.
        stem: "cifar" is a 3x3 convolution; "imagenet" a 7x7 one and a max-pool, each with stride 2.
        shortcut: "A", "B", "C", or "none" for the plain network; see ``blocks.shortcut``.
        zero_init: start with every block equal to its shortcut.

    Attributes:
        config: the arguments as plain JSON values, from which ``ResNet.from_config`` builds the network anew.

    Raises:
        ValueError: if an argument is not among those above.
    """

    def __init__(
        self,
        block: type[nn.Module],
        layers: Sequence[int],
        *,
        num_classes: int,
        in_channels: int = 3,
        width: int = 64,
        stem: str = "imagenet",
        shortcut: str = "B",
        zero_init: bool = False,
    ) -> None:
        super().__init__()
        _check_positive(in_channels=in_channels, width=width, layers=min(layers, default=0))
        if stem not in ("cifar", "imagenet"):
            raise ValueError(f"unknown stem {stem!r}: choose 'cifar' or 'imagenet'")
        if zero_init and shortcut == "none":
            raise ValueError("zero_init needs a shortcut: plain blocks that start at zero pass nothing on")
        self.config: dict[str, Any] = {
            "block": next((name for name, known in BLOCKS.items() if known is block), block.__name__),
            "layers": list(layers),
            "num_classes": num_classes,
            "in_channels": in_channels,
            "width": width,
            "stem": stem,
            "shortcut": shortcut,
            "zero_init": zero_init,
        }

        if stem == "cifar":
            self.conv1 = conv3x3(in_channels, width)
            self.maxpool = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(width)

        channels = width  # of what enters the next block
        self.stages = [f"layer{k + 1}" for k in range(len(layers))]
        for k, name in enumerate(self.stages):
            blocks = []
            for i in range(layers[k]):
                stride = 2 if k > 0 and i == 0 else 1
                blocks.append(block(channels, width * 2**k, stride=stride, kind=shortcut))
                channels = width * 2**k * block.expansion
            self.add_module(name, nn.Sequential(*blocks))

        self.norm = None
        if issubclass(block, PreActBlock):
            self.layer1[0].bn1 = nn.Identity()  # the stem has done it; a second ReLU changes nothing
            self.norm = nn.BatchNorm2d(channels)
        self.fc = linear_head(channels, num_classes)

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He initialisation: variance 2 / fan-out keeps the scale of gradients through ReLU layers.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        if zero_init:
            for name in self.stages:
                for residual in getattr(self, name):
                    residual.zero_init()

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to the last feature map (N, C, h, w).

        C is ``fc.in_features``; (h, w) is (H, W) / 4 in the CIFAR layout and (H, W) / 32 in the ImageNet
        layout, rounded up.
        """
        if x.dim() != 4 or x.size(1) != self.conv1.in_channels:
            expected = f"(N, {self.conv1.in_channels}, H, W)"
            raise ValueError(f"expected images of shape {expected}, got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"expected normalised float images, got {x.dtype}: apply Normalize first")
        x = F.relu(self.bn1(self.conv1(x)))  # (N, width, H, W); ImageNet: (N, width, H / 2, W / 2)
        x = self.maxpool(x)  # ImageNet: (N, width, H / 4, W / 4)
        for name in self.stages:
            x = getattr(self, name)(x)  # twice the channels and half the size, except after the first stage
        return x if self.norm is None else F.relu(self.norm(x))

    def forward_head(self, x: Tensor) -> Tensor:
        """Map a feature map (N, C, h, w) to logits (N, num_classes): mean over the pixels, then linear."""
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)  # (N, C)
        return self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W) to logits (N, num_classes)."""
        return self.forward_head(self.forward_features(x))

    def reset_head(self, num_classes: int) -> None:
        """Replace the last layer by a new, trainable one on the same device and of the same type."""
        self.fc = linear_head(self.fc.in_features, num_classes).to(self.fc.weight)
        self.config["num_classes"] = num_classes

    @property
    def depth(self) -> int:
        """Weighted layers on the main path, as papers count them; projections in shortcuts are left out."""
        weighted = [name for name, m in self.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        return sum("downsample" not in name for name in weighted)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ResNet:
        """Build the network, newly initialised, that has this ``config``."""
        try:
            options = dict(config)
            return cls(BLOCKS[options.pop("block")], options.pop("layers"), **options)
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"not the config of a ResNet: {error}") from None


def linear_head(in_features: int, num_classes: int) -> nn.Linear:
    """Build a head whose logits start near zero, so that training starts at a loss of ln(num_classes).

    Its weights have standard deviation 0.01 (Goyal et al. 2017, section 5.1). Features grow with depth, and
    with the larger weights that ``nn.Linear`` draws ResNet-110 would start far above that loss.
    """
    _check_positive(num_classes=num_classes)
    head = nn.Linear(in_features, num_classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


def cifar_resnet(
    depth: int,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    width: int = 16,
    shortcut: str = "A",
    block: str = "basic",
    zero_init: bool = False,
) -> ResNet:
    """Build a network of 6n+2 layers: a 3x3 stem, three stages of n blocks of two layers, and the head.

    Options are those of ``ResNet``; block is "basic" or "preact".

    Raises:
        ValueError: if the depth is not 6n+2 with n of at least 1, or an option is not known.
    """
    _check_positive(depth=depth)
    n, rest = divmod(depth - 2, 6)
    if n < 1 or rest:
        nearest = f"{6 * n + 2} and {6 * n + 8}" if n >= 1 else "8"
        raise ValueError(f"depth must be 6n+2 (8, 14, 20, ...), got {depth}: nearest valid is {nearest}")
    if block not in ("basic", "preact"):
        raise ValueError(f"unknown block {block!r}: choose 'basic' or 'preact'")
    return ResNet(
        BLOCKS[block],
        (n, n, n),
        num_classes=num_classes,
        in_channels=in_channels,
        width=width,
        stem="cifar",
        shortcut=shortcut,
        zero_init=zero_init,
    )


def imagenet_resnet(depth: int, *, num_classes: int = 1000, **options: Any) -> ResNet:
    """Build a network of four stages with 18, 34, 50, 101 or 152 layers; options are those of ``ResNet``.

    Raises:
        ValueError: for any other depth, or if an option is not known.
    """
    if depth not in IMAGENET_LAYOUTS:
        raise ValueError(f"no ImageNet layout of depth {depth}: choose one of {_listed(IMAGENET_LAYOUTS)}")
    block, layers = IMAGENET_LAYOUTS[depth]
    return ResNet(BLOCKS[block], layers, num_classes=num_classes, **options)


def create(name: str, *, weights: str | Path | None = None, **options: Any) -> ResNet:
    """Build a network by name: "resnet20", "plain56", "preact_resnet20", "resnet50", "resnet18_cifar".

    A "resnet" of depth 18, 34, 50, 101 or 152 has the ImageNet layout; everything else has 6n+2 layers.

    Args:
        name: one of ``MODELS``, or the same with another valid depth.
        weights: None for a new network, the name of weights shipped with the package, or a weights file.
        options: those of ``cifar_resnet`` or ``imagenet_resnet``.

    Raises:
        FileNotFoundError: if there is no such weights file.
        ValueError: if name, depth or an option is unknown, or the weights are of another network.
    """
    match = re.fullmatch(r"(resnet|plain|preact_resnet)([1-9]\d{0,3})(_cifar)?", str(name))
    family, depth, cifar_stem = match.groups() if match else ("", "0", None)
    if family == "resnet" and int(depth) in IMAGENET_LAYOUTS:
        fixed = {"stem": "cifar"} if cifar_stem else {}
        build = partial(imagenet_resnet, **({"num_classes": 10} if cifar_stem else {}))
    elif match and not cifar_stem:
        fixed = {"resnet": {}, "plain": {"shortcut": "none"}, "preact_resnet": {"block": "preact"}}[family]
        build = cifar_resnet
    else:
        raise ValueError(f"unknown network {name!r}: choose one of {_listed(MODELS)}")
    for option in fixed.keys() & options.keys():
        raise ValueError(f"{name!r} already means {option}={fixed[option]!r}: leave that option out")
    model = build(int(depth), **fixed, **options)
    if weights is not None:
        path = Path(weights) if Path(weights).suffix else shipped(name, str(weights))
        _fill(model, *checkpoint.load_weights(path), source=path)
    return model


# The names as functions: resnet20(num_classes=5) is create("resnet20", num_classes=5).
resnet20 = partial(create, "resnet20")
resnet32 = partial(create, "resnet32")
resnet44 = partial(create, "resnet44")
resnet56 = partial(create, "resnet56")
resnet110 = partial(create, "resnet110")
resnet18 = partial(create, "resnet18")
resnet34 = partial(create, "resnet34")
resnet50 = partial(create, "resnet50")
resnet101 = partial(create, "resnet101")
resnet152 = partial(create, "resnet152")
resnet18_cifar = partial(create, "resnet18_cifar")


# (network, name of its weights): (file in assets, SHA-256 of the file)
SHIPPED_WEIGHTS: dict[tuple[str, str], tuple[str, str]] = {
    ("resnet20", "cifar10"): (
        "resnet20-cifar10.safetensors",
        "d25d3b611b5d6f79493e151e37becd7f3e36d61ab8169fbcfd2d43288e17557c",
    ),
    ("resnet20", "animals"): (
        "resnet20-animals.safetensors",
        "ce2f91467339003d6674bb558021590762dc1c893e896598f29654e48c494cae",
    ),
}
ASSETS = Path(__file__).with_name("assets")


def shipped(name: str, weights: str) -> Path:
    """Find weights that come with the package, by network and name.

    Raises:
        ValueError: if there are none of this name, or the file is not the one that was shipped.
    """
    if (name, weights) not in SHIPPED_WEIGHTS:
        known = _listed(f"{other!r} for {network}" for network, other in SHIPPED_WEIGHTS) or "none"
        raise ValueError(f"no weights {weights!r} for {name} (shipped: {known}): give a .safetensors file")
    file, digest = SHIPPED_WEIGHTS[name, weights]
    path = ASSETS / file
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise ValueError(f"{path} is not the file that was shipped: reinstall the package")
    return path


class MeanAndStd(Protocol):
    """How the images of a network are normalised, one value a channel; ``augment.Normalize`` is one."""

    mean: Sequence[float]
    std: Sequence[float]


def save_model(
    path: str | Path, model: ResNet, *, classes: Sequence[str], normalize: MeanAndStd, **extra: Any
) -> Path:
    """Write all that a prediction needs to one file: weights, config, class names, normalisation.

    Args:
        path: the file to write, ending in ``.safetensors``.
        model: the network, compiled or not.
        classes: one name a logit.
        normalize: mean and standard deviation of each channel.
        extra: further metadata, as plain JSON values.

    Raises:
        ValueError: if classes or channels do not fit the model, or the file cannot be written so.
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if not isinstance(model, ResNet):
        raise ValueError(
            f"save_model takes a ResNet, got {type(model).__name__}: use checkpoint.save_weights"
        )
    if len(classes) != model.fc.out_features:
        raise ValueError(f"got {len(classes)} class names for a network with {model.fc.out_features} logits")
    if not len(normalize.mean) == len(normalize.std) == model.conv1.in_channels:
        raise ValueError(f"normalize must have {model.conv1.in_channels} means and standard deviations")
    metadata = {"config": model.config, "classes": list(classes)}
    metadata |= {"mean": list(normalize.mean), "std": list(normalize.std), **extra}
    return checkpoint.save_weights(path, model.state_dict(), metadata)


def load_model(path: str | Path, *, name: str | None = None) -> tuple[ResNet, dict[str, Any]]:
    """Read a network, in eval mode on the CPU, and its metadata.

    Args:
        path: a file of ``save_model``; if ``name`` is given, also a bare state dict such as torchvision's.
        name: the network that the file must hold, as for ``create``, with any number of classes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, or holds another network.
    """
    state_dict, metadata = checkpoint.load_weights(path)
    if name is not None:
        if not {"conv1.weight", "fc.bias"} <= state_dict.keys():
            raise ValueError(f"{path} holds no ResNet: it lacks conv1.weight or fc.bias")
        in_channels, num_classes = state_dict["conv1.weight"].shape[1], len(state_dict["fc.bias"])
        model = create(name, in_channels=in_channels, num_classes=num_classes)
    elif "config" in metadata:
        model = ResNet.from_config(metadata["config"])
    else:
        raise ValueError(f"{path} does not say which network it holds: give its name, such as 'resnet20'")
    _fill(model, state_dict, metadata, source=path)
    return model.eval(), metadata


def count_parameters(model: nn.Module) -> int:
    """Count the parameters, frozen ones included; running statistics are not parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_multiply_adds(model: nn.Module, input_size: int | Sequence[int]) -> int:
    """Count the multiply-adds of convolutions and linear layers for one image: the FLOPs of He et al. 2016.

    Args:
        model: any network of ``nn.Conv2d`` and ``nn.Linear`` layers; it is not run and not changed.
        input_size: (channels, height, width) of the image, or one number for a square colour image.
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


def _fill(
    model: ResNet, state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any], *, source: Path
) -> None:
    """Load weights unless their config is another's: plain and residual twins have the same tensors."""
    for key, theirs in metadata.get("config", {}).items():
        if key != "zero_init" and theirs != model.config.get(key):
            raise ValueError(
                f"{source} is of another network: {key} {theirs!r}, not {model.config.get(key)!r}"
            )
    checkpoint.load_into(model, state_dict, source=str(source))


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _listed(items: Any) -> str:
    return ", ".join(map(str, items))
