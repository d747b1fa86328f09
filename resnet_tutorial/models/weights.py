"""Networks as files: those that come with the package, how one is written, and what a file must hold."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..files import ASSETS, atomic, waiting
from ..untrusted import NotPlainError, damaged, load_saved
from .blocks import BLOCKS
from .resnet import CONFIG, ResNet

METADATA_KEY = "resnet_tutorial"  # safetensors notes map strings to strings: ours is one JSON document
DIGEST_KEY = "tensors_sha256"  # in that document: the format itself has no check sum
SILENCE = 30.0  # seconds that a server may say nothing
PICKLED = (".pt", ".pth", ".tar", ".ckpt", ".bin")
CONTAINERS = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights")
WRAPPERS = re.compile(r"((module|_orig_mod|model|net|network|backbone)\.)+")  # in front of every name
# (network, name of its weights): SHA-256 of the file NETWORK-NAME.safetensors in assets
SHIPPED_WEIGHTS = {
    ("resnet20", "cifar10"): "cb46f2950b944870ee57731ba4b393c091b55035eadb25aa317b516f682869d6",
    ("resnet20", "animals"): "78327fa847a63b73d1177589df679565a4746228803081ad9b90ef8cd0b9841e",
}


def shipped(name: str, weights: str) -> Path:
    """Find weights that come with the package, by network and name.

    Raises:
        ValueError: If there are none of this name, or the file is not the one that was shipped.

    Example:
        >>> shipped("resnet20", "cifar10").name
        'resnet20-cifar10.safetensors'
        >>> shipped("resnet56", "cifar10")
        Traceback (most recent call last):
        ValueError: no weights 'cifar10' for resnet56 (shipped: ...): give a .safetensors file
    """
    if (name, weights) not in SHIPPED_WEIGHTS:
        known = ", ".join(f"{other!r} for {network}" for network, other in SHIPPED_WEIGHTS)
        raise ValueError(f"no weights {weights!r} for {name} (shipped: {known}): give a .safetensors file")
    path = ASSETS / f"{name}-{weights}.safetensors"
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHIPPED_WEIGHTS[name, weights]:
        raise ValueError(f"{path} is not the file that was shipped: reinstall the package")
    return path


class MeanAndStd(Protocol):
    """How the images of a network are normalised, one value a channel: ``data.Normalize`` is one."""

    @property
    def mean(self) -> Sequence[float]: ...
    @property
    def std(self) -> Sequence[float]: ...


def save_model(
    path: str | Path, model: nn.Module, *, classes: Sequence[str], normalize: MeanAndStd, **extra: Any
) -> Path:
    """Write all that a prediction needs to one file: weights, config, class names, normalisation.

    Args:
        path: The file to write, ending in ``.safetensors``.
        model: The network, a ``ResNet``, compiled or not.
        classes: One name a logit, each another.
        normalize: Mean and standard deviation of each channel.
        extra: Further metadata, as plain JSON values.

    Raises:
        ValueError: If classes or channels do not fit the model, a weight is not finite, or the file cannot be
            written.

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
        raise ValueError(f"save_model takes a ResNet, not a {type(model).__name__}: use save_weights")
    state_dict = model.state_dict()
    metadata = {
        "config": model.config,
        "classes": list(classes),
        "mean": list(normalize.mean),
        "std": list(normalize.std),
        **extra,
    }
    check_model(path, state_dict, metadata)
    return save_weights(path, state_dict, metadata)


