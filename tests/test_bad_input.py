"""Bad input of every kind: one clear line, status 2, nothing written and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from resnet_tutorial import cli, models
from resnet_tutorial.data import CIFAR10, Preprocess

TRAIN = "train --data photos --model resnet8 --epochs 1 --batch-size 4 --device cpu --precision fp32"
RUN = f"{TRAIN} --val-fraction 0.25 --out run"
RESUME = f"{RUN} --resume"
LOOK = "evaluate small.safetensors --data photos --device cpu"
NAME = "predict photos/cold/00.png --weights small.safetensors --device cpu"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Photos, a network and a finished run."""
    folder = tmp_path_factory.mktemp("world")
    for label, name in enumerate(("cold", "warm")):
        (folder / "photos" / name).mkdir(parents=True)
        for k in range(6):
            pixels = np.random.default_rng(10 * label + k).integers(0, 255, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{label}{k}.png")
    model = models.cifar_resnet(8, width=4, num_classes=2)
    details = {"classes": ("cold", "warm"), "normalize": CIFAR10, **Preprocess().stored()}
    models.save_model(folder / "small.safetensors", model, **details)
    (folder / "file").write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(RUN.split()) == 0
    return folder


def tree(folder: Path) -> dict[str, Any]:
    """Everything in a folder but the cache of photos: names, links and contents."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in sorted(folder.rglob("*"))
        if "cache" not in str(path.relative_to(folder))
    }


def arguments(command: str, *values: str) -> list[tuple[str, str, Any]]:
    """The same option with several bad values."""
    return [(f"{command} {value}", command.split()[-1].lstrip("-").split("-")[0], None) for value in values]


NUMBERS = ("x", "nan", "1e400", "-1", "''")
ARGUMENTS = [
    *arguments(f"{TRAIN} --epochs", "0", "-1", "1.5", "x", "''"),
    *arguments(f"{TRAIN} --batch-size", "0", "-3", "x", "1e3"),
    *arguments(f"{TRAIN} --lr", "0", *NUMBERS),
    *arguments(f"{TRAIN} --val-fraction", "1", "1.5", *NUMBERS),
    *arguments(f"{TRAIN} --test-fraction", "1", "1.5", *NUMBERS),
    *arguments(f"{TRAIN} --seed", "-1", "4294967296", "x", "1.0"),
    *arguments(f"{TRAIN} --save-every", "0", "-1", "x", "1e3"),
    *arguments(f"{TRAIN} --group-by", "nothing"),
    *arguments(f"{TRAIN} --best-by", "luck"),
    *arguments(f"{TRAIN} --device", "tpu", "cuda:99", "cpu:3", "''"),
    *arguments(f"{TRAIN} --precision", "fp8", "fp16"),
    *arguments(f"{TRAIN} --recipe", "nothing", "''", "../quick"),
    *[
        (f"{TRAIN} --set {change}", words, None)
        for change, words in (
            ("x", "x"),
            ("nothing=1", "nothing"),
            ("lr=", "lr"),
            ("lr=fast", "lr"),
            ("momentum=2", "momentum"),
            ("momentum=x", "momentum"),
            ("optimizer=luck", "optimizer"),
            ("schedule=luck", "schedule"),
            ("gamma=0", "gamma"),
            ("label_smoothing=1.5", "label_smoothing"),
            ("ema=2", "ema"),
            ("grad_clip=-1", "grad_clip"),
            ("views=luck", "views"),
            ("weight_decay=-1", "weight_decay"),
        )
    ],
    *[
        (f"train --data photos --model {name}", "resnet", None)
        for name in ("nothing", "resnet21", "resnet-8", "''", "plain0", "resnet99999999")
    ],
    *[
        (f"train --epochs 1 --data {data}", words, None)
        for data, words in (
            ("''", "empty"),
            ("nowhere", "nowhere"),
            ("file", "file"),
            ("photos/cold", "cold"),
        )
    ],
    ("train --classes a", "class", None),
    ("train --classes cat", "class", None),
    ("train --classes cat cat", "class", None),
    ("train --classes ''", "class", None),
    (f"{TRAIN} --record records", "test images", None),
    (f"{TRAIN} --resume --out elsewhere", "no checkpoint", None),
    (f"{TRAIN} --out run", "--overwrite", None),
    (f"{TRAIN} --out file", "no directory", None),
    (f"{TRAIN} --out file/deeper", "no directory", None),
    (f"{TRAIN} --out ''", "empty", None),
    (f"{TRAIN} --out {'x' * 300}", "too long", None),
    (f"{TRAIN} --out a\0b", "NUL", None),
    (f"{TRAIN} --data a\0b", "NUL", None),
    (f"{TRAIN} --out /proc/x", "system", None),
    (f"{TRAIN} --tensorboard file --out new", "no directory", None),
    ("finetune --data photos --weights nowhere.pt", "nowhere.pt", None),
    ("finetune --data photos --method luck", "method", None),
    ("finetune --data photos --resume", "cannot be resumed", None),
    ("nothing", "invalid choice", None),
    ("train --nothing", "nothing", None),
    ("evaluate", "required", None),
    ("evaluate nowhere.safetensors", "does not exist", None),
    ("evaluate photos", "photos", None),
    ("evaluate file", "file", None),
    (f"evaluate {'x' * 300}.pt", "too long", None),
    ("evaluate run/checkpoint.pt", "state of a run", None),
    ("evaluate small.safetensors", "sample", None),
    (f"{LOOK} --part luck", "part", None),
    (f"{LOOK} --classes blue", "blue", None),
    (f"{LOOK} --model resnet20", "small.safetensors", None),
    (f"{LOOK} --size 0", "size", None),
    (f"{LOOK} --size 1000000", "size", None),
    (f"{LOOK} --white 0", "white", None),
    (f"{LOOK} --json photos", "directory", None),
    (f"{LOOK} --json file", "no earlier report", None),
    (f"{LOOK} --json small.safetensors", "no earlier report", None),
    (f"{LOOK} --json run/history.json", "no earlier report", None),
    (f"{LOOK} --logits file", "no earlier logits", None),
    (f"{LOOK} --logits run/model.safetensors", "no earlier logits", None),
    (f"{LOOK} --logits run/checkpoint.pt", "no earlier logits", None),
    (f"{LOOK} --report file", "no directory", None),
    (f"{NAME} --csv file", "no earlier table", None),
    (f"{NAME} --csv run/history.csv", "no earlier table", None),
    (f"{NAME} --csv run/parts.csv", "no earlier table", None),
    (f"{NAME} --top 0", "--top", None),
    (f"{NAME} --top 3", "--top", None),
    ("predict nowhere.png", "nowhere.png", None),
    ("predict file", "file", None),
    ("export small.safetensors file", "file", None),
    ("export small.safetensors run/model.safetensors", "model.safetensors", None),
    ("export nowhere.safetensors x.onnx", "does not exist", None),
    ("check 99", "chapter 99", None),
    ("check x", "chapter", None),
    ("check 3", "no notebook", None),
    ("check 3 --notebook nowhere.ipynb", "no notebook", None),
    ("check 3 --notebook photos", "not a notebook", None),
    ("check 3 --notebook file", "not a notebook", None),
]


def link(path: str, target: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).symlink_to(target)


def content(path: str, what: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_bytes(what) and None


def cut(path: str, keep: int) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / path).write_bytes((folder / path).read_bytes()[:keep])

    return spoil


PLACES = [
    (f"{TRAIN} --out link", "leads nowhere", link("link", "nowhere")),
    (f"{TRAIN} --out link", "leads nowhere", link("link", "link")),
    (f"{LOOK} --json link", "circle", link("link", "link")),
    ("check 3 --notebook link", "not a notebook", link("link", "nowhere")),
    ("check 3 --notebook link", "not a notebook", link("link", "link")),
    (f"{RUN} --overwrite", "earlier", content("run/.resnet-tutorial-earlier", b"x")),
    (f"{RUN} --overwrite", "earlier", content("run/.resnet-tutorial-moving", b"x")),
    (f"{RUN} --overwrite", "earlier", link("run/.resnet-tutorial-earlier", "../photos")),
    (f"{RUN} --overwrite", "earlier", link("run/.resnet-tutorial-moving", "nowhere")),
    ("evaluate link.pt", "does not exist", link("link.pt", "nowhere")),
    ("evaluate link.pt", "does not exist", link("link.pt", "link.pt")),
    *[
        ("check 3 --notebook odd.ipynb", "not a notebook", content("odd.ipynb", text))
        for text in (
            b"\xff",
            b"[]",
            b"{}",
            b'{"cells": 3}',
            b'{"cells": [1]}',
            b'{"cells": [{}]}',
            b"[" * 9999,
        )
    ],
    *[
        ("predict odd.png", "odd.png", content("odd.png", picture))
        for picture in (b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0", b"BM" + bytes(60), b"text")
    ],
    (TRAIN, "00.png", cut("photos/cold/00.png", 100)),
    (TRAIN, "00.png", content("photos/cold/00.png", b"no picture")),
    (TRAIN, "photos", lambda folder: shutil.rmtree(folder / "photos" / "cold")),
    (TRAIN, "cold", lambda folder: [path.unlink() for path in (folder / "photos" / "cold").iterdir()]),
    (NAME, "small", cut("small.safetensors", 0)),
    (NAME, "small", cut("small.safetensors", 7)),
    (NAME, "small", cut("small.safetensors", 500)),
    (NAME, "small", cut("small.safetensors", 9000)),
    (RESUME, "checkpoint.pt", cut("run/checkpoint.pt", 0)),
    (RESUME, "checkpoint.pt", cut("run/checkpoint.pt", 1000)),
    ("evaluate run/model.safetensors", "parts.csv", content("run/parts.csv", b"\xff\xfe")),
    ("evaluate run/model.safetensors", "parts.csv", content("run/parts.csv", b"a,b\n1,2\n")),
]


def note(**changes: Any) -> Callable[[Path], None]:
    """Other metadata in the network's file; ``config_`` in front of what is of the config."""

    def spoil(folder: Path) -> None:
        path = folder / "small.safetensors"
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = json.loads(file.metadata()["resnet_tutorial"])
        for name, value in changes.items():
            where, key = (metadata["config"], name[7:]) if name.startswith("config_") else (metadata, name)
            where[key] = value
        save_file(tensors, path, metadata={"resnet_tutorial": json.dumps(metadata)})

    return spoil


WEIGHTS = [
    (NAME, "small.safetensors", note(**{name: value}))
    for name, values in {
        "classes": (None, 3, "ab", [], ["cold"], ["cold", "cold"], ["cold", ""], ["cold", 3], {"cold": 1}),
        "mean": (None, 0.5, "x", [0.5], [0.5, 0.5, "x"], [0.5, 0.5, float("nan")], [1e300, 0, 0]),
        "std": (None, [0, 0, 0], [-1, 1, 1], [1, 1]),
        "config": (None, [], {}, "resnet20"),
        "config_width": (0, -1, 10**9, "4", None),
        "config_num_classes": (1, 10**9, "2"),
        "config_layers": ([10**6], [], "x", None),
        "config_block": ("luck", None, 3),
        "config_in_channels": (1, 10**9),
        "tensors_sha256": ("0" * 64, 3),
    }.items()
    for value in values
]


def state(**changes: Any) -> Callable[[Path], None]:
    """Other fields in the checkpoint; ``row_`` in front of what is of its first epoch."""

    def spoil(folder: Path) -> None:
        path = folder / "run" / "checkpoint.pt"
        fields = torch.load(path, weights_only=True)
        for name, value in changes.items():
            where, key = (fields["rows"][0], name[4:]) if name.startswith("row_") else (fields, name)
            where[key] = value
        torch.save(fields, path)

    return spoil


CHECKPOINTS = [
    (RESUME, "checkpoint.pt", state(**{name: value}))
    for name, values in {
        "rows": ([], [{}], [1], "x", None, {}),
        "identity": (None, [], {}, "x", {"seed": 1}),
        "step": (10**9, -1, 0, "1", None, 1.0, True),
        "seconds": (float("nan"), float("inf"), -1, "x", None),
        "sums": (torch.zeros(2), None),
        "model": ({}, None),
        "optimizer": ({}, None),
        "torch_generator": (torch.zeros(3), None),
        "row_val_loss": ("abc", float("nan"), [1]),
        "row_epoch": (2, None, "x"),
        "row_lr": (None, "x"),
    }.items()
    for value in values
]
CASES = [*ARGUMENTS, *PLACES, *WEIGHTS, *CHECKPOINTS]


@pytest.mark.parametrize(("command", "words", "spoil"), CASES, ids=range(len(CASES)))
def test_bad_input_is_one_line_and_nothing_is_lost(
    world, tmp_path, monkeypatch, capsys, command, words, spoil
):
    """A traceback, a message without the file's name, half a result, or an earlier one that is gone."""
    folder = tmp_path / "here"
    shutil.copytree(world, folder, symlinks=True)
    monkeypatch.chdir(folder)
    if spoil is not None:
        spoil(folder)
    before = tree(folder)
    argv = ["" if word == "''" else word for word in command.split(" ")]
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # said in a line of its own
        status = cli.main(argv)
    lines = capsys.readouterr().err.splitlines()
    assert status == 2, lines
    assert lines, status
    assert all(line.startswith("resnet-tutorial: ") for line in lines), lines
    assert words in lines[-1]
    assert len(lines[-1]) < 500
    for raw in ("Traceback", "Errno", "object", "NoneType", "embedded"):
        assert raw not in lines[-1]
    assert tree(folder) == before
