"""Write the weights and pictures of the page "Try the network" as one script.

Usage: python tools/make_browser_weights.py [--out FILE]

Each batch normalisation of the shipped ResNet-20 is folded into the convolution before it (exercise 2.3); the
results are stored as float16 in base64. The pictures are the first two test images of each class, as raw
pixels. A page that is opened from disk may load scripts but read no files: hence a script.
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from resnet_tutorial.data import CIFAR10, IMAGENET, load_sample
from resnet_tutorial.models import ResNet, load_model, shipped

OUT = Path(__file__).resolve().parents[1] / "book" / "_extra" / "try" / "weights.js"
PER_CLASS = 2
HEAD = "// Made by tools/make_browser_weights.py from resnet20-cifar10.safetensors and the embedded sample.\n"


def fold(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    """Return weight and bias, float64, of the one convolution that does what both do in eval mode."""
    factor = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)  # (O,)
    weight = conv.weight.double() * factor[:, None, None, None]  # (O, C, 3, 3)
    bias = bn.bias.double() - bn.running_mean.double() * factor  # (O,)
    return weight.detach().numpy(), bias.detach().numpy()


def layers(model: ResNet) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return weight and bias of each layer that computes something, in the order of computation."""
    found = {"conv1": fold(model.conv1, model.bn1)}
    for stage in model.stages:
        for i, block in enumerate(getattr(model, stage)):
            found[f"{stage}.{i}.conv1"] = fold(block.conv1, block.bn1)
            found[f"{stage}.{i}.conv2"] = fold(block.conv2, block.bn2)
    found["fc"] = model.fc.weight.detach().double().numpy(), model.fc.bias.detach().double().numpy()
    return found


def encoded(array: np.ndarray) -> str:
    """Return the bytes of an array, little-endian, in base64."""
    return base64.b64encode(array.astype(array.dtype.newbyteorder("<")).tobytes()).decode("ascii")


def content() -> str:
    """Return the script: one object, ``tryNetworkData``."""
    model, metadata = load_model(shipped("resnet20", "cifar10"))
    shapes, flat = {}, []
    for name, (weight, bias) in layers(model).items():
        shapes[name] = list(weight.shape)
        flat += [weight.ravel(), bias]
    weights = np.concatenate(flat).astype(np.float16)
    if not np.isfinite(weights).all():
        raise ValueError("a weight is too large for float16")

    _, test = load_sample()
    first = np.concatenate(
        [np.flatnonzero(test.labels.numpy() == k)[:PER_CLASS] for k in range(len(test.classes))]
    )
    pictures = [
        {
            "label": int(test.labels[i]),
            "pixels": encoded(test.images[i].permute(1, 2, 0).contiguous().numpy()),  # (32, 32, 3)
        }
        for i in first
    ]
    norms = {"CIFAR-10": CIFAR10, "ImageNet": IMAGENET}
    data = {
        "classes": list(metadata["classes"]),
        "norms": {name: {"mean": list(norm.mean), "std": list(norm.std)} for name, norm in norms.items()},
        "shapes": shapes,  # weight, then bias, of each layer, one after the other in "weights"
        "weights": encoded(weights),
        "pictures": pictures,
    }
    body = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in data.items())
    return f'{HEAD}"use strict";\nconst tryNetworkData = {{\n{body}\n}};\n'


def main() -> None:
    """Write the script."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="the script to write (default: the book's)")
    out = parser.parse_args().out
    out.write_text(content(), encoding="ascii")
    print(f"{out}: {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
