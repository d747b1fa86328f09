"""Photos as people have them: preprocessing, subfolders, the cache on disk, and parts that stay apart."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnet_tutorial import data
from resnet_tutorial.data import (
    IMAGENET,
    PartList,
    Preprocess,
    cache_dir,
    load_folder,
    load_image,
    load_parts,
)
from resnet_tutorial.data import pictures as pictures_module
from resnet_tutorial.data import stored as stored_module

RNG = np.random.default_rng(0)


def picture(path: Path, *, width: int = 40, height: int = 30, **how) -> None:
    """A smooth picture, another one at each call."""
    path.parent.mkdir(parents=True, exist_ok=True)
    few = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC).save(path, **how)


@pytest.fixture
def photos(tmp_path, monkeypatch) -> Path:
    """24 photos of cats and 6 of dogs; the cache is empty."""
    monkeypatch.setenv("RESNET_TUTORIAL_DATA", str(tmp_path / "cache"))
    for k in range(30):
        picture(tmp_path / "photos" / ("cat" if k % 5 else "dog") / f"{k:02}.png")
    return tmp_path / "photos"


def files(parts) -> dict[str, set[str]]:
    return {part: set(split.files) for part, split in parts.items()}


def test_the_view_is_that_of_torchvision(tmp_path):
    """A network sees another part of the photo than the one it was trained on, a little larger or smaller."""
    from torchvision.transforms import v2

    picture(tmp_path / "a.png", width=320, height=240)
    how = Preprocess(size=56, resize=60, interpolation="bilinear", normalize=IMAGENET)
    theirs = v2.Compose([v2.Resize(60), v2.CenterCrop(56)])(Image.open(tmp_path / "a.png"))
    difference = load_image(tmp_path / "a.png", size=how).permute(1, 2, 0).numpy() - np.asarray(theirs, float)
    assert np.abs(difference).mean() < 1


def test_a_large_jpeg_is_decoded_small(tmp_path, monkeypatch):
    """Half a second for each photo of a phone where a twentieth is enough; and the picture is the same."""
    picture(tmp_path / "a.jpg", width=1600, height=1200, quality=95)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "a.png")
    loaded = []
    original = pictures_module._as_rgb
    monkeypatch.setattr(pictures_module, "_as_rgb", lambda p, w: loaded.append(p.size) or original(p, w))
    small, whole = (load_image(tmp_path / name, size=128).float() for name in ("a.jpg", "a.png"))
    assert loaded == [(400, 300), (1600, 1200)]
    assert (small - whole).abs().mean() < 3


def test_preprocessing_is_stored_and_read_back():
    how = Preprocess(size=64, resize=72, interpolation="bilinear", white=4095, normalize=IMAGENET)
    metadata = {"mean": list(IMAGENET.mean), "std": list(IMAGENET.std), **how.stored()}
    assert Preprocess.from_stored(metadata) == how
    assert Preprocess.from_stored({}) == Preprocess()
    for bad in ({"size": 0}, {"size": 10**9}, {"size": "64"}, {"interpolation": "best"}, {"white": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}"):
            Preprocess.from_stored(bad)


def test_what_torchvision_says_of_its_weights():
    how = Preprocess.imagenet("resnet50")
    assert (how.size, how.resize, how.interpolation, how.normalize) == (224, 232, "bilinear", IMAGENET)
    with pytest.raises(ValueError, match="no ImageNet weights for 'resnet20'"):
        Preprocess.imagenet("resnet20")


def test_12_bits_in_16_are_noticed_and_can_be_said(photos):
    """Values of 0..4095 became 0..16: black pictures, without a word."""
    values = np.linspace(0, 4095, 32 * 32).reshape(32, 32).astype(np.uint16)
    Image.fromarray(values).save(photos / "cat" / "x-ray.png")
    with pytest.warns(UserWarning, match=r"nearly black: cat/x-ray\.png.*--white 4095"):
        load_folder(photos)
    split = load_folder(photos, size=Preprocess(32, white=4095))
    assert split.images[split.files.index("cat/x-ray.png")].max() == 255


@pytest.mark.parametrize(
    ("name", "words"),
    [("a.heic", "export it as JPEG, or pip install pillow-heif"), ("a.NEF", "export it as JPEG")],
)
def test_formats_of_phones_and_cameras_have_a_remedy(photos, name, words):
    """A folder from a phone had "no pictures by their names"."""
    (photos / "cat" / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=words):
        load_folder(photos)


def test_a_panorama_says_its_size(photos, monkeypatch):
    """ "Decompression bomb DOS attack" for a photo of one's own."""
    picture(photos / "dog" / "wide.png", width=400, height=100)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(ValueError, match=r"wide\.png: it has 0 megapixels: save a smaller copy"):
        load_folder(photos)


