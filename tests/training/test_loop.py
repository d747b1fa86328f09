"""The training loop: that it learns, repeats, and refuses what cannot work."""

from __future__ import annotations

import csv
import io
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.backends import cudnn

from resnet_tutorial import runtime
from resnet_tutorial.data import CIFAR10, Split
from resnet_tutorial.evaluation import loss_and_accuracy
from resnet_tutorial.models import cifar_resnet
from resnet_tutorial.training import DivergedError, History, Pipeline, Recipe, fit, loop, parameter_groups

CLASSES = ("dark", "light", "red")


def coloured(n: int = 96) -> Split:
    """Three classes that differ in colour only, so that a small network can tell them apart."""
    labels = torch.arange(n) % 3
    images = torch.randint(0, 60, (n, 3, 32, 32), dtype=torch.uint8)
    images[labels == 1] += 180
    images[labels == 2, 0] += 180
    return Split(images, labels, CLASSES, "coloured")


def recipe(**changes) -> Recipe:
    return Recipe(**({"name": "test", "epochs": 6, "batch_size": 16, "lr": 0.05} | changes))


def small() -> nn.Module:
    return cifar_resnet(8, width=4, num_classes=3)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


def train(model, *args, **options):
    return fit(model, *args, **({"device": "cpu", "precision": "fp32", "progress": False} | options))


def test_learns_an_easy_task():
    """A loop that forgets zero_grad, step or train mode does not get here."""
    model = small()
    history = train(model, coloured(), coloured(48), recipe())
    assert history.column("val_accuracy")[-1] > 0.9
    assert history.column("train_loss")[-1] < 0.5 * history.column("train_loss")[0]


def test_first_step_equals_the_textbook_step():
    """One step of plain SGD, written out; catches a loss over the wrong axis or a doubly applied rate."""
    torch.manual_seed(0)
    model, twin = small(), small()
    twin.load_state_dict(model.state_dict())
    split = coloured(16)
    plain = recipe(epochs=None, steps=1, momentum=0.0, weight_decay=0.0, padding=0, flip="none")
    train(model, split, None, plain)

    twin.train()
    mean = torch.tensor([0.49139968, 0.48215841, 0.44653091]).view(3, 1, 1)
    std = torch.tensor([0.24703223, 0.24348513, 0.26158784]).view(3, 1, 1)
    nn.CrossEntropyLoss()(twin((split.images / 255 - mean) / std), split.labels).backward()
    for (name, after), before in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(after, before - 0.05 * before.grad, msg=name, rtol=1e-4, atol=1e-5)


def test_the_same_seed_gives_the_same_weights_whatever_else_is_drawn():
    """A loop that drew from the global generator would change with every unrelated draw."""
    start = small().state_dict()
    results = []
    for seed, noise in ((3, 0), (3, 5), (4, 0)):
        model = small()
        model.load_state_dict(start)
        torch.rand(noise)
        train(model, coloured_fixed(), None, recipe(epochs=2), seed=seed)
        results.append(weights(model))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def coloured_fixed() -> Split:
    state = torch.get_rng_state()
    torch.manual_seed(1)
    split = coloured()
    torch.set_rng_state(state)
    return split


def test_history_has_a_row_an_epoch_and_the_schedule_ends_low():
    history = train(small(), coloured(), None, recipe(epochs=3, schedule="cosine"))
    assert history.column("epoch") == [1, 2, 3]
    assert history.column("val_loss") == [None] * 3
    assert history.column("lr") == sorted(history.column("lr"), reverse=True)
    assert history.setup["steps"] == 18  # 96 images / 16, three epochs
    with pytest.raises(ValueError, match="unknown column 'accuracy'"):
        history.column("accuracy")


def test_a_run_in_steps_stops_at_that_step():
    history = train(small(), coloured(), None, recipe(epochs=None, steps=8))  # one epoch is 6 steps
    assert len(history.rows) == 2
    assert history.setup["steps"] == 8


