"""Photos of one's own: reading them, a head on features computed once, and the memory of a fine-tuning.

Reading: JPEGs of 12 megapixels to 224 pixels (`Resize(256)`, `CenterCrop(224)`), by torchvision's
`ImageFolder` with a `DataLoader` at its best number of workers, and by `load_folder`, the first time and
from its cache. Head: the linear probe of a ResNet-18 with frozen layers, by a plain loop, which runs all
layers in every epoch, and by `fit_head`; both start from files, and the cache is empty. Memory: of `fit`
on photos in the cache, in a process of its own. The pictures are made for the purpose, noisy enough for a
photo's file size.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torchvision
from common import interleave, options, parse, positive, ratio, report
from memory import MIB, in_new_process, peak_resident
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from resnet_tutorial import models, training
from resnet_tutorial.data import Preprocess, load_folder

CLASSES = ("a", "b")
EPOCHS = 2  # of the plain loop's head: a fair one takes more, and each costs as much


def make_photos(folder: Path, n: int, width: int, height: int) -> None:
    """Write n JPEGs, half of each class: smooth colours with the noise of a camera."""
    noise = np.random.default_rng(0).normal(0, 8, (height, width, 3)).astype(np.float32)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)

    def write(k: int) -> None:
        few = np.random.default_rng(k).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        smooth = Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)
        pixels = np.clip(np.asarray(smooth) + np.roll(noise, 7 * k), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / CLASSES[k % 2] / f"{k:05}.jpg", quality=90)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(n)))


def textbook_loader(folder: Path, how: Preprocess, *, workers: int, shuffle: bool = False) -> DataLoader:
    """Make torchvision's way from files to normalised batches."""
    steps = [
        v2.Resize(how.resize),
        v2.CenterCrop(how.size),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ]
    transform = v2.Compose([*steps, v2.Normalize(how.normalize.mean, how.normalize.std)])
    images = torchvision.datasets.ImageFolder(str(folder), transform)
    return DataLoader(images, batch_size=32, num_workers=workers, shuffle=shuffle)


def textbook_read(folder: Path, how: Preprocess, workers: int) -> float:
    """Read all photos once; return seconds."""
    started = time.perf_counter()
    for _ in textbook_loader(folder, how, workers=workers):
        pass
    return time.perf_counter() - started


def our_read(folder: Path, how: Preprocess, cache: Path, *, again: bool) -> float:
    """Read all photos into batches of uint8, with an empty cache or from it; return seconds."""
    if not again:
        shutil.rmtree(cache, ignore_errors=True)
    started = time.perf_counter()
    split = load_folder(folder, size=how, cache=True)
    for start in range(0, len(split), 32):
        split.images[start : start + 32]
    return time.perf_counter() - started


def network(*, quick: bool) -> models.ResNet:
    """Build ResNet-18 for two classes; its weights do not matter for time."""
    torch.manual_seed(0)
    if quick:
        return models.create("resnet8", width=4, num_classes=2)
    return models.create("resnet18", num_classes=2)


def textbook_probe(
    folder: Path, how: Preprocess, workers: int, device: torch.device, *, quick: bool
) -> float:
    """Train the head of a frozen network in a plain loop; return seconds."""
    started = time.perf_counter()
    model = training.freeze_backbone(network(quick=quick)).to(device).eval()
    optimizer = torch.optim.SGD(model.fc.parameters(), lr=0.1, momentum=0.9)
    for _ in range(1 if quick else EPOCHS):
        for images, labels in textbook_loader(folder, how, workers=workers, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images.to(device)), labels.to(device)).backward()
            optimizer.step()
    return time.perf_counter() - started


def our_probe(folder: Path, how: Preprocess, cache: Path, device: torch.device, *, quick: bool) -> float:
    """Fit the head on features that are computed once; return seconds."""
    shutil.rmtree(cache, ignore_errors=True)
    started = time.perf_counter()
    train, val = load_folder(folder, size=how, cache=True).split(0.1)
    training.fit_head(network(quick=quick), train, val, normalize=how.normalize, device=device)
    return time.perf_counter() - started


