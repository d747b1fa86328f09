"""Bad input of every kind: one clear line, status 2, nothing written and nothing lost."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
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
FOREIGN = "predict photos/cold/00.png --weights w.pt --model resnet8 --device cpu"
CIFAR = "train --data cifar10 --model resnet8 --epochs 1 --device cpu --precision fp32 --out new"
RECORD = "train --model resnet8 --epochs 1 --val-fraction 0 --device cpu --out new --record records"


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
        else (path.read_bytes() if path.stat().st_size < 10**8 else path.stat().st_size)
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
            ("lr=" + "-" * 4001, "lr"),
            ("lr=" + "9" * 400, "lr"),
            ("lr={[]:1}", "lr"),
        )
    ],
    *[
        (f"train --data photos --model {name}", "choose one of resnet20", None)
        for name in ("nothing", "resnet-8", "''", "plain0", "resnet99999999")
    ],
    ("train --data photos --model resnet21", "nearest valid is 20 and 26", None),
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
    (f"{LOOK} --report photos/cold", "among the photos", None),
    (f"{LOOK} --report photos/cold/page", "among the photos", None),
    (f"{LOOK} --json a.npz --logits a.npz", "the numbers (--json) and the logits (--logits)", None),
    (f"{LOOK} --report page --json page/report.json", "the page (--report) and the numbers (--json)", None),
    (f"{LOOK} --report page --logits page", "the page (--report) and the logits (--logits)", None),
    (f"{TRAIN} --out photos/cold", "among the photos", None),
    (f"{TRAIN} --out photos/cold/run", "among the photos", None),
    ("finetune --data photos --weights small.safetensors --out photos/warm", "among the photos", None),
    (f"{TRAIN} --white 0", "white", None),
    (f"{TRAIN} --size 0", "size", None),
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


def own_page(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "page").mkdir()
        (folder / "page" / name).write_text("mine")

    return spoil


def own_logits(name: str) -> Callable[[Path], None]:
    """Beside a record that is not there yet."""

    def spoil(folder: Path) -> None:
        (folder / "records").mkdir()
        (folder / "records" / f"resnet8-quick-epochs1-s0.{name}").write_text("mine")

    return spoil


def lost_picture(folder: Path) -> None:
    (folder / "pets").mkdir()
    (folder / "pets" / "x.png").symlink_to("nowhere.png")


def begins_like_onnx(folder: Path) -> None:
    """A network whose header has a length of 8 and a multiple of 256: its first byte is that of ONNX."""
    path, tensors, metadata = small_network(folder)
    for more in range(256):
        save_file(tensors, path, metadata={"resnet_tutorial": json.dumps(metadata | {"note": "x" * more})})
        if path.read_bytes()[0] == 8:
            return


PLACES = [
    *[(f"{LOOK} --report page", name, own_page(name)) for name in ("index.html", "roc.png", "report.json")],
    *[(RECORD, f"{name} exists", own_logits(name)) for name in ("npz", "new.npz")],
    ("export run/model.safetensors small.safetensors", "no earlier ONNX", begins_like_onnx),
    ("predict pets --weights small.safetensors", "link that leads nowhere", lost_picture),
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
    *[
        ("evaluate run/model.safetensors", "parts.csv", content("run/parts.csv", text))
        for text in (
            b"",
            b"a,b\n1,2\n",
            b"\0" * 99,
            b"x" * 200_000,
            b"part,class,file,pixels\n",
            b"part,class,file,pixels\nfolder\n",
            b"part,class,file,pixels\nfolder,,photos,\n\n",
        )
    ],
]


def small_network(folder: Path) -> tuple[Path, dict[str, torch.Tensor], dict[str, Any]]:
    """The network's file, its tensors and its metadata."""
    path = folder / "small.safetensors"
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return path, tensors, json.loads(file.metadata()["resnet_tutorial"])