def test_training_metrics_are_averages_over_the_images():
    """A sum divided by the wrong count shows at once on a frozen network, whose true values are known."""
    model, split = small(), coloured()
    still = recipe(epochs=1, lr=1e-30, momentum=0.0, weight_decay=0.0, padding=0, flip="none", batch_size=96)
    history = train(model, split, None, still)
    model.train()
    with torch.no_grad():
        logits = model(CIFAR10(split.images))
    assert history.rows[0]["train_loss"] == pytest.approx(
        nn.functional.cross_entropy(logits, split.labels).item(), rel=1e-4
    )
    assert history.rows[0]["train_accuracy"] == pytest.approx(
        (logits.argmax(1) == split.labels).float().mean().item()
    )


def test_validation_is_in_eval_mode_and_training_goes_on_in_train_mode():
    """Evaluation in train mode would report batch statistics' accuracy and change the running ones."""
    model, val = small(), coloured(48)
    history = train(model, coloured(), val, recipe(epochs=1))
    assert model.training
    loss, accuracy = loss_and_accuracy(model, val)
    assert history.rows[0]["val_loss"] == pytest.approx(loss)
    assert history.rows[0]["val_accuracy"] == pytest.approx(accuracy)


@pytest.mark.parametrize("flip", ["random", "alternating", "none"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_augmentation_and_precision_runs(flip, precision):
    options = recipe(epochs=1, flip=flip, cutout=8, pad_mode="reflect", label_smoothing=0.1, grad_clip=1.0)
    history = train(small(), coloured(), None, options, precision=precision)
    assert 0 < history.rows[0]["train_loss"] < 5


def test_gradient_clipping_limits_the_step():
    model = small()
    before = weights_of_parameters(model)
    train(
        model,
        coloured(16),
        None,
        recipe(epochs=None, steps=1, lr=1.0, momentum=0.0, weight_decay=0.0, grad_clip=1e-3),
    )
    assert (weights_of_parameters(model) - before).norm() <= 1.01e-3


def weights_of_parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().clone() for p in model.parameters()])


def test_group_rates_keep_their_ratio():
    """Fine-tuning with lower rates for early layers must survive the schedule."""
    model = small()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    head = [p for name, p in model.named_parameters() if name.startswith("fc")]
    rest = [p for name, p in model.named_parameters() if not name.startswith("fc")]
    groups = [{"params": rest, "lr": 1e-12}, {"params": head, "lr": 0.05}]
    train(model, coloured(), None, recipe(epochs=1, schedule="cosine", weight_decay=0.0), groups=groups)
    moved = {name: (p.detach() - before[name]).norm().item() for name, p in model.named_parameters()}
    assert moved["fc.weight"] > 1e-3
    assert moved["conv1.weight"] < 1e-6


def test_the_loop_takes_the_printed_step(monkeypatch):
    """A book that prints one step while the loop takes another teaches a fiction."""
    seen = []

    def spied(*args, **options):
        seen.append(args[1].shape)
        return original(*args, **options)

    original = loop.train_step
    monkeypatch.setattr(loop, "train_step", spied)
    train(small(), coloured(), None, recipe(epochs=2))
    assert seen == [torch.Size([16, 3, 32, 32])] * 12


def test_gradients_are_rewritten_only_when_clipping_is_asked_for(monkeypatch):
    """Multiplying every gradient by one costs a pass over all of them in every step."""

    def refuse(*args, **options):
        raise AssertionError("clipped")

    monkeypatch.setattr(nn.utils, "clip_grads_with_norm_", refuse)
    assert train(small(), coloured(16), None, recipe(epochs=1)).rows[0]["grad_norm"] > 0
    with pytest.raises(AssertionError, match="clipped"):
        train(small(), coloured(16), None, recipe(epochs=1, grad_clip=1.0))


