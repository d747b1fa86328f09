"""Weights files: complete or absent, and every damaged one refused in one line."""

from __future__ import annotations

import json
import os
import stat
from collections import OrderedDict

import pytest
import torch
from safetensors import safe_open
from torch import nn

from resnet_tutorial import files
from resnet_tutorial.models import cifar_resnet, load_model, load_weights, save_weights
from resnet_tutorial.models import weights as module

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, -1.0])}


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "w.safetensors"


def test_round_trip_with_metadata_in_one_json_note(path):
    """Metadata turned into strings, or spread over keys that other readers trip over."""
    metadata = {"classes": ["cat", "katze, größe"], "n": 3, "config": {"layers": [1, 2], "zero_init": False}}
    assert save_weights(path, WEIGHTS, metadata) == path
    weights, read = load_weights(path)
    assert same(weights, WEIGHTS) and read == metadata
    with safe_open(path, framework="pt") as file:
        assert list(file.metadata()) == ["resnet_tutorial"]
        note = json.loads(file.metadata()["resnet_tutorial"])
    assert len(note.pop("tensors_sha256")) == 64 and note == metadata


def test_types_views_sharing_and_memory_formats(path):
    """safetensors refuses shared storage and strides; half and integer types must not be widened."""
    base = torch.randn(2, 4, 3, 3)
    tensors = {
        "shared": base,
        "again": base,
        "view": base[:, ::2],
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "channels_last": base.contiguous(memory_format=torch.channels_last),
        "parameter": nn.Parameter(torch.randn(3)),
        "half": torch.randn(3).to(torch.bfloat16),
        "counter": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }
    save_weights(path, tensors, {})
    read, _ = load_weights(path)
    assert same(read, {name: value.detach() for name, value in tensors.items()})
    assert {name: value.dtype for name, value in read.items()} == {n: v.dtype for n, v in tensors.items()}
    assert all(value.is_contiguous() for value in read.values())


def test_a_channels_last_network_comes_back(path):
    """Weights written in the wrong order of memory load without an error and predict nonsense."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    twin = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    save_weights(path, model.state_dict(), {})
    module.load_into(twin, load_weights(path)[0], source=str(path))
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(twin.eval()(x), model.eval()(x))


def test_missing_directories_are_made_and_permissions_are_ordinary(tmp_path):
    """Losing a trained model to a missing folder; a temporary file's 0600 that a colleague cannot read."""
    path = save_weights(tmp_path / "new" / "deep" / "w.safetensors", WEIGHTS, {})
    plain = tmp_path / "plain"
    plain.write_text("x")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
    assert os.listdir(path.parent) == ["w.safetensors"]


