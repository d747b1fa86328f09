"""The command line: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tutorial import cli, data, models
from resnet_tutorial.data import CIFAR10

COMMANDS = ("download", "train", "evaluate", "predict", "finetune", "check")
CLASSES = ("cold", "warm")


@pytest.fixture
def photos(tmp_path):
    """Twelve pictures in two classes, one folder each."""
    rng = np.random.default_rng(0)
    for label, (name, colour) in enumerate(zip(CLASSES, ([30, 30, 200], [200, 60, 30]), strict=True)):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for k in range(6):
            pixels = np.clip(np.array(colour) + rng.integers(-30, 30, (40, 50, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{label}{k}.png")
    return tmp_path / "photos"


@pytest.fixture
def weights(tmp_path):
    """A small untrained network that names two classes."""
    model = models.cifar_resnet(8, width=4, num_classes=2)
    path = tmp_path / "small.safetensors"
    models.save_model(path, model, classes=CLASSES, normalize=CIFAR10)
    return path


def run(*arguments) -> int:
    return cli.main([str(argument) for argument in arguments])


def refusal(capsys, *arguments) -> str:
    """Runs a command that must fail; returns its one line."""
    assert run(*arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("resnet-tutorial: ")
    return lines[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        run(command, "--help")
    assert stop.value.code == 0
    assert command in capsys.readouterr().out


def test_module_and_script_are_the_same_program():
    output = subprocess.run(
        [sys.executable, "-m", "resnet_tutorial", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(command in output for command in COMMANDS)


def test_train_evaluate_predict_and_finetune_on_a_folder(photos, tmp_path, capsys):
    """The four commands in the order in which a reader uses them."""
    out = tmp_path / "run"
    training = ["--epochs", 1, "--batch-size", 6, "--device", "cpu", "--precision", "fp32"]
    assert (
        run("train", "--data", photos, "--model", "resnet8", "--val-fraction", 0.25, "--out", out, *training)
        == 0
    )
    printed = capsys.readouterr().out
    assert "epoch   1" in printed
    files = {"model.safetensors", "best.safetensors", "history.json", "history.csv", "checkpoint.pt"}
    assert {path.name for path in out.iterdir()} == files

    report = tmp_path / "report.json"
    assert run("evaluate", out / "model.safetensors", "--data", photos, "--json", report) == 0
    assert json.loads(report.read_text())["n"] == 12

    capsys.readouterr()
    photo = next((photos / "warm").iterdir())
    assert run("predict", photo, "--weights", out / "model.safetensors", "--top", 2) == 0
    line = capsys.readouterr().out
    assert all(name in line for name in CLASSES)
    shares = [float(word.rstrip(",%")) for word in line.split() if word.strip().rstrip(",").endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=0.2)

    tuned = tmp_path / "tuned"
    for freeze in ("backbone", "none"):
        assert (
            run(
                "finetune",
                "--data",
                photos,
                "--weights",
                out / "model.safetensors",
                "--freeze",
                freeze,
                "--val-fraction",
                0,
                "--out",
                tuned,
                *training,
            )
            == 0
        )
    model, metadata = models.load_model(tuned / "model.safetensors")
    assert metadata["classes"] == list(CLASSES)
    assert model.fc.out_features == 2


def test_train_never_loads_the_test_images(monkeypatch, tmp_path):
    """A training command that reports test accuracy invites choosing recipes on it."""
    train, test = data.load_sample()
    monkeypatch.setattr(data, "load_sample", lambda: (train.per_class(4), None))
    assert (
        run(
            "train",
            "--model",
            "resnet8",
            "--epochs",
            1,
            "--batch-size",
            8,
            "--device",
            "cpu",
            "--out",
            tmp_path / "r",
        )
        == 0
    )
    assert len(test) == 1000


def test_bad_input_gives_one_line_and_status_2(photos, weights, tmp_path, capsys, monkeypatch):
    """A traceback tells a reader nothing; each of these is a mistake that readers make."""
    out = ["--out", tmp_path / "out"]
    assert "unknown recipe 'fast'" in refusal(capsys, "train", "--recipe", "fast", *out)
    assert "6n+2" in refusal(capsys, "train", "--model", "resnet21", *out)
    assert "resnet20" in refusal(capsys, "train", "--model", "alexnet", *out)
    assert "nowhere" in refusal(capsys, "train", "--data", tmp_path / "nowhere", *out)
    assert "epochs must be greater than 0" in refusal(capsys, "train", "--epochs", 0, *out)
    assert "not available" in refusal(capsys, "train", "--device", "cuda:99", *out)
    assert "fraction" in refusal(capsys, "train", "--val-fraction", 2, *out)
    assert "nowhere" in refusal(capsys, "evaluate", tmp_path / "nowhere.safetensors")
    assert "cold, warm" in refusal(capsys, "evaluate", weights)
    assert "another network" in refusal(capsys, "evaluate", weights, "--model", "resnet56", "--data", photos)
    assert "--top" in refusal(capsys, "predict", photos / "cold" / "00.png", "--weights", weights, "--top", 3)

    text = tmp_path / "text.png"
    text.write_text("not a picture")
    assert "text.png" in refusal(capsys, "predict", text, "--weights", weights, "--top", 1)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(weights.read_bytes()[:100])
    assert "damaged.safetensors" in refusal(capsys, "predict", text, "--weights", damaged)

    monkeypatch.setenv("RESNET_TUTORIAL_DATA", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    assert "resnet-tutorial download" in refusal(capsys, "train", "--data", "cifar10", *out)
    assert not (tmp_path / "out").exists(), "a refused command must leave nothing behind"


def test_unreadable_pictures_are_named_or_skipped(photos, tmp_path, capsys):
    (photos / "warm" / "broken.jpg").write_text("text")
    arguments = ["train", "--data", photos, "--model", "resnet8", "--epochs", 1, "--device", "cpu"]
    arguments += ["--out", tmp_path / "out"]
    assert "broken.jpg" in refusal(capsys, *arguments)
    with pytest.warns(UserWarning, match="broken.jpg"):
        assert run(*arguments, "--skip-unreadable") == 0


def test_interruption_is_reported_and_the_run_can_go_on(monkeypatch, photos, tmp_path, capsys):
    """The resumed command must end with the network of an uninterrupted one."""
    train = ["train", "--model", "resnet8", "--data", photos, "--batch-size", 4, "--val-fraction", 0.25]
    train += ["--epochs", 2, "--device", "cpu", "--precision", "fp32"]
    assert run(*train, "--out", tmp_path / "whole") == 0

    step = iter(range(100))
    original = models.ResNet.forward

    def forward(self, x):
        if self.training and next(step) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(models.ResNet, "forward", forward)
        assert run(*train, "--out", tmp_path / "cut") == 130
    assert "--resume" in capsys.readouterr().err
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    assert run(*train, "--out", tmp_path / "cut", "--resume") == 0
    for name in ("model.safetensors", "best.safetensors"):
        whole, _ = models.load_model(tmp_path / "whole" / name)
        cut, _ = models.load_model(tmp_path / "cut" / name)
        for parameter, value in whole.state_dict().items():
            assert torch.equal(value, cut.state_dict()[parameter]), f"{name}: {parameter}"
    other = refusal(capsys, *train, "--out", tmp_path / "cut", "--resume", "--lr", 0.5)
    assert "lr 0.1 there, 0.5 here" in other


def test_the_best_network_by_validation_is_kept(photos, tmp_path):
    """Keeping the last network under the name of the best would go unnoticed for long."""
    out = tmp_path / "out"
    options = ["--model", "resnet8", "--data", photos, "--batch-size", 4, "--val-fraction", 0.25, "--lr", 0.5]
    assert run("train", *options, "--epochs", 4, "--device", "cpu", "--out", out) == 0
    rows = json.loads((out / "history.json").read_text())["rows"]
    best = min(rows, key=lambda row: row["val_loss"])
    _, metadata = models.load_model(out / "best.safetensors")
    assert (metadata["epoch"], metadata["val_loss"]) == (best["epoch"], best["val_loss"])


def test_training_on_some_classes_only(photos, tmp_path, capsys):
    """The head has an output a class, and labels count among these classes, not among all of the data's."""
    out = tmp_path / "run"
    training = ["--epochs", 1, "--batch-size", 200, "--model", "resnet8", "--device", "cpu", "--out", out]
    assert run("train", "--classes", "cat", "ship", *training) == 0
    assert "360 training images" in capsys.readouterr().out  # of 2 x 200, a tenth for validation
    model, metadata = models.load_model(out / "model.safetensors")
    assert metadata["classes"] == ["cat", "ship"]
    assert model.fc.out_features == 2
    assert "no class 'unicorn'" in refusal(capsys, "train", "--classes", "cat", "unicorn", *training)


def test_a_warning_is_one_line_without_source(photos, tmp_path):
    """Python's own form names a path in the package and quotes a line of its source."""
    (photos / "warm" / "notes.txt").write_text("x")
    words = ["train", "--data", photos, "--model", "resnet8", "--epochs", 1, "--device", "cpu"]
    command = [sys.executable, "-m", "resnet_tutorial", *words, "--out", tmp_path / "out"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    (line,) = [line for line in done.stderr.splitlines() if "notes.txt" in line]
    assert line.startswith("resnet-tutorial: ignored") and "UserWarning" not in done.stderr


def test_answers_to_exercises_are_judged(tmp_path, capsys):
    assert "no exercise that can be checked" in refusal(capsys, "check", 99)
    assert "empty.ipynb" in refusal(capsys, "check", 3, "--notebook", tmp_path / "empty.ipynb")
