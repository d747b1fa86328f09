"""What is each ingredient worth? ResNet-20 and the recipe `modern`, one change at a time, over seeds.

All variants train on the same images of CIFAR-10, drawn once with as many of each class. Those of one seed
share the initial weights, as far as their shapes agree, and the order, crops and flips of the images. Each is
measured once, at the end, on the test images, single view. Only the base is also measured on them after every
epoch, to see by how much choosing its best epoch there flatters it; nothing else is chosen.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from statistics import mean, stdev
from typing import Any

import torch
from common import Finished, add_keep, load, options, parse, positive, report
from torch import nn

from resnet_tutorial import models, runtime
from resnet_tutorial.data import Split
from resnet_tutorial.evaluation import loss_and_accuracy
from resnet_tutorial.training import RECIPES, DivergedError, Recipe, fit

MODERN, PAPER = RECIPES["modern"], RECIPES["paper"]
Run = dict[str, Any]  # "test" and "train": accuracy in 0..1; "epochs": test accuracy after each
HEADER = (
    *("variant", "what changed", "test accuracy (%)", "sd", "difference to base", "sd of the difference"),
    "training accuracy (%)",
)


def without_batchnorm(model: models.ResNet) -> None:
    """Put nothing in place of batch normalisation; its shift becomes the bias of the layer before it."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
        if isinstance(module, nn.Conv2d):
            module.bias = nn.Parameter(torch.zeros(module.out_channels))


def relu_in_shortcut(model: models.ResNet) -> None:
    """Put a ReLU after each projection; what comes through the other shortcuts is never negative anyway."""
    for module in model.modules():
        if isinstance(downsample := getattr(module, "downsample", None), nn.Sequential):
            downsample.append(nn.ReLU())


def relu_in_branch(model: models.ResNet) -> None:
    """Put a ReLU at the end of each branch, before the addition."""
    for module in model.modules():
        if hasattr(module, "bn2"):
            module.bn2 = nn.Sequential(module.bn2, nn.ReLU())


@dataclass(frozen=True)
class Variant:
    """One change: in words, and to the network's options, to the built network or to the recipe."""

    changed: str
    network: dict[str, Any] = field(default_factory=dict)
    edit: Callable[[models.ResNet], None] = lambda model: None
    recipe: dict[str, Any] = field(default_factory=dict)


PROJECTION, STEM = {"shortcut": "B"}, {"stem": "imagenet"}
SGD = {
    **{"optimizer": "sgd", "nesterov": True, "other_lr": None},
    **{"lr": PAPER.lr, "weight_decay": PAPER.weight_decay},
}
VARIANTS = {
    "base": Variant("nothing"),
    "no-batchnorm": Variant("no batch normalisation; convolutions with a bias", edit=without_batchnorm),
    "no-shortcut": Variant("plain network", {"shortcut": "none"}),
    "projection": Variant("projection in the shortcuts that change the shape (B in place of A)", PROJECTION),
    "relu-shortcut": Variant("the same, with a ReLU after each projection", PROJECTION, relu_in_shortcut),
    "relu-branch": Variant("a ReLU at the end of each branch, before the addition", edit=relu_in_branch),
    "stem-7x7": Variant("7x7 stem with stride 2, and a max-pool", STEM),
    "no-augmentation": Variant("neither crop nor flip", recipe={"padding": 0, "flip": "none"}),
    "no-decay": Variant("no weight decay", recipe={"weight_decay": 0.0}),
    "sgd": Variant("SGD with Nesterov momentum, rate and decay of `paper`, in place of Muon", recipe=SGD),
    "smoothing": Variant("label smoothing 0.1", recipe={"label_smoothing": 0.1}),
    "cutout": Variant("squares of 8x8 pixels blanked", recipe={"cutout": 8}),
    "ema": Variant("moving average of the weights, decay 0.98 a step", recipe={"ema": 0.98}),
    "l1": Variant("L1 penalty of 1e-5", recipe={"l1": 1e-5}),
    "constant-rate": Variant("the peak rate throughout", recipe={"schedule": "constant", "warmup": 0.0}),
    "best-epoch": Variant("the same runs, each at its best epoch on the test images"),
}


def network(variant: Variant, seed: int, *, quick: bool = False) -> models.ResNet:
    """Build the variant's network, with the base's initial weights where the shapes agree."""

    def new(**changes: Any) -> models.ResNet:
        runtime.seed_everything(seed)
        return models.create("resnet8", width=8, **changes) if quick else models.create("resnet20", **changes)

    model, base = new(**variant.network), new().state_dict()
    own = model.state_dict()
    model.load_state_dict(own | {k: v for k, v in base.items() if k in own and own[k].shape == v.shape})
    variant.edit(model)
    return model