def note(**changes: Any) -> Callable[[Path], None]:
    """Other metadata in the network's file; ``config_`` in front of what is of the config."""

    def spoil(folder: Path) -> None:
        path, tensors, metadata = small_network(folder)
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
        "temperature": (None, "x", [], 0, -1, True, 1e-300, float("nan"), float("inf")),
        "size": (None, "x", 0, -1, 1.5, 10**6, True, []),
        "resize": ("x", -1, 1, 10**6),
        "interpolation": (None, "luck", 3),
        "white": (None, "x", 0, 70_000),
    }.items()
    for value in values
]


def numbers(**tensors: Any) -> Callable[[Path], None]:
    """Other tensors in the network's file, each made of the one that was there; ``_`` stands for a dot."""

    def spoil(folder: Path) -> None:
        path, found, metadata = small_network(folder)
        del metadata["tensors_sha256"]
        for name, change in tensors.items():
            found[name.replace("_", ".", 1)] = change(found[name.replace("_", ".", 1)])
        save_file(found, path, metadata={"resnet_tutorial": json.dumps(metadata)})

    return spoil


WEIGHTS += [
    (NAME, "small.safetensors", numbers(**{name: change}))
    for name in ("conv1_weight", "fc_bias")
    for change in (
        lambda value: value * float("nan"),
        lambda value: value.int(),
        lambda value: value.bool(),
        lambda value: value[:1],
        lambda value: value[None],
        lambda value: torch.zeros(0),
    )
]


def header(**tensors: Any) -> bytes:
    """The beginning of a safetensors file."""
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def pickled(**changes: Any) -> Callable[[Path], None]:
    """A network of somebody else, as PyTorch writes it, with other tensors."""

    def spoil(folder: Path) -> None:
        torch.save(models.cifar_resnet(8, num_classes=2).state_dict() | changes, folder / "w.pt")

    return spoil


