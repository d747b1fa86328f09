"""Two processes under torchrun, talking through Gloo: training as with one, a clean end if one dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from resnet_tutorial.data import CIFAR10, load_sample
from resnet_tutorial.evaluation import loss_and_accuracy
from resnet_tutorial.models import cifar_resnet
from resnet_tutorial.training import Recipe, distributed, fit

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()), reason="needs Gloo"
)

RECIPE = Recipe(name="test", epochs=2, batch_size=16, lr=0.05, flip="alternating", cutout=8, nesterov=True)


def splits():
    return load_sample()[0].per_class(10).split(0.25)  # 70 and 30 images


def without_norm() -> nn.Module:
    """A network whose output for an image does not depend on the rest of the batch."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10)
    )


def with_norm() -> nn.Module:
    torch.manual_seed(0)
    return cifar_resnet(8, width=4)


def train(model: nn.Module, path: Path | None = None, **options):
    part, val = splits()
    settings = {"device": "cpu", "precision": "fp32", "progress": False, "checkpoint": path}
    return fit(model, part, val, RECIPE, seed=3, **(settings | options))


def torchrun(tmp_path: Path, code: str, *, processes: int = 2) -> subprocess.CompletedProcess:
    script = tmp_path / "job.py"
    path = [str(Path(__file__).parent), *sys.path]
    head = f"import sys\nsys.path[:0] = {path!r}\nimport test_distributed as t\n"
    script.write_text(head + "from resnet_tutorial.training import distributed\n" + textwrap.dedent(code))
    return launch(processes, str(script), cwd=tmp_path)


def launch(processes: int, *command: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "MASTER_ADDR": "127.0.0.1",
    }
    options = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes)]
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options, *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    """Another order of images, other draws, or gradients summed instead of averaged would show here.

    With batch normalisation the two differ, but what is measured must be the network that is saved: running
    statistics of the second process's own would show in its half of the validation images.
    """
    code = """
    import json, torch
    with distributed.joined():
        model, normed = t.without_norm(), t.with_norm()
        history, other = t.train(model), t.train(normed)
        if distributed.rank() == 0:
            torch.save([model.state_dict(), normed.state_dict()], "weights.pt")
            open("rows.json", "w").write(json.dumps([history.rows, other.rows]))
    """
    done = torchrun(tmp_path, code)
    assert done.returncode == 0, done.stderr
    alone = without_norm()
    history = train(alone)
    weights, normed_weights = torch.load(tmp_path / "weights.pt")
    rows, normed_rows = json.loads((tmp_path / "rows.json").read_text())
    for name, value in weights.items():
        torch.testing.assert_close(value, alone.state_dict()[name], rtol=1e-4, atol=1e-6, msg=name)
    for name in ("train_loss", "train_accuracy", "grad_norm", "val_loss", "val_accuracy"):
        assert [row[name] for row in rows] == pytest.approx(history.column(name), rel=1e-4), name

    normed = with_norm()
    normed.load_state_dict(normed_weights)
    measured = loss_and_accuracy(normed, splits()[1], normalize=CIFAR10)
    assert (normed_rows[-1]["val_loss"], normed_rows[-1]["val_accuracy"]) == pytest.approx(measured, rel=1e-5)


@pytest.mark.slow
def test_a_run_interrupted_in_one_process_resumes_in_all_with_the_same_numbers(tmp_path):
    """Sums of the first process, given to all, would count some images twice and others never."""
    code = """
    import json, os, signal, torch
    distributed.VOTES = 2
    whole, cut, resumed = t.without_norm(), t.without_norm(), t.without_norm()
    with distributed.joined():
        signal.signal(signal.SIGINT, signal.default_int_handler)
        history = t.train(whole)
        calls = iter(range(100))
        cut[4].register_forward_pre_hook(
            lambda *_: os.kill(os.getpid(), signal.SIGINT)
            if cut.training and distributed.rank() == 1 and next(calls) == 4 else None
        )
        try:
            t.train(cut, "checkpoint.pt")
        except KeyboardInterrupt:
            pass
        state = torch.load("checkpoint.pt", weights_only=True)
        again = t.train(resumed, "checkpoint.pt", resume=True)
        if distributed.rank() == 0:
            about = {"step": state["step"], "images": state["sums"][0].item(), "rows": len(state["rows"])}
            open("rows.json", "w").write(json.dumps([about, history.rows, again.rows]))
    """
    done = torchrun(tmp_path, code)
    assert done.returncode == 0, done.stderr
    about, rows, resumed = json.loads((tmp_path / "rows.json").read_text())
    assert about == {"step": 6, "images": 32.0, "rows": 1}  # two steps of 16 images in the second epoch
    for name in ("epoch", "train_loss", "train_accuracy", "grad_norm", "val_loss", "val_accuracy"):
        assert [row[name] for row in resumed] == pytest.approx([row[name] for row in rows], rel=1e-6), name


