"""Labelled images: the embedded sample of CIFAR-10, the full data set, and folders of your own pictures.

Everything here is a `Split`: all images as one uint8 tensor, small enough for memory and quick to augment.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features

from . import mirrors

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# fmt: off
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm",
    ".jp2", ".avif",
)
# fmt: on
CLUTTER = ("thumbs.db", "desktop.ini")  # left in folders by Windows; not worth a warning


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images with their labels: one part (training, validation, test) of a data set.

    A split is never changed after it was made: every method returns a new one. The constructor and `to` (on
    the same device) share the tensors given to them; the methods that choose images copy. PyTorch cannot
    make a tensor read-only, so treat them as such: `fingerprint` is computed once.

    Attributes:
        images: uint8 `(N, 3, H, W)`, contiguous, N >= 1.
        labels: int64 `(N,)`, on the same device, each an index into `classes`.
        classes: the K class names, all different.
        name: what the split is called in tables and figures.

    Raises:
        ValueError: the parts do not fit together.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        images, labels, classes = self.images, self.labels, tuple(self.classes)
        if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be a uint8 tensor (N, 3, H, W), not {_described(images)}")
        if images.shape[1] != 3 or images.numel() == 0:
            raise ValueError(
                f"images must be (N, 3, H, W) with at least one image, not {tuple(images.shape)}"
            )
        if not isinstance(labels, torch.Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
            raise ValueError(f"labels must be an int64 tensor (N,), not {_described(labels)}")
        if len(labels) != len(images) or labels.device != images.device:
            raise ValueError(
                f"every image needs one label on the same device: {len(images)} images on {images.device}, "
                f"{len(labels)} labels on {labels.device}"
            )
        if isinstance(self.classes, str) or not all(isinstance(name, str) and name for name in classes):
            raise ValueError(f"classes must be a tuple of names, not {self.classes!r}")
        if len(set(classes)) != len(classes):
            raise ValueError(f"class names must differ from each other: {classes}")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(classes):
            raise ValueError(
                f"labels run from {low} to {high}, but {len(classes)} classes allow 0 to {len(classes) - 1}"
            )
        object.__setattr__(self, "images", images.contiguous())
        object.__setattr__(self, "classes", classes)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        height, width = self.images.shape[2:]
        return f"Split({self.name!r}, {len(self)} images of {height}x{width}, {len(self.classes)} classes)"

    def counts(self) -> torch.Tensor:
        """Number of images of each class: int64 `(K,)`, on the CPU."""
        return torch.bincount(self.labels.cpu(), minlength=len(self.classes))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of shape, pixels, labels and class names; the split's name is left out."""
        header = json.dumps([list(self.images.shape), list(self.classes)])
        digest = hashlib.sha256(header.encode())
        digest.update(self.images.cpu().numpy())
        digest.update(self.labels.cpu().numpy().astype("<i8"))
        return digest.hexdigest()

    def subset(self, indices: torch.Tensor | np.ndarray | Sequence[int], *, name: str | None = None) -> Split:
        """A copy of the images at `indices`: integers `(M,)` from 0, in the order given, or a mask `(N,)`.

        Raises:
            ValueError: an index is out of range, or nothing is chosen.
        """
        chosen = torch.as_tensor(indices, device=self.labels.device)
        if chosen.ndim != 1 or chosen.numel() == 0 or chosen.is_floating_point() or chosen.is_complex():
            raise ValueError(
                f"indices must be a non-empty list of integers or a mask, not {_described(chosen)}"
            )
        if chosen.dtype == torch.bool:
            if len(chosen) != len(self):
                raise ValueError(
                    f"a mask must have one entry an image: {len(chosen)} entries, {len(self)} images"
                )
            chosen = chosen.nonzero().squeeze(1)
        elif int(chosen.min()) < 0 or int(chosen.max()) >= len(self):
            raise ValueError(
                f"indices run from {int(chosen.min())} to {int(chosen.max())}, but {len(self)} images allow "
                f"0 to {len(self) - 1}"
            )
        chosen = chosen.long()
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], name=name or self.name)

    def per_class(self, n: int, *, seed: int | None = None) -> Split:
        """`n` images of every class in their present order: the first ones, or with a `seed` a random draw.

        Raises:
            ValueError: `n` is not positive, or a class has fewer than `n` images.
        """
        counts = self.counts()
        if n < 1 or n > int(counts.min()):
            scarce = int(counts.argmin())
            raise ValueError(
                f"per_class({n}): n must be at least 1 and at most {int(counts[scarce])}, as many images as "
                f"class {self.classes[scarce]!r} has"
            )
        return self.subset(torch.cat([row[:n] for row in self._by_class(seed)]).sort().values)

    def with_classes(self, names: Sequence[str], *, name: str | None = None) -> Split:
        """Only the images of these classes, in their present order, labelled by position in `names`.

        Raises:
            ValueError: a class is unknown or named twice, or no image is left.
        """
        names = tuple(names)
        if unknown := [entry for entry in names if entry not in self.classes]:
            raise ValueError(f"no class {unknown[0]!r}: choose among {', '.join(self.classes)}")
        label_of = torch.full((len(self.classes),), -1)
        label_of[[self.classes.index(entry) for entry in names]] = torch.arange(len(names))
        labels = label_of.to(self.labels.device)[self.labels]
        part = self.subset(labels >= 0, name=name)
        return replace(part, labels=labels[labels >= 0], classes=names)

    def split(self, fraction: float, *, seed: int = 0) -> tuple[Split, Split]:
        """Divide into `(rest, held_out)`, drawn at random within each class, both in their present order.

        `held_out` has `round(fraction * N)` images, and of each class `fraction` times its count: exactly
        where that is a whole number, otherwise rounded so that the total is right (largest remainders). The
        draw has a generator of its own; the same seed gives the same division on every device.

        Raises:
            ValueError: `fraction` is not between 0 and 1, or one of the two parts would be empty.
        """
        wanted = fraction * self.counts().double()
        total = round(fraction * len(self)) if 0 < fraction < 1 else 0
        if not 0 < total < len(self):
            raise ValueError(
                f"split({fraction}) of {len(self)} images: use a fraction that leaves images in both parts"
            )
        take = (wanted + 1e-9).floor().long()  # 0.29 * 100 is 28.999999999999996
        largest = (wanted - take).argsort(descending=True, stable=True)
        take[largest[: total - int(take.sum())]] += 1
        held_out = torch.zeros(len(self), dtype=torch.bool)
        for row, n in zip(self._by_class(seed), take.tolist(), strict=True):
            held_out[row[:n]] = True
        rest = self.subset(~held_out, name=f"{self.name} (rest)")
        return rest, self.subset(held_out, name=f"{self.name} (held out)")

    def to(self, device: torch.device | str) -> Split:
        """The same split with its tensors on `device`."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def _by_class(self, seed: int | None) -> list[torch.Tensor]:
        """Indices of each class: in order without a seed, else shuffled by a generator of their own."""
        labels = self.labels.cpu()
        rows = [(labels == k).nonzero().squeeze(1) for k in range(len(self.classes))]
        if seed is None:
            return rows
        generator = torch.Generator().manual_seed(seed)
        return [row[torch.randperm(len(row), generator=generator)] for row in rows]


def load_sample() -> tuple[Split, Split]:
    """The embedded part of CIFAR-10: `(train, test)` of 2,000 and 1,000 images of 32 x 32; needs no network.

    These are the first 200 training and 100 test images of each class, in the official order. Tensors are
    fresh in every call, so that changing one in place cannot reach the next caller. Source: Krizhevsky,
    "Learning Multiple Layers of Features from Tiny Images", technical report, 2009.

    Raises:
        ValueError: the installed files are damaged, or Pillow was built without WebP.
    """
    train, test = (
        _as_split(images, labels, name=f"sample {part}")
        for part, (images, labels) in _sample_arrays().items()
    )
    return train, test


@lru_cache(maxsize=1)
def _sample_arrays() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For "train" and "test": images uint8 `(N, 32, 32, 3)`, labels uint8 `(N,)`, checked by hash."""
    if not features.check("webp"):
        raise ValueError(
            "this Pillow cannot read WebP, the format of the sample: reinstall it (pip install -U pillow)"
        )
    assets = resources.files(__package__) / "assets"
    about = json.loads((assets / "sample.json").read_text(encoding="utf-8"))
    arrays = {}
    for part, entry in about["parts"].items():
        try:
            with Image.open(io.BytesIO((assets / entry["file"]).read_bytes())) as montage:
                images = _untile(np.asarray(montage.convert("RGB")))
        except OSError as error:
            raise ValueError(
                f"the embedded {entry['file']} is unreadable ({error}): reinstall resnet_tutorial"
            ) from error
        labels = np.array(entry["labels"], dtype=np.uint8)
        found = mirrors.content_sha256(images), mirrors.content_sha256(labels)
        if found != (entry["images_sha256"], entry["labels_sha256"]):
            raise ValueError(
                f"the embedded {entry['file']} is damaged (SHA-256 differs): reinstall resnet_tutorial"
            )
        arrays[part] = images, labels
    return arrays


