"""Photos of one's own on the command line: what is measured on which, and what travels with the weights."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from resnet_tutorial import cli, models, training
from resnet_tutorial.data import CIFAR10, Normalize, PartList, load_folder
from resnet_tutorial.evaluation import Predictions

RNG = np.random.default_rng(0)
ALONE = ["--device", "cpu", "--precision", "fp32", "--epochs", 1, "--batch-size", 8]


def picture(path: Path, colour=(128, 128, 128), noise: int = 60) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(np.array(colour) + RNG.integers(-noise, noise, (40, 50, 3)), 0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """30 photos: 24 cold ones and 6 warm ones."""
    monkeypatch.setenv("RESNET_TUTORIAL_DATA", str(tmp_path / "cache"))
    for k in range(30):
        name, colour = ("cold", (60, 60, 200)) if k % 5 else ("warm", (200, 80, 60))
        picture(tmp_path / "photos" / name / f"{k:02}.png", colour)
    return tmp_path / "photos"


def run(*words) -> int:
    return cli.main([str(word) for word in words])


def refusal(capsys, *words) -> str:
    capsys.readouterr()
    assert run(*words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture
def trained(photos, tmp_path) -> Path:
    """A head for the two classes, on the network that comes with the package."""
    assert run("finetune", "--data", photos, "--method", "head", "--out", tmp_path / "run", *ALONE) == 0
    return tmp_path / "run" / "model.safetensors"


def numbers(tmp_path, *words) -> dict:
    assert run("evaluate", *words, "--json", tmp_path / "numbers.json") == 0
    return json.loads((tmp_path / "numbers.json").read_text())


def test_three_commands(photos, trained, tmp_path, capsys):
    """From a folder to answers, each command with what a newcomer would type."""
    test = PartList.read(trained.with_name("parts.csv")).load("test")
    assert len(test) == 6
    found = numbers(tmp_path, trained, "--report", tmp_path / "report", "--logits", tmp_path / "logits.npz")
    assert (found["n"], found["seen_in_training"], found["data"]) == (6, 0, "photos (test)")
    assert found["accuracy"] == 1.0
    assert Predictions.load(tmp_path / "logits.npz").labels.tolist() == test.labels.tolist()
    assert "balanced accuracy" in (tmp_path / "report" / "index.html").read_text()
    picture(tmp_path / "new" / "deep" / "a.png", (200, 80, 60))
    assert run("predict", tmp_path / "new", "--weights", trained, "--csv", tmp_path / "answers.csv") == 0
    (row,) = csv.DictReader((tmp_path / "answers.csv").read_text().splitlines())
    assert row["file"].endswith("a.png") and row["class_1"] == "warm" and float(row["probability_1"]) > 0.5


def test_training_photos_are_not_measured_by_accident(photos, trained, tmp_path, capsys):
    """`evaluate --data photos` gave the accuracy on the photos that the network had learned by heart."""
    assert numbers(tmp_path, trained, "--data", photos)["n"] == 6  # its own folder means its test photos
    shutil.copytree(photos, tmp_path / "elsewhere")
    line = refusal(capsys, "evaluate", trained, "--data", tmp_path / "elsewhere")
    assert "was trained on 21 of these 30 photos" in line and "--allow-seen" in line
    assert "trained on 21 of these 21" in refusal(capsys, "evaluate", trained, "--part", "train")
    found = numbers(tmp_path, trained, "--data", tmp_path / "elsewhere", "--allow-seen")
    assert found["seen_in_training"] == 21 and found["data"] == "elsewhere, 21 of 30 seen in training"
    trained.with_name("parts.csv").unlink()
    assert "nobody knows on which photos" in refusal(capsys, "evaluate", trained)
    assert "parts.csv" in refusal(capsys, "evaluate", trained, "--data", photos)


def test_random_labels_give_chance(tmp_path, monkeypatch):
    """A leak shows where nothing can be learned: the result must be chance, not what was memorised."""
    monkeypatch.setenv("RESNET_TUTORIAL_DATA", str(tmp_path / "cache"))
    for k in range(200):
        picture(tmp_path / "noise" / "ab"[k % 2] / f"{k}.png", noise=120)
    out = tmp_path / "run"
    words = ["--test-fraction", 0.4, "--out", out, *ALONE]
    assert run("finetune", "--data", tmp_path / "noise", "--method", "head", *words) == 0
    assert abs(numbers(tmp_path, out / "model.safetensors")["accuracy"] - 0.5) < 0.2


def test_the_size_travels_with_the_weights(photos, tmp_path, capsys):
    """A network trained at 48 pixels was evaluated at 32, without a word: 1.00 became 0.50."""
    out = tmp_path / "run"
    words = ["--data", photos, "--method", "head", "--size", 48, "--white", 4095, "--out", out]
    assert run("finetune", *words, *ALONE) == 0
    assert "48 pixels" in capsys.readouterr().out
    _, metadata = models.load_model(out / "model.safetensors")
    assert (metadata["size"], metadata["resize"], metadata["white"]) == (48, 48, 4095)
    seen = []
    hook = models.ResNet.forward
    patch = pytest.MonkeyPatch()
    patch.setattr(models.ResNet, "forward", lambda self, x: seen.append(x.shape[2]) or hook(self, x))
    assert run("evaluate", out / "model.safetensors") == 0
    assert run("predict", photos / "warm", "--weights", out / "model.safetensors") == 0
    patch.undo()
    assert set(seen) == {48}
    assert "sees 48 pixels" in refusal(capsys, "evaluate", out / "model.safetensors", "--data", "sample")


def test_an_old_file_says_what_is_assumed(photos, tmp_path):
    model = models.cifar_resnet(8, width=4, num_classes=2)
    models.save_model(tmp_path / "old.safetensors", model, classes=("cold", "warm"), normalize=CIFAR10)
    with pytest.warns(UserWarning, match="does not say at which size .*32 pixels assumed"):
        assert run("predict", photos / "warm", "--weights", tmp_path / "old.safetensors") == 0
    assert run("predict", photos / "warm", "--weights", tmp_path / "old.safetensors", "--size", 32) == 0


def test_networks_of_torchvision(photos, tmp_path, capsys):
    """`finetune` said "give its name" and had no option for it."""
    torch.save(torchvision.models.resnet18(num_classes=7).state_dict(), tmp_path / "theirs.pth")
    out, words = tmp_path / "run", ["finetune", "--data", photos, "--weights", tmp_path / "theirs.pth"]
    assert "give its name" in refusal(capsys, *words)
    with pytest.warns(UserWarning, match="224 pixels out of 256"):
        assert run(*words, "--model", "resnet18", "--size", 64, "--method", "head", "--out", out, *ALONE) == 0
    _, metadata = models.load_model(out / "model.safetensors")
    assert (metadata["size"], metadata["resize"], metadata["interpolation"]) == (64, 73, "bilinear")
    assert metadata["mean"][0] == 0.485


@pytest.mark.parametrize("method", ["bn", "last-stage", "gradual", "all"])
def test_every_method_trains_what_it_says(photos, tmp_path, method):
    """A method that leaves its stages frozen, or moves those of others, is found by nobody."""
    before, _ = models.load_model(models.shipped("resnet20", "cifar10"))
    out = tmp_path / "run"
    words = [
        "--method",
        method,
        "--out",
        out,
        *ALONE,
        "--batch-size",
        4,
    ]  # five steps, in the last of them all
    assert run("finetune", "--data", photos, *words) == 0
    after = models.load_model(out / "model.safetensors")[0].state_dict()
    moved = {
        name for name, value in before.state_dict().items() if not torch.equal(value, after.get(name, value))
    }
    weights = {name for name in moved if name.endswith("weight") and "fc" not in name}
    expected = {"bn": "bn", "last-stage": "layer3", "gradual": "", "all": ""}[method]
    assert weights and all(expected in name for name in weights)
    assert ("conv1.weight" in weights) == (method in ("gradual", "all"))
    assert any("running" in name for name in moved) == (method == "bn")


def test_training_goes_on_from_finished_weights(photos, trained, tmp_path, capsys):
    """4 epochs after 2 were "another run"; and with another seed test photos would have been learned."""
    words = ["--weights", trained, "--method", "last-stage", "--seed", 5, "--out", tmp_path / "on"]
    capsys.readouterr()
    assert run("finetune", "--data", photos, *words, *ALONE) == 0
    printed = capsys.readouterr().out
    assert "goes on from their head" in printed and "head on its own" not in printed
    first, second = (PartList.read(tmp_path / name / "parts.csv").entries for name in ("run", "on"))
    assert set(first) == set(second)


def test_rare_classes(photos, tmp_path):
    """76 of one class and 4 of another: the rare one was never predicted, and nothing could be done."""
    out = tmp_path / "run"
    words = [
        "--method",
        "all",
        "--class-weights",
        "--best-by",
        "balanced-accuracy",
        "--set",
        "views=none",
        "--epochs",
        2,
    ]
    assert run("finetune", "--data", photos, "--out", out, *ALONE, *words) == 0
    history = json.loads((out / "history.json").read_text())
    assert history["recipe"]["class_weights"] is True and history["recipe"]["views"] == "none"
    best = max(history["rows"], key=lambda row: row["val_balanced_accuracy"])
    assert models.load_model(out / "best.safetensors")[1]["epoch"] == best["epoch"]


def test_classes_are_matched_by_name(photos, trained, tmp_path):
    """A test folder without one of the classes, or with their folders in another order, was refused."""
    for k in range(3):
        picture(tmp_path / "new" / "warm" / f"n{k}.png", (200, 80, 60))
    with pytest.warns(UserWarning, match="no photo of cold: undefined"):
        found = numbers(tmp_path, trained, "--data", tmp_path / "new")
    assert found["recall"] == [None, 1.0] and found["support"] == [0, 3]


def test_folders_patterns_and_broken_files(photos, trained, tmp_path, capsys, monkeypatch):
    """Folders and patterns were errors, and one broken file stopped all."""
    monkeypatch.chdir(tmp_path)
    assert run("predict", "photos/warm", "photos/c*/0*.png", "--weights", trained) == 0
    assert len(capsys.readouterr().out.splitlines()[-14:]) == 14
    (tmp_path / "new").mkdir()
    assert "has no picture" in refusal(capsys, "predict", "new", "--weights", trained)
    assert "no picture *.jpg" in refusal(capsys, "predict", "*.jpg", "--weights", trained)
    (tmp_path / "new" / "broken.png").write_text("text")
    words = ["predict", "new", "photos/warm", "--weights", trained, "--csv", "answers.csv"]
    assert "broken.png" in refusal(capsys, *words) and not Path("answers.csv").exists()
    with pytest.warns(UserWarning, match=r"skipped 1 unreadable: .*broken\.png"):
        assert run(*words, "--skip-unreadable") == 0
    assert len(Path("answers.csv").read_text().splitlines()) == 7


def test_bad_input_is_one_line(photos, trained, tmp_path, capsys):
    out = ["--out", tmp_path / "none"]
    words = ["finetune", "--data", photos, *out]
    assert "unknown field 'rate'" in refusal(capsys, *words, "--set", "rate=3")
    assert "give field=value" in refusal(capsys, *words, "--set", "lr")
    assert "lr must be of type float" in refusal(capsys, *words, "--set", "lr=fast")
    assert "ImageNet weights for resnet20" in refusal(
        capsys, *words, "--weights", "imagenet", "--model", "resnet20"
    )
    assert "cannot be resumed" in refusal(capsys, *words, "--method", "head", "--resume")
    assert "another network" in refusal(capsys, *words, "--weights", trained, "--model", "resnet18")
    shutil.rmtree(photos / "warm")
    assert "has one class, cold" in refusal(capsys, *words)
    assert not (tmp_path / "none").exists()
    shutil.rmtree(photos)
    assert "is not a directory" in refusal(capsys, "evaluate", trained)


def test_a_fault_after_the_training_gives_the_earlier_results_back(photos, tmp_path, monkeypatch):
    """A disk full between two files: the old network was dropped, the new one had no list of parts."""
    out = tmp_path / "run"
    words = ["finetune", "--data", photos, "--method", "head", "--out", out, *ALONE]
    assert run(*words) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert len(before) == 4

    def full(*args, **options):
        raise ValueError("no space left")

    places = (training.History, "save"), (training.History, "save_csv"), (PartList, "save")
    for place, name in (*places, (models, "save_model")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, full)
            assert run(*words, "--seed", 1, "--overwrite") == 2
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before, name


def test_an_exported_network_is_the_same(photos, trained, tmp_path, capsys):
    """By hand the normalisation is forgotten, and the answers differ without an error."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    capsys.readouterr()
    assert run("export", trained, tmp_path / "model.onnx") == 0
    assert "differ by at most" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["cold", "warm"] and json.loads(about["size"]) == 32
    split = load_folder(photos)
    logits = session.run(None, {"pixels": split.images.numpy()})[0]
    assert (logits.argmax(1) == split.labels.numpy()).mean() > 0.9


