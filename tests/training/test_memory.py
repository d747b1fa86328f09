"""The batch that fits into the memory of a GPU: what counts as a full memory, and what a step takes of it."""

from __future__ import annotations

import gc
import re

import pytest
import torch

from resnet_tutorial.data import load_sample
from resnet_tutorial.models import cifar_resnet
from resnet_tutorial.training import BatchTooLargeError, Recipe, fit, memory

RECIPES = [{}, {"optimizer": "muon", "other_lr": 0.1}, {"optimizer": "adamw"}]


def built(**changes):
    """A deep network, its optimiser, and one black image, 40 times."""
    model, recipe = cifar_resnet(56, width=4), Recipe(name="short", epochs=1, **changes)
    optimizer = recipe.make_optimizer(recipe.parameter_groups(model))
    return model.train(), optimizer, torch.zeros(1, 3, 8, 8).expand(40, -1, -1, -1)


@pytest.mark.parametrize("changes", RECIPES, ids=["sgd", "muon", "adamw"])
def test_the_optimiser_needs_memory_too(changes, monkeypatch):
    """The batch that was named left no memory for the momentum, and failed as well."""
    model, optimizer, images = built(**changes)
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    step = type(optimizer).step

    def full(self, *args):
        if seen[-1] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, *args)

    monkeypatch.setattr(type(optimizer), "step", full)
    assert memory.largest_batch(model, optimizer, images) == 5
    assert seen == [20, 10, 5]


@pytest.mark.parametrize("changes", RECIPES, ids=["sgd", "muon", "adamw"])
def test_the_trial_leaves_weights_and_rates(changes):
    """A step with what black images give, whose gradients overflow in a deep network."""
    model, optimizer, images = built(**changes)
    before = [parameter.clone() for parameter in model.parameters()]
    rates = [group["lr"] for group in optimizer.param_groups]
    assert memory.largest_batch(model, optimizer, images, torch.bfloat16) == 20
    assert all(map(torch.equal, before, model.parameters()))
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert optimizer.state[next(model.parameters())]  # the step was taken


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (ValueError("ALLOC_FAILED"), False),
    ],
)
def test_libraries_say_in_other_words_that_the_memory_is_full(error, full):
    """A traceback in place of the batch that fits."""
    assert memory.is_out_of_memory(error) is full
    model = cifar_resnet(8, width=4)
    real, broken = model.forward, error

    def forward(x):
        if model.training and len(x) > 9:
            raise broken
        return real(x)

    model.forward = forward
    train, recipe = load_sample()[0].per_class(4), Recipe(name="short", epochs=1, batch_size=40)
    with pytest.raises(BatchTooLargeError if full else type(error)) as caught:
        fit(model, train, None, recipe, device="cpu", precision="fp32")
    assert not full or "take --batch-size 5" in str(caught.value)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", RECIPES, ids=["sgd", "muon", "adamw"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_batch_that_is_named_does_train(changes, precision):
    """Advice that fails is worse than none."""

    def train(batch_size: int) -> str:
        recipe = Recipe(name="short", steps=3, batch_size=batch_size, **changes)
        model, images = cifar_resnet(8, width=64), load_sample()[0]
        try:
            fit(model, images, None, recipe, device="cuda", precision=precision)
        except BatchTooLargeError as error:
            return str(error)
        return ""

    def tidy() -> None:
        gc.collect()
        torch.cuda.empty_cache()

    tidy()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / whole)
    try:
        (size,) = re.findall(r"take --batch-size (\d+)", train(2000))
        tidy()
        assert train(int(size)) == ""
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