def test_a_skipped_step_of_float16_leaves_no_infinity(monkeypatch, tmp_path):
    """Too high a loss scale makes infinite gradients, and one of them an infinite mean."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: scaler("cpu", init_scale=2.0**125))
    for optimizer in ({}, {"optimizer": "muon", "other_lr": 0.05}, {"optimizer": "adamw", "lr": 0.01}):
        model = small()
        history = train(model, coloured(), None, recipe(epochs=4, **optimizer))
        assert history.rows[0]["grad_norm"] is None or history.rows[0]["grad_norm"] < 1e3
        assert all(torch.isfinite(p).all() for p in model.parameters())
        history.save(tmp_path / "history.json")
        assert "NaN" not in (text := (tmp_path / "history.json").read_text()) and "Infinity" not in text
        assert history.column("train_loss")[-1] < history.column("train_loss")[0]


def test_an_epoch_of_skipped_steps_only_has_no_norm(monkeypatch):
    """The mean of nothing is not zero."""
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: scaler("cpu", init_scale=float("inf")))
    history = train(small(), coloured(32), None, recipe(epochs=1))
    assert history.column("grad_norm") == [None]


@pytest.mark.parametrize("val", [True, False])
def test_dead_weights_after_the_last_step_are_refused(val):
    """The loss of a step is that before it: a rate that kills the network in the last step shows in none."""
    seen = []
    split = coloured(16)
    with pytest.raises(DivergedError, match=r"\(epoch 1\): try a learning rate below"):
        train(small(), split, split if val else None, recipe(lr=1e30, epochs=1), on_epoch=seen.append)
    assert seen == []  # nobody was told, so nothing was saved


def test_a_history_that_is_not_finite_is_not_written(tmp_path):
    """Other programs refuse a JSON file with NaN in it."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        History([{"epoch": 1, "train_loss": float("nan")}]).save(tmp_path / "history.json")
    (tmp_path / "old.json").write_text('{"rows": [{"epoch": 1, "grad_norm": Infinity}]}')
    assert History.load(tmp_path / "old.json").column("grad_norm") == [float("inf")]  # written before


