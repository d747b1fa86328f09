"""How many labels does a new task need? Five ways to adapt a network, over label budgets and seeds.

The shipped network that has seen the six animal classes only learns the four vehicles of CIFAR-10. Its
training images are drawn from CIFAR-10's, the accuracy is that on the 4,000 test images of vehicles, of the
last weights. Nothing is chosen on them: all settings stand below.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from common import options, parse, report
from torch import nn

from resnet_tutorial import finetune, models
from resnet_tutorial.data import Split
from resnet_tutorial.evaluate import predict
from resnet_tutorial.recipes import Recipe
from resnet_tutorial.runtime import seed_everything
from resnet_tutorial.train import fit

VEHICLES = ("airplane", "automobile", "ship", "truck")
STEPS = {5: 60, 10: 80, 25: 120, 100: 300, 5000: 1200}  # images a class: optimiser steps
BATCH_SIZE = 50


def recipe(steps: int, lr: float) -> Recipe:
    """A short run: one cycle of the learning rate."""
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
    """The network of the animals, with a new head."""
    return finetune.replace_head(models.resnet20(weights="animals", num_classes=6), len(VEHICLES))


def probe() -> nn.Module:
    """The same with everything frozen but the head, statistics of batch normalisation included."""
    return finetune.freeze_batchnorm(finetune.freeze_backbone(pretrained()))


def scratch(images: Split, steps: int, **how: object) -> nn.Module:
    """All layers, from random weights."""
    model = models.resnet20(num_classes=len(VEHICLES))
    fit(model, images, None, recipe(steps, 0.1), **how)
    return model


def linear_probe(images: Split, steps: int, **how: object) -> nn.Module:
    """The head alone."""
    model = probe()
    fit(model, images, None, recipe(steps, 0.1), **how)
    return model


def batchnorm_only(images: Split, steps: int, **how: object) -> nn.Module:
    """The head, and scales and shifts of batch normalisation; its statistics follow the new images."""
    model = finetune.freeze_backbone(pretrained())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
    fit(model, images, None, recipe(steps, 0.1), **how)
    return model


def full(images: Split, steps: int, **how: object) -> nn.Module:
    """All layers, earlier stages at half the rate of the next."""
    model = pretrained()
    groups = finetune.parameter_groups(model, lr=0.05, decay=0.5, weight_decay=5e-4)
    fit(model, images, None, recipe(steps, 0.05), groups=groups, **how)
    return model


def gradual(images: Split, steps: int, **how: object) -> nn.Module:
    """The head first, then one stage more at a time, at discriminative rates (Howard and Ruder, 2018)."""
    model = probe()
    fit(model, images, None, recipe(steps // 4, 0.1), **how)
    for stage in ("layer3", "layer2", "stem"):
        finetune.unfreeze(model, stage)
        groups = finetune.parameter_groups(model, lr=0.02, decay=1 / 2.6, weight_decay=5e-4)
        fit(model, images, None, recipe(steps // 4, 0.02), groups=groups, **how)
    return model


METHODS: dict[str, Callable[..., nn.Module]] = {
    "from scratch": scratch,
    "linear probe": linear_probe,
    "BN-only": batchnorm_only,
    "full": full,
    "gradual": gradual,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints the table; ``--repeats`` is the number of seeds."""
    parser = options(__doc__)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), help="default: all")
    args, train, test = parse(parser, argv)
    vehicles, vehicles_test = train.with_classes(VEHICLES), test.with_classes(VEHICLES)
    available = int(vehicles.counts().min())
    budgets = {n: steps for n, steps in STEPS.items() if n <= available}
    if args.quick:
        budgets = {5: 4}
    if not budgets:
        parser.error(f"only {available} images a class: leave --images out")

    rows = []
    for n, steps in budgets.items():
        for method in args.methods:
            for seed in range(args.repeats):
                seed_everything(seed)
                images = vehicles.per_class(n, seed=seed)
                started = time.perf_counter()
                how = {"seed": seed, "device": args.device, "progress": False}
                model = METHODS[method](images, steps, **how)
                seconds = time.perf_counter() - started
                right = float(predict(model, vehicles_test, device=args.device).correct.mean())
                rows.append([method, n, seed, round(100 * right, 2), round(seconds, 1)])
    report(
        "Four new classes from few labels",
        args,
        ("method", "images a class", "seed", "test accuracy (%)", "training (s)"),
        rows,
        name="finetuning-classes",
        how=f"resnet20, pretrained on the six animal classes, batches of {BATCH_SIZE}, "
        f"{len(vehicles_test):,} test images of vehicles, fixed settings, last weights",
        notes=["The images of a budget are drawn anew for each seed, and are the same for all methods."],
    )


if __name__ == "__main__":
    main()
