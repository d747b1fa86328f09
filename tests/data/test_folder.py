"""Pictures of every kind, one by one and from folders."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from resnet_tutorial.data import Preprocess, find_pictures, load_folder, load_image, load_parts

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


def test_a_picture_may_have_the_suffix_of_another_kind(tmp_path) -> None:
    """Photos that were renamed, or that a camera wrote with a second one inside (MPO), refused."""
    kinds = {"MPO": "jpg", "JPEG": "png", "WEBP": "jpg", "PNG": "bmp", "TIFF": "gif", "JPEG2000": "tif"}
    for kind, suffix in kinds.items():
        more = {"save_all": True, "append_images": [picture("RGB")]} if kind == "MPO" else {}
        picture("RGB").save(tmp_path / f"x.{suffix}", kind, **more)
        with Image.open(tmp_path / f"x.{suffix}") as opened:
            assert opened.format == kind
        assert near(uniform(load_image(tmp_path / f"x.{suffix}")), RED)


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


def test_an_odd_tag_beside_the_orientation_is_no_reason_to_refuse_a_photo(tmp_path) -> None:
    """ "argument out of range", of a number that nobody asked for."""
    tags = struct.pack("<HHIi", 0x0100, 9, 1, -5) + struct.pack("<HHII", 0x0112, 3, 1, 6)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + bytes(4)
    picture = Image.new("RGB", (32, 32), "red")
    picture.paste("blue", (0, 0, 16, 32))  # the left half: at the top, once it is turned
    picture.save(tmp_path / "x.jpg", exif=exif, quality=95)
    red, _, blue = load_image(tmp_path / "x.jpg")
    assert blue[:14].min() > 200 > 50 > red[:14].max() and red[18:].min() > 200


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


@pytest.mark.parametrize("size", [0, -1, 2.5, 4097, 10**5])
def test_a_size_that_makes_no_sense_is_refused(folder, size) -> None:
    """An error from deep inside the image library, one a picture, or 30 GB for a single picture."""
    for call in (load_image, load_folder):
        with pytest.raises(ValueError, match=r"^size=.*1 to 4096$"):
            call(folder, size=size)


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


PROGRAM = """
import os, re, sys
os.cpu_count = lambda: 4
from pathlib import Path
from resnet_tutorial.data import Preprocess, pictures
def peak():
    return int(re.findall("VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[0])
before = peak()
assert not any(p.error for p in pictures.read_pictures([Path(sys.argv[1])] * 4, Preprocess()))
print((peak() - before) // 1000)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says the most memory a process ever had")
@pytest.mark.parametrize(
    ("mode", "name", "how"),
    [("RGB", "x.png", {}), ("RGB", "x.jpg", {"progressive": True, "subsampling": 0}), ("I;16", "x.png", {})],
)
def test_huge_pictures_are_decoded_one_at_a_time(tmp_path, mode, name, how) -> None:
    """Files of less than a megabyte, each of gigabytes once it is decoded, times the number of cores."""
    Image.new(mode, (5200, 5200), 200).save(tmp_path / name, **how)  # 0.11 GB as RGB
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / name], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 450  # MB


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
    assert split.images.is_contiguous(memory_format=torch.channels_last)
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
    """A video among the pictures left out without a word."""
    (folder / "cat" / "more").mkdir()
    (folder / "cat" / "more" / "film.mov").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"ignored, no pictures: .*film\.mov"):
        assert len(load_folder(folder)) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes among files")
def test_a_pipe_among_the_pictures_does_not_hang(folder) -> None:
    """Waiting for ever for somebody to write into a pipe that is called a picture."""
    os.mkfifo(folder / "cat" / "pipe.png")
    (folder / "dog" / "link.png").symlink_to(folder / "cat" / "pipe.png")
    with pytest.warns(UserWarning, match=r"ignored, no pictures: .*pipe\.png.*link\.png"):
        assert len(load_folder(folder)) == 5
    with pytest.raises(ValueError, match=r"pipe\.png: it is not a regular file"):
        load_image(folder / "cat" / "pipe.png")


def test_a_class_without_pictures_is_an_error(folder) -> None:
    """A class that the network can never predict; or "train" and "test" taken for two classes."""
    (folder / "bird").mkdir()
    with pytest.raises(ValueError, match=r"no readable picture in .*bird"):
        load_folder(folder)
    (folder / "bird" / "text.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"no readable picture in .*bird.*text\.png"):
        load_folder(folder, on_error="skip")
    with pytest.raises(ValueError, match="one class, pets"):
        (folder / "bird" / "text.png").unlink()
        load_parts(folder.parent)


def test_pictures_are_found_by_file_folder_and_pattern(folder, tmp_path, monkeypatch) -> None:
    """A pattern that no shell expanded, or a folder whose subfolders are left out."""
    monkeypatch.chdir(tmp_path)
    everything = find_pictures([folder])
    assert everything == sorted(folder.glob("*/*")) and len(everything) == 5
    assert find_pictures([str(everything[1]), everything[0]]) == [everything[1], everything[0]]
    assert find_pictures([f"{folder}/*/*.P?G"]) == everything[:4]
    for missing in ("absent.png", "absent*.png"):
        with pytest.raises(FileNotFoundError, match=rf"^there is no picture {re.escape(missing)}$"):
            find_pictures([missing])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"^empty has no picture: name a folder that has some$"):
        find_pictures(["empty"])


def test_folders_may_be_nested_deeply(folder, tmp_path) -> None:
    """A RecursionError; and the order is still by name, folder by folder."""
    (folder / "cat" / "0.PNG").rename(folder / "cat" / "z.PNG")
    below = deepest = folder / "cat" / "a"
    for _ in range(1000):
        deepest = deepest / "d"
    os.makedirs(below)
    made = [path for path in (*reversed(deepest.parents), deepest) if below in path.parents]
    try:
        for path in made:
            path.mkdir()
        picture("RGB").save(deepest / "9.png")
        (below / "link").symlink_to(folder, target_is_directory=True)  # not followed
        found = [path.relative_to(folder).as_posix() for path in find_pictures([folder])]
        assert found[0] == "cat/1.PNG" and found[2] == f"{deepest.relative_to(folder).as_posix()}/9.png"
        assert found[3:] == ["cat/z.PNG", "dog/0.PNG", "dog/1.jpg"]
        with pytest.warns(UserWarning, match="ignored, no pictures: .*link"):
            assert len(load_folder(folder)) == 6
    finally:  # what tidies up after tests does it by recursion
        (deepest / "9.png").unlink(missing_ok=True)
        for path in reversed(made):
            path.rmdir()


def test_preprocessing_has_bounds() -> None:
    """A white of zero divides by it; a side of a million pixels takes all memory."""
    assert Preprocess(white=1).white == 1 and Preprocess(white=65535, size=1, resize=4096).resize == 4096
    for wrong in (
        {"white": 0},
        {"white": 65536},
        {"white": 1.0},
        {"size": 0},
        {"size": 4097},
        {"resize": 31},
    ):
        (name, value), *_ = wrong.items()
        with pytest.raises(ValueError, match=rf"^{name}={value}: give"):
            Preprocess(**wrong)


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
