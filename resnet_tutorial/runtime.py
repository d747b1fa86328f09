"""Where and how a computation runs: device, precision, seeds, and a description of machine and versions."""

from __future__ import annotations

import contextlib
import os
import platform
import random
import shutil
import subprocess
import sys
import time
from functools import lru_cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch.nn import functional as F

# fmt: off
__all__ = [
    "PRECISIONS", "autocast", "compiled", "describe", "has_native_bf16", "pick_device", "pick_precision",
    "precision_name", "seed_everything", "source_version",
]
# fmt: on

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def pick_device(name: str | torch.device | None = None) -> torch.device:
    """Return the device of a name; ``None`` takes a CUDA GPU, else that of an Apple computer, else the CPU.

    Raises:
        ValueError: If the name is unknown or the device is not on this machine.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name is None:
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"unknown device {str(name)!r}: choose one of cpu, cuda, cuda:1, mps") from None
    if device.type == "cpu" and device.index:
        raise ValueError(f"unknown device {str(name)!r}: there is one CPU, cpu")
    cuda = cuda and (device.index or 0) < torch.cuda.device_count()
    if not {"cpu": True, "cuda": cuda, "mps": mps}.get(device.type, False):
        raise ValueError(f"device {str(name)!r} is not available here: choose cpu, or leave the choice open")
    return device


def pick_precision(device: torch.device, name: str = "auto") -> torch.dtype | None:
    """Return the dtype for :func:`autocast`, ``None`` for plain float32, from one of ``PRECISIONS``.

    ``"auto"`` takes what the hardware does well: bfloat16 on GPUs from Ampere on, float16 on older CUDA GPUs,
    where bfloat16 is emulated, and float32 otherwise. A CPU with AVX512-BF16 or AMX is tried out, in a fifth
    of a second: some of them compute bfloat16 faster than float32, and some more slowly.

    Raises:
        ValueError: If the name is unknown, or float16 is asked for where there is no CUDA GPU.

    Example:
        >>> pick_precision(torch.device("cpu"), "bf16")
        torch.bfloat16
    """
    if name not in PRECISIONS:
        raise ValueError(f"unknown precision {name!r}: choose one of {', '.join(PRECISIONS)}")
    if name == "auto" and device.type == "cuda":
        name = "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    elif name == "auto":
        name = "bf16" if device.type == "cpu" and has_native_bf16() and _bf16_pays() else "fp32"
    if name == "fp16" and device.type != "cuda":
        raise ValueError("precision 'fp16' needs a CUDA GPU: choose bf16 or fp32 elsewhere")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[name]


def autocast(device: torch.device, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    """Return the mixed-precision context for a device and the result of :func:`pick_precision`.

    Example:
        >>> with autocast(torch.device("cpu"), torch.bfloat16):
        ...     torch.nn.Linear(4, 2)(torch.ones(1, 4)).dtype
        torch.bfloat16
    """
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def precision_name(dtype: torch.dtype | None) -> str:
    """Return the name of a result of :func:`pick_precision`: ``"float32"``, ``"bfloat16"`` or ``"float16"``.

    Example:
        >>> precision_name(None), precision_name(torch.bfloat16)
        ('float32', 'bfloat16')
    """
    return str(dtype or torch.float32).removeprefix("torch.")


def compiled(model: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Return the compiled form of a network, on a CUDA GPU replayed as CUDA graphs; both share their weights.

    Example:
        >>> model = torch.nn.Linear(4, 2)
        >>> compiled(model, torch.device("cpu")).weight is model.weight  # compiled at the first batch
        True

    Raises:
        ValueError: If there is no C++ compiler.
    """
    compiler = os.environ.get("CXX") or {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    if shutil.which(compiler) is None:
        raise ValueError(f"compiling needs a C++ compiler ({compiler}): install one, or do not compile")
    mode = "reduce-overhead" if device.type == "cuda" else None
    return cast(torch.nn.Module, torch.compile(model, mode=mode))


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators (the last on every device).

    Example:
        >>> seed_everything(0)
        >>> torch.rand(2)
        tensor([0.4963, 0.7682])
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def describe(device: torch.device | None = None) -> dict[str, str | int]:
    """Name the machine and the versions that a measurement was made with.

    Example:
        >>> list(describe(torch.device("cpu")))
        ['device', 'device_type', 'cores', 'threads', 'platform', 'python', 'torch']
    """
    device = pick_device() if device is None else device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "device_type": device.type,
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "platform": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def source_version() -> str | None:
    """Return the commit of this package's source, with a plus sign if files were changed since.

    Example:
        >>> version = source_version()  # ``None`` if the package is not under Git
        >>> version is None or len(version.rstrip("+")) == 40
        True
    """
    git = ["git", "-C", str(Path(__file__).resolve().parent)]
    try:
        commit, changes = (
            subprocess.run([*git, *rest], capture_output=True, text=True, check=True).stdout.strip()
            for rest in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "."])
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changes else "")


def has_native_bf16() -> bool:
    """Tell whether the CPU has instructions for bfloat16; elsewhere PyTorch emulates it, slower than float32.

    Example:
        >>> pick_precision(torch.device("cpu"), "auto") is None or has_native_bf16()
        True
    """
    return bool(_bf16_instructions())


def _bf16_instructions() -> list[str]:
    probes = {"AMX": "_is_amx_tile_supported", "AVX512-BF16": "_is_avx512_bf16_supported"}
    return [name for name, probe in probes.items() if getattr(torch.cpu, probe, lambda: False)()]


@lru_cache
def _bf16_pays() -> bool:
    """Tell whether a 3x3 convolution, forward and backward, is clearly faster in bfloat16 than in float32."""
    images = torch.full((64, 64, 16, 16), 0.5).contiguous(memory_format=torch.channels_last)
    filters = torch.full((64, 64, 3, 3), 0.5, requires_grad=True)

    def seconds(dtype: torch.dtype | None) -> float:
        started = time.perf_counter()
        with autocast(torch.device("cpu"), dtype):
            F.conv2d(images, filters, padding=1).sum().backward()
        return time.perf_counter() - started

    # In turn, so that other work on the machine slows both.
    pairs = [(seconds(None), seconds(torch.bfloat16)) for _ in range(5)]
    fp32, bf16 = map(min, zip(*pairs, strict=True))
    return bool(
        bf16 < 0.8 * fp32
    )  # the margin keeps chance out: the same machine should always choose the same


def _cpu_name() -> str:
    """Name the processor, and its instructions for bfloat16: cloud processors of one name differ in them."""
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo", encoding="utf-8") as lines:
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return " with ".join([name, *_bf16_instructions()[:1]])
