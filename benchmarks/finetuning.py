"""Fine-tuning, over seeds: new classes from few labels, and pictures that JPEG has changed.

``--task classes``: five ways to adapt a network, over label budgets. The shipped network that has seen the
six animal classes only learns the four vehicles of CIFAR-10. Its training images are drawn from CIFAR-10's,
the accuracy is that on the 4,000 test images of vehicles.

``--task jpeg``: the shipped network of all classes learns from a few compressed images, or from a mixture in
which every second one is left as it is, and is measured on all test images at several qualities.

All accuracies are those of the last weights. Nothing is chosen on the test images: the settings stand below.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from common import Finished, add_keep, options, parse, report
from PIL import Image
from torch import nn

from resnet_tutorial import models, training
from resnet_tutorial.data import Split
from resnet_tutorial.evaluation import predict
from resnet_tutorial.runtime import seed_everything
from resnet_tutorial.training import Recipe, fit

VEHICLES = ("airplane", "automobile", "ship", "truck")
STEPS = {5: 60, 10: 80, 25: 120, 100: 300, 5000: 800}  # images a class: optimiser steps
BATCH_SIZE = 50
QUALITIES = (75, 30, 10)  # of JPEG, as Pillow counts it
LEARNED_QUALITY = 10
JPEG_STEPS = {20: 24, 200: 240}  # images a class: optimiser steps


def recipe(steps: int, lr: float) -> Recipe:
    """Make a short run: one cycle of the learning rate."""
    return Recipe(
        name="adapt",
        steps=steps,
        batch_size=BATCH_SIZE,
        lr=lr,
        nesterov=True,
        weight_decay=5e-4,
        schedule="one-cycle",
        warmup=0.25,
    )


def pretrained() -> nn.Module:
    """Load the network of the animals, with a new head."""
    return training.replace_head(models.resnet20(weights="animals", num_classes=6), len(VEHICLES))


def probe() -> nn.Module:
    """Load the same with everything frozen but the head, statistics of batch normalisation included."""
    return training.freeze_batchnorm(training.freeze_backbone(pretrained()))


def scratch(images: Split, steps: int, **how: object) -> nn.Module:
    """All layers, from random weights."""
    model = models.resnet20(num_classes=len(VEHICLES))
    fit(model, images, None, recipe(steps, 0.1), **how)
    return model


def linear_probe(images: Split, steps: int, **how: object) -> nn.Module:
    """Train the head alone."""
    model = probe()
    fit(model, images, None, recipe(steps, 0.1), **how)
    return model


def batchnorm_only(images: Split, steps: int, **how: object) -> nn.Module:
    """Train the head, and scales and shifts of batch normalisation; its statistics follow the new images."""
    model = training.freeze_backbone(pretrained())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
    fit(model, images, None, recipe(steps, 0.1), **how)
    return model


def full(images: Split, steps: int, **how: object) -> nn.Module:
    """All layers, earlier stages at half the rate of the next."""
    model = pretrained()
    groups = training.parameter_groups(model, lr=0.05, decay=0.5, weight_decay=5e-4)
    fit(model, images, None, recipe(steps, 0.05), groups=groups, **how)
    return model


def gradual(images: Split, steps: int, **how: object) -> nn.Module:
    """Train the head, then one stage more at a time, at discriminative rates (Howard and Ruder, 2018)."""
    model = probe()
    fit(model, images, None, recipe(steps // 4, 0.1), **how)
    for stage in ("layer3", "layer2", "stem"):
        training.unfreeze(model, stage)
        groups = training.parameter_groups(model, lr=0.02, decay=1 / 2.6, weight_decay=5e-4)
        fit(model, images, None, recipe(steps // 4, 0.02), groups=groups, **how)
    return model


METHODS: dict[str, Callable[..., nn.Module]] = {
    "from scratch": scratch,
    "linear probe": linear_probe,
    "BN-only": batchnorm_only,
    "full": full,
    "gradual": gradual,
}


def measure_classes(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    finished: Finished,
    train: Split,
    test: Split,
) -> None:
    """Accuracy on the new classes for every method, budget and seed."""
    vehicles, vehicles_test = train.with_classes(VEHICLES), test.with_classes(VEHICLES)
    available = int(vehicles.counts().min())
    budgets = {n: steps for n, steps in STEPS.items() if n <= available}
    if args.quick:
        budgets = {5: 4}
    if not budgets:
        parser.error(f"only {available} images a class: leave --images out")

    def adapt(method: str, steps: int, images: Split, seed: int) -> list[float]:
        seed_everything(seed)
        started = time.perf_counter()
        model = METHODS[method](images, steps, seed=seed, device=args.device, progress=False)
        seconds = time.perf_counter() - started
        right = float(predict(model, vehicles_test, device=args.device).correct.mean())
        return [round(100 * right, 2), round(seconds, 1)]

    rows = []
    for n, steps in budgets.items():
        for method in args.methods:
            for seed in range(args.repeats):
                images = vehicles.per_class(n, seed=seed)
                settings = [method, n, steps, seed, str(args.device), images.fingerprint]
                rows.append(
                    [method, n, seed, *finished(settings, partial(adapt, method, steps, images, seed))]
                )
    report(
        "Four new classes from few labels",
        args,
        ("method", "images a class", "seed", "test accuracy (%)", "training (s)"),
        rows,
        name="finetuning-classes",
        how=f"resnet20, pretrained on the six animal classes, batches of {BATCH_SIZE}, "
        f"{len(vehicles_test):,} test images of vehicles, fixed settings, last weights",
        notes=[
            "The images of a budget are drawn anew for each seed, and are the same for all methods.",
            *finished.notes(),
        ],
    )


def jpeg(split: Split, quality: int) -> Split:
    """Return the same images, compressed with Pillow's defaults and read back; ``quality`` is 1 to 95."""
    pictures = []
    for image in split.images.permute(0, 2, 3, 1).numpy():  # (H, W, 3)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        pictures.append(np.asarray(Image.open(file)))
    images = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()  # (N, 3, H, W)
    return replace(split, images=images, name=f"{split.name}, JPEG {quality}")


