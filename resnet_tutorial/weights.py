"""Networks as files: those that come with the package, and how one is written with all it needs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from . import checkpoint
from .resnet import ResNet

# (network, name of its weights): (file in assets, SHA-256 of the file)
SHIPPED_WEIGHTS: dict[tuple[str, str], tuple[str, str]] = {
    ("resnet20", "cifar10"): (
        "resnet20-cifar10.safetensors",
        "cb46f2950b944870ee57731ba4b393c091b55035eadb25aa317b516f682869d6",
    ),
    ("resnet20", "animals"): (
        "resnet20-animals.safetensors",
        "78327fa847a63b73d1177589df679565a4746228803081ad9b90ef8cd0b9841e",
    ),
}
ASSETS = Path(__file__).with_name("assets")


def shipped(name: str, weights: str) -> Path:
    """Find weights that come with the package, by network and name.

    Raises:
        ValueError: if there are none of this name, or the file is not the one that was shipped.

    Example:
        >>> shipped("resnet20", "cifar10").name
        'resnet20-cifar10.safetensors'
        >>> shipped("resnet56", "cifar10")
        Traceback (most recent call last):
        ValueError: no weights 'cifar10' for resnet56 (shipped: ...): give a .safetensors file
    """
    if (name, weights) not in SHIPPED_WEIGHTS:
        known = ", ".join(f"{other!r} for {network}" for network, other in SHIPPED_WEIGHTS) or "none"
        raise ValueError(f"no weights {weights!r} for {name} (shipped: {known}): give a .safetensors file")
    file, digest = SHIPPED_WEIGHTS[name, weights]
    path = ASSETS / file
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise ValueError(f"{path} is not the file that was shipped: reinstall the package")
    return path


class MeanAndStd(Protocol):
    """How the images of a network are normalised, one value a channel; ``augment.Normalize`` is one.

    Example:
        >>> from resnet_tutorial.normalize import Normalize
        >>> grey: MeanAndStd = Normalize(mean=(0.5,), std=(0.25,))
        >>> grey.mean, grey.std
        ((0.5,), (0.25,))
    """

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

    Example:
        >>> from resnet_tutorial.models import cifar_resnet, load_model
        >>> from resnet_tutorial.normalize import CIFAR10
        >>> model = cifar_resnet(8, width=4, num_classes=2)
        >>> path = save_model("pets.safetensors", model, classes=("cat", "dog"), normalize=CIFAR10, epochs=3)
        >>> again, metadata = load_model(path)
        >>> again.config == model.config, metadata["classes"], metadata["epochs"]
        (True, ['cat', 'dog'], 3)
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


def fill(
    model: ResNet, state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any], *, source: Path
) -> None:
    """Load weights unless their config is another's: plain and residual twins have the same tensors."""
    for key, theirs in metadata.get("config", {}).items():
        if key != "zero_init" and theirs != model.config.get(key):
            raise ValueError(
                f"{source} is of another network: {key} {theirs!r}, not {model.config.get(key)!r}"
            )
    checkpoint.load_into(model, state_dict, source=str(source))
