"""Your own pictures: one file, or a directory with one folder a class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from .splits import Split

# fmt: off
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
    ".jp2", ".avif",
)
# fmt: on
LARGEST = 4096  # side of a square picture; 50 MB each
CLUTTER = ("thumbs.db", "desktop.ini")  # left in folders by Windows; not worth a warning


def load_image(path: str | os.PathLike[str], *, size: int = 32) -> torch.Tensor:
    """Read one picture as uint8 ``(3, size, size)``: upright, RGB, cropped to the central square, resized.

    The orientation noted by the camera (EXIF) is applied; transparency is laid on white; palettes, grey,
    CMYK and 16-bit grey become 8-bit RGB. The largest central square is resized with antialiasing
    (bicubic), which equals bringing the shorter side to ``size`` and cropping the centre. Of an animation the
    first frame counts.

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
    _check_size(size)
    return torch.from_numpy(_read(Path(path), size)).permute(2, 0, 1).contiguous()  # (3, size, size)


def _check_size(size: int) -> None:
    if not isinstance(size, int) or not 1 <= size <= LARGEST:
        raise ValueError(f"size={size!r}: give the side of the square in pixels, 1 to {LARGEST}")


def _read(path: Path, size: int) -> np.ndarray:
    """Read one picture as uint8 ``(size, size, 3)``; see ``load_image``."""
    if not path.exists():
        raise FileNotFoundError(f"there is no picture {path}")
    try:
        if not path.is_file():  # to open a pipe would be to wait for ever
            raise ValueError("it is not a regular file")
        with Image.open(path) as picture:
            upright = _as_rgb(ImageOps.exif_transpose(picture))
        return np.array(ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC))
    except Exception as error:  # decoders raise whatever they like on a broken file
        reason = "it is no picture that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"cannot read the picture {path}: {reason}") from error


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Convert any mode to 8-bit RGB, transparency on white."""
    if picture.mode == "F":
        raise ValueError("its pixels are floats without a known range; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):  # 16-bit grey: I;16, or I in older versions of Pillow
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its pixels have more than 16 bits; save it with 8 or 16 bits")
        # 257 takes 65535 to 255; Pillow's own conversion would clip at 255 and leave a white picture.
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if picture.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def load_folder(path: str | os.PathLike[str], *, size: int = 32, on_error: str = "raise") -> Split:
    """Read a directory that holds one folder a class, as a ``Split`` named after the directory.

    Classes and, within each, files are in sorted order of their names. Hidden files and folders are
    ignored; anything else that is no regular file, or no picture by its extension, is ignored with a
    warning. See ``load_image`` for what happens to each picture.

    Args:
        path: The directory.
        size: Side of the square images, in pixels.
        on_error: ``"raise"`` names all unreadable pictures in an error; ``"skip"`` leaves them out and warns.

    Raises:
        FileNotFoundError: If there is no such directory.
        ValueError: If it has no class folders, a class has no readable picture, a picture is unreadable and
            not to be skipped, or ``size`` is not in 1..4096; the message names the folders or files.

    Warns:
        UserWarning: If pictures were skipped, or other files were ignored; it names them.

    Example:
        >>> for name in ("cats", "dogs"):
        ...     Path("pets", name).mkdir(parents=True)
        ...     Image.new("RGB", (64, 48)).save(Path("pets", name, "1.png"))
        >>> pets = load_folder("pets", size=24)
        >>> pets, pets.classes
        (Split('pets', 2 images of 24x24, 2 classes), ('cats', 'dogs'))
    """
    path = Path(path)
    _check_size(size)
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r}: use 'raise' or 'skip'")
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is not a directory: name one that holds one folder of pictures for each class"
        )
    folders = [entry for entry in _visible(path) if entry.is_dir()]
    if not folders:
        raise ValueError(
            f"{path} has no class folders: put the pictures of each class into a folder of its own"
        )
    images, labels, other, unreadable = [], [], [], []
    for label, folder in enumerate(folders):
        for entry in _visible(folder):
            if entry.suffix.lower() not in IMAGE_SUFFIXES or not entry.is_file():
                other.append(str(entry))
                continue
            try:
                images.append(_read(entry, size))
                labels.append(label)
            except ValueError as error:
                unreadable.append(str(error))
    report = f"{len(unreadable)} unreadable in {path}: {_listed(unreadable)}"
    if unreadable and on_error == "raise":
        raise ValueError(f"{report}; repair or remove what is named, or skip it (on_error='skip')")
    if empty := [str(folder) for label, folder in enumerate(folders) if label not in labels]:
        found = f" (found only {_listed(unreadable + other)})" if unreadable or other else ""
        raise ValueError(
            f"no readable picture in {_listed(empty)}{found}: put some right into it, or remove it"
        )
    if unreadable:
        warnings.warn(f"skipped {report}", stacklevel=2)
    if other:
        warnings.warn(f"ignored, no pictures: {_listed(other)}", stacklevel=2)
    classes = tuple(folder.name for folder in folders)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)  # (N, 3, size, size), channels-last
    return Split(pixels, torch.tensor(labels), classes, path.resolve().name)


def _visible(folder: Path) -> list[Path]:
    """List the entries of a directory by name, without hidden ones and what Windows leaves behind."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and entry.name.lower() not in CLUTTER
    )


def _listed(names: Sequence[str], most: int = 20) -> str:
    """Join the first names, and say how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
