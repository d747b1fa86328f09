"""The command line: what it prints, what it writes, and how it refuses."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tutorial import cli, commands, data, evaluation, exercises, models
from resnet_tutorial.data import CIFAR10, Preprocess
from resnet_tutorial.training import fit

COMMANDS = ("download", "train", "evaluate", "predict", "finetune", "export", "check")
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
    models.save_model(path, model, classes=CLASSES, normalize=CIFAR10, **Preprocess().stored())
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
    assert {path.name for path in out.iterdir()} == files | {"parts.csv"}

    report = tmp_path / "report.json"
    assert run("evaluate", out / "model.safetensors", "--json", report) == 0
    assert json.loads(report.read_text())["n"] == 2  # of each class one, kept for the test

    capsys.readouterr()
    photo = next((photos / "warm").iterdir())
    assert run("predict", photo, "--weights", out / "model.safetensors", "--top", 2) == 0
    line = capsys.readouterr().out
    assert all(name in line for name in CLASSES)
    shares = [float(word.rstrip(",%")) for word in line.split() if word.strip().rstrip(",").endswith("%")]
    assert sum(shares) == pytest.approx(100, abs=0.2)

    tuned = tmp_path / "tuned"
    for method in ("head", "gradual"):
        assert (
            run(
                "finetune",
                "--data",
                photos,
                "--weights",
                out / "model.safetensors",
                "--method",
                method,
                "--val-fraction",
                0,
                "--out",
                tuned,
                "--overwrite",
                *training,
            )
            == 0
        )
    model, metadata = models.load_model(tuned / "model.safetensors")
    assert metadata["classes"] == list(CLASSES)
    assert model.fc.out_features == 2


def quick(photos, out, *more) -> list:
    words = ["train", "--model", "resnet8", "--data", photos, "--batch-size", 4, "--val-fraction", 0.25]
    return [*words, "--epochs", 1, "--device", "cpu", "--precision", "fp32", "--out", out, *more]


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_earlier_results_are_not_lost(photos, tmp_path, capsys):
    """A second run into the same folder took the place of the first one without a word."""
    out = tmp_path / "run"
    assert run(*quick(photos, out)) == 0
    before = contents(out)
    line = refusal(capsys, *quick(photos, out, "--seed", 1))
    assert all(choice in line for choice in ("--resume", "--out", "--overwrite"))
    assert contents(out) == before
    assert run(*quick(photos, out, "--seed", 1, "--overwrite")) == 0
    after = contents(out)
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in before)  # nothing of the earlier run is left among it


@pytest.mark.parametrize("wrong", [["--lr", 1e30], ["--tensorboard", "file/board"], ["--batch-size", 0]])
def test_a_run_that_dies_gives_back_what_it_was_to_replace(photos, tmp_path, capsys, monkeypatch, wrong):
    """The folder was cleared before the new run had anything: a wrong option cost hours."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    out = tmp_path / "run"
    assert run(*quick(photos, out)) == 0
    before = contents(out)
    refusal(capsys, *quick(photos, out, "--overwrite", *wrong))
    assert contents(out) == before


def test_a_run_that_stops_later_leaves_nothing_of_an_earlier_one_beside_it(photos, tmp_path, monkeypatch):
    """A new checkpoint beside the last network of another run looks like one result."""
    out = tmp_path / "run"
    assert run(*quick(photos, out)) == 0
    monkeypatch.setattr(commands, "_print_row", lambda row: os.kill(os.getpid(), signal.SIGINT))
    assert run(*quick(photos, out, "--overwrite", "--seed", 1, "--epochs", 3)) == 130
    earlier = out / ".resnet-tutorial-earlier"  # where they wait until the new run is finished
    assert {path.name for path in out.iterdir()} - {earlier.name} == {
        "checkpoint.pt",
        "best.safetensors",
        "parts.csv",
    }
    assert {"model.safetensors", "history.json"} <= contents(earlier).keys()


