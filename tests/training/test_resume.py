"""Checkpoints of a run: an interrupted run ends with the same bytes as an uninterrupted one."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch

from resnet_tutorial.data import load_sample
from resnet_tutorial.models import cifar_resnet
from resnet_tutorial.training import History, Progress, Recipe, fit

RECIPE = Recipe(
    name="test",
    epochs=3,
    batch_size=16,
    lr=0.05,
    schedule="cosine",
    nesterov=True,
    flip="alternating",
    cutout=8,
    label_smoothing=0.1,
    grad_clip=5.0,
)


def run(
    path=None,
    *,
    recipe=RECIPE,
    seed=3,
    width=4,
    stop_after=None,
    precision="fp32",
    validated=True,
    **options,
):
    """Trains a small network; ``stop_after`` raises KeyboardInterrupt by a signal in that step."""
    train, val = load_sample()[0].per_class(10).split(0.2)  # 80 and 20 images: five steps an epoch
    torch.manual_seed(0)
    model = cifar_resnet(8, width=width)
    if stop_after is not None:
        calls = iter(range(1, 10**6))
        model.fc.register_forward_pre_hook(
            lambda *_: (
                os.kill(os.getpid(), signal.SIGINT) if model.training and next(calls) == stop_after else None
            )
        )
    how = {"seed": seed, "device": "cpu", "precision": precision, "checkpoint": path} | options
    history = fit(model, train, val if validated else None, recipe, **how)
    return fingerprint(model), history


def fingerprint(model) -> str:
    digest = hashlib.sha256()
    for value in model.state_dict().values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def without_seconds(history):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in history.rows]


@pytest.mark.parametrize("step", [1, 4, 5, 6, 14, 15])
def test_ctrl_c_saves_and_the_resumed_run_ends_with_the_same_bytes(tmp_path, step):
    """Steps 5, 10 and 15 end an epoch: there a resumed run may lose or repeat one."""
    expected, history = run()
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_after=step)
    torch.rand(7)  # what else is drawn in the new process must not matter
    weights, resumed = run(path, resume=True)
    assert weights == expected
    assert without_seconds(resumed) == without_seconds(history)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def check_resumes_exactly(path, recipe, *, stop_after):
    """Interrupted in that step and resumed, the run ends as the uninterrupted one, weights and history."""
    expected, history = run(recipe=recipe)
    with pytest.raises(KeyboardInterrupt):
        run(path, recipe=recipe, stop_after=stop_after)
    weights, resumed = run(path, recipe=recipe, resume=True)
    assert weights == expected
    assert without_seconds(resumed) == without_seconds(history)


def test_ctrl_c_in_the_last_step_of_a_run_counted_in_steps(tmp_path):
    """13 steps end inside an epoch of five: the resumed run must not train to the end of that epoch."""
    check_resumes_exactly(tmp_path / "c.pt", RECIPE.but(steps=13), stop_after=13)


def test_writing_checkpoints_does_not_change_the_run(tmp_path):
    assert run(tmp_path / "checkpoint.pt", save_every=2)[0] == run()[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"ema": 0.9},
        {"optimizer": "muon", "other_lr": 0.05, "nesterov": False},
        {"optimizer": "adamw", "nesterov": False, "lr": 0.01},
        {"patience": 3, "test_flip": True, "l1": 1e-5},
    ],
    ids=["average", "muon", "adamw", "patience"],
)
def test_every_kind_of_state_resumes_exactly(tmp_path, changes):
    """A part of the state that no checkpoint holds makes the resumed run another one."""
    check_resumes_exactly(tmp_path / "c.pt", RECIPE.but(**changes), stop_after=7)


def test_bf16_resumes_exactly_too(tmp_path):
    expected, _ = run(precision="bf16")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c.pt", precision="bf16", stop_after=7)
    assert run(tmp_path / "c.pt", precision="bf16", resume=True)[0] == expected


def test_a_run_without_validation_resumes_too(tmp_path):
    """Columns that are empty in each row, taken for damage."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "c.pt", validated=False, stop_after=7)
    weights, history = run(tmp_path / "c.pt", validated=False, resume=True)
    assert weights == run(validated=False)[0] and history.column("val_loss") == [None] * 3


