"""Choice of device and precision, and seeding."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from resnet_tutorial import runtime

CPU = torch.device("cpu")


def test_named_device_is_taken_and_unknown_or_absent_ones_are_refused():
    assert runtime.pick_device("cpu") == CPU
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        runtime.pick_device("gpu")
    with pytest.raises(ValueError, match="'cuda:99' is not available here"):
        runtime.pick_device("cuda:99")


def test_without_a_gpu_the_cpu_is_taken(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert runtime.pick_device() == CPU


@pytest.mark.parametrize(
    ("native", "pays", "expected"),
    [(True, True, torch.bfloat16), (True, False, None), (False, True, None)],
)
def test_bf16_on_a_cpu_only_where_it_is_faster(monkeypatch, native, pays, expected):
    """Emulated bfloat16 is slower than float32, and so is that of some CPUs with instructions for it."""
    monkeypatch.setattr(runtime, "has_native_bf16", lambda: native)
    monkeypatch.setattr(runtime, "_bf16_pays", lambda: pays)
    assert runtime.pick_precision(CPU) is expected


@pytest.mark.parametrize(("bf16", "expected"), [(0.1, True), (0.9, False), (1.5, False)])
def test_the_trial_compares_the_best_times_and_wants_a_margin(monkeypatch, bf16, expected):
    """A ratio the wrong way round would choose the slower type on every machine."""
    clock = iter(t for cost in [1.0, bf16] * 5 for t in (0.0, cost))
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: next(clock))
    runtime._bf16_pays.cache_clear()
    assert runtime._bf16_pays() is expected
    runtime._bf16_pays.cache_clear()


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_old_gpus_get_fp16(monkeypatch, capability, expected):
    """A T4 (compute capability 7.5) only emulates bfloat16."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert runtime.pick_precision(torch.device("cuda")) is expected


def test_precision_can_be_overridden_and_bad_ones_are_refused():
    assert runtime.pick_precision(CPU, "fp32") is None
    assert runtime.pick_precision(CPU, "bf16") is torch.bfloat16
    with pytest.raises(ValueError, match="unknown precision 'half': choose one of auto, fp32"):
        runtime.pick_precision(CPU, "half")
    with pytest.raises(ValueError, match="'fp16' needs a CUDA GPU"):
        runtime.pick_precision(CPU, "fp16")


def test_autocast_changes_the_type_of_a_product_only_when_asked():
    a = torch.ones(4, 4)
    with runtime.autocast(CPU, None):
        assert (a @ a).dtype is torch.float32
    with runtime.autocast(CPU, torch.bfloat16):
        assert (a @ a).dtype is torch.bfloat16


def test_seeding_covers_all_three_generators():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    runtime.seed_everything(7)
    first = draw()
    assert draw() != first
    runtime.seed_everything(7)
    assert draw() == first


def test_description_names_what_a_measurement_depends_on():
    description = runtime.describe(CPU)
    assert description["torch"] == torch.__version__
    assert description["cores"] >= 1
    assert description["device"]


def test_a_processor_is_named_with_its_instructions_for_bfloat16(monkeypatch):
    """Two machines of one name, one with matrix instructions: their times looked comparable."""
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    with_amx = runtime.describe(torch.device("cpu"))["device"]
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, probe, lambda: False)
    assert with_amx == runtime.describe(torch.device("cpu"))["device"] + " with AMX"