def test_processes_ask_each_other_only_now_and_then(monkeypatch):
    """A message to all in every step, only to hear that nobody pressed Ctrl-C, slows each step down."""
    asked = []
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "total", lambda values: asked.append(1) or values)
    assert [step for step in range(1, 65) if distributed.anywhere(True, step)] == [16, 32, 48, 64]
    assert len(asked) == 4


@pytest.mark.slow
def test_a_dead_process_ends_the_job_and_the_checkpoint_goes_on(tmp_path):
    """A job that waits for ever for a lost process, or that leaves half a checkpoint."""
    code = """
    import os, sys
    sys.tracebacklimit = 0
    with distributed.joined():
        model = t.without_norm()
        if distributed.rank() == 1:
            calls = iter(range(100))
            model[4].register_forward_pre_hook(
                lambda *_: os._exit(9) if model.training and next(calls) == 6 else None
            )
        t.train(model, "checkpoint.pt", save_every=1)
    """
    done = torchrun(tmp_path, code)
    assert done.returncode != 0
    assert "start the same command again with --resume" in done.stderr or "SIGTERM" in done.stderr
    assert [path.name for path in tmp_path.iterdir() if "checkpoint" in path.name] == ["checkpoint.pt"]

    resumed = without_norm()  # one process goes on with what two began: the batches are the same
    history = train(resumed, tmp_path / "checkpoint.pt", resume=True)
    alone = without_norm()
    train(alone)
    assert len(history.rows) == 2
    for a, b in zip(resumed.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_command_line_writes_once(tmp_path):
    """Two processes that print and write the same files would garble both."""
    done = launch(
        2,
        *("-m", "resnet_tutorial", "train", "--model", "resnet8", "--epochs", "1", "--out", "run"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   1") == 1
    assert "x 2" in done.stdout
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"best.safetensors", "checkpoint.pt", "history.csv", "history.json", "model.safetensors"}


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 3)
    with pytest.raises(ValueError, match="3 processes cannot share a batch of 16 equally"):
        train(without_norm())


def test_alone_everything_is_the_identity():
    model, values = without_norm(), torch.ones(2)
    assert distributed.parallel(model) is model
    assert distributed.total(values) is values
    assert range(5)[distributed.share(5)] == range(5)
    assert distributed.anywhere(True, 1) and not distributed.anywhere(False, 1)
    assert (distributed.rank(), distributed.size(), distributed.local_device()) == (0, 1, None)


@pytest.mark.parametrize(("local", "gpu"), [(None, "cuda:0"), ("1", "cuda:1"), ("3", "cuda:1")])
def test_each_process_of_a_machine_has_its_gpu(monkeypatch, local, gpu):
    """All processes on the first GPU: slower than one, and out of memory."""
    monkeypatch.setattr(distributed, "size", lambda: 4)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local:
        monkeypatch.setenv("LOCAL_RANK", local)
    assert distributed.local_device() == gpu
    monkeypatch.setattr(distributed, "size", lambda: 1)
    assert distributed.local_device() is None


def test_only_lost_contact_is_reported_as_a_lost_process(monkeypatch):
    """An ordinary error that is called a lost process sends its reader looking in the wrong place."""
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    with pytest.raises(distributed.WorkerLostError, match="--resume"), distributed.joined():
        raise RuntimeError("[gloo] Connection closed by peer [127.0.0.1]:1234")
    with pytest.raises(RuntimeError, match="size mismatch") as error, distributed.joined():
        raise RuntimeError("size mismatch")
    assert not isinstance(error.value, distributed.WorkerLostError)