def _untile(montage: np.ndarray) -> np.ndarray:
    """Cut a picture of tiles, uint8 `(32 R, 32 C, 3)`, into images `(R * C, 32, 32, 3)`, row by row."""
    rows, columns = montage.shape[0] // 32, montage.shape[1] // 32
    return montage.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(rows * columns, 32, 32, 3)


def cache_dir() -> Path:
    """Where downloads are kept: `RESNET_TUTORIAL_DATA`, else `resnet_tutorial` in the user's caches."""
    if chosen := os.environ.get("RESNET_TUTORIAL_DATA"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "resnet_tutorial"


def load_cifar10(*, root: str | os.PathLike | None = None, download: bool = False) -> tuple[Split, Split]:
    """All of CIFAR-10: `(train, test)` of 50,000 and 10,000 images of 32 x 32 in the official order.

    Looked for in `root`, `cache_dir()` and `./data`: the package's own file, torchvision's
    `cifar-10-batches-py`, the official `cifar-10-batches-bin`. The content is checked by SHA-256 in every
    case.

    Args:
        root: directory to look in first and to keep a download in; `cache_dir()` if None.
        download: whether the network may be used when nothing is found (about 140 to 170 MB).

    Raises:
        FileNotFoundError: nothing is on the disk and `download` is false, or `root` is no directory.
        ValueError: what is on the disk is damaged and `download` is false.
        mirrors.DownloadError: every source failed; the message names each and says what to do.
    """
    if root is not None and not download and not Path(root).expanduser().is_dir():
        raise FileNotFoundError(
            f"root={str(root)!r} is not a directory: name the one that holds CIFAR-10, or pass download=True"
        )
    folders = [
        Path(folder).expanduser() for folder in ((root,) if root is not None else ()) + (cache_dir(), "data")
    ]
    arrays = mirrors.fetch(folders[0], also_look_in=folders[1:], download=download)
    return (
        _as_split(arrays.train_images, arrays.train_labels, name="CIFAR-10 train"),
        _as_split(arrays.test_images, arrays.test_labels, name="CIFAR-10 test"),
    )


def _as_split(images: np.ndarray, labels: np.ndarray, *, name: str) -> Split:
    """Split from uint8 `(N, 32, 32, 3)` and `(N,)`; the tensors are copies."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()  # (N, 3, 32, 32)
    return Split(pixels, torch.from_numpy(labels).long(), CIFAR10_CLASSES, name)


def load_image(path: str | os.PathLike, *, size: int = 32) -> torch.Tensor:
    """Read one picture as uint8 `(3, size, size)`: upright, RGB, cropped to the central square, resized.

    The orientation noted by the camera (EXIF) is applied; transparency is laid on white; palettes, grey,
    CMYK and 16-bit grey become 8-bit RGB. The largest central square is resized with antialiasing
    (bicubic), which equals bringing the shorter side to `size` and cropping the centre. Of an animation the
    first frame counts.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a readable picture, or `size` is not positive; the message names it.
    """
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"size={size!r}: give the side of the square in pixels, 1 or more")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no picture {path}")
    try:
        with Image.open(path) as picture:
            square = ImageOps.fit(
                _as_rgb(ImageOps.exif_transpose(picture)), (size, size), Image.Resampling.BICUBIC
            )
    except Exception as error:  # decoders raise whatever they like on a broken file
        reason = "it is no picture that Pillow knows" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"cannot read the picture {path}: {reason}") from error
    return torch.tensor(np.asarray(square)).permute(2, 0, 1).contiguous()  # (3, size, size)


def _as_rgb(picture: Image.Image) -> Image.Image:
    """Any mode to 8-bit RGB, transparency on white."""
    if picture.mode == "F":
        raise ValueError(
            "its pixels are floating-point numbers without a known range; save it with 8 or 16 bits"
        )
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


def load_folder(path: str | os.PathLike, *, size: int = 32, on_error: str = "raise") -> Split:
    """Read a directory that holds one folder a class, as a `Split` named after the directory.

    Classes and, within each, files are in sorted order of their names. Hidden files and folders are
    ignored; anything else that is not a picture by its extension is ignored with a warning. See
    `load_image` for what happens to each picture.

    Args:
        path: the directory.
        size: side of the square images, in pixels.
        on_error: "raise" names all unreadable pictures in one error; "skip" leaves them out and warns.

    Raises:
        FileNotFoundError: there is no such directory.
        ValueError: it has no class folders, a class has no readable picture, or a picture is unreadable and
            not to be skipped; the message names the folders or files.

    Warns:
        UserWarning: pictures were skipped, or other files were ignored; it names them.
    """
    path = Path(path)
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
                images.append(load_image(entry, size=size))
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
        warnings.warn(f"ignored, no pictures by their names: {_listed(other)}", stacklevel=2)
    classes = tuple(folder.name for folder in folders)
    return Split(torch.stack(images), torch.tensor(labels), classes, path.resolve().name)


def _visible(folder: Path) -> list[Path]:
    """Entries of a directory by name, without hidden ones and what Windows leaves behind."""
    return sorted(
        entry
        for entry in folder.iterdir()
        if not entry.name.startswith(".") and entry.name.lower() not in CLUTTER
    )


def _listed(names: Sequence[str], most: int = 20) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _described(value: object) -> str:
    """A tensor by type and shape, anything else by its type, for messages."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
