"""What becomes of earlier results that a new run is to replace."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch

from resnet_tutorial import cli, commands, runtime
from resnet_tutorial.data import load_sample
from resnet_tutorial.files import claimed
from resnet_tutorial.models import cifar_resnet
from resnet_tutorial.training import DivergedError, Recipe, fit, saved_precision

NAMES = ("run.pt", "net.pt", "log")
OPTIONS = {"state": "run.pt", "final": "net.pt", "hopeless": DivergedError}
ASIDE = ".resnet-tutorial-earlier"
OLD = dict.fromkeys(NAMES, "old")


@pytest.fixture
def out(tmp_path):
    for name in NAMES:
        (tmp_path / name).write_text("old")
    return tmp_path


def seen(out):
    return {path.name: path.read_text() for path in out.iterdir() if path.is_file()}


def attempt(out, *, resume=False, error=None, write=("run.pt",)):
    try:
        with claimed(out, NAMES, resume=resume, overwrite=not resume, **OPTIONS):
            for name in write:
                (out / name).write_text("new")
            if error is not None:
                raise error
    except (DivergedError, KeyboardInterrupt) as raised:
        return str(raised)
    return ""


def test_a_run_that_diverges_after_its_first_checkpoint_gives_the_earlier_results_back(out):
    """`--overwrite --lr 1e6`: the finished network was gone with the first checkpoint."""
    assert "nan" in attempt(out, error=DivergedError("the loss is nan"), write=("run.pt", "log"))
    assert seen(out) == OLD and not (out / ASIDE).exists()


def test_an_interrupted_run_can_go_on_while_the_earlier_results_wait(out):
    """Ctrl-C after the first epoch: the finished network was gone."""
    told = attempt(out, error=KeyboardInterrupt())
    assert "--resume goes on" in told and ASIDE in told
    assert seen(out) == {"run.pt": "new"} and seen(out / ASIDE) == OLD
    attempt(out, resume=True, write=("net.pt",))
    assert seen(out) == {"run.pt": "new", "net.pt": "new"} and not (out / ASIDE).exists()


def test_an_unfinished_run_is_replaced_and_not_the_finished_one_before_it(out):
    """The second of two interrupted runs put the first in the place of the finished results."""
    attempt(out, error=KeyboardInterrupt())
    attempt(out, error=KeyboardInterrupt(), write=("run.pt", "log"))
    assert seen(out / ASIDE) == OLD
    attempt(out, error=DivergedError("nan"))
    assert seen(out) == OLD


def test_results_in_the_way_are_resumed_only_where_there_is_a_checkpoint(out):
    """`--method head` a second time: the message named --resume, which that method then refused."""
    for state, final, goes_on in (("run.pt", "net.pt", True), ("net.pt", "net.pt", False)):
        options = {"state": state, "final": final, "resume": False, "overwrite": False}
        told = pytest.raises(ValueError, match="holds the results of an earlier run")
        with told as refused, claimed(out, NAMES, **options):
            pass
        assert ("--resume" in str(refused.value)) == goes_on and "--overwrite" in str(refused.value)
    (out / "run.pt").unlink()
    told = pytest.raises(ValueError, match="earlier run: choose another folder")
    with told, claimed(out, NAMES, resume=False, overwrite=False, **OPTIONS):
        pass
    assert set(seen(out)) >= {"net.pt", "log"}


def test_without_a_checkpoint_nothing_is_promised(out):
    """Ctrl-C in the first step promised a --resume that was then refused."""
    assert "--resume" not in attempt(out, error=KeyboardInterrupt(), write=())
    assert seen(out) == OLD


def test_a_diverging_training_keeps_the_finished_network(tmp_path, monkeypatch, capsys):
    """The same, by the command."""
    monkeypatch.chdir(tmp_path)
    train = "train --classes cat dog --model resnet8 --device cpu --precision fp32 --batch-size 50 --out run"
    train += " --epochs"
    assert cli.main(f"{train} 1".split()) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert cli.main(f"{train} 2 --lr 1e6 --save-every 1 --overwrite".split()) == 2
    assert "try a learning rate below" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_file_that_waits_is_named_where_it_is_missed(tmp_path, capsys):
    """After a kill the finished network seemed to be gone: it lay in a hidden folder."""
    (tmp_path / ASIDE).mkdir()
    (tmp_path / ASIDE / "model.safetensors").write_bytes(b"x")
    assert cli.main(["evaluate", str(tmp_path / "model.safetensors")]) == 2
    assert str(tmp_path / ASIDE / "model.safetensors") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "status", "words"),
    [(signal.SIGTERM, 143, "asked to end (SIGTERM)"), (signal.SIGINT, 130, "interrupted")],
)
def test_a_request_to_end_outside_the_training_is_one_line(monkeypatch, capsys, number, status, words):
    """A batch system's SIGTERM ended `evaluate` without a word."""

    def asked(*args, **options):
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr(commands.evaluation, "predict", asked)
    before = signal.getsignal(number)
    assert cli.main(["evaluate", "cifar10"]) == status
    assert capsys.readouterr().err == f"resnet-tutorial: {words}\n"
    assert signal.getsignal(number) == before


def test_a_resumed_run_keeps_the_precision_that_was_found_for_it(tmp_path, monkeypatch):
    """`auto` is measured on some CPUs: what it finds on a busy machine made --resume refuse the run."""
    train = load_sample()[0].per_class(4)
    found = iter([torch.bfloat16, None])

    def pick(device, name="auto"):
        return next(found) if name == "auto" else {"bf16": torch.bfloat16, "fp32": None}[name]

    monkeypatch.setattr(runtime, "pick_precision", pick)
    for resume in (False, True):
        recipe = Recipe(name="short", epochs=1, batch_size=20)
        model = cifar_resnet(8, width=4)
        history = fit(model, train, None, recipe, device="cpu", checkpoint=tmp_path / "run.pt", resume=resume)
        assert history.setup["precision"] == "bfloat16"
    assert saved_precision(tmp_path / "run.pt") == "bf16"
    content = torch.load(tmp_path / "run.pt", weights_only=True)
    content["identity"]["precision"] = "float16"
    torch.save(content, tmp_path / "run.pt")
    assert saved_precision(tmp_path / "run.pt") == "fp16"
