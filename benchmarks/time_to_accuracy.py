"""Wall time of a recipe to a target accuracy, over several seeds.

Every run follows the recipe's fixed schedule to its end; its last weights are measured on the test images
once. No epoch is chosen, and during training only the validation images, held out of the training images,
are looked at. The time is that of training, validation after every epoch included, the final test not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from common import fraction, options, parse, positive, report, synchronize

from resnet_tutorial import models
from resnet_tutorial.data import Split
from resnet_tutorial.evaluation import predict
from resnet_tutorial.runtime import PRECISIONS, pick_precision, seed_everything
from resnet_tutorial.training import RECIPES, Recipe, Row, fit

HEADER = (
    "seed",
    "validation accuracy (%)",
    "test accuracy, single view (%)",
    "test accuracy, with mirror image (%)",
    "seconds",
    "validation reaches the target in epoch",
    "after seconds",
)


@dataclass(frozen=True)
class Run:
    """What one seed gave; accuracies in 0..1, of the last epoch."""

    validation: float | None
    single_view: float
    with_mirror: float
    seconds: float
    reached: tuple[int, float] | None


def first_at(rows: Sequence[Row], target: float) -> tuple[int, float] | None:
    """Find the first epoch whose validation accuracy is at least the target, and the seconds until then."""
    for row in rows:
        if row["val_accuracy"] is not None and row["val_accuracy"] >= target:
            return int(row["epoch"]), row["seconds"]
    return None


def train_and_test(train: Split, test: Split, recipe: Recipe, args: argparse.Namespace, seed: int) -> Run:
    """Make one run of the whole schedule."""
    part, val = train, None
    if args.val_fraction:
        part, val = train.split(args.val_fraction, seed=0)  # the same for all seeds
    seed_everything(seed)
    model = new_model(args)
    settings = {"device": args.device, "precision": args.precision, "compile": args.compile}
    synchronize(args.device)
    started = time.perf_counter()
    history = fit(model, part, val, recipe, seed=seed, progress=False, **settings)
    synchronize(args.device)
    seconds = time.perf_counter() - started

    dtype = pick_precision(args.device, args.precision)
    single, mirrored = (
        float(predict(model, test, device=args.device, dtype=dtype, flip=flip).correct.mean())
        for flip in (False, True)
    )
    last = history.rows[-1]["val_accuracy"]
    return Run(last, single, mirrored, seconds, first_at(history.rows, args.target))


def new_model(args: argparse.Namespace) -> models.ResNet:
    """Build the network, with weights drawn from the present seed."""
    return models.create("resnet8", width=4) if args.quick else models.create(args.model)


def percent(values: Sequence[float | None]) -> str:
    """Write mean and, from two runs on, standard deviation in per cent; a dash if there are none."""
    if any(value is None for value in values):
        return "-"
    return mean_and_sd([100 * value for value in values], 2)


def mean_and_sd(values: Sequence[float], digits: int) -> str:
    """Write mean and, from two runs on, standard deviation."""
    text = f"{mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {stdev(values):.{digits}f}"


def cells(name: str, runs: Sequence[Run]) -> list[str]:
    """Make a row of the table: one run, or the mean of several."""
    reached = [run.reached for run in runs]
    when = ["-", "-"]
    if all(reached):
        when = [mean_and_sd([r[0] for r in reached], 0 if len(runs) == 1 else 1)]
        when.append(mean_and_sd([r[1] for r in reached], 1))
    accuracies = [percent([getattr(run, key) for run in runs]) for key in ("validation", "single_view")]
    accuracies.append(percent([run.with_mirror for run in runs]))
    return [name, *accuracies, mean_and_sd([run.seconds for run in runs], 1), *when]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the table; ``--repeats`` is the number of seeds."""
    parser = options(__doc__)
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="modern", help="default: modern")
    parser.add_argument("--model", choices=models.MODELS, default="resnet20", help="default: resnet20")
    parser.add_argument("--epochs", type=positive, help="instead of the recipe's (with --quick 2)")
    parser.add_argument("--target", type=fraction, default=0.9, help="accuracy in 0..1 (default: 0.9)")
    parser.add_argument(
        "--val-fraction",
        type=fraction,
        default=0.1,
        help="held out for validation (default: 0.1); 0 trains on all images",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--compile", action="store_true")
    args, train, test = parse(parser, argv)
    recipe = RECIPES[args.recipe]
    if args.quick:
        recipe = recipe.but(epochs=2, batch_size=32)
    if args.epochs:
        recipe = recipe.but(epochs=args.epochs)
    try:
        pick_precision(args.device, args.precision)
        if args.val_fraction:
            train.split(args.val_fraction)
    except ValueError as error:
        parser.error(str(error))

    few = train.subset(range(min(2 * recipe.batch_size, len(train))))
    started = time.perf_counter()
    settings = {"device": args.device, "precision": args.precision, "compile": args.compile}
    fit(new_model(args), few, None, recipe.but(steps=2), progress=False, **settings)
    warm_up = time.perf_counter() - started

    runs = [train_and_test(train, test, recipe, args, seed) for seed in range(args.repeats)]
    rows = [cells(str(seed), [run]) for seed, run in enumerate(runs)]
    rows.append(cells(f"mean ± sd, n = {len(runs)}", runs))
    there = sum(run.single_view >= args.target for run in runs)
    passed = sum(run.reached is not None for run in runs)
    report(
        f"Time of `{args.recipe}` to {args.target:.2%}",
        args,
        HEADER,
        rows,
        name=f"time-{args.model}-{args.recipe}",
        how=f"{'a tiny network' if args.quick else args.model}, {recipe.epochs or recipe.steps} "
        f"{'epochs' if recipe.epochs else 'steps'}; fixed schedule, last epoch, one process",
        notes=[
            f"{there} of {len(runs)} runs end at or above the target on the test images, single view; "
            f"validation reached it in {passed}.",
            f"Two steps to warm up, compiling included where it was asked for, took {warm_up:.1f} s; "
            "they are not counted.",
        ],
    )


if __name__ == "__main__":
    main()
