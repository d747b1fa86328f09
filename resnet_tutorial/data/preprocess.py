"""From a picture of any size to what a network was trained on; it travels in the weights file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from .normalize import CIFAR10, Normalize

LARGEST = 4096  # side of a square picture; 50 MB each
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
WHITE = 65535  # of 16 bits


@dataclass(frozen=True)
class Preprocess:
    """How a network wants its pictures: shorter side to ``resize`` pixels, centre of ``size``, normalised.

    Attributes:
        size: Side of the square that the network sees, in pixels.
        resize: What the shorter side becomes before the square is cut out of the centre; ``size`` if 0.
        interpolation: One of ``INTERPOLATIONS``; all but ``nearest`` with antialiasing.
        white: Value of white in pictures of 16 bits; 4095 for cameras and scanners of 12 bits.
        normalize: Mean and standard deviation of each channel.

    Raises:
        ValueError: If a value is not allowed.

    Example:
        >>> Preprocess(size=224, resize=256).stored()["resize"]
        256
        >>> Preprocess(size=224, resize=200)
        Traceback (most recent call last):
        ValueError: resize=200: give the shorter side in pixels, size (224) to 4096
    """

    size: int = 32
    resize: int = 0
    interpolation: str = "bicubic"
    white: int = WHITE
    normalize: Normalize = CIFAR10

    def __post_init__(self) -> None:
        if type(self.size) is not int or not 1 <= self.size <= LARGEST:
            raise ValueError(f"size={self.size!r}: give the side of the square in pixels, 1 to {LARGEST}")
        object.__setattr__(self, "resize", self.resize or self.size)
        if type(self.resize) is not int or not self.size <= self.resize <= LARGEST:
            allowed = f"size ({self.size}) to {LARGEST}"
            raise ValueError(f"resize={self.resize!r}: give the shorter side in pixels, {allowed}")
        if self.interpolation not in INTERPOLATIONS:
            allowed = f"choose one of {', '.join(INTERPOLATIONS)}"
            raise ValueError(f"unknown interpolation {self.interpolation!r:.60}: {allowed}")
        if type(self.white) is not int or not 1 <= self.white <= WHITE:
            raise ValueError(f"white={self.white!r}: give the value of white in 16 bits, 1 to {WHITE}")

    @property
    def resampling(self) -> Image.Resampling:
        """The interpolation, as Pillow calls it."""
        return Image.Resampling[self.interpolation.upper()]

    def stored(self) -> dict[str, Any]:
        """Return all but the normalisation as plain JSON values, for ``models.save_model``."""
        names = ("size", "resize", "interpolation", "white")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_stored(cls, metadata: Mapping[str, Any]) -> Preprocess:
        """Read it from the metadata of a network; what a file of an earlier version lacks has its default.

        Raises:
            ValueError: If a value is not allowed.

        Example:
            >>> Preprocess.from_stored({"mean": [0.5], "std": [0.2], "size": 64}).resize
            64
        """
        names = ("size", "resize", "interpolation", "white")
        known = {name: metadata[name] for name in names if name in metadata}
        if "mean" in metadata:
            known["normalize"] = Normalize(tuple(metadata["mean"]), tuple(metadata["std"]))
        return cls(**known)

    @classmethod
    def imagenet(cls, network: str = "resnet18") -> Preprocess:
        """Return that of torchvision's default ImageNet weights: 224 pixels cut out of 256 or 232.

        Raises:
            ValueError: If torchvision has no such network.

        Example:
            >>> Preprocess.imagenet("resnet18").resize, Preprocess.imagenet("resnet50").resize
            (256, 232)
        """
        from torchvision.models import get_model_weights  # takes a second, which most commands do not need

        try:
            shown = get_model_weights(network).DEFAULT.transforms()
        except ValueError:
            raise ValueError(
                f"torchvision has no ImageNet weights for {network!r}: choose resnet18"
            ) from None
        normalize = Normalize(tuple(shown.mean), tuple(shown.std))
        return cls(shown.crop_size[0], shown.resize_size[0], shown.interpolation.value, normalize=normalize)
