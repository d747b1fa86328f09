"""Photos for training, validation and test: divided once, written down, and told apart by their pixels."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from ..files import atomic, listed
from .folder import PARTS, load_folder, part_folders
from .preprocess import Preprocess
from .splits import Split

COLUMNS = ("part", "class", "file", "pixels")


class Entry(NamedTuple):
    """A line of the list: part and class of a picture, its file below the folder, its pixels' hash."""

    part: str
    label: str
    file: str
    pixels: str


@dataclass(frozen=True)
class PartList:
    """Which photos of a folder are for training, validation and test; as CSV it lies beside the weights.

    Attributes:
        folder: Of the photos.
        entries: One a photo.

    Example:
        >>> import torch
        >>> images, labels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1])
        >>> pets = Split(images, labels, ("cat", "dog"), "pets", ("cat/1.png", "dog/2.png"))
        >>> PartList.of("pets", {"train": pets}).save("parts.csv")
        >>> [(entry.part, entry.file) for entry in PartList.read("parts.csv").entries]
        [('train', 'cat/1.png'), ('train', 'dog/2.png')]
    """

    folder: Path
    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, folder: str | Path, parts: Mapping[str, Split]) -> PartList:
        """List the photos of parts that ``load_parts`` read from a folder."""
        entries = []
        for part, split in parts.items():
            names = [split.classes[label] for label in split.labels.tolist()]
            entries += [Entry(part, *row) for row in zip(names, split.files, split.hashes(), strict=True)]
        return cls(Path(os.path.realpath(folder)), tuple(entries))

    @classmethod
    def read(cls, path: str | Path) -> PartList | None:
        """Read what ``save`` wrote; ``None`` if there is no such file.

        Raises:
            ValueError: If it is another file.
        """
        if not Path(path).exists():
            return None
        if not Path(path).is_file():  # to open a pipe would be to wait for ever
            raise ValueError(f"{path} is no list of photos but no regular file: remove it")
        expected = f"each line must have {len(COLUMNS)} parts, the first {','.join(COLUMNS)}"
        rows: list[list[str]] = []
        try:
            with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
                for row in csv.reader(file):
                    if len(row) != len(COLUMNS) or (not rows and tuple(row) != COLUMNS):
                        raise ValueError(f"{path} is no list of photos: {expected}")
                    rows.append(row)
        except csv.Error as error:
            raise ValueError(f"{path} is no list of photos: {error}") from None
        if len(rows) < 2:
            raise ValueError(f"{path} is no list of photos: {expected}")
        return cls(Path(rows[1][2]), tuple(Entry(*row) for row in rows[2:]))

    def save(self, path: str | Path) -> None:
        """Write it as CSV; the first line after the head names the folder."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [COLUMNS, ("folder", "", str(self.folder), ""), *self.entries]
        )
        with atomic(path) as file:
            file.write(text.getvalue().encode(errors="surrogateescape"))

    def load(self, part: str, **how: Any) -> Split:
        """Read the photos of one part; options are those of ``load_folder``.

        Raises:
            FileNotFoundError: If the folder is gone.
            ValueError: If the part has no photo, or none is there any more.

        Warns:
            UserWarning: If some are no longer there.
        """
        wanted = {entry.file for entry in self.entries if entry.part == part}
        if not wanted:
            raise ValueError(f"no photo was kept for {part}: name a folder of others (--data)")
        folders = part_folders(self.folder)
        first = min(wanted).split("/")[0]  # all photos of a part are below one folder
        below = first if any(folder.name == first for folder in folders.values()) else ""
        split = load_folder(self.folder / below, **how)
        split = replace(split, files=tuple(f"{below}/{name}".lstrip("/") for name in split.files))
        found = [k for k, name in enumerate(split.files) if name in wanted]
        if len(found) < len(wanted):
            gone = sorted(wanted - set(split.files))
            if not found:
                raise ValueError(f"the {len(wanted)} photos for {part} are no longer in {self.folder}")
            warnings.warn(f"no longer there: {listed(gone, 5)}", stacklevel=2)
        return split.subset(found, name=f"{self.folder.name} ({part})")

    def learned(self, split: Split) -> list[int]:
        """Return which images of a split have the pixels of a training photo."""
        known = {entry.pixels for entry in self.entries if entry.part == "train"}
        return [k for k, one in enumerate(split.hashes()) if one in known]


def load_parts(
    path: str | os.PathLike[str],
    *,
    size: int | Preprocess = 32,
    val: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    group_by_subfolder: bool = False,
    earlier: PartList | None = None,
    on_error: str = "raise",
    cache: bool = False,
) -> dict[str, Split]:
    """Read a folder of photos as ``{"train": ..., "val": ..., "test": ...}``, each part with other photos.

    Folders ``train``, ``val`` and ``test`` are taken as what they are; what is missing of them is drawn at
    random from the training photos, in each class its share, but never a class's only picture. Copies of one
    picture stay together in such a draw.

    Args:
        path: The directory: one folder a class, or ``train``, ``val`` and ``test`` with such folders.
        size: As for ``load_folder``.
        val: Share of validation photos, 0 for none.
        test: Share of test photos, 0 for none.
        seed: Of the draw.
        group_by_subfolder: Keep the photos of a class's subfolder (a session, a patient) in one part;
            subfolders of one name in two classes count as one.
        earlier: The list of an earlier run, whose photos keep their part.
        on_error: As for ``load_folder``.
        cache: As for ``load_folder``.

    Raises:
        FileNotFoundError: If there is no such directory.
        ValueError: If there are fewer than two classes, the shares leave no photo for training, or a group
            cannot be kept together; else as ``load_folder``.

    Warns:
        UserWarning: If pictures of equal pixels were found; it names them.

    Example:
        >>> from PIL import Image
        >>> for k in range(20):
        ...     folder = Path("animals", ("cat", "dog")[k % 2])
        ...     folder.mkdir(parents=True, exist_ok=True)
        ...     Image.new("RGB", (8, 8), (k, 0, 0)).save(folder / f"{k}.png")
        >>> {part: len(split) for part, split in load_parts("animals", size=8).items()}
        {'train': 14, 'val': 2, 'test': 4}
    """
    path = Path(path)
    for name, share in (("val", val), ("test", test)):
        if not 0 <= share < 1:
            raise ValueError(f"{name} share {share}: give a share of the photos, at least 0 and below 1")
    folders = part_folders(path) or {"train": path}
    parts = {}
    for part, folder in folders.items():
        split = load_folder(folder, size=size, on_error=on_error, cache=cache)
        below = "" if folder == path else f"{folder.name}/"
        parts[part] = replace(split, files=tuple(below + name for name in split.files))
    whole, classes = parts["train"], parts["train"].classes
    if len(classes) < 2:
        folder = folders["train"]
        raise ValueError(
            f"{folder} has one class, {classes[0]}: give a directory with a folder for each class"
        )
    for part, split in parts.items():
        if unknown := set(split.classes) - set(classes):
            raise ValueError(f"{folders[part]} has the class {min(unknown)}, which {folders['train']} lacks")
        parts[part] = split.labelled_as(classes)
    shares = {name: share for name, share in (("test", test), ("val", val)) if share and name not in parts}
    groups = None
    if group_by_subfolder:  # (train/)class/subfolder/.../file; a file beside the subfolders is alone
        words = [name.split("/")[folders["train"] != path :] for name in whole.files]
        groups = np.array([name[1] if len(name) > 2 else "/".join(name) for name in words])
    places = np.full(len(whole), "train", dtype=object)
    for part, share in shares.items():
        _draw(whole, groups, places, part, share, seed)
    before = {entry.pixels: entry.part for entry in (earlier.entries if earlier else ())}
    wanted = [before.get(one, place) for one, place in zip(whole.hashes(), places, strict=True)]
    learned = {one for one, place in zip(whole.hashes(), wanted, strict=True) if place == "train"}
    for k, one in enumerate(whole.hashes()):
        places[k] = "train" if one in learned else wanted[k]
    for part in ("train", *shares):
        if (chosen := np.flatnonzero(places == part)).size:
            parts[part] = whole.subset(chosen, name=f"{path.resolve().name} ({part})")
    parts = {part: parts[part] for part in PARTS if part in parts}
    _name_copies(parts)
    return parts


def _draw(
    split: Split, groups: np.ndarray | None, places: np.ndarray, part: str, share: float, seed: int
) -> None:
    """Give a share of all photos, of those that are for training still, to another part."""
    labels, left = split.labels.numpy(), np.flatnonzero(places == "train")
    if groups is not None:
        places[_whole_groups(labels, groups, left, share * len(split) / len(left), seed)] = part
        return
    generator, copies = np.random.default_rng([seed, PARTS.index(part)]), np.array(split.hashes())
    for k in range(len(split.classes)):
        total = len(np.unique(copies[labels == k]))
        units = generator.permutation(np.unique(copies[left][labels[left] == k]))
        taken = units[: min(max(1, round(share * total)), len(units) - 1)]
        places[np.isin(copies, taken) & (places == "train")] = part


def _whole_groups(
    labels: np.ndarray, groups: np.ndarray, left: np.ndarray, share: float, seed: int
) -> np.ndarray:
    """Choose about a share of the photos ``left``, whole groups, such that every class keeps some."""
    folds = min(max(2, round(1 / share)), len(np.unique(groups[left])))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of classes with fewer photos than folds
            cut = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
            for rest, chosen in cut.split(left, labels[left], groups[left]):
                if len(np.unique(labels[left][rest])) == len(np.unique(labels)):
                    return np.asarray(left[chosen])
    except ValueError:  # fewer groups than two
        pass
    raise ValueError("the subfolders cannot be divided: each class needs photos in several of them")


def _name_copies(parts: Mapping[str, Split]) -> None:
    """Warn of pictures that are in two parts, or in two classes."""
    places: dict[str, list[tuple[str, int, str]]] = {}
    for part, split in parts.items():
        for one, label, name in zip(split.hashes(), split.labels.tolist(), split.files, strict=True):
            places.setdefault(one, []).append((part, label, name))
    doubtful = [
        " = ".join(name for *_, name in same)
        for same in places.values()
        if len({part for part, *_ in same}) > 1 or len({label for _, label, _ in same}) > 1
    ]
    if doubtful:
        warnings.warn(
            f"equal pictures in two parts or classes, of which one should go: {listed(doubtful, 5)}",
            stacklevel=3,
        )
