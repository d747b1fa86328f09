"""Networks as files: those that come with the package, and how one is written with all it needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..files import ASSETS, atomic
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
        >>> from resnet_tutorial.data import Normalize
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
        >>> from resnet_tutorial.data import CIFAR10
        >>> model = cifar_resnet(8, width=4, num_classes=2)
        >>> path = save_model("pets.safetensors", model, classes=("cat", "dog"), normalize=CIFAR10, epochs=3)
        >>> again, metadata = load_model(path)
        >>> again.config == model.config, metadata["classes"], metadata["epochs"]
        (True, ['cat', 'dog'], 3)
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if not isinstance(model, ResNet):
        raise ValueError(f"save_model takes a ResNet, got {type(model).__name__}: use save_weights")
    if len(classes) != model.fc.out_features:
        raise ValueError(f"got {len(classes)} class names for a network with {model.fc.out_features} logits")
    if not len(normalize.mean) == len(normalize.std) == model.conv1.in_channels:
        raise ValueError(f"normalize must have {model.conv1.in_channels} means and standard deviations")
    metadata = {"config": model.config, "classes": list(classes)}
    metadata |= {"mean": list(normalize.mean), "std": list(normalize.std), **extra}
    return save_weights(path, model.state_dict(), metadata)


def fill(
    model: ResNet, state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any], *, source: Path
) -> None:
    """Load weights unless their config is another's: plain and residual twins have the same tensors."""
    for key, theirs in metadata.get("config", {}).items():
        if key != "zero_init" and theirs != model.config.get(key):
            raise ValueError(
                f"{source} is of another network: {key} {theirs!r}, not {model.config.get(key)!r}"
            )
    load_into(model, state_dict, source=str(source))


METADATA_KEY = "resnet_tutorial"  # safetensors notes map strings to strings: ours is one JSON document
PICKLED = (".pt", ".pth")


def save_weights(path: str | Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
    """Write weights and their metadata to a ``.safetensors`` file.

    Whatever interrupts the writing, an older file stays as it was. Missing directories are created.

    Args:
        path: the file to write, ending in ``.safetensors``.
        state_dict: tensors of any device and memory format; shared storage is written once for each name.
        metadata: anything that JSON can hold.

    Returns:
        The path written.

    Raises:
        ValueError: if the path cannot be a weights file or be written, an entry is no tensor, or the metadata
            is not JSON.

    Example:
        >>> path = save_weights("layer.safetensors", nn.Linear(4, 2).state_dict(), {"epoch": 3})
        >>> tensors, metadata = load_weights(path)
        >>> sorted(tensors), metadata
        (['bias', 'weight'], {'epoch': 3})
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are saved as .safetensors, not as {path.name!r}: give a name that ends so")
    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"cannot save {name!r}: expected a tensor, got {type(value).__name__}")
    try:
        note = json.dumps(dict(metadata))
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be plain JSON values: {error}") from None
    # The format knows neither strides nor sharing: give each name row-major memory of its own.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state_dict.items()
    }
    content = to_safetensors(tensors, metadata={METADATA_KEY: note})
    with atomic(path, parents=True) as file:
        file.write(content)
    return path


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state dict (on the CPU) and its metadata; no code stored in the file is ever run.

    Args:
        path: a ``.safetensors`` file, or a ``.pt``/``.pth`` file that holds a state dict, bare or under the
            key "state_dict" or "model". Only a file of ``save_weights`` has metadata; for others it is empty.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged or holds no weights.

    Example:
        >>> torch.save(nn.Linear(4, 2).state_dict(), "layer.pt")
        >>> tensors, metadata = load_weights("layer.pt")
        >>> tensors["weight"].shape, metadata
        (torch.Size([2, 4]), {})
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no weights file at {path}")
    if path.is_dir():
        raise ValueError(f"cannot read weights from {path}: it is a directory; give a file in it")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLED:
        return _read_pickled(path), {}
    raise ValueError(f"cannot tell what {path.name!r} holds: weights files end in .safetensors, .pt or .pth")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(_damaged(path, error)) from None
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} is damaged: its metadata is not a JSON object")
    return tensors, metadata


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler meets arbitrary bytes and may raise anything
        raise ValueError(_damaged(path, error)) from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not (isinstance(content, dict) and content and all(isinstance(v, Tensor) for v in content.values())):
        raise ValueError(
            f"{path} holds no state dict: expected tensors by name, bare or under 'state_dict' or 'model'"
        )
    return dict(content)


def _damaged(path: Path, error: Exception) -> str:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"{path} is damaged or not a weights file: {reason[:120]}"


def load_into(model: nn.Module, state_dict: Mapping[str, Tensor], *, source: str) -> None:
    """Copy weights into a model, all of them or none.

    Args:
        model: the network; its parameters keep their device and type.
        state_dict: tensors by name; both must agree in every name and shape. Only the step counters of batch
            normalisation may be missing: files from before PyTorch 0.4.1 have none.
        source: where the weights come from, for the message.

    Raises:
        ValueError: if names or shapes differ; the model is left as it was.

    Example:
        >>> load_into(nn.Linear(4, 3), nn.Linear(4, 2).state_dict(), source="layer.pt")
        Traceback (most recent call last):
        ValueError: layer.pt is of another network, 2 tensors where this one has 2:
        2 of another shape (weight (2, 4) for (3, 4), bias (2,) for (3,))
    """
    own = model.state_dict()
    counters = {name: value for name, value in own.items() if name.endswith("num_batches_tracked")}
    given = {**counters, **state_dict}
    differences = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ],
    }
    found = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for kind, names in differences.items()
        if names
    ]
    if found:
        counts = f"{len(state_dict)} tensors where this one has {len(own)}"
        raise ValueError(f"{source} is of another network, {counts}: {'; '.join(found)}")
    model.load_state_dict(given, strict=True)