def fine_tune(folder: Path, how: Preprocess, steps: int, device: torch.device, quick: bool) -> int:
    """Train all layers for some steps on photos in the cache; return the peak of resident memory."""
    split = load_folder(folder, size=how, cache=True)
    train, val = split.split(64 / len(split)) if len(split) > 128 else split.split(0.25)
    recipe = training.RECIPES["photos"].but(steps=steps, **({"batch_size": 8} if quick else {}))
    model = training.freeze_batchnorm(network(quick=quick))
    training.fit(model, train, val, recipe, normalize=how.normalize, device=device, progress=False)
    return peak_resident()


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = options(__doc__)
    parser.set_defaults(data="sample")
    parser.add_argument(
        "--photos", type=positive, default=1000, help="JPEGs of 12 megapixels (default: 1000)"
    )
    parser.add_argument(
        "--many", type=positive, default=20_000, help="photos for the memory (default: 20,000)"
    )
    parser.add_argument("--steps", type=positive, default=20, help="of the fine-tuning (default: 20)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1, 2, 4], help="tried (default: 0 1 2 4)"
    )
    parts = ("reading", "probe", "memory")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="tables (default: all)")
    args, _, _ = parse(parser, argv)
    if args.quick:
        args.photos, args.many, args.steps, args.workers = 12, 24, 2, [0]
    with tempfile.TemporaryDirectory() as place:
        measure(args, Path(place))


def measure(args: argparse.Namespace, place: Path) -> None:
    """Make the photos, and print the tables that were asked for."""
    how = Preprocess(24, 28) if args.quick else Preprocess.imagenet()
    os.environ["RESNET_TUTORIAL_DATA"] = str(place / "cache")
    if {"reading", "probe"} & {*args.parts}:
        make_photos(place / "photos", args.photos, *((80, 60) if args.quick else (4000, 3000)))
    for part in args.parts:
        {"reading": reading, "probe": probe, "memory": memory}[part](args, place, how)


def reading(args: argparse.Namespace, place: Path, how: Preprocess) -> None:
    """Print how fast photos of 12 megapixels are read."""
    cache, photos = place / "cache", place / "photos"
    first: Callable[[], float] = lambda: our_read(photos, how, cache, again=False)  # noqa: E731
    variants = {f"ImageFolder, {n} workers": lambda n=n: textbook_read(photos, how, n) for n in args.workers}
    variants |= {"ours, first time": first}
    times = interleave(variants, args.repeats)
    times["ours, again"] = [our_read(photos, how, cache, again=True) for _ in range(args.repeats)]
    best = min(list(times)[: len(args.workers)], key=lambda name: median(times[name]))
    size_on_disk = sum(path.stat().st_size for path in photos.rglob("*.jpg"))
    report(
        f"Reading {args.photos:,} JPEGs of {'80 x 60' if args.quick else '4000 x 3000'} pixels",
        args,
        ("way", "seconds", "times as fast as ImageFolder at its best", "range over rounds"),
        [(name, f"{median(values):.3g}", *ratio(times[best], values)) for name, values in times.items()],
        name="photos-reading",
        how=f"medians over rounds ({args.repeats}), interleaved but for the last row",
        notes=[f"Mean file size: {size_on_disk / args.photos / 1e6:.1f} MB."],
    )


def probe(args: argparse.Namespace, place: Path, how: Preprocess) -> None:
    """Print how long a linear probe takes, from files to the head."""
    photos, quick = place / "photos", args.quick
    workers = max(args.workers) if quick else os.cpu_count() or 1
    probes = {
        f"plain loop, {EPOCHS} epochs, {workers} workers": lambda: textbook_probe(
            photos, how, workers, args.device, quick=quick
        ),
        "ours": lambda: our_probe(photos, how, place / "cache", args.device, quick=quick),
    }
    times = interleave(probes, args.repeats)
    plain = next(iter(times))
    report(
        f"A linear probe of ResNet-18 on {args.photos:,} photos, from files to the head",
        args,
        ("way", "seconds", "times as fast as the plain loop", "range over rounds"),
        [(name, f"{median(values):.3g}", *ratio(times[plain], values)) for name, values in times.items()],
        name="photos-probe",
        how=f"medians over interleaved rounds ({args.repeats})",
    )


def memory(args: argparse.Namespace, place: Path, how: Preprocess) -> None:
    """Print how much memory fine-tuning takes."""
    many = place / "many"
    make_photos(many, args.many, 64, 48)
    load_folder(many, size=how, cache=True)
    peak = in_new_process(fine_tune, many, how, args.steps, args.device, args.quick)
    report(
        f"Peak resident memory of fine-tuning ResNet-18 on {args.many:,} images of {how.size} pixels",
        args,
        ("photos", "pixels on disk (MiB)", "peak resident (MiB)"),
        [(f"{args.many:,}", f"{args.many * how.size**2 * 3 / MIB:.0f}", f"{int(str(peak)) / MIB:.0f}")],
        name="photos-memory",
        how=f"one run of {args.steps} steps of all layers, and a validation",
        notes=["The photos are small; what counts is the size to which they are brought."],
    )


if __name__ == "__main__":
    main()
