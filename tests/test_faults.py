"""What goes wrong around the program: full and read-only disks, other processes, clocks, signals, memory."""

from __future__ import annotations

import builtins
import datetime
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tutorial import __main__, cli, files
from resnet_tutorial.data import load_sample, sources
from resnet_tutorial.ending import TerminatedError
from resnet_tutorial.files import atomic
from resnet_tutorial.models import ResNet, cifar_resnet
from resnet_tutorial.training import BatchTooLargeError, Recipe, distributed, fit

TRAIN = "train --data photos --model resnet8 --epochs 1 --batch-size 4 --device cpu --precision fp32"
TRAIN += " --val-fraction 0.25 --out"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A folder with photos, which is the current one."""
    for label, name in enumerate(("cold", "warm")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(6):
            pixels = np.random.default_rng(10 * label + k).integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{label}{k}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


# ---- disks ----

FULL = """
import shutil, subprocess, sys
from pathlib import Path
from resnet_tutorial import cli

disk, train = Path("disk"), sys.argv[1].split()
disk.mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], check=True)
measure = "evaluate disk/run/model.safetensors --json disk/run/numbers.json --report disk/report".split()


def tree():
    return {str(path): path.read_bytes() for path in disk.rglob("*") if path.is_file()}


assert cli.main([*train, "disk/run"]) == cli.main(measure) == 0
before, filler = tree(), disk / "filler"
for left in (0, 30_000, 400_000, 700_000):  # bytes: the second fits a list, the last a checkpoint, too
    free = subprocess.run(["df", "--output=avail", "-B1", disk], capture_output=True, text=True)
    with filler.open("wb") as file:
        file.write(bytes(int(free.stdout.split()[1]) - left))
    assert cli.main([*train, "disk/run", "--seed", "1", "--overwrite"]) == 2
    assert cli.main([*train, "disk/other"]) == 2
    other = disk / "other"
    assert not other.exists() or (other / "checkpoint.pt").exists()
    assert not (other / "model.safetensors").exists()
    shutil.rmtree(other, ignore_errors=True)
    if not left:
        assert cli.main(measure) == 2
    # Where the curves begin, they end, and the training goes on.
    curves = ["--overwrite", "--epochs", "2", "--tensorboard", "disk/curves"]
    assert cli.main([*train, "elsewhere", *curves]) == (0 if left else 2)
    filler.unlink()
    shutil.rmtree(disk / "curves", ignore_errors=True)
    kept = tree()
    waits = {name: name.replace("run/", "run/.resnet-tutorial-earlier/") for name in before}
    kept = {name: kept.get(name) or kept.get(waits[name]) for name in before}
    assert kept == before, [name for name in before if kept[name] != before[name]]
assert cli.main([*train, "disk/run", "--seed", "1", "--overwrite"]) == cli.main(measure) == 0
assert tree().keys() == before.keys() and tree() != before

subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
print("read-only")
assert cli.main([*train, "run", "--size", "16"]) == 0  # photos are decoded anew
assert cli.main(["download", "--root", "disk/cache"]) == cli.main([*train, "disk/new"]) == 2
"""


def in_own_mounts(*command: str) -> list[str]:
    """The command in a mount namespace of its own; skips the test where that is not allowed."""
    start = ["unshare", "-rm"]
    try:
        allowed = subprocess.run([*start, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs unshare")
    if allowed.returncode:
        pytest.skip("mounting is not allowed here")
    return [*start, *command]


@pytest.mark.slow
def test_a_disk_that_fills_up_or_is_read_only(here):
    """A finished network lost to a new one that did not fit, half a file, or a traceback."""
    environment = os.environ | {"RESNET_TUTORIAL_DATA": "disk/cache"}
    command = in_own_mounts(sys.executable, "-c", FULL, TRAIN)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stderr.splitlines()
    assert all(line.startswith("resnet-tutorial: ") for line in lines), lines
    assert sum("No space left on device" in line for line in lines) >= 9
    assert any("decoded anew" in line for line in lines), lines
    assert any("cannot write curves to disk/curves/elsewhere: No space" in line for line in lines), lines
    assert any("no more curves: No space left on device; the training goes on" in line for line in lines), (
        lines
    )
    assert sum("Read-only file system" in line for line in lines) >= 2


def test_data_that_may_not_be_read_are_not_to_be_deleted(tmp_path, monkeypatch):
    """ "Delete it" was the advice for a cache that belongs to somebody else."""
    (tmp_path / sources.CACHE_NAME).write_bytes(b"theirs")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with pytest.raises(ValueError, match=r"Permission denied\): ask for the right .* RESNET_TUTORIAL_DATA"):
        sources.fetch([tmp_path], download=False)


# ---- clocks ----


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_that_jumps_changes_no_run(tmp_path, monkeypatch, years):
    """Seconds below zero in the history, a run that ends at once, or a partial file taken for an old one."""
    train = load_sample()[0].per_class(4)

    def run(**options):
        torch.manual_seed(0)
        model = cifar_resnet(8, width=4)
        recipe = Recipe(name="short", epochs=3, batch_size=20)
        rows = fit(model, train, None, recipe, device="cpu", precision="fp32", **options).rows
        return [row["train_loss"] for row in rows], [row["seconds"] for row in rows]

    expected = run()[0]
    real = time.time
    shift = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() + (next(shift) % 2) * years * 3e7)
    losses, seconds = run(checkpoint=tmp_path / "run.pt", save_every=1)
    assert losses == expected and sorted(seconds) == seconds and seconds[0] > 0
    assert run(checkpoint=tmp_path / "run.pt", resume=True)[0] == expected
    assert [path.name for path in tmp_path.iterdir()] == ["run.pt"]


def test_a_file_under_way_when_the_clock_jumps_harms_no_other(tmp_path, monkeypatch):
    """Another writer takes it for one that was left behind, and removes it: that must be said, not lost."""
    path, real = tmp_path / "a", time.time
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=r"^cannot write .*a: No such file"), atomic(path) as first:
        first.write(b"first")
        monkeypatch.setattr(time, "time", lambda: real() + 10 * files.STALE)
        with atomic(path) as second:
            second.write(b"second")
    assert path.read_bytes() == b"second" and os.listdir(tmp_path) == ["a"]


# ---- processes and signals ----


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_two_processes_do_not_share_an_output_and_sigterm_is_no_loss(here, capsys):
    """Two trainings at once left the best network of one beside the last of the other."""
    words = [*TRAIN.replace("--epochs 1", "--epochs 3000").split(), "run"]
    child = subprocess.Popen(
        [sys.executable, "-m", "resnet_tutorial", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in child.stdout:
        if line.startswith("epoch   2"):
            break
    assert cli.main([*words, "--overwrite"]) == 2
    assert "another run writes to run" in capsys.readouterr().err
    child.send_signal(signal.SIGTERM)
    told = child.communicate(timeout=60)[1]
    assert child.returncode in (130, 143) and told.endswith("the same command with --resume goes on\n"), told
    rows = torch.load("run/checkpoint.pt", weights_only=True)["rows"]
    assert len(rows) >= 2 and sorted(os.listdir("run")) == ["best.safetensors", "checkpoint.pt", "parts.csv"]


@pytest.mark.parametrize("asked", [KeyboardInterrupt, TerminatedError])
def test_ctrl_c_while_torch_writes_is_ctrl_c(tmp_path, asked):
    """PyTorch makes a RuntimeError of it, about the position in a file."""
    path = tmp_path / "run.pt"
    path.write_bytes(b"old")

    class Stopped:
        def write(self, _: bytes) -> int:
            raise asked

        def flush(self) -> None:
            pass

    with pytest.raises(asked), atomic(path):
        torch.save({"weights": torch.zeros(10_000)}, Stopped())
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["run.pt"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), 130), (ValueError("bad\nbackend"), 2), (ImportError("bad\nbackend"), 2)],
)
def test_what_ends_the_imports_gives_no_traceback(monkeypatch, capsys, error, status):
    """Loading PyTorch takes seconds, in which people press Ctrl-C; MPLBACKEND=x ends it, too."""
    real = builtins.__import__

    def importing(name, *rest):
        if name == "cli":
            raise error
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", importing)
    assert __main__.main() == status
    told = capsys.readouterr().err.splitlines()
    if status == 130:
        assert told == []
    else:
        (line,) = told
        assert "cannot be loaded (bad backend): look at the variables" in line


# ---- environment ----

ODD = {
    "OMP_NUM_THREADS": "x",
    "MKL_NUM_THREADS": "-1",
    "TMPDIR": "/nowhere",
    "HOME": "/nowhere",
    "XDG_CACHE_HOME": "/dev/null",
    "XDG_CONFIG_HOME": "/dev/null",
    "TORCH_HOME": "/dev/null",
    "MPLCONFIGDIR": "/dev/null",
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "COLUMNS": "x",
    "TERM": "",
    "PATH": "",
    "CUDA_VISIBLE_DEVICES": "x",
    "RANK": "x",
    "LOCAL_RANK": "x",
    "RESNET_TUTORIAL_DATA": "/dev/null",
}


@pytest.mark.slow
def test_odd_settings_that_do_no_harm(here):
    """A machine without a home, temporary files, a font cache or a locale is no reason to fail."""
    command = [sys.executable, "-m", "resnet_tutorial", *TRAIN.split(), "run"]
    done = subprocess.run(command, env=os.environ | ODD, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    command[3:] = ["evaluate", "run/model.safetensors", "--report", "report"]
    done = subprocess.run(command, env=os.environ | ODD, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert (here / "report" / "index.html").exists()


@pytest.mark.parametrize(("name", "value"), [("MPLBACKEND", "luck"), ("TQDM_MININTERVAL", "x")])
def test_a_setting_that_a_library_refuses_is_one_line(name, value):
    """The import ended with a traceback."""
    command = [sys.executable, "-m", "resnet_tutorial", "train", "--help"]
    done = subprocess.run(command, env=os.environ | {name: value}, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("resnet-tutorial: a library cannot be loaded (") and value in done.stderr


def test_warnings_made_errors_are_one_line(here, capsys):
    """PYTHONWARNINGS=error made a traceback of each of our own warnings."""
    (here / "photos" / "cold" / "note.txt").write_text("no picture")
    with warnings.catch_warnings(action="error"):
        assert cli.main([*TRAIN.split(), "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ignored, no pictures" in line


@pytest.mark.parametrize("rank", ["0", "1"])
def test_processes_that_never_come_are_given_up(monkeypatch, capsys, rank):
    """A traceback after minutes, about a store."""
    monkeypatch.setattr(distributed, "TIMEOUT", datetime.timedelta(seconds=1))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    about = {"WORLD_SIZE": "2", "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in about.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["evaluate", "cifar10"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the 2 processes of this job did not meet at 127.0.0.1:{port} within 1 s: start all" in line


# ---- memory ----


class Small(ResNet):
    """A network on a device that holds only so many images."""

    most = 9

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return super().forward(x)


@pytest.mark.parametrize(("most", "told"), [(9, "of 5 they do: take --batch-size 5"), (1, "nor do 2 images")])
def test_out_of_memory_says_which_batch_fits(monkeypatch, most, told):
    """Readers halved the batch by hand, with a traceback each time."""
    monkeypatch.setattr(Small, "most", most)
    model = Small.from_config(cifar_resnet(8, width=4).config)
    recipe = Recipe(name="short", epochs=1, batch_size=40)
    with pytest.raises(BatchTooLargeError, match=f"batches of 40 images do not fit into the memory, {told}"):
        fit(model, load_sample()[0].per_class(4), None, recipe, device="cpu", precision="fp32")


def test_the_command_says_it_in_one_line(here, monkeypatch, capsys):
    """Together with what else would help."""
    real = ResNet.forward

    def forward(self, x):
        if self.training and len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, x)

    monkeypatch.setattr(ResNet, "forward", forward)
    assert cli.main([*TRAIN.split(), "run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("resnet-tutorial: out of memory: batches of 4 images do not fit")
    assert line.endswith("of 2 they do: take --batch-size 2, a smaller network, or --device cpu")
    assert not Path("run").exists()
