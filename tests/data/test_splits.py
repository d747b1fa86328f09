"""Splits, the embedded sample, and pictures of every kind from folders."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import struct
import time
from dataclasses import FrozenInstanceError
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from resnet_tutorial import data
from resnet_tutorial.data import (
    CIFAR10_CLASSES,
    Split,
    load_cifar10,
    load_folder,
    load_image,
    load_sample,
    sources,
)

# Taken from the published data by other code: SHA-256 of label, red, green, blue bytes, image by image.
SAMPLE_SHA256 = {
    "train": "85e1bcd937bff4e1a96822ecf457c7d8b520eb14496e76876f04aadd1e5205d3",
    "test": "2874326af7bc2185faa47540a6da15a077e5b66659f8e479abb9ab628170fa86",
}


def make(counts: tuple[int, ...] = (6, 4, 10), *, size: int = 8) -> Split:
    """A split of random images whose classes are interleaved at random."""
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels))]
    images = torch.randint(0, 256, (len(labels), 3, size, size), dtype=torch.uint8)
    return Split(images, labels, tuple("abcdefghij"[: len(counts)]), "made up")


def places(part: Split, whole: Split) -> list[int]:
    """Where each image of `part` stands in `whole`."""
    return [int((whole.images == image).flatten(1).all(1).nonzero()) for image in part.images]


# ---- Split ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.rand(2, 3, 4, 4)}, "uint8 tensor .* not float32"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8)}, "uint8 tensor .* not ndarray"),
        ({"images": torch.zeros(2, 4, 4, 3, dtype=torch.uint8)}, r"\(N, 3, H, W\)"),
        ({"images": torch.zeros(0, 3, 4, 4, dtype=torch.uint8)}, "at least one image"),
        ({"labels": torch.zeros(2)}, "int64"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "2 images .* 3 labels"),
        ({"labels": torch.tensor([0, 2])}, "labels run from 0 to 2, but 2 classes"),
        ({"labels": torch.tensor([-1, 0])}, "labels run from -1"),
        ({"classes": ("a", "a")}, "differ"),
        ({"classes": "ab"}, "tuple of names"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    """A float image, a swapped axis or a label out of range found only as a strange loss in training."""
    parts = {
        "images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        "labels": torch.tensor([0, 1]),
        "classes": ("a", "b"),
        "name": "x",
    }
    Split(**parts)
    with pytest.raises(ValueError, match=message) as caught:
        Split(**(parts | change))
    assert "\n" not in str(caught.value)


def test_a_split_is_immutable_and_contiguous() -> None:
    """Attributes reassigned under a cached fingerprint; strided images that slow everything after."""
    split = make()
    with pytest.raises(FrozenInstanceError):
        split.labels = split.labels + 1
    strided = torch.zeros(2, 4, 4, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    assert Split(strided, torch.tensor([0, 0]), ("a",), "x").images.is_contiguous()
    assert isinstance(Split(strided, torch.tensor([0, 0]), ["a"], "x").classes, tuple)
    assert repr(split) == "Split('made up', 20 images of 8x8, 3 classes)"


def test_subset_takes_what_is_named_in_that_order_and_copies() -> None:
    """Images and labels permuted differently; a change of the part that reaches the whole."""
    split = make()
    for indices in ([5, 0, 5], np.array([5, 0, 5]), torch.tensor([5, 0, 5], dtype=torch.int32)):
        part = split.subset(indices)
        assert torch.equal(part.images, split.images[[5, 0, 5]])
        assert torch.equal(part.labels, split.labels[[5, 0, 5]])
    mask = split.labels == 1
    assert torch.equal(split.subset(mask).images, split.images[mask])
    before = split.images.clone()
    split.subset(range(len(split))).images.zero_()
    assert torch.equal(split.images, before)
    assert split.subset([1], name="one").name == "one"


@pytest.mark.parametrize("indices", [[], [20], [-1], [0.5], [[1]], torch.zeros(3, dtype=torch.bool)])
def test_subset_refuses_indices_that_do_not_fit(indices: object) -> None:
    """-1 read as "from the end", or a mask of the wrong length as indices 0 and 1."""
    with pytest.raises(ValueError, match=r"ind|mask"):
        make().subset(indices)


def test_per_class_takes_the_first_or_a_seeded_draw() -> None:
    """Unequal classes, another order, or a draw that depends on the global generator."""
    split = make()
    first = split.per_class(3)
    expected = sorted(i for k in range(3) for i in (split.labels == k).nonzero().flatten().tolist()[:3])
    assert places(first, split) == expected
    drawn = split.per_class(3, seed=1)
    torch.rand(5)
    assert drawn.fingerprint == split.per_class(3, seed=1).fingerprint
    assert drawn.fingerprint != first.fingerprint != split.per_class(3, seed=2).fingerprint
    assert drawn.counts().tolist() == [3, 3, 3]
    assert places(drawn, split) == sorted(places(drawn, split))
    for n in (0, 5):
        with pytest.raises(ValueError, match="at most 4, as many images as class 'b' has"):
            split.per_class(n)


def test_split_is_stratified_disjoint_and_complete() -> None:
    """An image in training and validation both, or a validation set without some class."""
    whole = make((20, 40, 60))
    rest, held_out = whole.split(0.1, seed=3)
    assert held_out.counts().tolist() == [2, 4, 6]
    assert rest.counts().tolist() == [18, 36, 54]
    assert sorted(places(rest, whole) + places(held_out, whole)) == list(range(120))
    assert places(held_out, whole) == sorted(places(held_out, whole))
    assert (rest.name, held_out.name) == ("made up (rest)", "made up (held out)")


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        ((5,) * 10, 0.1, [1] * 5 + [0] * 5),  # rounding each class by itself would hold out 0 or 10
        ((100, 100), 0.29, [29, 29]),  # 0.29 * 100 is 28.999999999999996
        ((7, 5), 0.5, [4, 2]),
        ((2, 1), 0.9, [2, 1]),
    ],
)
def test_split_rounds_to_the_right_total(counts: tuple, fraction: float, expected: list) -> None:
    """A total of 0 or 20 % where 10 % was asked for, because each class was rounded by itself."""
    whole = make(counts)
    if sum(expected) == len(whole):
        with pytest.raises(ValueError, match="leaves images in both parts"):
            whole.split(fraction)
    else:
        assert whole.split(fraction)[1].counts().tolist() == expected


def test_split_depends_on_its_seed_only() -> None:
    """Another validation set in every run, or a change of the training's random numbers by splitting."""
    whole = make((20, 20))
    state = torch.get_rng_state()
    one = whole.split(0.25, seed=0)[1].fingerprint
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert whole.split(0.25, seed=0)[1].fingerprint == one
    assert whole.split(0.25, seed=1)[1].fingerprint != one


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, 0.001, float("nan")])
def test_split_refuses_to_leave_a_part_empty(fraction: float) -> None:
    """A percentage given for a fraction, or an empty validation set and its 0/0."""
    with pytest.raises(ValueError, match="leaves images in both parts"):
        make().split(fraction)