def test_the_epochs_of_a_checkpoint_and_what_they_were_chosen_by(tmp_path):
    """A history read back that forgets by what the best epoch is chosen."""
    path = tmp_path / "c.pt"
    _, history = run(path, recipe=RECIPE.but(best_by="accuracy"))
    again = History.from_checkpoint(path)
    assert again.rows == history.rows and again.best() == history.best()
    assert again.recipe["best_by"] == "accuracy" and again.recipe["batch_size"] == 16
    content = torch.load(path, weights_only=True)
    del content["identity"]["best_by"]  # of a version that had only the loss
    torch.save(content, path)
    assert History.from_checkpoint(path).rows == history.rows


def test_a_checkpoint_of_a_step_that_failed_is_not_written(tmp_path):
    """Weights after a loss that was not finite, over the last good ones."""
    model = torch.nn.Linear(2, 2)
    sgd, scaler = torch.optim.SGD(model.parameters()), torch.amp.GradScaler("cpu", enabled=False)
    progress = Progress({"seed": 0}, History(), model, sgd, scaler, None, torch.device("cpu"))
    nan, one = torch.tensor(float("nan")), torch.tensor(1.0)
    progress.count(nan, torch.zeros(1, 2), one, torch.tensor([0]))
    assert progress.sums[5] == 1
    progress.save(tmp_path / "c.pt")
    assert not list(tmp_path.iterdir())
    progress.sums[5] = 0
    progress.save(tmp_path / "c.pt")
    assert list(tmp_path.iterdir())


def test_a_finished_run_resumes_to_itself(tmp_path):
    path = tmp_path / "checkpoint.pt"
    expected, history = run(path)
    weights, again = run(path, resume=True)
    assert weights == expected
    assert again.rows == history.rows


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"recipe": RECIPE.but(lr=0.1)}, "lr 0.05 there, 0.1 here"),
        ({"seed": 4}, "seed 3 there, 4 here"),
        ({"width": 8}, "network"),
        ({"precision": "bf16"}, "precision"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_the_difference(tmp_path, change, word):
    """Going on with another rate or seed would give a result that no command can repeat."""
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_after=2)
    with pytest.raises(ValueError, match="is of another run") as error:
        run(path, resume=True, **change)
    assert word in str(error.value)


def test_other_training_data_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_after=2)
    train, val = load_sample()[0].per_class(10, seed=1).split(0.2)
    with pytest.raises(ValueError, match="training data"):
        fit(
            cifar_resnet(8, width=4),
            train,
            val,
            RECIPE,
            seed=3,
            precision="fp32",
            checkpoint=path,
            resume=True,
        )


def test_missing_and_damaged_checkpoints_are_refused(tmp_path):
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        run(path, resume=True)
    with pytest.raises(ValueError, match="resume needs a checkpoint"):
        run(resume=True)
    run(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        run(path, resume=True)


def test_an_unwritable_checkpoint_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"cannot write .*is not a directory"):
        run(tmp_path / "absent" / "checkpoint.pt")


CHILD = """
import sys
sys.path[:0] = {path!r}
import test_resume
weights, _ = test_resume.run(
    sys.argv[1], recipe=test_resume.RECIPE.but(epochs=12), save_every=3, resume=sys.argv[2] == "resume"
)
print(weights)
"""