def check_model(
    path: str | Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """Refuse what no network can be, before it is written and before memory is taken for what a file says.

    Returns:
        The config, empty if the file has none: its sizes are those of the tensors.

    Raises:
        ValueError: If a weight is not finite, a variance negative, or config, classes or normalisation do not
            fit the tensors.
    """
    stem, head = state_dict.get("conv1.weight"), state_dict.get("fc.bias")
    if stem is None or head is None or stem.dim() != 4 or head.dim() != 1:
        raise ValueError(f"{path} holds no ResNet: it lacks conv1.weight or fc.bias")
    for name, value in state_dict.items():
        real = value.is_floating_point() and value.element_size() > 1  # those of 8 bits only store
        if not (real or name.endswith("num_batches_tracked")):
            raise ValueError(f"{path}: {name} has {value.dtype}, not floating-point numbers of 16 to 64 bits")
        if real and not value.isfinite().all():
            raise ValueError(f"{path}: {name} is not finite: train again, with a smaller learning rate")
        if name.endswith("running_var") and (value < 0).any():
            raise ValueError(f"{path}: {name}, a variance, is negative")
    if "config" not in metadata:
        return {}
    config = metadata["config"]
    if not isinstance(config, dict) or {key: type(value) for key, value in config.items()} != CONFIG:
        raise ValueError(f"{path}: its config lacks what a ResNet's has: write the file with save_model")
    if config["block"] not in BLOCKS:
        raise ValueError(f"{path}: unknown block {config['block']!r:.60}: choose one of {', '.join(BLOCKS)}")
    blocks = {tuple(name.split(".")[:2]) for name in state_dict if name.startswith("layer")}
    count = Counter(stage for stage, *_ in blocks)
    sizes = {
        "layers": [count[f"layer{k + 1}"] for k in range(len(count))],
        "num_classes": len(head),
        "in_channels": stem.shape[1],
        "width": stem.shape[0],
    }
    for key, size in sizes.items():
        if config[key] != size:
            raise ValueError(f"{path}: its config says {key} {config[key]!r:.60}, its tensors {size}")

    classes = _list_of(str, metadata.get("classes"))
    if len(classes) != len(head) or not all(classes) or len({*classes}) < len(classes):
        raise ValueError(
            f"{path}: classes must be {len(head)} different names: {metadata.get('classes')!r:.60}"
        )
    for key, least in (("mean", -1e6), ("std", 0)):
        values = _list_of((int, float), metadata.get(key))
        if len(values) != stem.shape[1] or not all(least < value < 1e6 for value in values):
            raise ValueError(f"{path}: {key} must be {stem.shape[1]} numbers: {metadata.get(key)!r:.60}")
    return config


def _list_of(kind: type | tuple[type, ...], values: object) -> list[Any]:
    """Return the list, empty if it is none or an entry is of another kind."""
    return values if isinstance(values, list) and all(isinstance(value, kind) for value in values) else []


def save_weights(path: str | Path, state_dict: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> Path:
    """Write weights and their metadata to a ``.safetensors`` file.

    Whatever interrupts the writing, an older file stays as it was. Missing directories are created.

    Args:
        path: The file to write, ending in ``.safetensors``.
        state_dict: Tensors of any device and memory format; shared storage is written once for each name.
        metadata: Anything that JSON can hold: NaN and infinity are not among it.

    Returns:
        The path written.

    Raises:
        ValueError: If the path cannot be a weights file or be written, an entry is no tensor, or the metadata
            is not JSON.

    Example:
        >>> path = save_weights("layer.safetensors", nn.Linear(4, 2).state_dict(), {"epoch": 3})
        >>> tensors, metadata = load_weights(path)
        >>> sorted(tensors), metadata
        (['bias', 'weight'], {'epoch': 3})
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} is no name for weights: give one that ends in .safetensors")
    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path}: {name!r} must be a tensor, not a {type(value).__name__}")
    try:
        note = json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: metadata must be plain JSON values: {error}") from None
    # The format knows neither strides nor sharing: give each name row-major memory of its own.
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state_dict.items()
    }
    # One note only: the format writes several in any order, and equal networks should be equal files.
    note = json.dumps(json.loads(note) | {DIGEST_KEY: _digest(tensors)})
    content = to_safetensors(tensors, metadata={METADATA_KEY: note})
    with atomic(path, parents=True) as file:
        file.write(content)
    return path


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state dict (on the CPU) and its metadata; no code stored in the file is ever run.

    Args:
        path: A ``.safetensors`` file, or one of ``torch.save`` (``.pt``, ``.pth``, ``.tar``, ``.ckpt``) with
            a state dict, bare or under one of the usual keys; what wrappers such as ``DataParallel`` put in
            front of all names is left out. Files of others have no metadata.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged or holds no weights.

    Example:
        >>> torch.save(nn.Linear(4, 2).state_dict(), "layer.pt")
        >>> tensors, metadata = load_weights("layer.pt")
        >>> tensors["weight"].shape, metadata
        (torch.Size([2, 4]), {})
    """
    path = Path(path)
    if not path.exists():
        told = f"{path} does not exist: give a .safetensors, .pt or .pth file"
        raise FileNotFoundError(told + waiting(path))
    if not path.is_file():  # to open a pipe would be to wait for ever
        what = "no regular file: give a weights file"
        raise ValueError(f"{path} is {'a directory: give a weights file in it' if path.is_dir() else what}")
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
        return _unwrapped(tensors), metadata
    if path.suffix in PICKLED:
        return _unwrapped(_read_pickled(path)), {}
    raise ValueError(f"{path} is no name of a weights file: give one that ends in .safetensors, .pt or .pth")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            notes = file.metadata() or {}
            metadata = json.loads(notes.get(METADATA_KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        stated = metadata.pop(DIGEST_KEY, None) if isinstance(metadata, dict) else None
        if stated is not None and stated != _digest(tensors):
            raise ValueError("its check sum is wrong")
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ValueError(damaged(path, error, what="a weights file")) from None
    if not isinstance(metadata, dict):
        raise ValueError(f"{path} is damaged: its metadata is not a JSON object")
    return tensors, metadata


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        content = load_saved(path)
    except NotPlainError as error:  # which running code of the file might make
        what = f"{path} holds more than tensors, such as a whole pickled model, and is not opened ({error})"
        raise ValueError(f"{what}: save its state_dict()") from None
    except Exception as error:  # the unpickler meets arbitrary bytes and may raise anything
        raise ValueError(damaged(path, error, what="a weights file")) from None
    if isinstance(content, dict) and {"identity", "rows", "step"} <= content.keys():
        beside = path.with_name("model.safetensors")
        raise ValueError(f"{path} is the state of a run, for --resume: give its network, such as {beside}")
    for key in CONTAINERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    named = isinstance(content, dict) and all(isinstance(name, str) for name in content)
    if not (named and content and all(map(_is_array, content.values()))):
        expected = f"expected dense tensors by name, bare or under {', '.join(CONTAINERS)}"
        raise ValueError(f"{path} holds no state dict: {expected}")
    return dict(content)


def _is_array(value: Any) -> bool:
    """Whether it is a tensor with a number at each place: a sparse one is not, nor one on the meta device."""
    dense = isinstance(value, Tensor) and value.layout is torch.strided
    return dense and not (value.is_meta or value.is_nested or value.is_quantized)


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what ``DataParallel``, ``torch.compile`` or another wrapper put in front of every name."""
    prefixes = {found[0] if (found := WRAPPERS.match(name)) else "" for name in tensors}
    shared = len(prefixes.pop()) if len(prefixes) == 1 else 0
    return {name[shared:]: value for name, value in tensors.items()}


def imagenet_weights(network: str) -> Path:
    """Find torchvision's default ImageNet weights in torch's own cache; fetch them if they are not there.

    Returns:
        A file for ``load_model``, whose content has been compared with the hash in its name.

    Raises:
        ValueError: If there are none for this network, they cannot be fetched, or the file is not the right
            one; the message names the file, where it is from, and where to put it.

    Example:
        >>> imagenet_weights("resnet20")
        Traceback (most recent call last):
        ValueError: no ImageNet weights for resnet20: choose one of resnet18, resnet34, ...
    """
    if network not in (known := [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)]):
        raise ValueError(f"no ImageNet weights for {network}: choose one of {', '.join(known)}")
    url = _imagenet_url(network)
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    expected = path.stem.rpartition("-")[2]
    if not path.exists():
        before = socket.getdefaulttimeout()
        try:
            socket.setdefaulttimeout(SILENCE)  # PyTorch would wait for ever
            path.parent.mkdir(parents=True, exist_ok=True)
            print(f"fetching {url}", file=sys.stderr)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=expected, progress=sys.stderr.isatty())
        except (OSError, RuntimeError, http.client.HTTPException) as error:
            told = getattr(error, "strerror", None) or " ".join(str(error).split())[:100]
            reason = "it is not the right file" if "hash" in str(error) else told
            raise ValueError(f"cannot fetch the weights ({reason}): put {url} at {path}") from None
        finally:
            socket.setdefaulttimeout(before)
    with path.open("rb") as file:
        if not hashlib.file_digest(file, "sha256").hexdigest().startswith(expected):
            raise ValueError(f"{path} is damaged: remove it, or put {url} there")
    return path


def _imagenet_url(network: str) -> str:
    from torchvision.models import get_model_weights  # takes a second, which most commands do not need

    return str(get_model_weights(network).DEFAULT.url)


def load_into(
    model: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    source: str | Path,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Copy weights into a model, all of them or none.

    Args:
        model: The network; its parameters keep their type and device, but those on the meta device get memory
            on the CPU.
        state_dict: Tensors by name; both must agree in every name and shape. Only the step counters of batch
            normalisation may be missing: files from before PyTorch 0.4.1 have none.
        source: Where the weights come from, for the message.
        config: That of the network they were made with: plain and residual twins have the same tensors.

    Raises:
        ValueError: If config, names or shapes differ; the model is left as it was.
    """
    for key, theirs in (config or {}).items():
        ours = getattr(model, "config", {}).get(key)
        if key != "zero_init" and theirs != ours:
            raise ValueError(f"{source} is of another network: {key} {theirs!r}, not {ours!r}")
    own = model.state_dict()
    counters = [name for name in own if name.endswith("_batches_tracked")]
    given = {name: torch.zeros_like(own[name], device="cpu") for name in counters} | {**state_dict}
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
        differ = len(state_dict) != len(own)
        counts = f", {len(state_dict)} tensors where this one has {len(own)}" if differ else ""
        raise ValueError(f"{source} is of another network{counts}: {'; '.join(found)}")
    if any(parameter.is_meta for parameter in model.parameters()):
        model.to_empty(device="cpu")
    model.load_state_dict(given, strict=True)