def test_fingerprint_changes_with_content_only() -> None:
    """Two data sets that count as one, or one as two because it has another name."""
    split = make()
    same = Split(split.images.clone(), split.labels.clone(), split.classes, "another name")
    assert same.fingerprint == split.fingerprint
    images, labels = split.images.clone(), split.labels.clone()
    images[3, 1, 2, 2] ^= 1
    labels[[0, 1]] = (labels[[0, 1]] + 1) % 3
    changed = [
        Split(images, split.labels, split.classes, split.name),
        Split(split.images, labels, split.classes, split.name),
        Split(split.images, split.labels, ("a", "b", "d"), split.name),
        Split(split.images.reshape(20, 3, 4, 16), split.labels, split.classes, split.name),
    ]
    assert len({split.fingerprint, *(other.fingerprint for other in changed)}) == 5


@pytest.mark.gpu
def test_a_split_on_the_gpu_divides_as_on_the_cpu() -> None:
    """Another validation set on another device."""
    whole = make((20, 20))
    there = whole.to("cuda")
    assert there.images.is_cuda and there.labels.is_cuda
    for a, b in zip(whole.split(0.25), there.split(0.25), strict=True):
        assert b.images.is_cuda and a.fingerprint == b.fingerprint
    assert whole.per_class(3).fingerprint == there.per_class(3).fingerprint


# ---- the embedded sample and the full data set ----


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
    data._sample_arrays.cache_clear()
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
    monkeypatch.setattr(data.resources, "files", lambda package: tmp_path)
    data._sample_arrays.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"sample-test\.webp is .*reinstall"):
            load_sample()
    finally:
        data._sample_arrays.cache_clear()


