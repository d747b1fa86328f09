"""Seconds of a whole ResNet-20 epoch, evaluation included: `fit` against the textbook loop.

The textbook loop is written out below: a DataLoader, float32, the default memory format, the loss read at
every step. Both do the same work: the same network, optimiser, augmentation, batches and test images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from common import (
    interleave,
    network,
    options,
    parse,
    place,
    positive,
    precisions,
    ratio,
    report,
    synchronize,
)
from input import BATCH_SIZE, PILImages, torchvision_loader, transform
from torch import nn
from torch.utils.data import DataLoader

from resnet_tutorial.data import Split
from resnet_tutorial.training import RECIPES, Recipe, fit

RECIPE = RECIPES["paper"].but(epochs=1)
PRECISION_NAMES = {"fp32": "fp32", "bf16": "mixed (bf16)", "fp16": "mixed (fp16)"}


def textbook_optimizer(model: nn.Module, recipe: Recipe = RECIPE) -> torch.optim.Optimizer:
    """SGD as a textbook makes it."""
    return torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    )


def textbook_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train_loader: DataLoader,
    test_loader: DataLoader,
    device: torch.device,
) -> tuple[float, float]:
    """Train one epoch; return the mean training loss and the accuracy on the test images, in 0..1."""
    criterion = nn.CrossEntropyLoss()
    model.train()
    running_loss = 0.0
    for images, labels in train_loader:
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        running_loss += loss.item()

    model.eval()
    correct = 0
    with torch.no_grad():
        for images, labels in test_loader:
            images, labels = images.to(device), labels.to(device)
            correct += (model(images).argmax(1) == labels).sum().item()
    return running_loss / len(train_loader), correct / len(test_loader.dataset)


def textbook_loaders(
    train: Split, test: Split, batch_size: int, *, workers: int, device: torch.device
) -> tuple[DataLoader, DataLoader]:
    """Make the loaders of the training and the test images."""
    pin = device.type == "cuda"
    train_images = PILImages(train, transform(augment=True))
    test_images = PILImages(test, transform(augment=False))
    return (
        torchvision_loader(train_images, batch_size, workers=workers, pin_memory=pin),
        torchvision_loader(test_images, batch_size, workers=workers, pin_memory=pin, shuffle=False),
    )


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Return the seconds of a call."""
    synchronize(device)
    started = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - started


def textbook(train: Split, test: Split, args: argparse.Namespace, *, workers: int) -> Callable[[], float]:
    """Make a function that runs one epoch of the textbook loop and returns its seconds."""
    model = network("resnet20", quick=args.quick).to(args.device)
    optimizer = textbook_optimizer(model)
    loaders = textbook_loaders(train, test, args.batch_size, workers=workers, device=args.device)
    return lambda: timed(lambda: textbook_epoch(model, optimizer, *loaders, args.device), args.device)


def ours(
    train: Split, test: Split, args: argparse.Namespace, *, precision: str, compile: bool
) -> tuple[Callable[[], float], float]:
    """Make a function that runs one epoch of ``fit`` and returns its seconds, and the seconds of compiling.

    Every call of `fit` includes what it does once a run: checks, the optimiser, the copy to the device.
    """
    model = network("resnet20", quick=args.quick)
    recipe = RECIPE.but(batch_size=args.batch_size)
    settings = {"device": args.device, "precision": precision, "compile": compile, "progress": False}

    def run(images: Split = train) -> float:
        return timed(lambda: fit(model, images, test, recipe, **settings), args.device)

    few = train.subset(range(2 * args.batch_size))  # two steps, with batches as large as later
    first = run(few)
    return run, first - run(few) if compile else 0.0


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = options(__doc__)
    parser.add_argument("--compile", action="store_true", help="also measure fit with a compiled network")
    parser.add_argument(
        "--workers",
        type=int,
        choices=(0, 1, 2, 4),
        nargs="+",
        default=[0, 2],
        help="workers of the textbook's loader; the fastest is the one compared with (default: 0 2)",
    )
    parser.add_argument(
        "--batch-size", type=positive, help=f"images a step (default: {BATCH_SIZE}; with --quick 32)"
    )
    args, train, test = parse(parser, argv)
    args.batch_size = args.batch_size or (32 if args.quick else BATCH_SIZE)
    if 2 * args.batch_size > len(train):
        parser.error(f"--batch-size {args.batch_size}: at most half of the {len(train)} training images")

    variants, compiling = {}, {}
    for workers in dict.fromkeys(args.workers):
        variants[f"textbook, fp32, workers: {workers}"] = textbook(train, test, args, workers=workers)
    for compiled in (False, True) if args.compile else (False,):
        for precision in precisions(args.device):
            name = f"ours, {PRECISION_NAMES[precision]}{', compiled' if compiled else ''}"
            variants[name], seconds = ours(train, test, args, precision=precision, compile=compiled)
            if compiled:
                compiling[name] = f"{seconds:.1f}"
    for name in variants:
        if name.startswith("textbook"):
            variants[name]()  # starts the workers and fills the caches, as `ours` did; not counted
    seconds = interleave(variants, args.repeats)

    best = min((name for name in seconds if name.startswith("textbook")), key=lambda n: median(seconds[n]))
    notes = [f"The ratio says how many times as fast as the textbook's best: {best.split(', ')[-1]}."]
    if len(precisions(args.device)) == 1:
        notes.append("No mixed precision: this device has no hardware for it, so `fit` chooses fp32.")
    report(
        f"A whole epoch, evaluation included, batches of {args.batch_size}",
        args,
        ("loop", "seconds", "ratio to the textbook", "range over rounds", "compiling, once (s)"),
        [
            (name, f"{median(values):.3f}", *ratio(seconds[best], values), compiling.get(name, "-"))
            for name, values in seconds.items()
        ],
        name=f"epoch-{place(args.device)}",
        how=f"medians over interleaved rounds ({args.repeats}) in one process tree, warm-up not counted; "
        f"{'a tiny network' if args.quick else 'resnet20'}, {len(train):,} training and "
        f"{len(test):,} test images",
        notes=notes,
    )


if __name__ == "__main__":
    main()
