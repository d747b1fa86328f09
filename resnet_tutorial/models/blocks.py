"""Residual blocks and their shortcuts.

A block computes ``y = relu(F(x) + S(x))``: ``F`` is a short stack of convolutions, ``S`` the shortcut. Each
is built as ``Block(in_channels, channels, stride=..., shortcut=...)`` and returns ``channels *
Block.expansion`` channels at ``1 / stride`` of the resolution, rounded up. Submodules carry torchvision's
names, so that state dicts load both ways.

Sources: He, Zhang, Ren and Sun, "Deep residual learning for image recognition", CVPR 2016, called He et al.
2016a below (the blocks and shortcuts A, B and C); the same authors, "Identity mappings in deep residual
networks", ECCV 2016, called He et al. 2016b below (pre-activation); Goyal et al., "Accurate, large minibatch
SGD: training ImageNet in 1 hour", arXiv:1706.02677, 2017 (zero initialisation).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

SHORTCUTS = ("A", "B", "C", "none")


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Build a 3x3 convolution that keeps the resolution at stride 1, without bias: BN has one.

    Example:
        >>> import torch
        >>> conv3x3(3, 16, stride=2)(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 16, 16, 16])
    """
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """Build a 1x1 convolution without bias: a linear map of the channels, the same at every pixel.

    Example:
        >>> conv1x1(16, 32).weight.shape
        torch.Size([32, 16, 1, 1])
    """
    return nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False)


class ZeroPadShortcut(nn.Module):
    """Shortcut A where the shape changes: every ``stride``-th pixel, new channels filled with zeros.

    Half of the new channels come before the old ones and half after them, as is usual in PyTorch code for
    CIFAR-10; fb.resnet.torch puts all of them after, which differs only in the order of channels.

    Example:
        >>> import torch
        >>> ZeroPadShortcut(1, 3, stride=2)(torch.ones(1, 1, 4, 4))[0, :, 0, 0]  # three channels, one pixel
        tensor([0., 1., 0.])
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        if out_channels < in_channels:
            raise ValueError(f"shortcut 'A' only adds channels, got {in_channels} to {out_channels}: use 'B'")
        added = out_channels - in_channels
        self.padding = (added // 2, added - added // 2)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, out_channels, ceil(H / stride), ceil(W / stride))."""
        kept = x[:, :, :: self.stride, :: self.stride]  # (N, C, ceil(H / stride), ceil(W / stride))
        return F.pad(kept, (0, 0, 0, 0, *self.padding))  # from the last axis on: width, height, channels

    def extra_repr(self) -> str:
        """Show stride and padding when a network is printed."""
        return f"stride={self.stride}, padding={self.padding}"


def make_shortcut(
    shortcut: str, in_channels: int, out_channels: int, stride: int = 1, *, norm: bool = True
) -> nn.Module | None:
    """Build the shortcut of one block (He et al. 2016a, sections 3.3 and 4.1).

    ``"A"`` pads with zeros where the shape changes, ``"B"`` projects there, ``"C"`` projects in every block;
    ``"none"`` is the plain network, without shortcuts. With ``norm``, BN follows the 1x1 projection.

    Returns:
        A module from (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride), or ``None``.

    Raises:
        ValueError: If the shortcut is unknown, or ``"A"`` would have to remove channels.
    """
    if shortcut not in SHORTCUTS:
        raise ValueError(f"unknown shortcut {shortcut!r}: choose one of {', '.join(SHORTCUTS)}")
    if shortcut == "none":
        return None
    changes_shape = stride != 1 or in_channels != out_channels
    if shortcut == "C" or (shortcut == "B" and changes_shape):
        projection = conv1x1(in_channels, out_channels, stride)
        return nn.Sequential(projection, nn.BatchNorm2d(out_channels)) if norm else nn.Sequential(projection)
    return ZeroPadShortcut(in_channels, out_channels, stride) if changes_shape else nn.Identity()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (He et al. 2016a, figure 5 left).

    Example:
        >>> import torch
        >>> BasicBlock(16, 32, stride=2)(torch.zeros(2, 16, 32, 32)).shape
        torch.Size([2, 32, 16, 16])
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, shortcut: str = "B") -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = make_shortcut(shortcut, in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))  # (N, channels, H / stride, W / stride), and so it stays
        out = self.bn2(self.conv2(out))  # no ReLU yet: F(x) must be able to be negative
        if self.downsample is not None:
            out = out + self.downsample(x)
        return F.relu(out)

    def zero_init(self) -> None:
        """Start as the shortcut alone: zero the last BN scale (Goyal et al. 2017, section 5.1)."""
        nn.init.zeros_(self.bn2.weight)


class Bottleneck(nn.Module):
    """1x1 to fewer channels, 3x3, 1x1 back to four times as many (He et al. 2016a, figure 5 right).

    The stride sits on the 3x3 convolution, as in fb.resnet.torch, torchvision and NVIDIA's "ResNet-50
    v1.5". The paper has it on the first 1x1, which then skips three pixels in four.

    Example:
        >>> import torch
        >>> Bottleneck(64, 64)(torch.zeros(2, 64, 8, 8)).shape
        torch.Size([2, 256, 8, 8])
    """

    expansion = 4

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, shortcut: str = "B") -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = conv1x1(in_channels, channels)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = conv1x1(channels, out_channels)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = make_shortcut(shortcut, in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 4 * channels, H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))  # (N, channels, H, W)
        out = F.relu(self.bn2(self.conv2(out)))  # (N, channels, H / stride, W / stride)
        out = self.bn3(self.conv3(out))  # (N, 4 * channels, H / stride, W / stride)
        if self.downsample is not None:
            out = out + self.downsample(x)
        return F.relu(out)

    def zero_init(self) -> None:
        """Start as the shortcut alone: zero the last BN scale (Goyal et al. 2017, section 5.1)."""
        nn.init.zeros_(self.bn3.weight)


class PreActBlock(nn.Module):
    """Batch normalisation and ReLU before each of two 3x3 convolutions (He et al. 2016b, figure 1b).

    Nothing follows the addition, so an identity shortcut carries ``x`` through untouched. A projection takes
    the activated input and has no batch normalisation of its own, as in the authors' code (resnet-1k-layers);
    zero padding takes ``x`` itself.

    Example:
        >>> import torch
        >>> block, x = PreActBlock(8, 8), torch.randn(2, 8, 4, 4)
        >>> block.zero_init()
        >>> torch.equal(block(x), x)  # a silent branch: nothing is in the way of x
        True
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, shortcut: str = "B") -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = conv3x3(channels, channels)
        self.downsample = make_shortcut(shortcut, in_channels, channels, stride, norm=False)
        self.projects = isinstance(self.downsample, nn.Sequential)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        active = F.relu(self.bn1(x))
        out: Tensor = self.conv1(active)  # (N, channels, H / stride, W / stride), and so it stays
        out = self.conv2(F.relu(self.bn2(out)))
        if self.downsample is not None:
            out = out + self.downsample(active if self.projects else x)
        return out

    def zero_init(self) -> None:
        """Start as the shortcut alone: no BN ends this branch, so zero the last convolution."""
        nn.init.zeros_(self.conv2.weight)


Block = BasicBlock | Bottleneck | PreActBlock
BLOCKS: dict[str, type[Block]] = {"basic": BasicBlock, "bottleneck": Bottleneck, "preact": PreActBlock}