def half_compressed(images: Split) -> Split:
    """Every second image compressed, the others as they are."""
    mixture = images.images.clone()
    mixture[::2] = jpeg(images, LEARNED_QUALITY).images[::2]
    return replace(images, images=mixture)


LESSONS: dict[str, Callable[[Split], Split]] = {
    f"JPEG {LEARNED_QUALITY}": lambda images: jpeg(images, LEARNED_QUALITY),
    "mixture": half_compressed,
}


def measure_jpeg(args: argparse.Namespace, finished: Finished, train: Split, test: Split) -> None:
    """Clean and compressed test images, before and after learning from compressed ones."""
    tests = [test, *(jpeg(test, quality) for quality in QUALITIES)]

    def accuracies(model: nn.Module) -> list[float]:
        right = [predict(model, split, device=args.device).correct for split in tests]
        return [round(100 * float(correct.mean()), 2) for correct in right]

    def learn(lesson: str, steps: int, few: Split, seed: int) -> list[float]:
        seed_everything(seed)
        model = models.resnet20(weights="cifar10")
        how = {"seed": seed, "device": args.device, "progress": False}
        fit(model, LESSONS[lesson](few), None, recipe(steps, 0.01).but(batch_size=25), **how)
        return accuracies(model)

    available = int(train.counts().min())
    budgets = {2: 4} if args.quick else {n: steps for n, steps in JPEG_STEPS.items() if n <= available}
    before = finished(
        ["nothing", str(args.device), test.fingerprint],
        lambda: accuracies(models.resnet20(weights="cifar10")),
    )
    rows = [["nothing", 0, "-", *before]]
    for n, steps in budgets.items():
        for seed in range(args.repeats):
            few = train.per_class(n, seed=seed)
            for lesson in LESSONS:
                settings = [lesson, n, steps, seed, str(args.device), few.fingerprint]
                reached = finished(settings, partial(learn, lesson, steps, few, seed))
                rows.append([lesson, len(few), seed, *reached])
    report(
        "The same classes as JPEG",
        args,
        ("learned from", "images", "seed", "clean (%)", *(f"JPEG {quality} (%)" for quality in QUALITIES)),
        rows,
        name="finetuning-jpeg",
        how=f"resnet20 pretrained on CIFAR-10, batches of 25, peak rate 0.01, {len(test):,} test images",
        notes=[
            "The training images had been in the pretraining, uncompressed; the test images had not.",
            *finished.notes(),
        ],
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the tables; ``--repeats`` is the number of seeds."""
    parser = options(__doc__)
    parser.add_argument("--task", choices=("classes", "jpeg"), help="default: both")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    add_keep(parser, "finetuning")
    args, train, test = parse(parser, argv)
    if args.task != "jpeg":
        measure_classes(parser, args, Finished(parser, args), train, test)
    if args.task != "classes":
        measure_jpeg(args, Finished(parser, args), train, test)


if __name__ == "__main__":
    main()