def test_the_temperature_is_stored_and_used(photos, trained, tmp_path):
    """Only a notebook could cool what an overconfident network says."""
    model, metadata = models.load_model(trained)
    assert metadata["temperature"] == 1.0  # three photos for validation cannot tell
    about = {"classes": metadata["classes"], "normalize": CIFAR10, "size": 32, "temperature": 2.0}
    cooled = models.save_model(tmp_path / "cooled.safetensors", model, **about)
    logits = []
    for weights in (trained, cooled):
        assert run("predict", photos / "warm", "--weights", weights, "--csv", tmp_path / "t.csv") == 0
        rows = csv.DictReader((tmp_path / "t.csv").read_text().splitlines())
        shares = np.array([[float(row[f"probability_{k}"]) for k in (1, 2)] for row in rows])
        logits.append(np.log(shares[:, 0] / shares[:, 1]))
    assert logits[0] == pytest.approx(2 * logits[1], rel=0.05)


def test_white_is_what_train_is_told(photos, tmp_path):
    """`train --white` was ignored, and its warning went on to advise it."""
    out = tmp_path / "run"
    assert run("train", "--data", photos, "--model", "resnet8", "--white", 4095, "--out", out, *ALONE) == 0
    assert models.load_model(out / "model.safetensors")[1]["white"] == 4095