@pytest.mark.parametrize("failure", [OSError("no space left"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_an_interrupted_save_leaves_the_old_file_and_nothing_else(path, monkeypatch, step, failure):
    """A crash while saving that destroys the previous checkpoint or litters the folder."""
    save_weights(path, WEIGHTS, {"epoch": 1})
    before = path.read_bytes()

    def fail(*args):
        raise failure

    monkeypatch.setattr(files.os, step, fail)
    expected = ValueError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected, match="cannot write .*no space left" if expected is ValueError else None):
        save_weights(path, {"other": torch.zeros(3)}, {"epoch": 2})
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_save_that_cannot_work_is_refused_before_anything_is_written(tmp_path):
    """A pickle's name on other content, a directory in the way, metadata or entries of other kinds."""
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "file").write_text("x")
    good = tmp_path / "w.safetensors"
    for path, weights, metadata, message in (
        (
            tmp_path / "w.pth",
            WEIGHTS,
            {},
            r"w.pth is no name for weights: give one that ends in .safetensors",
        ),
        (tmp_path / "folder.safetensors", WEIGHTS, {}, "it is a directory: give the name of a file"),
        (tmp_path / "file" / "w.safetensors", WEIGHTS, {}, "is not a directory"),
        (good, {"w": [1, 2]}, {}, "'w' must be a tensor, not a list"),
        (good, WEIGHTS, {"when": object()}, "metadata must be plain JSON values"),
        (good, WEIGHTS, {"loss": float("nan")}, "metadata must be plain JSON values"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            save_weights(path, weights, metadata)
        assert "\n" not in str(error.value)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.safetensors"]


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "header", "zeros", "other type"])
def test_damaged_files_are_refused_in_one_line(tmp_path, suffix, damage):
    """A traceback from inside a reader, a warning, or half of the weights."""
    path = tmp_path / f"w{suffix}"
    if suffix == ".safetensors":
        save_weights(path, WEIGHTS, {})
    else:
        torch.save(WEIGHTS, path)
    whole = path.read_bytes()
    other = "w.pt" if suffix == ".safetensors" else "w.safetensors"
    if damage == "other type" and suffix == ".safetensors":
        torch.save(WEIGHTS, tmp_path / other)
    elif damage == "other type":
        save_weights(tmp_path / other, WEIGHTS, {})
    path.write_bytes(
        {
            "empty": b"",
            "text": b"Dear reader,\nthis is no network.\n" * 20,
            "truncated": whole[: len(whole) - 20],
            "header": b"\xff" * 16 + whole[16:],
            "zeros": bytes(len(whole)),
            "other type": (tmp_path / other).read_bytes() if damage == "other type" else b"",
        }[damage]
    )
    with pytest.raises(ValueError, match="is damaged or not a weights file") as error:
        load_weights(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_absent_files_directories_and_other_names(tmp_path):
    """A FileNotFoundError is not damage; a directory is not a file; .txt is not guessed at."""
    with pytest.raises(FileNotFoundError, match=r"gone.safetensors does not exist: give a"):
        load_weights(tmp_path / "gone.safetensors")
    with pytest.raises(ValueError, match="is a directory: give a weights file in it"):
        load_weights(tmp_path)
    (tmp_path / "w.txt").write_text("x")
    with pytest.raises(ValueError, match=r"w.txt is no name of a weights file: give one that ends in .safe"):
        load_weights(tmp_path / "w.txt")


def test_metadata_of_others_is_ignored_and_broken_notes_are_refused(path):
    """Files of other libraries carry {"format": "pt"} or nothing at all."""
    from safetensors.torch import save_file

    for note in ({"format": "pt"}, None):
        save_file(WEIGHTS, path, metadata=note)
        weights, metadata = load_weights(path)
        assert same(weights, WEIGHTS) and metadata == {}
    save_file(WEIGHTS, path, metadata={"resnet_tutorial": "{broken"})
    with pytest.raises(ValueError, match="damaged"):
        load_weights(path)
    save_file(WEIGHTS, path, metadata={"resnet_tutorial": "[1, 2]"})
    with pytest.raises(ValueError, match="its metadata is not a JSON object"):
        load_weights(path)


@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_pickled_state_dicts(tmp_path, key):
    """A checkpoint that holds an optimiser beside the weights."""
    path = tmp_path / "w.pth"
    torch.save(WEIGHTS if key is None else {key: WEIGHTS, "epoch": 3}, path)
    weights, metadata = load_weights(path)
    assert same(weights, WEIGHTS) and metadata == {}


class _Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("content", [{}, {"w": 3}, [torch.zeros(2)], {"state_dict": {"w": "x"}}, _Bomb()])
def test_pickles_without_a_state_dict_never_run(tmp_path, monkeypatch, content):
    """A downloaded .pth that executes code, or one that holds something else."""
    monkeypatch.chdir(tmp_path)
    torch.save(content, "w.pth")
    with pytest.raises(
        ValueError, match=r"holds (no state dict|more than tensors)|damaged or not a weights file"
    ):
        load_weights("w.pth")
    assert os.listdir() == ["w.pth"]


@pytest.mark.parametrize("name", ["values", "keys", "get"])
def test_attributes_that_hide_methods_are_left_out(tmp_path, name):
    """A dictionary of PyTorch's may have attributes; one called `values` ended in a traceback."""
    state = cifar_resnet(8).state_dict()
    setattr(state, name, 1)
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    loaded, _ = load_model(tmp_path / "w.pth", name="resnet8")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in dict.items(state))


@pytest.mark.parametrize("archive", [True, False])
def test_what_old_versions_wrote_is_read(tmp_path, archive):
    """Python 2 wrote an OrderedDict as a list; before PyTorch 1.6 momentum was kept by addresses."""
    state = cifar_resnet(8).state_dict()

    class Old:
        def __reduce__(self) -> tuple[object, ...]:
            return OrderedDict, ([list(pair) for pair in state.items()],)

    optimizer = {"state": {140234567890128: {"momentum_buffer": torch.ones(2)}}}
    schedule = torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD([torch.ones(1)], 0.1), [3, 5])
    content = {"state_dict": Old(), "optimizer": optimizer, "scheduler": schedule.state_dict()}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=archive)
    loaded, _ = load_model(tmp_path / "w.pth", name="resnet8")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in state.items())


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize(
    "content",
    [
        {0: torch.ones(2)},
        {"state_dict": {("a", 1): torch.ones(2)}},
        {"w": torch.eye(2).to_sparse()},
        {"w": torch.empty(2, device="meta")},
        {"w": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)},
    ],
    ids=["number as name", "names in a container", "sparse", "meta", "nested"],
)
def test_what_is_no_array_with_a_name_is_refused(tmp_path, content):
    """TypeErrors and RuntimeErrors of PyTorch: such tensors have no bytes, no values or no shape."""
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt holds (no state dict: expected dense|more than tensors)"):
        load_weights(tmp_path / "w.pt")