def test_pictures_in_subfolders_are_read(photos):
    """Sessions and patients were left out."""
    (photos / "cat" / "monday" / "roof").mkdir(parents=True)
    picture(photos / "cat" / "monday" / "roof" / "1.png")
    split = load_folder(photos)
    assert len(split) == 31 and "cat/monday/roof/1.png" in split.files


def test_parts_of_a_data_set_are_no_classes(photos):
    """A folder with train and val was read as two classes of pictures, or refused with the wrong advice."""
    parent = photos.parent / "set"
    shutil.copytree(photos, parent / "train")
    picture(parent / "val" / "dog" / "1.png")
    with pytest.raises(
        ValueError, match=r"holds the parts train, val of a data set: name one, such as .*train"
    ):
        load_folder(parent)


# The cache


def decoded(monkeypatch) -> list[str]:
    """The names of the pictures that are decoded from now on."""
    names: list[str] = []
    original = stored_module.read_pictures
    monkeypatch.setattr(
        stored_module,
        "read_pictures",
        lambda paths, how: names.extend(path.name for path in paths) or original(paths, how),
    )
    return names


def test_each_photo_is_decoded_once(photos, monkeypatch):
    """A minute of decoding at the start of every command; or a changed photo that nobody reads again."""
    plain = load_folder(photos)
    names = decoded(monkeypatch)
    first = load_folder(photos, cache=True)
    assert len(names) == 30
    again = load_folder(photos, cache=True)
    assert len(names) == 30
    for split in (first, again):
        assert torch.equal(split.images[:], plain.images) and split.hashes() == plain.hashes()
        assert torch.equal(split.labels, plain.labels) and split.files == plain.files

    del names[:]
    picture(photos / "cat" / "new.png")
    picture(photos / "dog" / "00.png", width=50)
    (photos / "cat" / "01.png").unlink()
    assert torch.equal(load_folder(photos, cache=True).images[:], load_folder(photos).images)
    assert sorted(names[:2]) == ["00.png", "new.png"]  # the rest are of the folder without a cache
    load_folder(photos, size=16, cache=True)
    assert len(names) == 2 + 30 + 30


def test_unreadable_photos_are_remembered_too(photos, monkeypatch):
    """One broken file, and all the others would be written again at each command."""
    (photos / "cat" / "broken.png").write_text("text")
    names = decoded(monkeypatch)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"broken\.png"):
            assert len(load_folder(photos, cache=True, on_error="skip")) == 30
    assert len(names) == 31


def test_a_split_on_disk_behaves_like_one_in_memory(photos):
    plain, stored = load_folder(photos), load_folder(photos, cache=True)
    for change in (
        lambda s: s.subset([5, 2, 9]),
        lambda s: s.split(0.3)[1],
        lambda s: s.with_classes(["dog"]),
        lambda s: s.labelled_as(("dog", "bird", "cat")).to("cpu"),
    ):
        a, b = change(plain), change(stored)
        assert torch.equal(a.images, b.images[:]) and torch.equal(a.labels, b.labels)
        assert (a.files, a.classes, a.hashes()) == (b.files, b.classes, b.hashes())
    assert stored.fingerprint == load_folder(photos, cache=True).fingerprint != plain.subset([0]).fingerprint
    assert torch.equal(data.take(stored.images, torch.tensor([3, 1])), plain.images[[3, 1]])


def test_the_map_in_use_stays_what_it_was(photos):
    """Another command that adds a photo must not move the pixels under a training's feet."""
    split = load_folder(photos, cache=True)
    before = split.images[:].clone()
    picture(photos / "cat" / "00a.png")
    load_folder(photos, cache=True)
    assert torch.equal(split.images[:], before)


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[:-3],
        lambda b: b[100:],
        lambda b: b"",
        lambda b: b[:-8] + b"x" * 8,
        lambda b: b.replace(b', 3, "', b', 4, "'),  # another photo's row, in a list that can be read
    ],
)
def test_a_damaged_cache_is_made_anew(photos, damage):
    expected = load_folder(photos).images
    load_folder(photos, cache=True)
    (path,) = (cache_dir() / "photos").iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert torch.equal(load_folder(photos, cache=True).images[:], expected)