def train_and_test(
    name: str, train: Split, test: Split, recipe: Recipe, args: argparse.Namespace, seed: int
) -> Run:
    """Make one run of the whole schedule."""
    model, epochs = network(VARIANTS[name], seed, quick=args.quick), []

    def watch(_: object) -> None:
        epochs.append(loss_and_accuracy(model, test)[1])

    how = {"seed": seed, "device": args.device, "precision": "fp32", "progress": False}
    try:
        fit(model, train, None, recipe, on_epoch=watch if name == "base" else None, **how)
    except DivergedError:
        return {"test": None}
    loss, accuracy = loss_and_accuracy(model, test)
    if not math.isfinite(loss):  # after the very last step
        return {"test": None}
    learnt = loss_and_accuracy(model, train)[1]
    return {"test": accuracy, "train": learnt, "epochs": epochs}


def best_epoch(run: Run) -> Run:
    """Return a run of the base, as if its best epoch on the test images were the one to report."""
    return run if run["test"] is None else run | {"test": max(run["epochs"])}


def cells(name: str, runs: Sequence[Run], base: Sequence[Run]) -> list[object]:
    """Make a row of the table: means over the seeds, or how many of them diverged."""
    start = [name, VARIANTS[name].changed]
    if lost := sum(run["test"] is None for run in runs):  # a mean over the others would flatter
        return [*start, f"diverged: {lost} of {len(runs)}", *["-"] * (len(HEADER) - 3)]
    known = name != "base" and all(run["test"] is not None for run in base)
    differences = [a["test"] - b["test"] for a, b in zip(runs, base, strict=True)] if known else []
    row = mean_and_sd([run["test"] for run in runs]) + mean_and_sd(differences)
    if name == "best-epoch":
        return [*start, *row, "-"]  # that of the last epoch
    return [*start, *row, round(100 * mean(run["train"] for run in runs), 2)]


def mean_and_sd(values: Sequence[float]) -> list[object]:
    """Make two cells, in per cent, with a dash for what so few values do not allow."""
    center = round(100 * mean(values), 2) if values else "-"
    return [center, round(100 * stdev(values), 2) if len(values) > 1 else "-"]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table; ``--repeats`` is the number of seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[options(None)],
        conflict_handler="resolve",  # its --images takes the first ones
    )
    whole = {"type": positive, "metavar": "N"}
    help = "training images, drawn with as many of each class (default: %(default)s)"
    parser.add_argument("--images", default=3000, help=help, **whole)
    parser.add_argument("--epochs", default=6, help="default: %(default)s; with --quick 2", **whole)
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=list(VARIANTS),
        help="default: all; base is always run",
    )
    add_keep(parser, "ablations")
    args, _, test = parse(parser, argv)
    train, _ = load(args.data, quick=args.quick)
    if args.images < len(train):
        train = train.split(args.images / len(train), seed=0)[1]
    short = {"epochs": 2, "batch_size": 32} if args.quick else {"epochs": args.epochs}
    recipe = MODERN.but(**short)
    finished = Finished(parser, args)

    names = [name for name in VARIANTS if name == "base" or name in args.variants]
    results: dict[str, list[Run]] = {name: [] for name in names}
    for seed in range(args.repeats):
        for name in names:
            if name == "best-epoch":
                results[name].append(best_epoch(results["base"][seed]))
                continue
            changed = recipe.but(**VARIANTS[name].recipe)
            settings = [name, seed, str(args.device), train.fingerprint, asdict(changed)]
            make = partial(train_and_test, name, train, test, changed, args, seed)
            results[name].append(finished(settings, make))
    notes = [
        "A difference is to the base of the same seed. Training accuracy: last weights, images as they are."
    ]
    if "best-epoch" in names:
        notes.append("The best epoch is chosen on the images that it is measured on.")
    report(
        f"What each ingredient is worth after {recipe.epochs} epochs of {len(train):,} images",
        args,
        HEADER,
        [cells(name, runs, results["base"]) for name, runs in results.items()],
        name="ablations",
        how=f"recipe modern on {'a tiny network' if args.quick else 'resnet20'}: {recipe.epochs} epoch(s) of "
        f"{len(train):,} images, fp32; last epoch, {len(test):,} test images; seeds: {args.repeats}",
        notes=[*notes, *finished.notes()],
    )


if __name__ == "__main__":
    main()