@pytest.mark.parametrize("name", ["history.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["directory", "link"])
def test_what_cannot_be_replaced_stops_a_run_before_anything_is_lost(photos, tmp_path, capsys, name, kind):
    """Half of the earlier results had been deleted when the directory among them was met."""
    out = tmp_path / "run"
    assert run(*quick(photos, out)) == 0
    (out / name).unlink()
    (out / name).mkdir() if kind == "directory" else (out / name).symlink_to("nowhere/at/all")
    names = sorted(os.listdir(out))
    assert f"{name} is no regular file" in refusal(capsys, *quick(photos, out, "--overwrite"))
    assert sorted(os.listdir(out)) == names


@pytest.mark.parametrize("fraction", [0.25, 0])
def test_a_dead_network_is_not_saved(photos, tmp_path, capsys, fraction):
    """It was saved with status 0, and the command that was to measure it refused the file."""
    out = tmp_path / "run"
    one_step = ["--lr", 1e30, "--batch-size", 12, "--val-fraction", fraction]
    line = refusal(capsys, *quick(photos, out, *one_step))
    assert ("the validation loss is nan" if fraction else "weights are no longer finite") in line
    assert not out.exists()


def test_two_runs_do_not_share_a_folder(photos, tmp_path, capsys, monkeypatch):
    """Two at once would mix their files; each may have a temporary folder of its own."""
    out = tmp_path / "run"
    entered = []

    def during(*args, **options):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        entered.append(refusal(capsys, *quick(photos, out)))
        return fit(*args, **options)

    monkeypatch.setattr(commands, "fit", during)
    assert run(*quick(photos, out)) == 0
    assert "another run writes to" in entered[0]


def test_runs_on_other_data_have_another_folder(photos, tmp_path, monkeypatch, capsys):
    """Two fine-tunings on different folders had one name, and the second took the place of the first."""
    monkeypatch.chdir(tmp_path)
    photos.rename(tmp_path / "first")
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    words = ["--epochs", 1, "--batch-size", 4, "--val-fraction", 0, "--device", "cpu"]
    for folder in ("first", "second"):
        assert run("finetune", "--data", folder, *words) == 0
        assert run("train", "--model", "resnet8", "--data", folder, *words) == 0
    assert len({path.name for path in (tmp_path / "runs").iterdir()}) == 4
    assert "--overwrite" in refusal(capsys, "finetune", "--data", "first", *words)


def test_a_record_that_exists_is_refused_before_the_training(tmp_path, capsys, monkeypatch):
    """The refusal must not come after hours of training, nor the first record be lost."""
    train, test = data.load_sample()
    monkeypatch.setattr(data, "load_sample", lambda: (train.per_class(4), test.per_class(2)))
    words = ["train", "--model", "resnet8", "--epochs", 1, "--batch-size", 8, "--val-fraction", 0]
    words += ["--device", "cpu", "--precision", "fp32", "--record", tmp_path / "results", "--out"]
    assert run(*words, tmp_path / "one") == 0
    before = contents(tmp_path / "results")
    assert len(before) == 2
    assert "exists: record into another folder" in refusal(capsys, *words, tmp_path / "two")
    assert not (tmp_path / "two").exists()
    assert contents(tmp_path / "results") == before
    assert run(*words, tmp_path / "two", "--overwrite") == 0


@pytest.mark.parametrize("content", [b"damaged", None])
def test_the_best_network_may_be_gone_when_a_run_goes_on(photos, tmp_path, content):
    """Its loss was read back from its file: the run ended after every epoch; later nobody missed it."""
    out = tmp_path / "run"
    longer = [*quick(photos, out, "--epochs", 3, "--lr", 0.5)]
    assert run(*longer) == 0
    whole = contents(out)
    (out / "best.safetensors").unlink()
    if content is not None:
        (out / "best.safetensors").write_bytes(content)
    checkpoint = torch.load(out / "checkpoint.pt", weights_only=True)
    assert [row["epoch"] for row in checkpoint["rows"]] == [1, 2, 3]
    with pytest.warns(UserWarning, match="written again only if a later epoch is better"):
        assert run(*longer, "--resume") == 0
    assert contents(out)["model.safetensors"] == whole["model.safetensors"]


def test_no_checkpoint_is_kept_of_a_network_that_died(photos, tmp_path, capsys):
    """The state written every so many steps took the place of the last good one."""
    out = tmp_path / "run"
    line = refusal(capsys, *quick(photos, out, "--lr", 1e30, "--save-every", 1, "--epochs", 2))
    assert "try a learning rate below" in line
    assert not out.exists()


def test_a_link_is_followed_not_replaced(photos, weights, tmp_path):
    """A report that is a link into another folder became a file, and the folder kept its old one."""
    there = tmp_path / "elsewhere" / "report.json"
    there.parent.mkdir()
    there.write_text('{"accuracy": 0, "n": 3}')
    (tmp_path / "link.json").symlink_to(there)
    assert run("evaluate", weights, "--data", photos, "--json", tmp_path / "link.json") == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads(there.read_text())["n"] == 12


def test_a_closed_pipe_ends_the_printing_not_the_training(photos, tmp_path):
    """`train ... | head -1` must leave a trained network."""
    command = [sys.executable, "-m", "resnet_tutorial", *quick(photos, tmp_path / "run", "--epochs", 3)]
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().startswith("resnet8: ")
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (0, "")
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_closed_standard_output_is_no_error(photos, weights, tmp_path, monkeypatch):
    """Python has no standard output at all where the shell has closed it."""
    monkeypatch.setattr(sys, "stdout", None)
    assert run("evaluate", weights, "--data", photos, "--json", tmp_path / "r.json") == 0
    assert json.loads((tmp_path / "r.json").read_text())["n"] == 12


def test_results_that_cannot_be_kept_are_refused_before_the_training(photos, tmp_path, capsys, monkeypatch):
    """Found after hours of training, a wrong path costs all of them."""
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    monkeypatch.setattr(commands, "fit", lambda *args, **options: pytest.fail("it trains"))
    for place, words in (("file/sub", "is no directory"), ("circle", "a link that leads nowhere")):
        assert words in refusal(capsys, *quick(photos, tmp_path / place))
        assert words in refusal(
            capsys, "train", "--record", tmp_path / place, "--out", tmp_path / "run", "--model", "resnet8"
        )
    assert "name of a file or folder is empty" in refusal(capsys, *quick(photos, ""))
    monkeypatch.setattr(os, "access", lambda *args: False)
    assert "no permission" in refusal(capsys, *quick(photos, tmp_path / "run"))
    monkeypatch.undo()
    assert not (tmp_path / "run").exists()
    assert "no directory" in refusal(capsys, *quick(photos, tmp_path / "file"))
    words = ["train", "--model", "resnet8", "--epochs", 1, "--out", tmp_path / "new"]
    assert "no directory" in refusal(capsys, *words, "--record", tmp_path / "file")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_a_report_that_cannot_be_kept_is_refused_before_the_measuring(
    photos, weights, tmp_path, capsys, monkeypatch, option
):
    """All images had been measured by the time that the wrong path was met."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(commands.evaluation, "predict", lambda *args, **options: pytest.fail("it measures"))
    words = ["evaluate", weights, "--data", photos, option, tmp_path / "file" / "sub" / "report"]
    assert "is no directory" in refusal(capsys, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", -1], "'-1' is no whole number from 0 to 4294967295"),
        (["--seed", 2**32], "is no whole number from"),
        (["--save-every", 0], "'0' is no whole number from 1"),
        (["--device", "cpu:3"], "there is one CPU, cpu"),
        (["--colour", "red"], "unrecognized arguments: --colour red (see"),
    ],
)
def test_a_wrong_option_gives_one_line(photos, tmp_path, capsys, words, message):
    """Some gave the message of a library, some the whole usage, and some nothing at all."""
    assert message in refusal(capsys, *quick(photos, tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()


def test_a_pipe_is_no_weights_file(tmp_path, capsys):
    """To open one that nobody writes to is to wait for ever."""
    os.mkfifo(tmp_path / "pipe.safetensors")
    assert "is no regular file" in refusal(capsys, "evaluate", tmp_path / "pipe.safetensors")


def test_a_message_is_one_line_whatever_it_quotes(photos, tmp_path, capsys):
    """A class name with a line break, or with codes that a terminal obeys, is in the message."""
    model = models.cifar_resnet(8, width=4, num_classes=2)
    names = ("a\nb", "\x1b[31mc")
    about = {"classes": names, "normalize": CIFAR10, **Preprocess().stored()}
    path = models.save_model(tmp_path / "odd.safetensors", model, **about)
    assert "the network knows a b,  [31mc, but" in refusal(capsys, "evaluate", path, "--data", photos)
    models.save_model(path, model, **about | {"classes": ("a" * 10**6, "b")})
    assert len(refusal(capsys, "evaluate", path, "--data", photos)) < 2000


@pytest.mark.parametrize("stream", ["closed by the shell", "closed by its reader"])
def test_bad_input_has_status_2_where_nobody_reads_errors(tmp_path, stream):
    """It had status 1, or printed its message among the results."""
    command = [sys.executable, "-m", "resnet_tutorial", "evaluate", str(tmp_path / "no.safetensors")]
    if stream == "closed by the shell":
        command = ["sh", "-c", '"$@" 2>&-', "sh", *command]
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=write, text=True, timeout=100)
    os.close(write)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_full_disk_behind_standard_output_is_one_line(photos, weights, capsys, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

        def fileno(self):
            return spare

    spare = os.open(os.devnull, os.O_WRONLY)
    monkeypatch.setattr(sys, "stdout", Full())
    try:
        assert run("evaluate", weights, "--data", photos) == 2
    finally:
        os.close(spare)
    assert capsys.readouterr().err == "resnet-tutorial: [Errno 28] No space left on device\n"


def test_a_terminal_that_lacks_a_character_shows_another(photos, tmp_path):
    """A class with an umlaut ended the command in an ASCII terminal."""
    path = tmp_path / "named.safetensors"
    model = models.cifar_resnet(8, width=4, num_classes=2)
    models.save_model(path, model, classes=("Bär", "Hündin"), normalize=CIFAR10)
    picture = next((photos / "warm").iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "resnet_tutorial", "predict", str(picture), "--weights", str(path)],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert b"B?r" in done.stdout and b"H?ndin" in done.stdout


def test_a_network_of_some_classes_is_measured_on_those(tmp_path, capsys):
    """It was refused, or its labels counted among all classes of the data."""
    assert run("evaluate", "animals", "--json", tmp_path / "all.json") == 0
    printed = capsys.readouterr().out
    assert "600 images" in printed and "6 of 10 classes" in printed
    whole = json.loads((tmp_path / "all.json").read_text())
    assert whole["accuracy"] > 0.8 and whole["classes"] == ["bird", "cat", "deer", "dog", "frog", "horse"]
    assert run("evaluate", "animals", "--classes", "dog", "cat", "--json", tmp_path / "two.json") == 0
    two = json.loads((tmp_path / "two.json").read_text())
    assert two["n"] == 200 and two["classes"] == whole["classes"]
    assert two["recall"][1] == whole["recall"][1] and two["recall"][0] is None
    assert "choose among bird, cat" in refusal(capsys, "evaluate", "animals", "--classes", "ship")


def test_both_shipped_networks_go_by_their_names(photos, tmp_path, capsys):
    picture = next((photos / "warm").iterdir())
    assert run("predict", picture, "--weights", "animals", "--top", 6) == 0
    assert "ship " not in capsys.readouterr().out
    words = ["--epochs", 1, "--batch-size", 4, "--device", "cpu", "--out", tmp_path / "tuned"]
    assert run("finetune", "--data", photos, "--weights", "animals", *words) == 0
    assert "animals" in refusal(capsys, "evaluate", "plants")


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
    train += ["--test-fraction", 0, "--epochs", 2, "--device", "cpu", "--precision", "fp32"]
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


def test_out_of_memory_says_what_to_take_less_of(photos, tmp_path, capsys, monkeypatch):
    """A hundred lines of traceback, and no word on the batch."""

    def full(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(commands, "fit", full)
    assert "out of memory: take a --batch-size below 4" in refusal(capsys, *quick(photos, tmp_path / "run"))
    for module, name in ((evaluation, "predict"), (evaluation, "export_onnx"), (exercises, "check_notebook")):
        monkeypatch.setattr(module, name, full)
    picture = photos / "cold" / "00.png"
    for command, advice in (
        (["evaluate", "cifar10"], "take smaller images (--size), or --device cpu"),
        (["predict", picture], "take smaller images (--size), or --device cpu"),
        (["export", "cifar10", tmp_path / "a.onnx"], "take smaller images (--size)"),
        (["check", 3], "close other programs, or take a machine that has more"),
    ):
        assert refusal(capsys, *command).endswith(f"out of memory: {advice}")


@pytest.mark.parametrize("status", ["CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"])
def test_a_library_without_memory_is_told_as_such(weights, photos, capsys, monkeypatch, status):
    """CUDA's libraries have an error of their own, which ended in a traceback."""

    def full(*args, **options):
        raise RuntimeError(f"CUDA error: {status} when calling `cublasCreate(handle)`")

    monkeypatch.setattr(evaluation, "predict", full)
    assert "out of memory: take smaller images" in refusal(capsys, "evaluate", weights, "--data", photos)


def odd_network(folder, *classes):
    model = models.cifar_resnet(8, width=4, num_classes=2)
    about = {"classes": classes, "normalize": CIFAR10, **Preprocess().stored()}
    return models.save_model(folder / "odd.safetensors", model, **about)


def test_results_have_nothing_that_a_terminal_obeys(photos, tmp_path, capsys):
    """A class of somebody's network set the window's title, a file's name cleared the screen."""
    names = ("a\x1b]0;x\x07", "b\x9b2Jü\n2.png: dog 100.0%\u202e")
    path = odd_network(tmp_path, *names)
    for folder, name in zip(sorted(photos.iterdir()), names, strict=True):
        folder.rename(photos / name)
    picture = photos / names[0] / "\x1b[2J.png"
    (photos / names[0] / "00.png").rename(picture)
    assert run("predict", picture, "--weights", path) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1 and " [2J.png: " in printed
    assert run("evaluate", path, "--data", photos) == 0
    printed += capsys.readouterr().out
    assert "a ]0;x  " in printed and "b 2Jü " in printed and "\n2.png" not in printed
    assert all(letter.isprintable() or letter == "\n" for letter in printed)


def test_a_table_has_no_formulas(photos, tmp_path):
    """A class of somebody's network was a link in the reader's spreadsheet; "+" is a class like others."""
    path = odd_network(tmp_path, '=HYPERLINK("http://example.org")', "+")
    shutil.copytree(photos / "cold", tmp_path / "@cold")
    with contextlib.chdir(tmp_path):
        assert run("predict", "@cold", "--weights", path, "--csv", "a.csv") == 0
        rows = list(csv.DictReader(Path("a.csv").read_text().splitlines()))
        assert len(rows) == 6 and all(Path(row["file"]).is_file() for row in rows)
    assert all(row["file"].startswith("./@cold/") for row in rows)
    found = {row[name] for row in rows for name in ("class_1", "class_2")}
    assert found == {'\'=HYPERLINK("http://example.org")', "+"}


def test_compiling_without_a_compiler_is_refused_in_one_line(photos, tmp_path, capsys, monkeypatch):
    """PyTorch's own message was 97 lines of traceback, after the first batch."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    line = refusal(capsys, *quick(photos, tmp_path / "run", "--compile"))
    assert "compiling needs a C++ compiler (no-such-compiler)" in line
    assert not (tmp_path / "run").exists()


def test_only_a_training_is_told_to_go_on(photos, weights, tmp_path, capsys, monkeypatch):
    """`--resume` is no option of evaluate."""

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands.evaluation, "predict", interrupted)
    assert run("evaluate", weights, "--data", photos) == 130
    assert "--resume" not in capsys.readouterr().err
    monkeypatch.setattr(commands, "fit", interrupted)
    assert run(*quick(photos, tmp_path / "run")) == 130
    assert "nothing of this run is kept, start it again" in capsys.readouterr().err  # no checkpoint yet


def test_an_empty_variable_of_torchrun_means_one_process(weights, photos, monkeypatch):
    """`WORLD_SIZE=` in a job script gave "invalid literal for int()"."""
    monkeypatch.setenv("WORLD_SIZE", "")
    assert run("evaluate", weights, "--data", photos) == 0
