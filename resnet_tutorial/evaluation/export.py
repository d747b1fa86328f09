"""A trained network as one ONNX file, which other programs run without PyTorch."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Preprocess
from ..files import atomic

NEEDED = "export needs two more packages: pip install onnx onnxruntime onnxscript"
LARGEST_ERROR = 1e-3  # of a logit


class WithInput(nn.Module):
    """A network that takes pixels, normalises them itself, and gives calibrated logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, how: Preprocess, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature
        self.register_buffer("mean", torch.tensor(how.normalize.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(how.normalize.std).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map uint8 ``(N, 3, H, W)`` to logits ``(N, K)``."""
        logits: Tensor = self.model((pixels.float() / 255 - self.mean) / self.std)
        return logits / self.temperature


def export_onnx(
    path: str | Path, model: nn.Module, *, classes: Sequence[str], how: Preprocess, temperature: float = 1.0
) -> float:
    """Write a network as ONNX and compare it with the original, run by onnxruntime.

    The input ``pixels`` is uint8 ``(N, 3, size, size)``, the output ``logits`` float32 ``(N, K)``;
    normalisation and temperature are inside. The file's metadata hold size, cut and class names as JSON.

    Args:
        path: The file to write.
        model: In eval mode, on the CPU.
        classes: One name a logit.
        how: The network's preprocessing.
        temperature: Divides the logits.

    Returns:
        The largest difference of a logit, on random images.

    Raises:
        ValueError: If a package is missing, the two disagree, or the file cannot be written.

    Example:
        >>> from resnet_tutorial.models import cifar_resnet
        >>> model = cifar_resnet(8, width=4, num_classes=2).eval()
        >>> export_onnx("model.onnx", model, classes=("cat", "dog"), how=Preprocess(32)) < 1e-3
        True
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs them)
    except ModuleNotFoundError:
        raise ValueError(NEEDED) from None
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 3, how.size, how.size), dtype=torch.uint8, generator=generator)
    whole = WithInput(model, how, temperature).eval()
    with torch.inference_mode():
        expected = whole(pixels).numpy()
    names: dict[str, Any] = {"input_names": ["pixels"], "output_names": ["logits"]}
    batch = {"pixels": {0: torch.export.Dim("batch", min=1)}}
    with warnings.catch_warnings(action="ignore"), redirect_stdout(io.StringIO()):  # of the exporter's
        made = torch.onnx.export(whole, (pixels,), dynamo=True, dynamic_shapes=batch, verbose=False, **names)
    graph = cast(torch.onnx.ONNXProgram, made).model_proto
    named = [name.encode(errors="replace").decode() for name in classes]  # one may be no text
    about = {"classes": named, **how.stored(), "temperature": temperature}
    for name, value in about.items():
        graph.metadata_props.add(key=name, value=json.dumps(value, ensure_ascii=False))
    content = graph.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    error = float(np.abs(session.run(None, {"pixels": pixels.numpy()})[0] - expected).max())
    if not error < LARGEST_ERROR * max(1.0, float(np.abs(expected).max())):
        raise ValueError(f"the ONNX file differs from the network by {error:.2g}: nothing was written")
    with atomic(path, parents=True) as file:
        file.write(content)
    return error
