"""The residual network itself: stem, stages of blocks, head.

Source: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016. Parameter names are
torchvision's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import BLOCKS, Block, PreActBlock, conv3x3

STEMS = ("cifar", "pool", "imagenet")
CONFIG = {  # what a config holds
    **dict.fromkeys(("block", "stem", "shortcut"), str),
    **dict.fromkeys(("num_classes", "in_channels", "width"), int),
    **{"layers": list, "zero_init": bool},
}


class ResNet(nn.Module):
    """Stem, stages of residual blocks, head.

    Stage k = 0, 1, ... has ``layers[k]`` blocks of ``width * 2**k`` channels (times the block's expansion),
    and every stage but the first halves the resolution in its first block.

    In a pre-activation network the stem's BN and ReLU replace the first block's own, ahead of both its paths,
    and one more BN and ReLU follow the last block (He et al. 2016b, appendix).

    Args:
        block: ``BasicBlock``, ``Bottleneck``, ``PreActBlock`` or a class derived from one of them.
        layers: Number of blocks in each stage.
        num_classes: Number of logits.
        in_channels: Channels of the images: 3 for colour, 1 for grey.
        width: Channels of the stem and of the first stage. From 8 on, or with shortcut A: training smaller
            projections in channels-last crashes oneDNN 3, and so PyTorch, on processors that have AVX2 but
            not AVX-512 (its issue 6035).
        stem: ``"cifar"`` is a 3x3 convolution; ``"pool"`` the same and at once a 2x2 max-pool;
            ``"imagenet"`` a 7x7 convolution and a 3x3 max-pool, each with stride 2.
        shortcut: Where the shape changes, ``"A"`` pads with zeros and ``"B"`` projects; ``"C"`` projects in
            every block; ``"none"`` is the plain network.
        zero_init: Start with every block equal to its shortcut.

    Attributes:
        config: The arguments as plain JSON values, from which ``ResNet.from_config`` builds the network anew.

    Raises:
        ValueError: If an argument is not among those above.

    Example:
        >>> import torch
        >>> from resnet_tutorial.models import BasicBlock
        >>> model = ResNet(BasicBlock, (1, 1, 1), num_classes=10, width=4, stem="cifar", shortcut="A")
        >>> images = torch.zeros(2, 3, 32, 32)
        >>> model.forward_features(images).shape, model(images).shape, model.depth
        (torch.Size([2, 16, 8, 8]), torch.Size([2, 10]), 8)
        >>> ResNet.from_config(model.config).config == model.config
        True
    """

    def __init__(
        self,
        block: type[Block],
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
        check_positive(in_channels=in_channels, width=width, layers=min(layers, default=0))
        if stem not in STEMS:
            raise ValueError(f"unknown stem {stem!r}: choose one of {', '.join(STEMS)}")
        if zero_init and shortcut == "none":
            raise ValueError("zero_init needs a shortcut: plain blocks that start at zero pass nothing on")
        kind = next((name for name, known in BLOCKS.items() if known is block), block.__name__)
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "width": width}
        choices = {"stem": stem, "shortcut": shortcut, "zero_init": zero_init}
        self.config: dict[str, Any] = {"block": kind, "layers": list(layers), **sizes, **choices}

        if stem != "imagenet":
            self.conv1 = conv3x3(in_channels, width)
            self.maxpool = nn.Identity() if stem == "cifar" else nn.MaxPool2d(kernel_size=2)
        else:
            self.conv1 = nn.Conv2d(in_channels, width, kernel_size=7, stride=2, padding=3, bias=False)
            self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        # The maximum may be taken before BN and ReLU, which keep the order of values (as long as the scale is
        # positive): they then have a quarter of the work.
        self.pools_first = stem == "pool"

        channels = width  # of what enters the next block
        self.stages = [f"layer{k + 1}" for k in range(len(layers))]
        for k, name in enumerate(self.stages):
            blocks: list[nn.Module] = []
            for i in range(layers[k]):
                stride = 2 if k > 0 and i == 0 else 1
                blocks.append(block(channels, width * 2**k, stride=stride, shortcut=shortcut))
                channels = width * 2**k * block.expansion
            if k == 0 and issubclass(block, PreActBlock):
                blocks[0].add_module("bn1", nn.Identity())  # the stem has done it; a second ReLU is no change
            self.add_module(name, nn.Sequential(*blocks))

        self.norm = nn.BatchNorm2d(channels) if issubclass(block, PreActBlock) else None
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

        C is ``fc.in_features``; (h, w) is (H, W) / 4 in the CIFAR layout, (H, W) / 8 with the ``"pool"`` stem
        and (H, W) / 32 in the ImageNet layout.

        Raises:
            ValueError: If the shape or the type is another.
        """
        channels = self.conv1.in_channels
        if x.dim() != 4 or x.size(1) != channels:
            raise ValueError(f"expected images of shape (N, {channels}, H, W), got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"expected normalised float images, got {x.dtype}: apply Normalize first")
        x = self.conv1(x)  # (N, width, H, W); ImageNet: (N, width, H / 2, W / 2)
        if self.pools_first:
            x = self.maxpool(x)  # (N, width, H / 2, W / 2)
        x = F.relu(self.bn1(x))
        if not self.pools_first:
            x = self.maxpool(x)  # ImageNet: (N, width, H / 4, W / 4)
        for name in self.stages:
            x = getattr(self, name)(x)  # twice the channels and half the size, except after the first stage
        return x if self.norm is None else F.relu(self.norm(x))

    def forward_head(self, x: Tensor) -> Tensor:
        """Map a feature map (N, C, h, w) to logits (N, num_classes): mean over the pixels, then linear."""
        logits: Tensor = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))  # (N, C) -> (N, num_classes)
        return logits

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
        """Build the network, newly initialised, that has this ``config``.

        Raises:
            ValueError: If there is none.
        """
        try:
            options = dict(config)
            return cls(BLOCKS[options.pop("block")], options.pop("layers"), **options)
        except (TypeError, KeyError, ValueError, RuntimeError) as error:
            raise ValueError(f"not the config of a ResNet: {error}") from None


def linear_head(in_features: int, num_classes: int) -> nn.Linear:
    """Build a head whose logits start near zero, so that training starts at a loss of ln(num_classes).

    Its weights have standard deviation 0.01 (Goyal et al. 2017, section 5.1). Features grow with depth, and
    with the larger weights that ``nn.Linear`` draws ResNet-110 would start far above that loss.

    Example:
        >>> import torch
        >>> features, labels = torch.randn(1000, 64), torch.randint(0, 10, (1000,))
        >>> loss = F.cross_entropy(linear_head(64, 10)(features), labels)
        >>> round(loss.item(), 1)  # ln 10 is 2.303
        2.3
    """
    check_positive(num_classes=num_classes)
    head = nn.Linear(in_features, num_classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return head


def check_positive(**values: int) -> None:
    """Raise ``ValueError`` unless every value is a whole number of at least 1."""
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