def kill_and_resume(tmp_path, kills: int) -> tuple[str, str]:
    """Kills a run at random moments and resumes it; returns its weights and those of an unharmed run."""
    path = tmp_path / "checkpoint.pt"
    code = textwrap.dedent(CHILD).format(path=sys.path)
    rng = random.Random(1)

    def start(mode):
        command = [sys.executable, "-c", code, str(path), mode]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    for kill in range(kills):
        child = start("resume" if kill else "fresh")  # each kill comes after a save: there is a checkpoint
        before = path.stat().st_mtime_ns if path.exists() else 0
        while child.poll() is None and (not path.exists() or path.stat().st_mtime_ns == before):
            time.sleep(0.01)  # until the child has come past its imports and saved once
        time.sleep(rng.random() * 0.15)
        child.kill()
        child.communicate()
    child = start("resume")
    return child.communicate()[0].strip(), run(recipe=RECIPE.but(epochs=12))[0]


@pytest.mark.slow
def test_sigkill_at_random_moments_does_not_change_the_result(tmp_path):
    """A file half-written when the process dies must not replace the good one."""
    resumed, expected = kill_and_resume(tmp_path, kills=3)
    assert resumed == expected


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_end_saves_the_run_first(tmp_path, monkeypatch, number):
    """A batch system's SIGTERM lost everything since the last epoch."""
    path = tmp_path / "run.pt"
    monkeypatch.setattr(signal, "SIGINT", number)  # what `run` sends itself
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_after=3)
    monkeypatch.undo()
    assert torch.load(path, weights_only=True)["step"] == 3
    assert run(path, resume=True)[0] == run()[0]


def spoil(content, how):
    if how == "no optimizer":
        del content["optimizer"]
    elif how == "generator":
        content["torch_generator"] = torch.zeros(3, dtype=torch.uint8)
    elif how == "step":
        content["step"] = -1
    elif how == "rows":
        content["rows"] = [{"epoch": 1}]
    elif how == "sums":
        content["sums"] = torch.zeros(2)
    elif how == "seconds":
        content["seconds"] = None
    return content


@pytest.mark.parametrize("how", ["no optimizer", "generator", "step", "rows", "sums", "seconds"])
def test_a_checkpoint_of_this_run_with_a_wrong_part_is_refused_in_one_line(tmp_path, how):
    """Only its identity was looked at; the rest gave a traceback, or was believed."""
    path = tmp_path / "run.pt"
    run(path)
    torch.save(spoil(torch.load(path, weights_only=True), how), path)
    with pytest.raises(ValueError, match=r"run\.pt is damaged or not a checkpoint: [^\n]+$"):
        run(path, resume=True)


MUON = {"optimizer": "muon", "other_lr": 0.05, "nesterov": False}


def filters(content):
    """The state of the optimiser in a checkpoint; with Muon that of the filters."""
    return content["optimizer"].get("filters", content["optimizer"])


def with_momentum(change):
    """Changes the first of the filters' momenta."""

    def spoil(content):
        values = filters(content)["state"][0]
        name = next(name for name in values if name != "step")
        values[name] = change(values[name])

    return spoil