def swollen(path: str, write: Callable[[Path], None]) -> Callable[[Path], None]:
    """What ``write`` writes, a ZIP file of hundreds of megabytes, in one of a megabyte."""

    def spoil(folder: Path) -> None:
        large = folder / "large"
        write(large)
        (folder / path).parent.mkdir(exist_ok=True)
        with (
            zipfile.ZipFile(large) as parts,
            zipfile.ZipFile(folder / path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as small,
        ):
            for name in parts.namelist():
                small.writestr(name, parts.read(name))
        large.unlink()

    return spoil


MANY = 10**8  # times four bytes


def many_weights(path: Path) -> None:
    state = models.cifar_resnet(8, num_classes=2).state_dict()
    torch.save(state | {"fc.bias": torch.zeros(MANY)}, path)


def many_sums(path: Path) -> None:
    state = torch.load(path.parent / "run" / "checkpoint.pt", weights_only=True)
    torch.save(state | {"sums": torch.zeros(MANY)}, path)


LIST_OF_NOTHING = b"part,class,file,pixels\nfolder,,photos,\n" + b"\n" * 5_000_000


def many_images(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, train_images=np.zeros(MANY, np.float32))


def film(folder: Path) -> None:
    """A file of a gigabyte that takes no room."""
    (folder / "film.mkv").touch()
    os.truncate(folder / "film.mkv", 10**9)


CALL = b"\x80\x02cbuiltins\nbytearray\nJ" + struct.pack("<i", 4 * 10**8) + b"\x85R."
CODEC = b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0hex\x86R."
PAIRS = (
    b"\x80\x02})" + b"q\0h\0\x86" * 60 + b"Ns."
)  # a key: a pair of pairs of pairs; its hash takes 2**60 steps
STACK = b"\x80\x02})" + b"\x85" * 10**6 + b"Ns."  # a key of a million tuples in each other
MANY_EMPTY = b"\x80\x02" + b"}" * 10**6 + b"."
SAME_HASH = [b"\x8a\x09" + (k * (2**61 - 1)).to_bytes(9, "little") + b"N" for k in range(1, 200)]
LATE = b"\x80\x02]q\0]q\x01h\0ah\0h\x01ae."  # a list that changes when it is a part already


def saved(path: str, pickled: bytes, name: str = "data.pkl", numbers: bytes = b"") -> Callable[[Path], None]:
    """A file of torch.save with another pickle, of a few bytes, in which PyTorch's careful reader trusts."""

    def spoil(folder: Path) -> None:
        torch.save({}, folder / "empty")
        with zipfile.ZipFile(folder / "empty") as good, zipfile.ZipFile(folder / path, "w") as bad:
            for part in good.namelist():
                mine = part.endswith("data.pkl")
                bad.writestr(part.replace("data.pkl", name), pickled if mine else good.read(part))
            bad.writestr("empty/data/0", numbers)
        (folder / "empty").unlink()

    return spoil


def stored(key: bytes = b"0", length: bytes = b"K\x01") -> bytes:
    """What names the numbers of a tensor."""
    start = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX"
    return start + struct.pack("<I", len(key)) + key + b"X\x03\0\0\0cpu" + length + b"tQ"


def tensor(places: int, step: int) -> bytes:
    """A tensor on one number."""
    start = b"ctorch._utils\n_rebuild_tensor_v2\n(" + stored() + b"K\0(J" + struct.pack("<i", places)
    return start + b"t(K" + bytes([step]) + b"t\x89ccollections\nOrderedDict\n)RtR"


# One number at a hundred million places: who goes through them takes gigabytes.
SPREAD = tensor(10**8, 0)
ODD_CALLS = [
    CALL,
    CODEC,
    *[
        b"\x80\x02" + odd
        for odd in (
            b"ctorch\nSize\n" + SPREAD + b"\x85R.",
            b"ccollections\nOrderedDict\n" + SPREAD + b"R.",
            b"ctorch._utils\n_rebuild_parameter\n(" + SPREAD + b"\x89NtR" + SPREAD + b"b.",
            b"ctorch.storage\nUntypedStorage\nJ" + struct.pack("<i", 10**9) + b"\x85R.",
            tensor(10**8, 1) + b".",  # a storage that grows
            stored(length=SPREAD) + b".",
            stored(key=b"0\0") + b".",
            b"}(" + b"".join(SAME_HASH) + b"u.",
        )
    ],
]


def overlapping(folder: Path) -> None:
    """Two parts, one inside the other: a hundred of them would be read as a hundred times the file."""
    inner, data = zipfile.ZipInfo("w/inner"), bytes(1000)
    inner.file_size = inner.compress_size = len(data)
    inner.CRC = zipfile.crc32(data)
    with zipfile.ZipFile(folder / "w.pt", "w") as parts:
        parts.writestr("w/data.pkl", b"\x80\x02}.")
        parts.writestr("w/outer", inner.FileHeader() + data)
        inner.header_offset = parts.fp.tell() - len(inner.FileHeader() + data)
        parts.filelist.append(inner)


def two_directories(folder: Path) -> None:
    """A second archive inside, to which a long form of the end leads that Python does not look for there."""
    other = folder / "other"
    with zipfile.ZipFile(other, "w") as parts:
        parts.writestr("e/data.pkl", CALL)
    inside = other.read_bytes()
    other.unlink()
    *_, many, size, start, _ = struct.unpack("<4s4H2IH", inside[-22:])
    with zipfile.ZipFile(folder / "w.pt", "w") as parts:
        parts.writestr("w/data.pkl", b"\x80\x02}.")
        at = parts.fp.tell() + 30 + len("w/x")
        long = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, many, many, size, at + start)
        parts.writestr("w/x", inside[:-22] + long)
        last = zipfile.ZipInfo("w/y")
        last.comment = bytes(60) + struct.pack("<4sIQI", b"PK\6\7", 0, at + len(inside) - 22, 1)
        parts.writestr(last, b"")


