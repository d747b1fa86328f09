"""Images per second of the input pipeline: ours against torchvision's.

Both shuffle, crop and mirror every image with a draw of its own, and yield normalised float32 batches with
their labels. Theirs is a dataset of PIL images, torchvision's v2 transforms and a DataLoader; ours holds the
images as one uint8 tensor and augments whole batches, as `resnet_tutorial.training.fit` does.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median

import torch
from common import interleave, options, parse, ratio, report, synchronize
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets
from torchvision.transforms import v2

from resnet_tutorial import data
from resnet_tutorial.data import CIFAR10, Augment
from resnet_tutorial.training import Pipeline

BATCH_SIZE = 128
WORKERS = (0, 1, 2, 4)


class PILImages(Dataset):
    """A split as PIL images: what ``torchvision.datasets.CIFAR10`` does, for any part of the data."""

    def __init__(self, split: data.Split, transform: Callable[[Image.Image], Tensor] | None = None) -> None:
        """Keep the images as an array, as torchvision does."""
        self.data = split.images.permute(0, 2, 3, 1).contiguous().numpy()  # (N, 32, 32, 3)
        self.targets = split.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        """Count the images."""
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image | Tensor, int]:
        """Return one image, transformed, and its label."""
        image = Image.fromarray(self.data[index])
        return image if self.transform is None else self.transform(image), self.targets[index]


def transform(*, augment: bool) -> v2.Compose:
    """PIL image to float tensor; crop and flip come first, on the PIL image, as in torchvision's recipes."""
    draws = [v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip()] if augment else []
    to_float = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([*draws, *to_float, v2.Normalize(CIFAR10.mean, CIFAR10.std)])


def training_images(split: data.Split, name: str) -> tuple[Dataset, str]:
    """Return torchvision's dataset where its files are on the disk, else ``PILImages``; and which it is."""
    if name == "cifar10" and len(split) == 50_000:
        for root in (data.cache_dir(), Path("data")):
            try:
                theirs = datasets.CIFAR10(root, train=True, transform=transform(augment=True))
            except RuntimeError:  # torchvision's way of saying that it is not there
                continue
            return theirs, "Theirs reads `torchvision.datasets.CIFAR10`."
    note = "Theirs reads a class of this script that makes PIL images as `torchvision.datasets.CIFAR10` does."
    return PILImages(split, transform(augment=True)), note


def torchvision_loader(
    dataset: Dataset, batch_size: int, *, workers: int, shuffle: bool = True, pin_memory: bool = False
) -> DataLoader:
    """Make a DataLoader whose workers start here and live on between epochs, so that no epoch pays for it.

    A training loader (`shuffle`) drops an incomplete last batch, as ours does.
    """
    with warnings.catch_warnings():
        # More workers than cores is a setting that the benchmark tries on purpose.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = DataLoader(
            dataset,
            batch_size,
            shuffle=shuffle,
            drop_last=shuffle,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin_memory,
        )
        if workers:
            iter(loader)
        return loader


def images_per_second(batches: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> float:
    """Go through an epoch and do nothing with it but bring it to the device."""
    count = 0
    synchronize(device)
    started = time.perf_counter()
    for images, labels in batches:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        count += len(images)
    synchronize(device)
    return count / (time.perf_counter() - started)


def fastest(rates: dict[str, list[float]]) -> str:
    """Find the variant with the largest median."""
    return max(rates, key=lambda name: median(rates[name]))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = options(__doc__)
    args, train, _ = parse(parser, argv)
    batch_size = 32 if args.quick else BATCH_SIZE
    images, note = training_images(train, args.data)
    load = Pipeline(train.to(args.device), Augment(), CIFAR10, batch_size=batch_size)

    def theirs(workers: int) -> Callable[[], float]:
        pin = args.device.type == "cuda"
        loader = torchvision_loader(images, batch_size, workers=workers, pin_memory=pin)
        return lambda: images_per_second(loader, args.device)

    variants = {f"torchvision, workers: {n}": theirs(n) for n in ((0, 2) if args.quick else WORKERS)}
    variants["ours"] = lambda: images_per_second(load.epoch(0), args.device)
    interleave(variants, 1)  # starts the workers and fills the caches; not counted
    rates = interleave(variants, args.repeats)

    best = fastest({name: values for name, values in rates.items() if name != "ours"})
    report(
        f"Input pipeline, batches of {batch_size}",
        args,
        ("pipeline", "images/s", "ratio to torchvision's best", "range over rounds"),
        [(name, f"{median(values):.0f}", *ratio(values, rates[best])) for name, values in rates.items()],
        name="input",
        how=f"medians over interleaved rounds ({args.repeats}) in one process tree, after one not counted",
        notes=[f"torchvision's best here: {best.removeprefix('torchvision, ')}. {note}"],
    )


if __name__ == "__main__":
    main()