def test_a_compiled_run_is_validated_with_the_compiled_network(monkeypatch):
    """An eager validation beside a compiled epoch can take longer than the epoch."""
    modes = []

    class Spy(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            modes.append(self.training)
            return self.model(x)

    monkeypatch.setattr(runtime, "compiled", lambda model, device: Spy(model))
    model = small()
    train(model, coloured(32), coloured(16), recipe(epochs=2), compile=True)
    assert modes == [True, True, False] * 2
    assert model.training


def test_the_best_epoch_is_told_once_each():
    """What is kept as the best network must be that of the lowest validation loss, and only of it."""
    told = []
    history = train(small(), coloured_fixed(), coloured(48), recipe(lr=0.5, epochs=6), on_best=told.append)
    losses = history.column("val_loss")
    falling = [row for n, row in enumerate(history.rows) if row["val_loss"] < min(losses[:n], default=9e9)]
    assert told == falling and told[-1] is history.best()


def test_cudnn_tries_out_algorithms_only_while_training():
    """A setting that stays behind makes pictures of many sizes slow later."""
    seen = []
    train(small(), coloured(16), None, recipe(epochs=1), on_epoch=lambda _: seen.append(cudnn.benchmark))
    assert seen == [True] and not cudnn.benchmark


STEP_RECIPES = [
    {"nesterov": True},
    {"optimizer": "muon", "other_lr": 0.05, "ema": 0.9, "flip": "alternating", "pad_mode": "reflect"},
    {"optimizer": "adamw", "lr": 0.01, "grad_clip": 1.0, "cutout": 8},
]


@pytest.mark.gpu
@pytest.mark.parametrize("changes", STEP_RECIPES, ids=["sgd", "muon, average", "adamw, clipping"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
def test_no_step_waits_for_the_gpu(changes, precision, compile, monkeypatch):
    """A host that waits in each step cannot queue the next one, and the GPU is idle meanwhile."""
    original = Pipeline.epoch

    def guarded(self, number, **options):
        batches = original(self, number, **options)
        if compile and number == 0:  # compiling and warming up may wait
            yield from batches
            return
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield from batches
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Pipeline, "epoch", guarded)
    options = {"device": "cuda", "precision": precision, "compile": compile}
    history = train(small(), coloured(), coloured(48), recipe(epochs=3, **changes), **options)
    assert history.column("train_loss")[-1] < history.column("train_loss")[0]


def test_divergence_stops_with_advice():
    """Training on with NaN weights wastes hours and saves a useless file."""
    with pytest.raises(DivergedError, match=r"since step 2 \(epoch 1\): try a learning rate below") as error:
        train(small(), coloured(), None, recipe(lr=1e30, epochs=3))
    assert "\n" not in str(error.value)


def test_refuses_data_that_cannot_train():
    split = coloured()
    with pytest.raises(ValueError, match="cannot train on 1 image"):
        train(small(), split.subset([0]), None, recipe())
    with pytest.raises(ValueError, match="2 outputs and the data 3 classes"):
        train(cifar_resnet(8, width=4, num_classes=2), split, None, recipe())
    with pytest.raises(ValueError, match="needs batches of 2 or more"):
        train(small(), split, None, recipe(batch_size=1))
    other = Split(split.images, split.labels, ("a", "b", "c"), "other")
    with pytest.raises(ValueError, match="classes differ"):
        train(small(), split, other, recipe())


def test_fewer_images_than_a_batch_still_train():
    history = train(small(), coloured(6), None, recipe(epochs=2, batch_size=128))
    assert history.setup["batch_size"] == 6
    assert history.setup["steps"] == 2


def test_history_survives_a_round_trip_and_a_damaged_file_is_refused(tmp_path):
    history = train(small(), coloured(), None, recipe(epochs=1))
    path = tmp_path / "history.json"
    history.save(path)
    assert History.load(path) == History(
        history.rows, json.loads(json.dumps(history.recipe)), json.loads(json.dumps(history.setup))
    )
    assert [p.name for p in tmp_path.iterdir()] == ["history.json"]
    path.write_text(path.read_text()[:40])
    with pytest.raises(ValueError, match="is not a training history"):
        History.load(path)
    with pytest.raises(FileNotFoundError):
        History.load(tmp_path / "absent.json")


def test_the_moving_average_is_validated_and_kept():
    """An average that is computed and then thrown away, or that is left in the model between epochs."""
    model, seen = small(), []
    own = recipe(epochs=3, ema=0.8, schedule="constant")

    def look(row):
        seen.append(weights(model))
        assert row["val_loss"] == pytest.approx(loss_and_accuracy(model, val)[0])

    val = coloured(48)
    train(model, coloured_fixed(), val, own, seed=3, on_epoch=look)
    assert torch.equal(weights(model), seen[-1])
    assert not torch.equal(seen[0], seen[1])


def test_the_moving_average_has_the_weights_that_the_formula_gives():
    """By hand: the first average is the first weights, then decay times the old plus the rest of the new."""
    start = small().state_dict()
    after = {}
    for steps in (1, 2):
        model = small()
        model.load_state_dict(start)
        train(model, coloured_fixed(), None, recipe(epochs=None, steps=steps), seed=3)
        after[steps] = model.fc.weight.detach().clone()
    model = small()
    model.load_state_dict(start)
    train(model, coloured_fixed(), None, recipe(epochs=None, steps=2, ema=0.75), seed=3)
    torch.testing.assert_close(model.fc.weight.detach(), 0.75 * after[1] + 0.25 * after[2])


def test_l1_pulls_weights_to_zero_and_leaves_norms_and_biases_alone():
    """A penalty on batch-norm scales would shrink the whole signal."""
    still = {"lr": 0.01, "momentum": 0.0, "weight_decay": 0.0, "padding": 0, "flip": "none"}
    one_step = recipe(epochs=None, steps=1, **still)
    start = small().state_dict()
    steps = {}
    for l1 in (0.0, 0.1):
        model = small()
        model.load_state_dict(start)
        train(model, coloured_fixed(), None, one_step.but(l1=l1))
        steps[l1] = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, before in start.items():
        if name not in steps[0.0]:
            continue
        pull = 0.01 * 0.1 * before.sign() if before.ndim > 1 else torch.zeros_like(before)
        torch.testing.assert_close(steps[0.0][name] - steps[0.1][name], pull, rtol=1e-3, atol=1e-6, msg=name)


def test_early_stopping_ends_when_the_validation_loss_has_not_improved():
    """Labels of validation that contradict the training make every epoch worse than the first."""
    val = coloured(48)
    wrong = Split(val.images, (val.labels + 1) % 3, CLASSES, "wrong")
    halt = recipe(epochs=20, patience=2)
    losses = train(small(), coloured_fixed(), wrong, halt).column("val_loss")
    assert len(losses) < 20
    assert losses.index(min(losses)) == len(losses) - 3
    with pytest.raises(ValueError, match=r"patience.* needs validation images"):
        train(small(), coloured(), None, halt)


def test_the_norm_of_the_gradient_is_that_of_all_parameters():
    model, split = small(), coloured(16)
    twin = small()
    twin.load_state_dict(model.state_dict())
    one = recipe(epochs=None, steps=1, padding=0, flip="none", grad_clip=1e-3)  # the norm before clipping
    history = train(model, split, None, one)
    twin.train()
    nn.functional.cross_entropy(twin(CIFAR10(split.images)), split.labels).backward()
    norm = torch.cat([p.grad.flatten() for p in twin.parameters()]).norm().item()
    assert history.rows[0]["grad_norm"] == pytest.approx(norm, rel=1e-4)


def test_validation_may_average_the_mirror_image():
    model, val = small(), coloured(48)
    history = train(model, coloured(), val, recipe(epochs=1, test_flip=True))
    assert history.rows[0]["val_loss"] == pytest.approx(loss_and_accuracy(model, val, flip=True)[0])
    assert history.rows[0]["val_loss"] != pytest.approx(loss_and_accuracy(model, val)[0], rel=1e-6)


def test_two_images_are_enough():
    """Fewer have no variance; two of them are a training, if a short one."""
    two = coloured().subset([0, 1])
    assert len(train(small(), two, None, recipe(epochs=1, batch_size=2)).rows) == 1
    with pytest.raises(ValueError, match="needs at least 2"):
        train(small(), two.subset([0]), None, recipe(epochs=1, batch_size=2))


def test_history_as_csv(tmp_path):
    history = train(small(), coloured(), None, recipe(epochs=2))
    history.save_csv(tmp_path / "history.csv")
    with open(tmp_path / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert [float(row["train_loss"]) for row in rows] == history.column("train_loss")
    assert rows[0]["val_loss"] == ""
    History().save_csv(tmp_path / "none.csv")
    assert (tmp_path / "none.csv").read_text() == "epoch\n"


def test_parameter_groups_are_those_of_the_network():
    """Groups of another network were trained, this one was not, and nothing said so."""
    model, other = cifar_resnet(8, width=4, num_classes=3), cifar_resnet(8, width=4, num_classes=3)
    with pytest.raises(ValueError, match="groups are of another network"):
        fit(model, coloured(), None, Recipe(name="r", epochs=1), groups=parameter_groups(other, lr=0.1))


@pytest.mark.parametrize("shell", [None, SimpleNamespace(), SimpleNamespace(kernel=object())])
def test_a_bar_is_shown_in_a_notebook(shell, monkeypatch):
    """A kernel's standard error is no terminal: minutes passed in a notebook without a sign of life."""
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    for show, shown in ((None, hasattr(shell, "kernel")), (True, True), (False, False)):
        assert loop._progress_bar(3, 0, show).disable == (not shown)


def test_a_step_in_bfloat16_computes_in_bfloat16():
    """A precision that is announced and not used: the mixed epoch was as slow as the other."""
    kinds = []
    network = cifar_resnet(8, width=8, num_classes=2)
    network.conv1.register_forward_hook(lambda module, given, made: kinds.append(made.dtype))
    part = Split(
        torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8), torch.arange(4) % 2, ("a", "b"), "four"
    )
    recipe = Recipe(name="one", steps=1, batch_size=4)
    fit(network, part, None, recipe, device="cpu", precision="bf16", normalize=CIFAR10, progress=False)
    assert kinds == [torch.bfloat16]
