"""The embedded sample: the published images, whole and quick to load."""

from __future__ import annotations

import hashlib
import json
import time
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tutorial.data import CIFAR10_CLASSES, load_sample, sample

# Taken from the published data by other code: SHA-256 of label, red, green, blue bytes, image by image.
SAMPLE_SHA256 = {
    "train": "85e1bcd937bff4e1a96822ecf457c7d8b520eb14496e76876f04aadd1e5205d3",
    "test": "2874326af7bc2185faa47540a6da15a077e5b66659f8e479abb9ab628170fa86",
}


def test_the_sample_is_the_published_one() -> None:
    """A picture format with loss, channels swapped, or labels out of step with the images."""
    for split, (part, n) in zip(load_sample(), (("train", 2000), ("test", 1000)), strict=True):
        assert split.images.shape == (n, 3, 32, 32) and split.classes == CIFAR10_CLASSES
        assert split.counts().tolist() == [n // 10] * 10
        assert split.name == f"sample {part}"
        rows = torch.cat([split.labels.to(torch.uint8)[:, None], split.images.flatten(1)], dim=1)
        assert hashlib.sha256(rows.numpy()).hexdigest() == SAMPLE_SHA256[part]


def test_sample_files_are_small_and_name_their_source() -> None:
    """A repository of 180 MB, or pictures whose origin cannot be found."""
    assets = resources.files("resnet_tutorial") / "assets"
    about = json.loads((assets / "sample.json").read_text())
    sizes = [len((assets / about["parts"][part]["file"]).read_bytes()) for part in ("train", "test")]
    assert sizes[0] < 6e6 and sum(sizes) < 8e6
    assert "Learning Multiple Layers of Features from Tiny Images" in about["citation"]
    note = (assets / "sample.md").read_text().translate(str.maketrans("", "", ">*"))
    assert about["citation"] in " ".join(note.split())
    for part in about["parts"].values():
        assert part["indices"] == sorted(set(part["indices"])) and len(part["labels"]) == len(part["indices"])


def test_changing_the_sample_does_not_reach_the_next_caller() -> None:
    """A cell that draws on an image, and every later cell sees the drawing."""
    before = [split.fingerprint for split in load_sample()]
    for split in load_sample():
        split.images.zero_()
        split.labels.zero_()
    assert [split.fingerprint for split in load_sample()] == before


def test_the_sample_loads_quickly() -> None:
    """Seconds of waiting in the first cell of every chapter."""
    load_sample()  # imports of decoders
    sample._arrays.cache_clear()
    start = time.process_time()
    load_sample()
    assert time.process_time() - start < 1  # measured: about a quarter of that


@pytest.mark.parametrize("damage", ["altered", "truncated"])
def test_a_damaged_sample_is_refused(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong pixels after line-ending conversion or a broken checkout."""
    assets = tmp_path / "assets"
    assets.mkdir()
    for file in (resources.files("resnet_tutorial") / "assets").iterdir():
        if file.name.startswith("sample"):
            (assets / file.name).write_bytes(file.read_bytes())
    target = assets / "sample-test.webp"
    if damage == "altered":
        with Image.open(target) as file:
            picture = np.array(file)
        picture[5, 5] ^= 1
        Image.fromarray(picture).save(target, "PNG", compress_level=1)  # quicker to write than WebP
    else:
        target.write_bytes(target.read_bytes()[:-1000])
    monkeypatch.setattr(sample, "ASSETS", assets)
    sample._arrays.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"sample-test\.webp is .*reinstall"):
            load_sample()
    finally:
        sample._arrays.cache_clear()


def test_a_pillow_without_webp_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """An obscure decoder error where Pillow was built without WebP."""
    monkeypatch.setattr(sample.features, "check", lambda name: False)
    sample._arrays.cache_clear()
    with pytest.raises(ValueError, match="WebP"):
        load_sample()