def legacy(folder: Path, *, as_tar: bool = False) -> None:
    """The format before archives: without the keys of its numbers, or with the head of `tar`."""
    torch.save({"x": torch.ones(2)}, folder / "w.pt", _use_new_zipfile_serialization=False)
    file = (folder / "w.pt").read_bytes()
    if not as_tar:
        end = file.rindex(b"]")  # the list of keys
        (folder / "w.pt").write_bytes(file[: end + 1] + b".")
        return
    head = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
    start = file[:15] + b"\x80\x02M\xe9\x03.\x80\x02}.\x80\x02}.\x80\x02]."
    head = bytearray(start + head[len(start) :])
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    (folder / "w.pt").write_bytes(head)


def changed(path: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A checkpoint with other objects in it, or in the format that PyTorch had before."""

    def spoil(folder: Path) -> None:
        state = torch.load(folder / path, weights_only=True)
        change(state)
        torch.save(state, folder / path, _use_new_zipfile_serialization=change is not dict.copy)

    return spoil


def laughs(state: dict[str, Any]) -> None:
    """A name of a billion letters, in ten lists of ten times the same."""
    name: Any = ["x"]
    for _ in range(9):
        name = [name] * 10
    state["identity"]["model"] = name


def wide(state: dict[str, Any]) -> None:
    """A number of a row that is compared at a billion places."""
    state["rows"][0]["epoch"] = torch.zeros(1).expand(10**9)


def squeezed(folder: Path) -> None:
    """400 MB of zeros that say they were ten bytes; some methods hand out all, however much is asked."""
    with (
        zipfile.ZipFile(folder / "w.pt", "w", zipfile.ZIP_BZIP2) as parts,
        parts.open("w/data.pkl", "w") as part,
    ):
        for _ in range(400):
            part.write(bytes(10**6))
    file = (folder / "w.pt").read_bytes()
    (folder / "w.pt").write_bytes(file.replace(struct.pack("<I", 4 * 10**8), struct.pack("<I", 10)))


def padded(folder: Path) -> None:
    """Another bit, and so many zeros after it that Python finds no archive where PyTorch finds one."""
    torch.save({"fc.bias": torch.zeros(2)}, folder / "w.pt")
    file = bytearray((folder / "w.pt").read_bytes())
    file[file.index(b"data/0") + 80] ^= 1
    (folder / "w.pt").write_bytes(file + bytes(66_000))


LYING = [
    *[(FOREIGN, "holds more than tensors", saved("w.pt", odd)) for odd in ODD_CALLS],
    (FOREIGN, "its numbers 0 are not 4 bytes", saved("w.pt", b"\x80\x02" + SPREAD + b".", numbers=b"ab")),
    (RESUME, "larger than the file", changed("run/checkpoint.pt", wide)),
    (FOREIGN, "longer than that of any state dict", saved("w.pt", MANY_EMPTY)),
    (FOREIGN, "its parts overlap", overlapping),
    (FOREIGN, "its directory is not where it says", two_directories),
    (FOREIGN, "numbers are not those that its tensors ask for", legacy),
    (FOREIGN, "it is a tar archive, too", partial(legacy, as_tar=True)),
    *[(FOREIGN, "nested as those of no state dict", saved("w.pt", odd)) for odd in (PAIRS, STACK, LATE)],
    (FOREIGN, "holds more than tensors", saved("w.pt", CALL, "DATA.PKL")),
    (FOREIGN, "is compressed", squeezed),
    (FOREIGN, "does not begin as what torch.save writes", content("w.pt", CALL)),
    (FOREIGN, "not a zip file", padded),
    (RESUME, "asks for builtins bytearray", saved("run/checkpoint.pt", CALL)),
    (RESUME, "nested as those of no state dict", changed("run/checkpoint.pt", laughs)),
    (RESUME, "does not begin as what torch.save writes", changed("run/checkpoint.pt", dict.copy)),
    ("evaluate run/model.safetensors", "parts.csv", content("run/parts.csv", LIST_OF_NOTHING)),
    *[
        (NAME, "small.safetensors", content("small.safetensors", start + bytes(100)))
        for start in (
            struct.pack("<Q", 2**63),
            struct.pack("<Q", 10**8),
            header(a={"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}),
            header(a={"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 100]}),
            header(a={"dtype": "F32", "shape": [2**32, 2**32], "data_offsets": [0, 100]}),
            header(a={"dtype": "F99", "shape": [25], "data_offsets": [0, 100]}),
            header(a={"dtype": "F32", "shape": [-25], "data_offsets": [0, 100]}),
            header(a={"dtype": "F32", "shape": [25], "data_offsets": [100, 0]}),
            header(a=1),
        )
    ],
    (FOREIGN, "w.pt", pickled(**{"conv1.weight": torch.zeros(1).expand(10**5, 10**5, 3, 3)})),
    (FOREIGN, "w.pt", pickled(**{"fc.bias": torch.zeros(1).expand(10**12)})),
    (FOREIGN, "w.pt", pickled(x=3)),
    (FOREIGN, "w.pt", pickled(x=torch.eye(2).to_sparse())),
    (FOREIGN, "w.pt", pickled(**{"conv1.weight": torch.empty(16, 3, 3, 3, device="meta")})),
    (FOREIGN, "w.pt", pickled(**{"fc.bias": torch.zeros(2).to(torch.float8_e4m3fn)})),
    (FOREIGN, "w.pt", lambda folder: torch.save({0: torch.ones(2)}, folder / "w.pt")),
    (FOREIGN, "w.pt", swollen("w.pt", many_weights)),
    (RESUME, "checkpoint.pt", swollen("run/checkpoint.pt", many_sums)),
    (f"{NAME} --csv film.mkv", "no earlier table", film),
    (f"{LOOK} --json film.mkv", "no earlier report", film),
    (f"{LOOK} --logits film.mkv", "no earlier logits", film),
    ("export small.safetensors film.mkv", "no earlier ONNX network", film),
    ("check 3 --notebook film.mkv", "more than 100 MB", film),
]


def batch(**changes: Any) -> bytes:
    """One file of CIFAR-10 in Python, with one image."""
    return pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [0]} | changes, protocol=2)


def nested() -> list[Any]:
    """A hundred million numbers in a pickle of two kilobytes."""
    values: list[Any] = [0]
    for _ in range(4):
        values = [values] * 100
    return values


def batches(what: bytes, suffix: str = "") -> Callable[[Path], None]:
    """All six files of CIFAR-10 of the same content."""

    def spoil(folder: Path) -> None:
        place = folder / "data" / f"cifar-10-batches-{suffix.lstrip('.') or 'py'}"
        place.mkdir(parents=True)
        for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"):
            (place / f"{name}{suffix}").write_bytes(what)

    return spoil


def sparse(path: str, size: int) -> Callable[[Path], None]:
    """Files of CIFAR-10, one of which has ``size`` bytes and takes no room."""

    def spoil(folder: Path) -> None:
        batches(b"", Path(path).suffix)(folder)
        os.truncate(folder / path, size)

    return spoil


def archive(size: int, *members: str, kind: bytes = tarfile.REGTYPE) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        (folder / "data").mkdir()
        path = folder / "data" / "cifar-10-python.tar.gz"
        with open("/dev/zero", "rb") as zeros, tarfile.open(path, "w:gz", compresslevel=1) as parts:
            for name in members:
                info = tarfile.TarInfo(name)
                info.size, info.type = size, kind
                parts.addfile(info, zeros if size else None)

    return spoil


def made(path: str, what: bytes | None = None) -> Callable[[Path], None]:
    """A file, or a directory, in a folder that is made."""

    def spoil(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).mkdir() if what is None else (folder / path).write_bytes(what)

    return spoil


def pipe(path: str) -> Callable[[Path], None]:
    """What waits for ever, if it is opened."""

    def spoil(folder: Path) -> None:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).unlink(missing_ok=True)
        os.mkfifo(folder / path)

    return spoil


class Trap:
    """Runs a command when it is unpickled by a reader that trusts."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("sprung",)


CACHE, PYTHON, BINARY, TGZ = (
    "data/cifar10-arrays.npz",
    "data/cifar-10-batches-py",
    "data/cifar-10-batches-bin",
    "data/cifar-10-python.tar.gz",
)
DATA = [
    (CIFAR, "CIFAR-10 is not in", None),
    *[
        (CIFAR, CACHE, made(CACHE, what))
        for what in (b"", b"PK", b"PK\x05\x06" + bytes(18), b"text", bytes(999))
    ],
    (CIFAR, CACHE, swollen(CACHE, many_images)),
    (CIFAR, CACHE, made(CACHE)),
    (CIFAR, CACHE, pipe(CACHE)),
    *[(CIFAR, TGZ, made(TGZ, what)) for what in (b"", b"\x1f\x8b", b"text", bytes(999))],
    (CIFAR, TGZ, archive(0, "a", "b")),
    (CIFAR, TGZ, archive(4 * MANY, "cifar-10-batches-py/data_batch_1")),
    (CIFAR, TGZ, archive(MANY, "something/else")),
    (CIFAR, TGZ, archive(4 * MANY, "a long name", kind=tarfile.GNUTYPE_LONGNAME)),
    (CIFAR, TGZ, archive(4 * MANY, "a long header", kind=tarfile.XHDTYPE)),
    (CIFAR, TGZ, made(TGZ)),
    (CIFAR, TGZ, pipe(TGZ)),
    *[
        (CIFAR, PYTHON, batches(what))
        for what in (
            b"",
            b"text",
            b"\x80\x02.",
            b"(" * 9999,
            pickle.dumps(None),
            pickle.dumps({}),
            pickle.dumps(Trap()),
            pickle.dumps({"data": Trap(), "labels": [0]}),
            batch(),
            batch(data=None),
            batch(data=np.zeros((1, 3071), np.uint8)),
            batch(data=np.zeros((1, 3072), np.float32)),
            batch(data=[[0] * 3072]),
            batch(labels=[10**9]),
            batch(labels=["x"]),
            batch(labels=[]),
            batch(labels=nested()),
            batch(data=nested()),
            b"\x80\x02Nr\xff\xff\xff\x0f.",  # the last place of a list that is made for it, of 4 GB
            # An array of 1 GB of references, and a letter that becomes two 28 times.
            b"\x80\x02cnumpy\nndarray\n(J\x00\x00\x00\x08\x85X\x01\x00\x00\x00OtR.",
            b"\x80\x02c_codecs\nencode\nq\x00C\x01aq\x01" + b"h\x00h\x01\x8c\x03hex\x86Rq\x01" * 28 + b".",
            # An array that is said to have 64 GB, of which the file has nothing.
            b"\x80\x02}(X\x04\x00\x00\x00datacnumpy\nndarray\n(J\x00\x00\x00\x01M\xff\x0ft\x85RX\x06\x00\x00\x00labels]u.",
        )
    ],
    (CIFAR, PYTHON, sparse(f"{PYTHON}/data_batch_3", 4 * MANY)),
    (CIFAR, PYTHON, made(PYTHON, b"a file")),
    *[
        (CIFAR, BINARY, batches(what, ".bin"))
        for what in (b"", b"text", bytes(3072), bytes(3073), b"\xff" * 6146)
    ],
    (CIFAR, BINARY, sparse(f"{BINARY}/data_batch_3.bin", 4 * MANY)),
    (CIFAR, BINARY, made(BINARY, b"a file")),
    ("download --root file", "cannot write to", None),
    ("download --root ~nobody9/x", "no home directory", None),
    (RECORD, "--overwrite", made("records/resnet8-quick-epochs1-s0.json", b"{}")),
    (f"{RECORD} --overwrite", "no earlier record", made("records/resnet8-quick-epochs1-s0.json", b"{}")),
]


PIPES = [
    (f"{TRAIN} --out pipe", "no directory", pipe("pipe")),
    ("train --data pipe", "pipe", pipe("pipe")),
    (f"{LOOK} --json pipe", "a pipe", pipe("pipe")),
    (f"{LOOK} --logits pipe", "a pipe", pipe("pipe")),
    (f"{NAME} --csv pipe", "a pipe", pipe("pipe")),
    ("export small.safetensors pipe", "pipe", pipe("pipe")),
    ("predict pipe --weights small.safetensors", "pipe", pipe("pipe")),
    ("predict pipe.png --weights small.safetensors", "pipe.png", pipe("pipe.png")),
    ("evaluate pipe.pt", "no regular file", pipe("pipe.pt")),
    ("check 3 --notebook pipe", "not a notebook", pipe("pipe")),
    (RESUME, "no checkpoint", pipe("run/checkpoint.pt")),
    ("evaluate run/model.safetensors", "parts.csv", pipe("run/parts.csv")),
    (f"{RUN} --overwrite", "no regular file", pipe("run/history.json")),
]

TORCHRUN = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
ENVIRONMENT = [
    *[
        (CIFAR, "CIFAR-10 is not in", {"RESNET_TUTORIAL_DATA": place})
        for place in ("nowhere", "file", "photos", "/dev/null", "small.safetensors", "a b/ü/\udcff", "../..")
    ],
    (CIFAR, "too long", {"RESNET_TUTORIAL_DATA": "x" * 300}),
    (CIFAR, "no home directory", {"RESNET_TUTORIAL_DATA": "~nobody9/x"}),
    (CIFAR, "CIFAR-10 is not in", {"RESNET_TUTORIAL_DATA": "", "XDG_CACHE_HOME": "file"}),
    (CIFAR, "CIFAR-10 is not in", {"RESNET_TUTORIAL_DATA": "", "XDG_CACHE_HOME": "", "HOME": "/nowhere"}),
    ("download", "cannot write to", {"RESNET_TUTORIAL_DATA": "file"}),
    ("download", "cannot write to", {"RESNET_TUTORIAL_DATA": "/dev/null/x"}),
    ("download", "too long", {"RESNET_TUTORIAL_DATA": "x" * 300}),
    ("download", "no home directory", {"RESNET_TUTORIAL_DATA": "~nobody9"}),
    ("download", "cannot write to", {"RESNET_TUTORIAL_DATA": "", "XDG_CACHE_HOME": "file"}),
    (f"{TRAIN} --compile", "no-such-compiler", {"CXX": "no-such-compiler"}),
    (f"{TRAIN} --compile", "compiler", {"CXX": None, "PATH": ""}),
    ("finetune --data photos --weights imagenet", "cannot fetch", {"TORCH_HOME": "file"}),
    ("finetune --data photos --weights imagenet", "cannot fetch", {"TORCH_HOME": "/dev/null"}),
    *[
        (TRAIN, name, TORCHRUN | {name: value})
        for name, values in {
            "WORLD_SIZE": ("x", "0", "-1", "1.5", " 2", "2 ", "two", "9" * 30, "\u0662"),
            "RANK": (None, "", "x", "-1", "2", "99", "0.0"),
            "LOCAL_RANK": ("", "x", "-1", "0.5"),
            "MASTER_PORT": (None, "", "x", "-1", "65536", "http"),
            "MASTER_ADDR": (None, ""),
        }.items()
        for value in values
    ],
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
        "identity": (None, [], {}, "x", {"seed": 1}, {"seed": torch.zeros(2)}),
        "step": (10**9, -1, 0, "1", None, 1.0, True),
        "seconds": (float("nan"), float("inf"), -1, "x", None),
        "sums": (torch.zeros(2), torch.zeros(6, dtype=torch.int64), torch.zeros(6, device="meta"), None),
        "model": ({}, None),
        "optimizer": ({}, None),
        "torch_generator": (torch.zeros(3), None),
        "row_val_loss": ("abc", float("nan"), [1]),
        "row_epoch": (2, None, "x"),
        "row_lr": (None, "x"),
    }.items()
    for value in values
]


