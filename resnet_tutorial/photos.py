"""What the commands share: a network with its preprocessing, and photos that it has not seen."""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import data, models
from .data import PartList, Preprocess, Split, load_folder
from .files import atomic, listed

# fmt: off
__all__ = [
    "CIFAR_DATA", "LIST", "Network", "cifar_images", "label_as", "only_classes", "open_network",
    "unseen_photos", "what_is_there", "write_table",
]
# fmt: on

CIFAR_DATA = ("sample", "cifar10")  # names that stand for no folder
LIST = "parts.csv"  # beside the weights
FORMULA = re.compile(r"\A[=+\-@\t\r].", re.DOTALL)  # a class may be called "+"


@dataclass(frozen=True)
class Network:
    """A trained network with all that its file says.

    Attributes:
        model: In eval mode, on the CPU.
        metadata: Of the file; empty for files of others.
        how: The preprocessing that it was trained with.
        known: Which photos it was trained on, if it was trained on a folder.

    Example:
        >>> network = Network(models.resnet20(), {"temperature": 1.5}, Preprocess(), None)
        >>> network.temperature
        1.5
    """

    model: models.ResNet
    metadata: dict[str, Any]
    how: Preprocess
    known: PartList | None

    @property
    def classes(self) -> list[str]:
        """The class names.

        Raises:
            ValueError: If the file has none.
        """
        if "classes" not in self.metadata:
            raise ValueError("these weights have no class names: give a file that train or finetune wrote")
        return list(self.metadata["classes"])

    @property
    def temperature(self) -> float:
        """What its logits are divided by, 1 if nothing was fitted."""
        return float(self.metadata.get("temperature", 1.0))


def open_network(
    weights: str, *, name: str | None = None, size: int | None = None, white: int | None = None
) -> Network:
    """Read a network: one that comes with the package, ``imagenet``, or a file, also of others.

    Args:
        weights: ``cifar10``, ``animals``, ``imagenet`` (fetched once) or a file.
        name: The network, such as ``resnet18``; needed for files of others, refused if the file has another.
        size: Side of its images in pixels, instead of what the file says.
        white: Value of white in pictures of 16 bits, likewise.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or of another network.

    Warns:
        UserWarning: If the file does not say for which images it is; the warning says what is assumed.

    Example:
        >>> network = open_network("animals")
        >>> network.how.size, network.classes[:2], network.temperature
        (32, ['bird', 'cat'], 1.0)
    """
    path = Path(weights)
    if weights == "imagenet":
        name = name or "resnet18"
        path = models.imagenet_weights(name)
    elif not path.suffix:
        path = models.shipped("resnet20", weights)
    model, metadata = models.load_model(path, name=name)
    if (channels := model.config["in_channels"]) != 3:
        raise ValueError(f"{path} takes pictures of {channels} channels: give a network for colour pictures")
    if "config" in metadata:
        try:
            how = Preprocess.from_stored(metadata)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if "size" not in metadata and size is None and path == Path(weights):
            warnings.warn(
                f"{path} does not say at which size it was trained: 32 pixels assumed", stacklevel=2
            )
    else:
        large = model.config["stem"] == "imagenet"
        how = Preprocess.imagenet(str(name)) if large else Preprocess()
        if weights != "imagenet":
            told = f"{how.size} pixels out of {how.resize}, normalised as torchvision's weights are"
            warnings.warn(f"{path} does not say for which images it is: {told}", stacklevel=2)
    temperature = metadata.get("temperature", 1.0)
    if type(temperature) not in (int, float) or not 1e-6 < temperature < 1e6:
        raise ValueError(f"{path}: temperature must be a number above 0: {temperature!r:.60}")
    if size is not None:
        how = replace(how, size=size, resize=round(size * how.resize / how.size))
    if white is not None:
        how = replace(how, white=white)
    return Network(model, metadata, how, PartList.read(path.with_name(LIST)))


def unseen_photos(
    network: Network, folder: str | None, *, part: str, allow_seen: bool, **how: Any
) -> tuple[Split, int]:
    """Read photos to measure a network on: those of its folder that were kept for it, or another folder's.

    Args:
        network: From ``open_network``.
        folder: Other photos; its own folder, or ``None``, stands for the photos of ``part``.
        part: ``test``, ``val`` or ``train``.
        allow_seen: Whether photos that it was trained on are only counted.
        how: As for ``load_folder``.

    Returns:
        The photos, labelled as the network labels them, and how many of them it was trained on.

    Raises:
        ValueError: If it was trained on some of them, or nobody can tell.

    Example:
        >>> from PIL import Image
        >>> network = open_network("animals")
        >>> for name in network.classes:
        ...     Path("new", name).mkdir(parents=True)
        ...     Image.new("RGB", (40, 30)).save(Path("new", name, "1.png"))
        >>> unseen_photos(network, "new", part="test", allow_seen=False)
        (Split('new', 6 images of 32x32, 6 classes), 0)
    """
    known = network.known
    if known is not None and (folder is None or Path(folder).resolve() == known.folder):
        split = known.load(part, size=network.how, **how)
    elif folder is None:
        raise ValueError("nobody knows on which photos to measure this network: name a folder (--data)")
    else:
        split = load_folder(folder, size=network.how, **how)
    split = label_as(split, network.classes)
    if known is None:
        if network.metadata.get("photos") and not allow_seen:
            where = f"{LIST}, the list of the photos that this network was trained on, is not beside it"
            raise ValueError(f"{where}: put it there, or say --allow-seen")
        return split, 0
    seen = known.learned(split)
    if seen and not allow_seen:
        told = f"the network was trained on {len(seen)} of these {len(split)} photos, such as"
        what = "measure it on others, or say --allow-seen to have them counted in"
        raise ValueError(f"{told} {split.files[seen[0]]}: {what}")
    if seen:
        split = replace(split, name=f"{split.name}, {len(seen)} of {len(split)} seen in training")
    return split, len(seen)