def test_files_may_have_new_folders_and_the_longest_names(trained, photos, tmp_path):
    """All was measured, and then not written."""
    name = f"{'a' * 250}.csv"
    numbers, table = tmp_path / "new" / "folder" / "r.json", tmp_path / "x" / name
    assert run("evaluate", trained, "--json", numbers) == 0 and numbers.exists()
    assert run("predict", photos / "cold" / "01.png", "--weights", trained, "--csv", table) == 0
    assert table.exists()


def test_a_link_that_leads_nowhere_can_be_skipped(photos, trained, capsys):
    for name, target in (("lost", "nowhere.png"), ("round", "round.png")):
        (photos / "cold" / f"{name}.png").symlink_to(target)
    assert "a link that leads nowhere" in refusal(capsys, "predict", photos, "--weights", trained)
    with pytest.warns(UserWarning, match=r"lost\.png.*round\.png"):
        assert run("predict", photos, "--weights", trained, "--skip-unreadable") == 0


@pytest.mark.parametrize("epoch", [None, "x", [1], True])
def test_the_best_network_of_a_run_that_goes_on_may_say_anything(photos, tmp_path, epoch):
    """`--resume` ended with a TypeError about numbers."""
    command = ["train", "--data", photos, "--model", "resnet8", "--out", tmp_path / "run", *ALONE]
    assert run(*command) == 0
    best = tmp_path / "run" / "best.safetensors"
    model, about = models.load_model(best)
    about |= {"epoch": epoch, "normalize": Normalize(about.pop("mean"), about.pop("std"))}
    models.save_model(best, model, **about)
    with pytest.warns(UserWarning, match=r"best\.safetensors is of epoch .*, not of 1"):
        assert run(*command, "--resume") == 0


def test_another_normalisation_or_method_is_another_run(photos, trained, tmp_path, capsys):
    """A run went on with pixels ten times as large, and its loss rose to 57."""
    first = ["finetune", "--data", photos, "--weights", trained, "--out", tmp_path / "ft", *ALONE]
    assert run(*first, "--method", "all") == 0
    model, about = models.load_model(trained)
    other = tmp_path / "other.safetensors"
    about = {name: value for name, value in about.items() if name not in ("mean", "std")}
    models.save_model(other, model, **about, normalize=Normalize((0.9,) * 3, (0.01,) * 3))
    again = [other if word == trained else word for word in first]
    assert "normalisation" in refusal(capsys, *again, "--method", "all", "--resume")
    assert "groups" in refusal(capsys, *first, "--method", "gradual", "--resume")