def test_pixels_that_changed_in_the_cache_are_not_used(photos):
    """One bit of the disk, and the network learned from another picture than the report names."""
    load_folder(photos, cache=True)
    (path,) = (cache_dir() / "photos").iterdir()
    content = bytearray(path.read_bytes())
    content[32 * 32 * 3 + 7] ^= 1  # of the second photo
    path.write_bytes(content)
    images = load_folder(photos, cache=True).images
    assert images[2:].shape == (28, 3, 32, 32)
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{path.name} is damaged: delete it"):
            images[torch.tensor([0, 1])]
    path.unlink()
    assert torch.equal(load_folder(photos, cache=True).images[:], load_folder(photos).images)


def test_a_list_that_another_process_puts_there_meanwhile_is_no_error(photos, monkeypatch):
    """A KeyError where two commands begin at once, one of them before a photo was added."""
    load_folder(photos, cache=True)
    (path,) = (cache_dir() / "photos").iterdir()
    old, opened = path.read_bytes(), []
    picture(photos / "cat" / "new.png")
    original = stored_module._Index.open

    def interrupted(path: Path, side: int):
        opened.append(path.write_bytes(old))  # also after the list with the new photo was written
        return original(path, side)

    monkeypatch.setattr(stored_module._Index, "open", interrupted)
    assert torch.equal(load_folder(photos, cache=True).images[:], load_folder(photos).images)
    assert len(opened) == 2


def test_a_full_disk_leaves_the_photos_in_memory(photos, monkeypatch):
    """Nobody can train for want of a cache."""
    usage = shutil.disk_usage(photos)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.warns(UserWarning, match="decoded anew each time: .* 0 MB free"):
        split = load_folder(photos, cache=True)
    assert isinstance(split.images, torch.Tensor) and len(split) == 30
    assert not (cache_dir() / "photos").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written_is_no_error(photos):
    cache_dir().mkdir()
    cache_dir().chmod(0o500)
    with pytest.warns(UserWarning, match="decoded anew"):
        load_folder(photos, cache=True)


# Parts


def test_parts_are_apart_and_the_same_again(photos):
    """The network was measured on the photos it was trained on."""
    parts = load_parts(photos, seed=1)
    assert {part: len(split) for part, split in parts.items()} == {"train": 21, "val": 3, "test": 6}
    assert sum(len(names) for names in files(parts).values()) == len(set.union(*files(parts).values())) == 30
    assert all(split.counts().min() >= 1 for split in parts.values())
    assert files(load_parts(photos, seed=1)) == files(parts) != files(load_parts(photos, seed=2))
    assert list(load_parts(photos, val=0, test=0)) == ["train"]


def test_the_only_picture_of_a_class_is_for_training(photos):
    """A class in the test part that the network has never seen."""
    picture(photos / "newt" / "1.png")
    for k in range(2):
        picture(photos / "owl" / f"{k}.png")
    counts = {part: split.counts().tolist()[2:] for part, split in load_parts(photos).items()}
    assert counts == {"train": [1, 1], "val": [0, 0], "test": [0, 1]}


def test_copies_stay_in_one_part(photos):
    """A copy under another name in the test part makes the result too good."""
    for k in range(12):
        shutil.copy(photos / "cat" / "01.png", photos / "cat" / f"copy{k}.png")
    for seed in range(3):
        parts = load_parts(photos, seed=seed)
        assert sum(any("copy" in name for name in split.files) for split in parts.values()) == 1


def test_equal_pictures_in_two_classes_are_named(photos):
    shutil.copy(photos / "cat" / "01.png", photos / "dog" / "same.png")
    with pytest.warns(UserWarning, match=r"equal pictures .*cat/01\.png = dog/same\.png"):
        load_parts(photos)


def test_subfolders_stay_together(tmp_path):
    """Photos of one patient in training and test: the network knows the patient, not the illness."""
    for k in range(40):
        picture(tmp_path / "p" / ("ill" if k % 2 else "well") / f"patient{k // 4}" / f"{k}.png")
    for seed in range(3):
        parts = load_parts(tmp_path / "p", seed=seed, group_by_subfolder=True)
        patients = [{name.split("/")[1] for name in names} for names in files(parts).values()]
        assert len(patients) == 3 and sum(map(len, patients)) == len(set.union(*patients)) == 10
        assert parts["train"].counts().min() > 0
        assert files(load_parts(tmp_path / "p", seed=seed, group_by_subfolder=True)) == files(parts)
    shutil.move(tmp_path / "p", tmp_path / "few")
    for k in range(1, 10):
        shutil.rmtree(tmp_path / "few" / "ill" / f"patient{k}")
        shutil.rmtree(tmp_path / "few" / "well" / f"patient{k}")
    with pytest.raises(ValueError, match="the subfolders cannot be divided"):
        load_parts(tmp_path / "few", group_by_subfolder=True)