def with_option(**options):
    return lambda content: filters(content)["param_groups"][0].update(options)


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize(
    "changes", [{}, MUON, {"optimizer": "adamw", "nesterov": False}], ids=["sgd", "muon", "adamw"]
)
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda content: content["identity"].update(seed=torch.zeros(2)), "ambiguous"),
        (lambda content: content["identity"].update(seed=torch.zeros(1, device="meta")), "meta"),
        (with_momentum(lambda value: torch.zeros(10_000)), "another state of parameter 0"),
        (with_momentum(lambda value: torch.zeros(1).expand(10**11)), "larger than the file"),
        (with_momentum(lambda value: value.long()), "another state of parameter 0"),
        (with_momentum(lambda value: value.to_sparse()), "asks for torch.serialization _get_layout"),
        (with_momentum(lambda value: "x"), "another state of parameter 0"),
        (lambda content: filters(content)["state"][0].clear(), "another state of parameter 0"),
        (lambda content: filters(content)["state"].pop(0), "another state of parameter 0"),
        (with_option(weight_decay=0.5), "weight_decay 0.5, not 0.0001"),
        (lambda content: filters(content)["param_groups"][0]["params"].reverse(), "params"),
        (lambda content: content.update(sums=content["sums"].long()), "its sums"),
        (lambda content: content.update(sums=torch.zeros(6, device="meta")), "asks for torch._utils"),
    ],
    ids=[
        *["identity", "meta identity", "shape", "expanded", "type", "sparse", "no tensor", "no state"],
        *["no parameter", "option", "order", "whole sums", "meta sums"],
    ],
)
def test_a_state_of_another_form_is_refused_in_one_line(tmp_path, changes, spoil, told):
    """Tracebacks from the first step, another recipe, or memory written over: PyTorch believes the file."""
    path, recipe = tmp_path / "run.pt", RECIPE.but(epochs=1, **changes)
    run(path, recipe=recipe)
    content = torch.load(path, weights_only=True)
    spoil(content)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"run\.pt is damaged or not a checkpoint: [^\n]+$") as error:
        run(path, recipe=recipe, resume=True)
    assert told in str(error.value)


def test_options_of_sgd_in_a_checkpoint_are_not_believed(tmp_path):
    """Another momentum than the recipe's, silently."""
    path = tmp_path / "run.pt"
    run(path)
    content = torch.load(path, weights_only=True)
    with_option(momentum=0.5)(content)
    torch.save(content, path)
    with pytest.raises(ValueError, match=r"its optimiser has momentum 0\.5, not 0\.9"):
        run(path, resume=True)


def test_a_checkpoint_of_another_version_of_pytorch_goes_on(tmp_path):
    """Versions add options to their optimisers: a file that lacks one, or has one more, is not damaged."""
    path = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_after=7)
    content = torch.load(path, weights_only=True)
    del content["optimizer"]["param_groups"][0]["maximize"]
    content["optimizer"]["param_groups"][0]["new"] = True
    torch.save(content, path)
    assert run(path, resume=True)[0] == run()[0]


def test_a_momentum_of_few_numbers_goes_on(tmp_path):
    """Of the right shape, but all its places one number: PyTorch refused to write to it."""
    path, recipe = tmp_path / "run.pt", RECIPE.but(**MUON)
    with pytest.raises(KeyboardInterrupt):
        run(path, recipe=recipe, stop_after=7)
    content = torch.load(path, weights_only=True)
    with_momentum(lambda value: torch.zeros(1).expand(value.shape))(content)
    torch.save(content, path)
    assert len(run(path, recipe=recipe, resume=True)[1].rows) == 3


@pytest.mark.parametrize("change", [{"steps": "x"}, {"mean": [torch.zeros(1)] * 36}], ids=["steps", "shapes"])
def test_an_average_of_another_form_is_refused(tmp_path, change):
    """A TypeError in the first step, or one number for all weights of a layer."""
    path, recipe = tmp_path / "run.pt", RECIPE.but(epochs=1, ema=0.9)
    run(path, recipe=recipe)
    content = torch.load(path, weights_only=True)
    content["average"] |= change
    torch.save(content, path)
    with pytest.raises(ValueError, match="its average of the weights is of another network"):
        run(path, recipe=recipe, resume=True)


def test_a_flipped_bit_is_found(tmp_path):
    """PyTorch does not look at the check sums of what it reads: a weight was another one, silently."""
    path = tmp_path / "run.pt"
    run(path)
    content = bytearray(path.read_bytes())
    weights = torch.load(path, weights_only=True)["model"]["layer3.0.conv2.weight"]
    stored = weights.permute(0, 2, 3, 1).contiguous().numpy().tobytes()  # channels-last
    content[content.index(stored[:64]) + 3] ^= 64
    path.write_bytes(content)
    with pytest.raises(ValueError, match="check sum"):
        run(path, resume=True)