def test_a_pillow_without_webp_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """An obscure decoder error where Pillow was built without WebP."""
    monkeypatch.setattr(data.features, "check", lambda name: False)
    data._sample_arrays.cache_clear()
    with pytest.raises(ValueError, match="WebP"):
        load_sample()


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """RESNET_TUTORIAL_DATA ignored, or a ~ in it taken for the name of a directory."""
    monkeypatch.setenv("RESNET_TUTORIAL_DATA", str(tmp_path))
    assert data.cache_dir() == tmp_path
    monkeypatch.setenv("RESNET_TUTORIAL_DATA", "~/x")
    assert data.cache_dir() == Path.home() / "x"
    monkeypatch.delenv("RESNET_TUTORIAL_DATA")
    monkeypatch.setattr(data.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert data.cache_dir() == tmp_path / "caches" / "resnet_tutorial"
    monkeypatch.setattr(data.sys, "platform", "darwin")
    assert data.cache_dir() == Path.home() / "Library" / "Caches" / "resnet_tutorial"


def test_full_data_missing_is_one_line_and_no_download(tmp_path, monkeypatch) -> None:
    """A download without being asked, or a stack of torchvision's errors."""
    monkeypatch.chdir(tmp_path)

    def refuse(*args: object) -> None:
        pytest.fail("a download was begun")

    monkeypatch.setattr(sources, "_download", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(FileNotFoundError, match=r"resnet-tutorial download.*download=True"):
        load_cifar10()
    with pytest.raises(FileNotFoundError, match=r"nowhere.* is not a directory"):
        load_cifar10(root=tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("where", ["root", "cache", "data"])
def test_full_data_is_found_in_each_place_and_keeps_its_channels(tmp_path, monkeypatch, where) -> None:
    """Data in ./data or the cache not found once `root` is given; red and blue exchanged."""
    images = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(30, dtype=np.uint8) % 10
    arrays = sources.Arrays(images[:20], labels[:20], images[20:], labels[20:])
    hashes = {name: sources.content_sha256(array) for name, array in arrays._asdict().items()}
    monkeypatch.setattr(sources, "CONTENT_SHA256", hashes)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESNET_TUTORIAL_DATA", str(tmp_path / "cache"))
    for name in ("root", "cache", "data"):
        (tmp_path / name).mkdir()
    sources.write_cache(tmp_path / where, arrays)
    train, test = load_cifar10(root=tmp_path / "root")
    assert (len(train), len(test), train.name, test.name) == (20, 10, "CIFAR-10 train", "CIFAR-10 test")
    assert torch.equal(train.images, torch.tensor(images[:20]).permute(0, 3, 1, 2))
    assert test.labels.tolist() == list(range(10)) and test.classes == CIFAR10_CLASSES


# ---- one's own pictures ----

RED, GREY = (200, 30, 40), (90, 90, 90)


def uniform(image: torch.Tensor) -> tuple[int, ...]:
    """The one colour of an image, within 2 of 255; fails if it has several."""
    assert int((image.int() - image[:, :1, :1].int()).abs().max()) <= 2
    return tuple(image[:, 0, 0].tolist())


def near(colour: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    return max(abs(a - b) for a, b in zip(colour, expected, strict=True)) <= 2


def picture(mode: str) -> Image.Image:
    """A picture of one colour in the given mode."""
    size = (50, 40)
    if mode == "P":
        return Image.new("RGB", size, RED).quantize(4)
    if mode in ("I;16", "I"):
        dtype = np.uint16 if mode == "I;16" else np.int32
        return Image.fromarray(np.full(size[::-1], 90 * 257, dtype))
    if mode == "CMYK":
        return Image.new("CMYK", size, (0, 255, 255, 0))
    colours = {"1": 1, "L": 90, "LA": (90, 255), "RGB": RED, "RGBA": (*RED, 255), "YCbCr": (90, 128, 128)}
    return Image.new(mode, size, colours[mode])


@pytest.mark.parametrize(
    ("mode", "suffix", "expected"),
    [
        ("RGB", "png", RED),
        ("RGB", "webp", RED),
        ("P", "png", RED),
        ("P", "gif", RED),
        ("L", "jpg", GREY),
        ("LA", "png", GREY),
        ("RGBA", "png", RED),
        ("1", "png", (255, 255, 255)),
        ("CMYK", "jpg", (255, 0, 0)),
        ("CMYK", "tif", (255, 0, 0)),
        ("I;16", "png", GREY),
        ("I;16", "tif", GREY),
        ("I", "tif", GREY),
    ],
)
def test_every_kind_of_picture_keeps_its_colour(tmp_path, mode, suffix, expected) -> None:
    """16-bit pictures all white, CMYK as a negative, palette indices taken for grey levels."""
    path = tmp_path / f"x.{suffix}"
    picture(mode).save(path, **({"quality": 95} if suffix in ("jpg", "webp") else {}))
    image = load_image(path)
    assert image.shape == (3, 32, 32) and image.dtype == torch.uint8 and image.is_contiguous()
    assert near(uniform(image), expected)


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path) -> None:
    """A ramp that saturates at 255 or keeps the low byte only."""
    ramp = (np.arange(32 * 32) * 64).astype(np.uint16).reshape(32, 32)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    assert torch.equal(load_image(tmp_path / "ramp.png")[0], torch.tensor(np.rint(ramp / 257)).byte())


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(tmp_path, mode) -> None:
    """Clear background turned black, or into whatever colour hides behind it."""
    if mode == "P":
        clear = Image.new("P", (40, 40), 0)
        clear.putpalette([0, 0, 0, 255, 0, 0])
        clear.save(tmp_path / "x.png", transparency=0)
    else:
        Image.new(mode, (40, 40), (0,) * len(mode)).save(tmp_path / "x.png")
    assert uniform(load_image(tmp_path / "x.png")) == (255, 255, 255)
    Image.new("RGBA", (40, 40), (0, 0, 0, 51)).save(tmp_path / "half.png")
    assert near(uniform(load_image(tmp_path / "half.png")), (204, 204, 204))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_cameras_orientation_is_applied(tmp_path, orientation) -> None:
    """Photographs that lie on their side."""
    upright = np.zeros((32, 32, 3), np.uint8)
    upright[:16, :, 0], upright[:, :16, 1] = 255, 255  # top red, left green: no symmetry
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright, 1),
        7: np.rot90(upright[:, ::-1], -1),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "x.png", exif=exif)
    assert torch.equal(load_image(tmp_path / "x.png"), torch.tensor(upright).permute(2, 0, 1))


def test_a_picture_of_the_right_size_is_not_touched(tmp_path) -> None:
    """CIFAR images blurred by a resize from 32 to 32, or moved by a crop of a larger one."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels[:, 8:40]).save(tmp_path / "square.png")
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    expected = torch.tensor(pixels[:, 8:40]).permute(2, 0, 1)
    assert torch.equal(load_image(tmp_path / "square.png"), expected)
    assert torch.equal(load_image(tmp_path / "wide.png"), expected)


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (20, 31), (640, 64)])
def test_resizing_agrees_with_torchvision(tmp_path, shape) -> None:
    """Stretched instead of cropped pictures, or aliasing: every tenth pixel taken."""
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = [127 + 120 * np.sin(rows / 17), 127 + 120 * np.cos(columns / 13), np.hypot(rows, columns) / 3]
    pictures = [np.stack(waves, axis=-1).astype(np.uint8)]
    if min(shape) > 100:  # noise shows aliasing; enlarged, it would show the shift by a fraction of a pixel
        pictures.append(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    resize = v2.Compose([v2.Resize(32, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(32)])
    for pixels in pictures:
        Image.fromarray(pixels).save(tmp_path / "x.png")
        reference = np.asarray(resize(Image.fromarray(pixels))).astype(int)
        difference = np.abs(load_image(tmp_path / "x.png").permute(1, 2, 0).numpy() - reference)
        assert difference[2:-2, 2:-2].mean() < 3  # at the edge of the crop they may differ more


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_size_that_makes_no_sense_is_refused(tmp_path, size) -> None:
    """An error from deep inside the image library."""
    with pytest.raises(ValueError, match="size="):
        load_image(tmp_path / "x.png", size=size)


def damaged_files(folder: Path) -> list[str]:
    """Four files that no decoder can read, and their names."""
    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 50).save(buffer, "JPEG")
    (folder / "cut.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    (folder / "text.png").write_text("this is not a picture")
    (folder / "empty.png").write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "float.tif")
    return ["cut.jpg", "empty.png", "float.tif", "text.png"]


def test_one_unreadable_photo_is_named(tmp_path) -> None:
    """A truncated photo half grey, or an error that does not say which file."""
    for name in damaged_files(tmp_path):
        with pytest.raises(ValueError, match=name) as caught:
            load_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        load_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="cannot read"):
        load_image(tmp_path)


def test_a_picture_with_impossible_dimensions_is_refused(tmp_path) -> None:
    """A few bytes that claim 40 gigapixels and take all memory."""
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "BMP")
    content = bytearray(buffer.getvalue())
    content[18:26] = struct.pack("<ii", 200_000, 200_000)
    (tmp_path / "bomb.bmp").write_bytes(content)
    with pytest.raises(ValueError, match=r"bomb\.bmp"):
        load_image(tmp_path / "bomb.bmp")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, "cat" and "dog", with pictures of different kinds and sizes."""
    path = tmp_path / "pets"
    for name, modes in {"dog": ["RGB", "CMYK"], "cat": ["RGBA", "L", "I;16"]}.items():
        (path / name).mkdir(parents=True)
        for i, mode in enumerate(modes):
            picture(mode).save(path / name / f"{i}.{'jpg' if mode == 'CMYK' else 'PNG'}")
    return path


def test_a_folder_is_read_in_sorted_order(folder) -> None:
    """Labels that depend on the file system's order, or hidden files taken for classes and pictures."""
    (folder / ".hidden").mkdir()
    (folder / "cat" / ".DS_Store").write_bytes(b"x")
    (folder / "dog" / "Thumbs.db").write_bytes(b"x")
    (folder / "readme.txt").write_text("beside the class folders")
    split = load_folder(folder, size=16)
    assert (split.classes, split.name) == (("cat", "dog"), "pets")
    assert split.labels.tolist() == [0, 0, 0, 1, 1]
    assert split.images.shape == (5, 3, 16, 16)
    files = ["cat/0.PNG", "cat/1.PNG", "cat/2.PNG", "dog/0.PNG", "dog/1.jpg"]
    assert torch.equal(split.images, torch.stack([load_image(folder / file, size=16) for file in files]))


def test_unreadable_pictures_are_all_named_or_skipped(folder) -> None:
    """The first bad file only, one by one; or files that vanish silently."""
    names = damaged_files(folder / "dog")
    with pytest.raises(ValueError, match=r"4 unreadable.*on_error='skip'") as caught:
        load_folder(folder)
    assert all(name in str(caught.value) for name in names) and "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match="skipped 4 unreadable") as warned:
        split = load_folder(folder, on_error="skip")
    assert all(name in str(warned[0].message) for name in names)
    assert split.labels.tolist() == [0, 0, 0, 1, 1]


def test_files_of_other_kinds_are_named(folder) -> None:
    """A phone's .heic pictures left out without a word."""
    (folder / "cat" / "photo.heic").write_bytes(b"x")
    (folder / "cat" / "more").mkdir()
    with pytest.warns(UserWarning, match=r"ignored.*more.*photo\.heic"):
        assert len(load_folder(folder)) == 5


def test_a_class_without_pictures_is_an_error(folder) -> None:
    """A class that the network can never predict; or "train" and "test" taken for two classes."""
    (folder / "bird").mkdir()
    with pytest.raises(ValueError, match=r"no readable picture in .*bird"):
        load_folder(folder)
    (folder / "bird" / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"no readable picture in .*bird.*text\.png"):
        load_folder(folder, on_error="skip")
    with pytest.raises(ValueError, match=r"no readable picture in .*pets.*found only .*cat"):
        load_folder(folder.parent)


def test_a_wrong_directory_is_one_line(tmp_path) -> None:
    """An error about stacking no tensors."""
    with pytest.raises(FileNotFoundError, match=r"nowhere.* is not a directory"):
        load_folder(tmp_path / "nowhere")
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="no class folders"):
        load_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="not a directory"):
        load_folder(tmp_path / "x.png")
    with pytest.raises(ValueError, match="use 'raise' or 'skip'"):
        load_folder(tmp_path, on_error="ignore")


def test_with_classes_keeps_the_right_images_and_numbers_them_anew():
    """Labels left as they were would point outside a smaller head, or at the wrong class."""
    train, _ = data.load_sample()
    part = train.with_classes(["truck", "cat"])
    assert part.classes == ("truck", "cat")
    assert part.counts().tolist() == [200, 200]
    assert torch.equal(part.images[part.labels == 0], train.images[train.labels == 9])
    assert torch.equal(part.images[part.labels == 1], train.images[train.labels == 3])
    with pytest.raises(ValueError, match="no class 'wolf'"):
        train.with_classes(["cat", "wolf"])
    with pytest.raises(ValueError, match="differ"):
        train.with_classes(["cat", "cat"])