def optimizer(spoil: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    """Another state of the optimiser in the checkpoint."""

    def spoil_file(folder: Path) -> None:
        path = folder / "run" / "checkpoint.pt"
        fields = torch.load(path, weights_only=True)
        spoil(fields["optimizer"])
        torch.save(fields, path)

    return spoil_file


def momentum(value: object) -> Callable[[Path], None]:
    return optimizer(lambda part: part["state"][0].update(momentum_buffer=value))


def option(**changes: Any) -> Callable[[Path], None]:
    return optimizer(lambda part: part["param_groups"][0].update(changes))


CHECKPOINTS += [
    (RESUME, "checkpoint.pt", spoil)
    for spoil in (
        momentum(torch.zeros(2)),
        momentum(torch.zeros(1).expand(10**11)),
        momentum("x"),
        option(momentum=0.5),
        option(weight_decay=torch.zeros(2)),
        option(params=[0, 0, 0]),
    )
]
KINDS = {
    "arguments": ARGUMENTS,
    "files and folders": PLACES,
    "networks": WEIGHTS,
    "checkpoints": CHECKPOINTS,
    "lying sizes": LYING,
    "CIFAR-10": DATA,
    "pipes": PIPES,
    "environment": ENVIRONMENT,
}
CASES = [case for cases in KINDS.values() for case in cases]


def most_memory(*, since_now: bool = False) -> int:
    """The most memory that this process ever had, or from now on, in kB; 0 where Linux does not say it."""
    try:
        if since_now:
            Path("/proc/self/clear_refs").write_text("5")
        return int(re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[0])
    except OSError:
        return 0


@pytest.fixture
def in_time():
    """Nothing waits for ever: after a minute the test fails."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def late(*_: object) -> None:
        pytest.fail("no answer within a minute")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def test_the_table_is_as_long_as_promised():
    """TESTING.md says how many bad inputs were tried; a row taken out would leave it wrong."""
    text = (Path(__file__).parent.parent / "TESTING.md").read_text(encoding="utf-8")
    (least,) = re.findall(r"at least (\d+) bad inputs", text)
    assert int(least) <= len(CASES) < int(least) + 100


@pytest.mark.parametrize(("command", "words", "spoil"), CASES, ids=range(len(CASES)))
def test_bad_input_is_one_line_and_nothing_is_lost(
    world, tmp_path, monkeypatch, capsys, in_time, command, words, spoil
):
    """A traceback, a message without the file's name, half a result, or an earlier one that is gone."""
    folder = tmp_path / "here"
    shutil.copytree(world, folder, symlinks=True)
    monkeypatch.chdir(folder)
    if isinstance(spoil, dict):
        for name, value in spoil.items():
            monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    elif spoil is not None:
        spoil(folder)
    before = tree(folder)
    argv = ["" if word == "''" else word for word in command.split(" ")]
    memory = most_memory(since_now=True)
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # said in a line of its own
        status = cli.main(argv)
    if (command, words, spoil) in [*LYING, *DATA]:
        assert most_memory() - memory < 244_000  # kibibytes: 250 MB
    lines = capsys.readouterr().err.splitlines()
    assert status == 2, lines
    assert lines, status
    assert all(line.startswith("resnet-tutorial: ") for line in lines), lines
    assert words in lines[-1]
    assert len(lines[-1]) < 500
    for raw in ("Traceback", "Errno", "object", "NoneType", "embedded"):
        assert raw not in lines[-1]
    assert tree(folder) == before
