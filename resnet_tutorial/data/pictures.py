"""One picture as a file, of any kind that people have, to pixels; many of them on all cores."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from .preprocess import WHITE, Preprocess

HEIF_SUFFIXES = (".heic", ".heif")
RAW_SUFFIXES = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2")
# fmt: off
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
    ".jp2", ".avif", *HEIF_SUFFIXES, *RAW_SUFFIXES,
)
# fmt: on
# Their names in Pillow. With all kinds that it knows, it would run Ghostscript on an EPS that is called .png.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
LARGE = 1_000_000  # pixels of a picture that takes long to decode
HUGE = 25_000_000  # pixels of a picture that takes 100 to 500 MB; those of most cameras have fewer
ONE_BY_ONE = Lock()
AT_ONCE = 512  # pictures that are read ahead: 80 MB at 224 pixels


class Picture(NamedTuple):
    """What became of a file: pixels uint8 ``(size, size, 3)`` or an error; largest value of 16-bit grey."""

    pixels: np.ndarray | None
    error: str
    largest: int


def load_image(path: str | os.PathLike[str], *, size: int | Preprocess = 32) -> torch.Tensor:
    """Read one picture as uint8 ``(3, size, size)``: upright, RGB, cropped to the central square, resized.

    The orientation noted by the camera (EXIF) is applied; transparency is laid on white; palettes, grey,
    CMYK and 16-bit grey become 8-bit RGB. A number for ``size`` resizes the largest central square with
    antialiasing (bicubic), which equals bringing the shorter side to ``size`` and cropping the centre; a
    ``Preprocess`` says all of it. A JPEG of more than a megapixel is decoded at a half, a quarter or an
    eighth of its size if that leaves at least twice what is needed. Of an animation the first frame counts.
    A picture has at most 178 megapixels; of those that are decoded to more than 25 there is one at a time in
    memory, where it takes up to 3.5 GB.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a readable picture, or ``size`` is not in 1..4096.

    Example:
        >>> Image.new("RGB", (40, 30), "red").save("red.png")
        >>> load_image("red.png")[:, 0, 0]
        tensor([255,   0,   0], dtype=torch.uint8)
        >>> load_image("blue.png")
        Traceback (most recent call last):
        FileNotFoundError: there is no picture blue.png
    """
    how = size if isinstance(size, Preprocess) else Preprocess(size)
    picture = read_picture(Path(path), how)
    if picture.pixels is None:
        raise ValueError(picture.error)
    return torch.from_numpy(picture.pixels).permute(2, 0, 1).contiguous()  # (3, size, size)


def read_pictures(paths: Sequence[Path], how: Preprocess) -> Iterator[Picture]:
    """Read files on all cores, which the decoders allow, and give them in order; see ``load_image``."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        for start in range(0, len(paths), AT_ONCE):
            yield from pool.map(partial(read_picture, how=how), paths[start : start + AT_ONCE])
    finally:
        pool.shutdown(cancel_futures=True)


def read_picture(path: Path, how: Preprocess) -> Picture:
    """Read one file; only a missing one raises."""
    if not os.path.lexists(path):
        raise FileNotFoundError(f"there is no picture {path}")
    try:
        if not path.exists():
            raise ValueError("it is a link that leads nowhere")
        if not path.is_file():  # to open a pipe would be to wait for ever
            raise ValueError("it is not a regular file")
        if path.suffix.lower() in HEIF_SUFFIXES and not _knows_heif():
            raise ValueError("HEIC: export it as JPEG, or pip install pillow-heif")
        if path.suffix.lower() in RAW_SUFFIXES:
            raise ValueError("raw data of a camera: export it as JPEG")
        Image.init()
        with Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN]) as picture:
            width, height = picture.size
            pixels = width * height
            if pixels > LARGE:
                factor = 2 * how.resize / min(width, height)  # smaller, and the result would be another one
                picture.draft(None, (math.ceil(width * factor), math.ceil(height * factor)))  # of a JPEG only
                if not picture.info.get("progressive"):  # of those the decoder keeps all of it
                    pixels = math.prod(picture.size)
            with ONE_BY_ONE if pixels > HUGE else nullcontext():
                return _square(picture, how)
    except Exception as error:  # decoders raise whatever they like on a broken file
        return Picture(None, f"cannot read the picture {path}: {_reason(error)}", 0)


def _square(picture: Image.Image, how: Preprocess) -> Picture:
    """Decode an open picture and cut the square out of it."""
    picture.load()
    picture.getexif().get(ExifTags.Base.Orientation)  # raises where it cannot be known
    with suppress(Exception):  # of its other tags, which are written anew once the pixels are turned
        ImageOps.exif_transpose(picture, in_place=True)
    upright, largest = _as_rgb(picture, how.white)
    width, height = upright.size
    side = min(width, height) * how.size / how.resize
    left, top = (width - side) / 2, (height - side) / 2
    square = (how.size, how.size), how.resampling, (left, top, left + side, top + side)
    return Picture(np.array(upright.resize(*square)), "", largest)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is no picture of a known kind: save it as JPEG or PNG"
    if isinstance(error, Image.DecompressionBombError):
        count = int((re.findall(r"\d+", str(error)) or ["0"])[0])
        return f"it has {count / 1e6:.0f} megapixels: save a smaller copy, of at most 178"
    return str(error)


@lru_cache
def _knows_heif() -> bool:
    """Let Pillow read HEIC, if the package for it is there."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _as_rgb(picture: Image.Image, white: int) -> tuple[Image.Image, int]:
    """Convert any mode to 8-bit RGB, transparency on white; also return the largest value of 16-bit grey."""
    if picture.mode == "F":
        raise ValueError("its pixels are floats without a known range; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):  # 16-bit grey: I;16, or I in older versions of Pillow
        values = np.asarray(picture)
        if values.min() < 0 or values.max() > WHITE:
            raise ValueError("its pixels have more than 16 bits; save it with 8 or 16 bits")
        # Pillow's own conversion would clip at 255 and leave a white picture.
        shown = np.rint(np.arange(WHITE + 1).clip(max=white) * (255 / white)).astype(np.uint8)
        return Image.fromarray(shown[values]).convert("RGB"), int(values.max())
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        layer = _converted(picture, "RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"), 0
    return _converted(picture, "RGB"), 0


def _converted(picture: Image.Image, mode: str) -> Image.Image:
    return picture if picture.mode == mode else picture.convert(mode)  # else it would be copied