def test_numbers_of_eight_bits_are_refused(tmp_path):
    """PyTorch stores them, but cannot say whether they are finite: a NotImplementedError."""
    weights = cifar_resnet(8).state_dict()
    torch.save(weights | {"fc.bias": weights["fc.bias"].to(torch.float8_e4m3fn)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"fc\.bias has torch\.float8_e4m3fn, not .* of 16 to 64 bits"):
        load_model(tmp_path / "w.pt", name="resnet8")


def test_load_into_names_the_differences_and_changes_nothing():
    """A model half filled before the first mismatch; a message of a hundred lines."""
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weights = {name: torch.full_like(value, 5) for name, value in before.items()}
    wrong = {**weights, "0.weight": torch.zeros(4, 3), "head.weight": torch.zeros(1)}
    del wrong["1.weight"]
    with pytest.raises(ValueError) as error:
        module.load_into(model, wrong, source="w.pth")
    assert str(error.value) == (
        "w.pth is of another network: 1 missing (1.weight); "
        "1 unexpected (head.weight); 1 of another shape (0.weight (4, 3) for (2, 3))"
    )
    assert same(model.state_dict(), before)
    many = {f"x{k}": torch.zeros(1) for k in range(100)}
    with pytest.raises(ValueError, match=r"100 unexpected \(x0, x1, x2, \.\.\.\)"):
        module.load_into(model, many, source="w.pth")
    module.load_into(model, weights, source="w.pth")
    assert same(model.state_dict(), weights)


def test_files_without_step_counters_load():
    """Files from before PyTorch 0.4.1 lack num_batches_tracked; nothing else may be missing."""
    model = nn.BatchNorm1d(2)
    weights = {name: torch.full_like(v, 3) for name, v in model.state_dict().items() if v.ndim}
    assert len(weights) == 4
    module.load_into(model, weights, source="old.pth")
    assert model.running_mean.tolist() == [3, 3] and model.num_batches_tracked == 0


def test_a_flipped_bit_in_a_weight_is_found(tmp_path):
    """The format has no check sum: a weight was another one, silently."""
    path = save_weights(tmp_path / "w.safetensors", {"a": torch.ones(9), "n": torch.tensor(3)}, {})
    assert load_weights(path)[0]["n"] == 3
    content = bytearray(path.read_bytes())
    content[-30] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"w\.safetensors is damaged .*its check sum is wrong"):
        load_weights(path)
