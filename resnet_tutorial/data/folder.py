"""Your own pictures: a directory with one folder a class."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from ..files import listed
from .pictures import IMAGE_SUFFIXES
from .preprocess import WHITE, Preprocess
from .sources import cache_dir
from .splits import Split
from .stored import decode

CLUTTER = ("thumbs.db", "desktop.ini")  # left in folders by Windows; not worth a warning
RESULTS = ("checkpoint.pt", "model.safetensors", "report.json")  # of train and of evaluate
PARTS = ("train", "val", "test")
PART_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


def load_folder(
    path: str | os.PathLike[str],
    *,
    size: int | Preprocess = 32,
    on_error: str = "raise",
    cache: bool = False,
) -> Split:
    """Read a directory that holds one folder a class, as a ``Split`` named after the directory.

    Classes and, within each, files are in sorted order of their names; those in subfolders of a class count
    too. Hidden files and folders are ignored; anything else that is no regular file, or no picture by its
    extension, is ignored with a warning. See ``load_image`` for what happens to each picture.

    Args:
        path: The directory.
        size: Side of the square images, in pixels, or all of their preprocessing.
        on_error: ``"raise"`` names all unreadable pictures in an error; ``"skip"`` leaves them out and warns.
        cache: Whether to keep the decoded images on disk, in the package's cache, and read them from there.

    Raises:
        FileNotFoundError: If there is no such directory.
        ValueError: If it has no class folders, a class has no readable picture, a picture is unreadable and
            not to be skipped, or ``size`` is not in 1..4096; the message names the folders or files.

    Warns:
        UserWarning: If pictures were skipped, other files were ignored, or pictures of 16 bits seem to have
            12; it names them.

    Example:
        >>> from PIL import Image
        >>> for name in ("cats", "dogs"):
        ...     Path("pets", name).mkdir(parents=True)
        ...     Image.new("RGB", (64, 48)).save(Path("pets", name, "1.png"))
        >>> pets = load_folder("pets", size=24)
        >>> pets, pets.classes, pets.files
        (Split('pets', 2 images of 24x24, 2 classes), ('cats', 'dogs'), ('cats/1.png', 'dogs/1.png'))
    """
    path = Path(path)
    how = size if isinstance(size, Preprocess) else Preprocess(size)
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error={on_error!r}: use 'raise' or 'skip'")
    if parts := part_folders(path):
        raise ValueError(
            f"{path} holds the parts {', '.join(parts)} of a data set: name one, such as {parts['train']}"
        )
    ours = [entry for entry in _visible(path) if _has_results(entry)]
    classes = [entry.name for entry in _visible(path) if entry.is_dir() and entry not in ours]
    if not classes:
        raise ValueError(
            f"{path} has no class folders: put the pictures of each class into a folder of its own"
        )
    files, labels, other = [], [], [str(entry) for entry in ours]
    for label, name in enumerate(classes):
        for entry in walk(path / name):
            if entry.suffix.lower() in IMAGE_SUFFIXES and entry.is_file():
                files.append(entry.relative_to(path).as_posix())
                labels.append(label)
            else:
                other.append(str(entry))
    done = decode(path, files, how, cache=cache_dir() / "photos" if cache else None)
    report = f"{len(done.errors)} unreadable in {path}: {listed(done.errors)}"
    if done.errors and on_error == "raise":
        raise ValueError(
            f"{report}; repair or remove what is named, or skip it (--skip-unreadable; on_error='skip')"
        )
    labels = [labels[k] for k in done.places]
    if empty := [str(path / name) for label, name in enumerate(classes) if label not in labels]:
        found = f" (found only {listed(done.errors + other)})" if done.errors or other else ""
        raise ValueError(
            f"no readable picture in {listed(empty)}{found}: put some right into it, or remove it"
        )
    if done.errors:
        warnings.warn(f"skipped {report}", stacklevel=2)
    if other:
        warnings.warn(f"ignored, no pictures: {listed(other)}", stacklevel=2)
    files = [files[k] for k in done.places]
    dark = [name for name, largest in zip(files, done.largest, strict=True) if 0 < largest <= 4095]
    if dark and how.white == WHITE:
        warnings.warn(
            f"16-bit pictures whose values have at most 12 bits will be nearly black: {listed(dark, 3)}; say"
            " what white is (--white 4095)",
            stacklevel=2,
        )
    images = cast(Tensor, done.images)  # a Stored takes a tensor's place
    return Split(images, torch.tensor(labels), tuple(classes), path.resolve().name, tuple(files))


def find_pictures(paths: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Return the pictures that files, folders with their subfolders, and patterns such as ``*.png`` name.

    Raises:
        FileNotFoundError: If there is no such file or folder, or nothing matches a pattern.
        ValueError: If a folder has no picture.

    Example:
        >>> from PIL import Image
        >>> Path("new").mkdir()
        >>> Image.new("RGB", (8, 8)).save("new/1.png")
        >>> [path.name for path in find_pictures(["new", "new/*.png"])]
        ['1.png', '1.png']
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = [entry for entry in walk(path) if entry.suffix.lower() in IMAGE_SUFFIXES]
            if not inside:
                raise ValueError(f"{path} has no picture: name a folder that has some")
            found += inside
        elif path.exists():
            found.append(path)
        else:  # not every shell expands patterns
            matches = sorted(map(Path, glob.glob(str(path)))) if glob.has_magic(str(path)) else []
            if not matches:
                raise FileNotFoundError(f"there is no picture {path}")
            found += matches
    return found


def part_folders(path: Path) -> dict[str, Path]:
    """Return the folders train, val and test of a directory that has nothing else; else nothing.

    Raises:
        FileNotFoundError: If there is no such directory.
    """
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} is not a directory: name one that holds one folder of pictures for each class"
        )
    folders = [entry for entry in _visible(path) if entry.is_dir() and not _has_results(entry)]
    parts = {PART_NAMES.get(entry.name.lower(), ""): entry for entry in folders}
    if "" in parts or "train" not in parts or not any(entry.is_dir() for entry in _visible(parts["train"])):
        return {}
    return {part: parts[part] for part in PARTS if part in parts}


def _has_results(folder: Path) -> bool:
    """Whether this is a folder of results, or of such folders, as ``runs`` is; pictures may be among them."""
    if not folder.is_dir():
        return False
    inside = [Path(entry.path) for entry in os.scandir(folder) if entry.is_dir()]
    return any((place / name).is_file() for place in (folder, *inside) for name in RESULTS)


def walk(folder: Path) -> Iterator[Path]:
    """Give all that is in a directory and its subfolders, by name; links to directories are not followed."""
    waiting = _visible(folder)[::-1]  # the next one is the last; Python's own stack ends at 1,000 folders
    while waiting:
        entry = waiting.pop()
        if entry.is_dir() and not entry.is_symlink():
            waiting += _visible(entry)[::-1]
        else:
            yield entry


def _visible(folder: Path) -> list[Path]:
    """List the entries of a directory by name, without hidden ones and what Windows leaves behind."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and entry.name.lower() not in CLUTTER
    )