def label_as(split: Split, known: list[str]) -> Split:
    """Take the images of the classes that a network knows, labelled as it labels them; say what is left out.

    Raises:
        ValueError: If none of its classes is there, or some are missing while others are unknown, which looks
            like two ways to spell one name.

    Example:
        >>> from resnet_tutorial.data import load_sample
        >>> label_as(load_sample()[1], ["dog", "cat"])
        Split('sample test (2 of 10 classes)', 200 images of 32x32, 2 classes)
    """
    unknown, missing = set(split.classes) - set(known), set(known) - set(split.classes)
    if len(missing) == len(known) or (unknown and missing):
        raise ValueError(
            f"the network knows {', '.join(known)}, but {split.name} has {', '.join(split.classes)}: "
            "evaluate it on images of its own classes, or fine-tune it"
        )
    if missing:
        warnings.warn(f"no photo of {', '.join(sorted(missing))}: undefined for these", stacklevel=2)
    told = f" ({len(known)} of {len(split.classes)} classes)" if unknown else ""
    return replace(split.labelled_as(known), name=split.name + told)


def cifar_images(name: str, how: Preprocess, part: str) -> Split:
    """Return the images of the sample or of CIFAR-10, to train or to test on.

    Raises:
        ValueError: If the network sees images of another size.

    Example:
        >>> cifar_images("sample", Preprocess(), "test")
        Split('sample test', 1000 images of 32x32, 10 classes)
    """
    train, test = data.load_sample() if name == "sample" else data.load_cifar10()
    split = train if part == "train" else test
    if how.size != 32:
        raise ValueError(
            f"the network sees {how.size} pixels and {split.name} has 32: name a folder (--data)"
        )
    return split


def only_classes(split: Split, only: list[str] | None) -> Split:
    """Return the images of some of the classes, labelled as before; all without ``only``.

    Raises:
        ValueError: If one is unknown.

    Example:
        >>> only_classes(cifar_images("sample", Preprocess(), "test"), ["cat", "dog"])
        Split('sample test, only cat, dog', 200 images of 32x32, 10 classes)
    """
    if not only:
        return split
    if unknown := [name for name in only if name not in split.classes]:
        raise ValueError(f"unknown class {unknown[0]!r}: choose among {', '.join(split.classes)}")
    only = list(dict.fromkeys(only))
    wanted = torch.tensor([split.classes.index(name) for name in only], device=split.labels.device)
    return split.subset(torch.isin(split.labels, wanted), name=f"{split.name}, only {', '.join(only)}")


def what_is_there(parts: Mapping[str, Split]) -> str:
    """Say how many images each part has, and of each class if they are not equally many.

    Example:
        >>> split = cifar_images("sample", Preprocess(), "test").with_classes(["cat", "dog"])
        >>> what_is_there({"train": split.subset(range(120)), "test": split.subset(range(120, 200))})
        '120 training images (57 cat, 63 dog), 80 kept for the test'
    """
    learn = parts["train"]
    counts = learn.counts().tolist()
    text = f"{len(learn):,} training images"
    if min(counts) < max(counts):
        text += f" ({listed([f'{n:,} {name}' for n, name in zip(counts, learn.classes, strict=True)])})"
    text += f", {len(parts['val']):,} for validation" if "val" in parts else ""
    return text + (f", {len(parts['test']):,} kept for the test" if "test" in parts else "")


def write_table(path: Path, rows: list[tuple[Path, list[tuple[str, float]]]]) -> None:
    """Write predictions as CSV: a line for each file, with its likeliest classes and their probabilities.

    What a spreadsheet would take for a formula begins with ``./``, if it is a file, or an apostrophe (OWASP).

    Example:
        >>> write_table(Path("answers.csv"), [(Path("1.jpg"), [("cat", 0.75), ("dog", 0.25)])])
        >>> Path("answers.csv").read_text().splitlines()
        ['file,class_1,probability_1,class_2,probability_2', '1.jpg,cat,0.7500,dog,0.2500']
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    places = range(1, len(rows[0][1]) + 1)
    table.writerow(["file", *(f"{what}_{k}" for k in places for what in ("class", "probability"))])
    for file, best in rows:
        cells = [cell for name, share in best for cell in (FORMULA.sub(r"'\g<0>", name), f"{share:.4f}")]
        table.writerow([FORMULA.sub(r"./\g<0>", str(file)), *cells])
    with atomic(path, parents=True) as written:
        written.write(text.getvalue().encode(errors="surrogateescape"))
