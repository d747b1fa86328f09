"""What only shows after hours: a thousand kills of one training, memory after hundreds of epochs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

KILLS = 1000
PROGRAM = """
import math, os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path[:0] = {path!r}
import test_resume
from resnet_tutorial.training import History

sample = test_resume.load_sample()
test_resume.load_sample = lambda: sample  # once for all children
RECIPE = test_resume.RECIPE.but(epochs=8, batch_size=40)  # 16 steps, each of which saves
checkpoint, result, generator = Path("checkpoint.pt"), Path("result"), random.Random(0)


def in_child(**options):
    # A fork of a process that has imported all, so that a kill costs no import.
    child = os.fork()
    if not child:
        try:
            weights, _ = test_resume.run(checkpoint, recipe=RECIPE, save_every=1, width=16, **options)
            result.write_text(weights)
        finally:
            os._exit(0 if result.exists() else 1)
    return child


def waited(child, seconds):
    # Whether it ended by itself, and well; else it is killed.
    deadline = time.monotonic() + seconds
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.002)
    assert ended[1] == 0, "a resumed run failed"
    return True


start = time.monotonic()
assert waited(in_child(), 600)
expected, longest = result.read_text(), time.monotonic() - start
kills = finished = torn = 0
while kills < {kills}:
    result.unlink()
    checkpoint.unlink()
    for left in Path().glob(".*"):
        left.unlink()
    step, start = 0, time.monotonic()
    while not waited(in_child(resume=step > 0), generator.uniform(0, longest)):
        kills += 1
        start = -math.inf
        torn += any(Path().glob(".*"))
        if step or checkpoint.exists():  # once it was there it stays, and never goes back
            History.from_checkpoint(checkpoint)  # raises if it is missing or damaged
            step, before = torch.load(checkpoint, weights_only=True)["step"], step
            assert step >= before, f"from step {{before}} back to {{step}}"
    finished += 1
    longest = min(longest, time.monotonic() - start)  # the first was long if the machine was busy
    assert result.read_text() == expected, f"other weights after {{kills}} kills"
print(kills, finished, torn)
"""


@pytest.mark.slow
def test_a_thousand_kills_lose_nothing(tmp_path):
    """A moment at which a kill leaves a checkpoint that cannot be used, or other weights at the end."""
    code = PROGRAM.format(path=[str(Path(__file__).parent), *sys.path], kills=KILLS)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    kills, finished, torn = map(int, done.stdout.split())
    print(f"{kills} kills, {finished} runs finished, {torn} kills in the middle of a write")
    assert kills >= KILLS and finished and torn  # the last: some kills met a file half-written


GROWTH = """
import gc
from statistics import median
import torch
torch.set_num_threads(1)
from resnet_tutorial.data import load_sample
from resnet_tutorial.models import cifar_resnet
from resnet_tutorial.training import RECIPES, fit

train, val = load_sample()[0].split(0.1, seed=0)


def memory():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20


sizes = []
fit(
    cifar_resnet(8, width=4),
    train,
    val,
    RECIPES["quick"].but(epochs=200),
    checkpoint="checkpoint.pt",
    on_epoch=lambda row: sizes.append(memory()),
)
print(median(sizes[10:30]), median(sizes[-20:]))  # single ones scatter by 25 MiB
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from Linux's /proc")
def test_memory_is_flat_over_two_hundred_epochs(tmp_path):
    """Something kept from each epoch: a run that dies at night."""
    done = subprocess.run([sys.executable, "-c", GROWTH], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    early, late = map(float, done.stdout.split())
    print(f"{early:.0f} MiB after 20 epochs, {late:.0f} MiB after 200")
    assert late - early < 20, f"{early:.0f} MiB after 20 epochs, {late:.0f} MiB after 200"
