"""Weights that others made: what they are wrapped in, and ImageNet weights fetched from a server."""

from __future__ import annotations

import gc
import hashlib
import http.server
import threading
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from resnet_tutorial import models
from resnet_tutorial.models import weights as weights_module


@pytest.fixture(scope="module")
def theirs() -> nn.Module:
    """A network of torchvision with three classes."""
    torch.manual_seed(0)
    return torchvision.models.resnet18(num_classes=3).eval()


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("plain.pth", lambda s: s),
        ("parallel.pth", lambda s: {f"module.{name}": value for name, value in s.items()}),
        ("compiled.pt", lambda s: {f"_orig_mod.module.{name}": value for name, value in s.items()}),
        ("container.pth.tar", lambda s: {"epoch": 3, "state_dict": s, "optimizer": {"lr": 0.1}}),
        ("lightning.ckpt", lambda s: {"state_dict": {f"model.{name}": value for name, value in s.items()}}),
        ("tutorial.pt", lambda s: {"model_state_dict": s, "loss": 0.5}),
    ],
)
def test_wrappings_are_opened(theirs, tmp_path, name, wrap):
    """ "102 missing, 122 unexpected" for a file that any other program opens."""
    torch.save(wrap(theirs.state_dict()), tmp_path / name)
    model, metadata = models.load_model(tmp_path / name, name="resnet18")
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model(images), theirs(images), atol=1e-4)
    assert metadata == {}


def test_safetensors_of_others(theirs, tmp_path):
    """Files of timm have torchvision's names, and none of our notes."""
    tensors = {name: value for name, value in theirs.state_dict().items() if "num_batches" not in name}
    save_file(tensors, tmp_path / "model.safetensors")
    model, _ = models.load_model(tmp_path / "model.safetensors", name="resnet18")
    assert torch.equal(model.fc.weight, theirs.fc.weight)
    with pytest.raises(ValueError, match="does not say which network"):
        models.load_model(tmp_path / "model.safetensors")


def test_a_pickled_model_is_refused_in_one_line(theirs, tmp_path):
    """It was "damaged", with the escape codes of a terminal."""
    torch.save(theirs, tmp_path / "whole.pt")
    with pytest.raises(ValueError, match=r"whole pickled model.*save its state_dict\(\)") as caught:
        models.load_weights(tmp_path / "whole.pt")
    assert str(caught.value).isprintable()


def test_the_state_of_a_run_points_to_its_network(tmp_path):
    torch.save(
        {"identity": {}, "rows": [], "step": 3, "model": {"a": torch.ones(1)}}, tmp_path / "checkpoint.pt"
    )
    with pytest.raises(ValueError, match=r"state of a run.*model\.safetensors"):
        models.load_weights(tmp_path / "checkpoint.pt")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on this machine with a file named as torchvision names its weights, and a cache of its own."""
    folder = tmp_path / "server"
    folder.mkdir()
    torch.save(models.imagenet_resnet(18).state_dict(), folder / "w.pth")
    digest = hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest()
    path = (folder / "w.pth").rename(folder / f"resnet18-{digest[:8]}.pth")
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(quiet, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}/{path.name}"
        monkeypatch.setattr(weights_module, "_imagenet_url", lambda _: url)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
        yield path
        running.shutdown()
    with warnings.catch_warnings():  # torch leaves the connection open
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def cached(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "hub").rglob("*") if path.is_file()]


def test_imagenet_weights_are_fetched_once(server, tmp_path, capsys):
    """Fetched again for every run, or kept where no other program finds them."""
    path = models.imagenet_weights("resnet18")
    assert cached(tmp_path) == [path] == [tmp_path / "hub" / "checkpoints" / server.name]
    assert capsys.readouterr().err.startswith("fetching http://127.0.0.1")
    server.unlink()
    assert models.imagenet_weights("resnet18") == path
    assert models.create("resnet18", weights="imagenet").fc.out_features == 1000


@pytest.mark.parametrize("change", [lambda content: content[:-1000], lambda content: content + b"x"])
def test_a_wrong_file_is_not_kept(server, tmp_path, change):
    """A truncated or falsified file, taken for the weights, or in the way of the right one."""
    server.write_bytes(change(server.read_bytes()))
    with pytest.raises(ValueError, match=rf"not the right file\): put http.* at .*{server.name}"):
        models.imagenet_weights("resnet18")
    assert cached(tmp_path) == []


def test_without_a_server_one_line_says_what_to_do(server, tmp_path):
    server.unlink()
    with pytest.raises(ValueError, match=rf"cannot fetch .*404.*: put http.* at .*{server.name}") as caught:
        models.imagenet_weights("resnet18")
    assert "\n" not in str(caught.value) and cached(tmp_path) == []


def test_a_damaged_file_in_the_cache_is_noticed(server, tmp_path):
    """torch looks at the hash only while it downloads."""
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / server.name).write_bytes(server.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged: remove it"):
        models.imagenet_weights("resnet18")


def test_only_networks_that_have_them(monkeypatch):
    with pytest.raises(ValueError, match="no ImageNet weights for resnet20: choose one of resnet18"):
        models.create("resnet20", weights="imagenet")
    assert weights_module._imagenet_url("resnet18").endswith("/resnet18-f37072fd.pth")