def test_folders_of_parts_are_taken_as_they_are(photos):
    """One's own validation folder was a class, or could not be given at all."""
    parent = photos.parent / "set"
    shutil.copytree(photos, parent / "train")
    for k in range(3):
        picture(parent / "Validation" / "dog" / f"v{k}.png")
    parts = load_parts(parent)
    assert files(parts)["val"] == {f"Validation/dog/v{k}.png" for k in range(3)}
    assert parts["val"].classes == ("cat", "dog") and parts["val"].counts().tolist() == [0, 3]
    assert len(parts["test"]) == 6 and all(name.startswith("train/") for name in parts["test"].files)
    shutil.copy(parent / "train" / "dog" / "00.png", parent / "Validation" / "dog" / "v9.png")
    with pytest.warns(UserWarning, match=r"equal pictures .*train/dog/00\.png = Validation/dog/v9\.png"):
        load_parts(parent, test=0)
    picture(parent / "Validation" / "owl" / "1.png")
    with pytest.raises(ValueError, match=r"has the class owl, which .*train lacks"):
        load_parts(parent)


def test_a_list_of_parts_is_read_back_and_kept(photos, tmp_path):
    """A second run, with another seed and new photos, would test on what the first one learned."""
    parts = load_parts(photos, seed=1)
    PartList.of(photos, parts).save(tmp_path / "parts.csv")
    known = PartList.read(tmp_path / "parts.csv")
    assert [entry.file for entry in known.entries] == [
        name for split in parts.values() for name in split.files
    ]
    test = known.load("test")
    assert test.files == parts["test"].files and torch.equal(test.images, parts["test"].images)
    assert known.learned(test) == [] and len(known.learned(load_folder(photos))) == 21
    for k in range(10):
        picture(photos / "cat" / f"new{k}.png")
    later = load_parts(photos, seed=2, earlier=known)
    for part, names in files(parts).items():
        assert names <= files(later)[part]
    assert sum(map(len, later.values())) == 40
    assert PartList.read(tmp_path / "none.csv") is None
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is no list of photos"):
        PartList.read(tmp_path / "other.csv")


def test_photos_that_are_gone_are_named(photos, tmp_path):
    known = PartList.of(photos, load_parts(photos))
    gone = min(entry.file for entry in known.entries if entry.part == "test")
    (photos / gone).unlink()
    with pytest.warns(UserWarning, match=gone):
        assert len(known.load("test")) == 5
    with pytest.raises(ValueError, match="no photo was kept for test"):
        PartList.of(photos, load_parts(photos, test=0)).load("test")


def test_bad_parts_are_one_line(photos):
    with pytest.raises(ValueError, match="test share 2: give a share"):
        load_parts(photos, test=2)
    shutil.rmtree(photos / "dog")
    with pytest.raises(ValueError, match="has one class, cat: give a directory"):
        load_parts(photos)


@pytest.mark.parametrize("name", ["runs/photos/model.safetensors", "runs/a/checkpoint.pt", "out/report.json"])
def test_results_among_the_photos_are_no_class(photos, name):
    """`cd photos; train --data .` worked once: then `runs` was a class, or a report's figures became one."""
    before = load_folder(photos)
    path = photos / name
    path.parent.mkdir(parents=True)
    path.touch()
    Image.new("RGB", (8, 8)).save(path.with_name("roc.png"))
    with pytest.warns(UserWarning, match=f"ignored, no pictures: .*{path.relative_to(photos).parts[0]}"):
        after = load_folder(photos)
    assert (after.classes, after.files) == (before.classes, before.files)


def test_results_beside_the_parts_of_a_data_set_are_no_class(photos):
    """With `runs` beside them `train` and `val` were two classes."""
    whole = photos.parent / "set"
    whole.mkdir()
    photos.rename(whole / "train")
    for name in ("cat", "dog"):
        picture(whole / "val" / name / "1.png")
    (whole / "runs" / "one").mkdir(parents=True)
    (whole / "runs" / "one" / "checkpoint.pt").touch()
    parts = load_parts(whole, test=0)
    assert set(parts) == {"train", "val"} and parts["train"].classes == ("cat", "dog")
