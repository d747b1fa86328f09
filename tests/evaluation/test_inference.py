"""Inference: logits that are those of the network, whatever batches, wrappers and modes it comes in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from resnet_tutorial.data import CIFAR10, Normalize, Split
from resnet_tutorial.evaluation import loss_and_accuracy, predict, reliability_bins, report
from resnet_tutorial.runtime import compiled

CLASSES = ("a", "b", "c")


def network(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, outputs),
    )


def split(n: int = 23, size: int = 8) -> Split:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=random)
    return Split(images, torch.randint(0, 3, (n,), generator=random), CLASSES, "noise")


def test_predict_is_the_network_in_eval_mode_in_the_order_of_the_split():
    """Train-mode statistics, dropout left on, shuffled or lost images, missing normalisation."""
    model, data = network(), split()
    result = predict(model, data, batch_size=5)
    with torch.no_grad():
        expected = model.eval()(CIFAR10(data.images))
    np.testing.assert_allclose(result.logits, expected.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(result.labels, data.labels.numpy())
    assert result.classes == CLASSES and len(result) == 23


def test_predict_uses_the_normalisation_it_is_given():
    """CIFAR-10's statistics applied to a network trained with others."""
    model, data, other = network(), split(), Normalize((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    with torch.no_grad():
        expected = model.eval()(other(data.images))
    np.testing.assert_allclose(
        predict(model, data, normalize=other).logits, expected.numpy(), rtol=1e-5, atol=1e-6
    )


def test_predict_leaves_the_model_as_it_was():
    """Evaluation that moves batch-norm statistics, leaves eval mode on, or wakes up frozen batch norms."""
    model = network().train()
    model[1].eval()  # a frozen batch norm
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    predict(model, split())
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_predict_restores_the_mode_after_an_error():
    """A model left in eval mode because evaluation failed half-way."""
    model = network(outputs=4).train()
    with pytest.raises(ValueError, match="3 classes"):
        predict(model, split())
    assert all(module.training for module in model.modules())


def test_predict_builds_no_graph():
    """Evaluation that keeps the activations of every batch in memory."""
    seen = []
    model = network()
    model.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    predict(model, split())
    loss_and_accuracy(model, split())
    assert len(seen) == 2 and not any(output.requires_grad for output in seen)


@pytest.mark.parametrize("batch_size", [1, 7, 23, 500])
def test_batch_size_does_not_change_the_result(batch_size):
    """A last, smaller batch dropped or counted like a full one."""
    model, data = network(), split()
    reference = predict(model, data, batch_size=23)
    np.testing.assert_allclose(
        predict(model, data, batch_size=batch_size).logits, reference.logits, rtol=1e-5, atol=1e-6
    )
    assert loss_and_accuracy(model, data, batch_size=batch_size) == pytest.approx(
        loss_and_accuracy(model, data, batch_size=23)
    )


def test_flip_is_the_mean_of_both_views():
    """Test-time augmentation that averages something else, or mirrors top to bottom."""
    model, data = network(), split()
    mirrored = Split(data.images.flip(3), data.labels, CLASSES, "mirrored")
    expected = (predict(model, data).logits + predict(model, mirrored).logits) / 2
    np.testing.assert_allclose(predict(model, data, flip=True).logits, expected, rtol=1e-5, atol=1e-6)


def test_autocast_gives_float32_logits_close_to_full_precision():
    """Logits stored with 8 bits of mantissa because the conversion was forgotten."""
    model, data = network(), split()
    result = predict(model, data, dtype=torch.bfloat16)
    assert result.logits.dtype == np.float32
    np.testing.assert_allclose(result.logits, predict(model, data).logits, atol=0.03)
    assert not np.array_equal(result.logits, predict(model, data).logits)


def test_loss_and_accuracy_agree_with_the_report():
    """Two code paths that tell the reader two different numbers."""
    model, data = network(), split()
    full = report(predict(model, data))
    assert loss_and_accuracy(model, data) == pytest.approx((full.loss, full.accuracy), rel=1e-6)


def test_a_diverged_network_is_named():
    """NaN logits that pass for a prediction of class 0; a training loop that dies of them."""
    model, data = network(), split()
    nn.init.constant_(model[-1].weight, float("nan"))
    assert np.isnan(loss_and_accuracy(model, data)[0])
    with pytest.raises(ValueError, match="23 of 23 images are not finite"):
        predict(model, data)


@pytest.mark.parametrize(("batch_size", "sizes"), [(5, [5] * 5), (22, [22, 22]), (500, [23])])
def test_all_batches_of_a_call_have_one_size(batch_size, sizes):
    """A short last batch, for which a network is compiled, or cuDNN tuned, a second time."""
    model, data, seen = network(), split(), []
    model.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    together = predict(model, data, batch_size=batch_size)
    assert seen == sizes
    for i, logits in enumerate(together.logits):
        alone = predict(model, data.subset([i])).logits[0]
        np.testing.assert_allclose(logits, alone, rtol=1e-5, atol=1e-6)


def test_images_without_labels_are_predicted_but_not_measured():
    """Labels invented for pictures of which nobody knows them, and an accuracy of the inventions."""
    model, data = network(), split()
    bare = predict(model, data.images)
    np.testing.assert_array_equal(bare.logits, predict(model, data).logits)
    assert bare.labels is None and bare.classes == ("0", "1", "2") and len(bare) == 23
    assert predict(model, data.images, classes=CLASSES).classes == CLASSES
    for measure in (report, reliability_bins, lambda made: made.correct, lambda made: made.known_labels):
        with pytest.raises(ValueError, match="no labels: predict a Split"):
            measure(bare)


@pytest.mark.parametrize(
    ("data", "options", "words"),
    [
        (split(), {"batch_size": 0}, "batch_size is 0"),
        (split(), {"classes": CLASSES}, "its own: leave them out"),
        (split().images, {"classes": ("a", "b")}, r"\(23, 3\) for 23 images.*2 classes"),
        (split().images.float(), {}, r"float32 \(23, 3, 8, 8\): give a Split"),
        (split().images[0], {}, r"uint8 \(3, 8, 8\)"),
        (split().images[:0], {}, "N above 0"),
    ],
)
def test_unfit_images_and_names_are_refused_in_one_line(data, options, words):
    """An error from deep inside torch."""
    with pytest.raises(ValueError, match=words) as error:
        predict(network(), data, **options)
    assert "\n" not in str(error.value)


def same_memory(model: nn.Module):
    """Compile as CUDA graphs do: every run of the same size writes its outputs to the same memory."""
    kept: dict[torch.Size, torch.Tensor] = {}

    def run(images: torch.Tensor) -> torch.Tensor:
        logits = model(images)
        return kept.setdefault(logits.shape, torch.empty_like(logits)).copy_(logits)

    return run


@pytest.mark.parametrize("flip", [False, True])
def test_a_network_that_reuses_its_outputs_memory(flip, monkeypatch):
    """Logits of all batches overwritten by those of the last, or of an image by those of its mirror image."""
    model, data = network().eval(), split()
    expected = predict(model, data, batch_size=5, flip=flip).logits
    monkeypatch.setattr(model, "forward", same_memory(nn.Sequential(*model)))
    np.testing.assert_array_equal(predict(model, data, batch_size=5, flip=flip).logits, expected)


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.parametrize("wrapping", ["compiled", "parallel", "parallel, compiled", "compiled, parallel"])
def test_a_wrapped_network_is_evaluated_like_the_bare_one(wrapping, process_group, monkeypatch):
    """Dropout left on inside the wrapper, a wrapper left in eval mode, or a wait for other processes."""
    model, data = network().train(), split()
    model[1].eval()  # a frozen batch norm
    expected = loss_and_accuracy(model, data, batch_size=5)
    wrapped: nn.Module = model
    for wrapper in wrapping.split(", "):
        wrap = {"parallel": DistributedDataParallel, "compiled": lambda m: torch.compile(m, backend="eager")}
        wrapped = wrap[wrapper](wrapped)
    for name in ("forward", "_sync_buffers"):  # both talk to other processes
        monkeypatch.setattr(DistributedDataParallel, name, lambda *_: pytest.fail("processes were asked"))
    modes = [module.training for module in wrapped.modules()]
    assert loss_and_accuracy(wrapped, data, batch_size=5) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(
        predict(wrapped, data, batch_size=5).logits, predict(model, data).logits, rtol=1e-5, atol=1e-6
    )
    assert [module.training for module in wrapped.modules()] == modes


def test_a_compiled_network_is_compiled_once_for_all_batches():
    """Seconds of compiling for a last batch of three images."""
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    model, data = network().eval(), split()
    predict(torch.compile(model, backend=backend), data, batch_size=5)
    assert len(graphs) == 1


def test_a_channels_last_split_stays_channels_last():
    """A permutation of every batch, or a copy into the other format."""
    model, data, seen = network(), split(), []
    images = data.images.contiguous(memory_format=torch.channels_last)
    model.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    bare = predict(model, images, batch_size=5, flip=True)
    assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in seen)
    expected = predict(model, data, batch_size=5, flip=True).logits
    np.testing.assert_allclose(bare.logits, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_predict_on_the_gpu_equals_the_cpu():
    """Images, or the normalisation's constants, left on another device than the model."""
    model, data = network(), split()
    expected = predict(model, data).logits
    np.testing.assert_allclose(predict(model, data, device="cuda").logits, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("flip", [False, True])
def test_predict_with_cuda_graphs_equals_the_bare_network(flip):
    """Logits of all batches overwritten by those of the last."""
    model, data = network().to("cuda"), split()
    fast = compiled(model, torch.device("cuda"))
    expected = predict(model, data, batch_size=5, flip=flip).logits
    for _ in range(3):  # the first runs record, the later ones replay
        made = predict(fast, data, batch_size=5, flip=flip).logits
        np.testing.assert_allclose(made, expected, rtol=1e-2, atol=1e-2)
