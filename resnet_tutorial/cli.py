"""The command line: ``resnet-tutorial download | train | evaluate | predict | finetune``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from . import __version__, checkpoint, data, evaluate, finetune, models, runtime
from .augment import CIFAR10, Normalize
from .history import Row
from .mirrors import DownloadError
from .recipes import RECIPES, Recipe, get_recipe
from .train import DivergedError, fit

SHIPPED = "cifar10"

TRAIN_EXAMPLES = """examples:
  resnet-tutorial train                                      the sample, in about a minute
  resnet-tutorial train --data cifar10 --recipe modern       the full data set
  resnet-tutorial train --data photos/ --model resnet32      your own images, one folder a class
"""
EVALUATE_EXAMPLES = """examples:
  resnet-tutorial evaluate runs/resnet20-quick-s0/model.safetensors
  resnet-tutorial evaluate model.safetensors --data cifar10 --json report.json
  resnet-tutorial evaluate model.safetensors --data photos/
"""
PREDICT_EXAMPLES = """examples:
  resnet-tutorial predict photo.jpg
  resnet-tutorial predict *.png --weights runs/resnet20-quick-s0/model.safetensors --top 3
"""
FINETUNE_EXAMPLES = """examples:
  resnet-tutorial finetune --data photos/
  resnet-tutorial finetune --data photos/ --freeze none --epochs 20 --lr 0.01
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit status: 0, 2 after bad input (one line on standard error), 130 when interrupted.
    """
    arguments = build_parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except (ValueError, DownloadError, DivergedError, OSError) as error:
        print(f"resnet-tutorial: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("resnet-tutorial: interrupted; a training goes on with --resume", file=sys.stderr)
        return 130
    return 0


def build_parser() -> argparse.ArgumentParser:
    """The parser, whose help shows examples for every command."""
    parser = argparse.ArgumentParser(
        prog="resnet-tutorial", description="Train, fine-tune and evaluate ResNets."
    )
    parser.add_argument("--version", action="version", version=f"resnet-tutorial {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command, summary: str, examples: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=summary,
            description=summary,
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(command=command)
        return sub

    sub = add("download", _download, "Fetch all of CIFAR-10 and check its content.", "")
    sub.add_argument(
        "--root", type=Path, help="where to keep it (default: RESNET_TUTORIAL_DATA or the user's cache)"
    )

    sub = add("train", _train, "Train a network from scratch. The test set is not touched.", TRAIN_EXAMPLES)
    sub.add_argument(
        "--model", default="resnet20", help="resnet20, plain56, resnet18_cifar, ... (default: resnet20)"
    )
    _add_data(sub, "sample")
    _add_training(sub, recipe="quick")

    sub = add("evaluate", _evaluate, "Measure a trained network on test images.", EVALUATE_EXAMPLES)
    sub.add_argument(
        "weights", help=f"a file that train or finetune wrote, or '{SHIPPED}' for the shipped network"
    )
    _add_data(sub, "sample")
    sub.add_argument("--model", help="refuse the file unless it holds this network")
    sub.add_argument("--flip", action="store_true", help="average each image with its mirror image")
    sub.add_argument("--device", help="cpu, cuda, ... (default: the fastest there is)")
    sub.add_argument("--json", type=Path, metavar="FILE", help="also write the report as JSON")

    sub = add("predict", _predict, "Name what is in a picture.", PREDICT_EXAMPLES)
    sub.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    sub.add_argument(
        "--weights", default=SHIPPED, help=f"a weights file (default: '{SHIPPED}', the shipped network)"
    )
    sub.add_argument("--top", type=int, help="how many classes to print (default: 3, or all if fewer)")

    sub = add("finetune", _finetune, "Adapt a trained network to your own classes.", FINETUNE_EXAMPLES)
    sub.add_argument(
        "--weights", default=SHIPPED, help=f"where to start (default: '{SHIPPED}', the shipped network)"
    )
    _add_data(sub, None)
    sub.add_argument(
        "--freeze",
        choices=("backbone", "none"),
        default="backbone",
        help="train the new head only (default), or everything, earlier stages at lower rates",
    )
    _add_training(sub, recipe="quick")
    return parser


def _add_data(parser: argparse.ArgumentParser, default: str | None) -> None:
    parser.add_argument(
        "--data",
        default=default,
        required=default is None,
        help="sample, cifar10, or a directory with one folder a class"
        + (f" (default: {default})" if default else ""),
    )
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave unreadable images out, with a warning"
    )


def _add_training(parser: argparse.ArgumentParser, *, recipe: str) -> None:
    parser.add_argument("--recipe", default=recipe, help=f"one of {', '.join(RECIPES)} (default: {recipe})")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--batch-size", type=int, help="instead of the recipe's")
    parser.add_argument("--lr", type=float, help="instead of the recipe's peak learning rate")
    parser.add_argument(
        "--val-fraction", type=float, default=0.1, help="share kept for validation (default: 0.1)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda, ... (default: the fastest there is)")
    parser.add_argument("--precision", choices=runtime.PRECISIONS, default="auto")
    parser.add_argument("--compile", action="store_true", help="compile the network (pays in long runs)")
    parser.add_argument(
        "--out", type=Path, help="directory for the results (default: runs/MODEL-RECIPE-sSEED)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run of this command")
    parser.add_argument(
        "--save-every", type=int, metavar="STEPS", help="save the run's state this often, too"
    )


def _download(arguments: argparse.Namespace) -> None:
    train, test = data.load_cifar10(root=arguments.root, download=True)
    where = arguments.root or data.cache_dir()
    print(f"CIFAR-10 is complete in {where}: {len(train):,} + {len(test):,} images, content verified")


def _train(arguments: argparse.Namespace) -> None:
    recipe = _recipe(arguments)
    pool = _load(arguments, "train")
    runtime.seed_everything(arguments.seed)
    model = models.create(arguments.model, num_classes=len(pool.classes))
    _run(arguments, model, pool, recipe, name=arguments.model, normalize=CIFAR10)


def _finetune(arguments: argparse.Namespace) -> None:
    recipe = _recipe(arguments)
    pool = _load(arguments, "train")
    runtime.seed_everything(arguments.seed)
    model, metadata = _load_model(arguments.weights)
    finetune.replace_head(model, len(pool.classes))
    if arguments.freeze == "backbone":
        finetune.freeze_backbone(model)
        finetune.freeze_batchnorm(model)
    groups = finetune.parameter_groups(model, lr=recipe.lr, decay=0.5, weight_decay=recipe.weight_decay)
    _run(arguments, model, pool, recipe, name="finetuned", normalize=_normalize(metadata), groups=groups)


def _run(
    arguments, model, pool: data.Split, recipe: Recipe, *, name: str, normalize: Normalize, groups=None
) -> None:
    """Trains, prints a line an epoch, and saves the network and its history."""
    # Refuse a device or precision that is not there before anything is written.
    runtime.pick_precision(runtime.pick_device(arguments.device), arguments.precision)
    train, val = pool, None
    if arguments.val_fraction:
        train, val = pool.split(arguments.val_fraction, seed=arguments.seed)
    out = arguments.out or Path("runs") / f"{name}-{recipe.name}-s{arguments.seed}"
    if not arguments.resume:
        out.mkdir(parents=True, exist_ok=True)
    held_out = f", {len(val):,} for validation" if val is not None else ""
    print(f"{name}: {models.count_parameters(model):,} parameters; {len(train):,} training images{held_out}")

    save = partial(models.save_model, classes=pool.classes, normalize=normalize, seed=arguments.seed)
    best = out / "best.safetensors"

    def on_epoch(row: Row) -> None:
        _print_row(row)
        if row["val_loss"] is not None and (row["epoch"] == 1 or row["val_loss"] < _val_loss(best)):
            recipe_fields = dataclasses.asdict(recipe)
            save(best, model, recipe=recipe_fields, epoch=row["epoch"], val_loss=row["val_loss"])

    started = time.perf_counter()
    history = fit(
        model,
        train,
        val,
        recipe,
        normalize=normalize,
        seed=arguments.seed,
        device=arguments.device,
        precision=arguments.precision,
        compile=arguments.compile,
        groups=groups,
        checkpoint=out / "checkpoint.pt",
        save_every=arguments.save_every,
        resume=arguments.resume,
        on_epoch=on_epoch,
    )
    machine = f"{history.setup['device']}, {history.setup['precision']}"
    print(f"trained in {time.perf_counter() - started:.0f} s ({machine})")

    save(out / "model.safetensors", model, recipe=history.recipe)
    history.save(out / "history.json")
    print(f"saved {out / 'model.safetensors'} and {out / 'history.json'}")


def _val_loss(path: Path) -> float:
    """The validation loss of a saved network, perhaps one of an earlier process of the same run."""
    return checkpoint.load_weights(path)[1]["val_loss"]


def _print_row(row: Row) -> None:
    text = f"epoch {row['epoch']:3d}  loss {row['train_loss']:.3f}  accuracy {row['train_accuracy']:6.1%}"
    if row["val_accuracy"] is not None:
        text += f"  validation loss {row['val_loss']:.3f}  accuracy {row['val_accuracy']:6.1%}"
    print(f"{text}  {row['seconds']:6.1f} s", flush=True)


def _evaluate(arguments: argparse.Namespace) -> None:
    model, metadata = _load_model(arguments.weights, name=arguments.model)
    split = _load(arguments, "test")
    if tuple(metadata["classes"]) != split.classes:
        raise ValueError(
            f"the network knows {', '.join(metadata['classes'])}, but {split.name} has "
            f"{', '.join(split.classes)}: evaluate it on images of its own classes, or fine-tune it"
        )
    predictions = evaluate.predict(
        model,
        split,
        normalize=_normalize(metadata),
        device=runtime.pick_device(arguments.device),
        flip=arguments.flip,
    )
    report = evaluate.report(predictions)
    print(f"{split.name}: {len(split):,} images")
    print(report)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
        print(f"saved {arguments.json}")


def _predict(arguments: argparse.Namespace) -> None:
    model, metadata = _load_model(arguments.weights)
    classes = metadata["classes"]
    top = min(3, len(classes)) if arguments.top is None else arguments.top
    if not 1 <= top <= len(classes):
        raise ValueError(f"--top must be between 1 and {len(classes)}, not {top}")
    images = torch.stack([data.load_image(path) for path in arguments.images])  # (N, 3, 32, 32)
    labels = torch.zeros(len(images), dtype=torch.int64)  # unknown, and not used
    predictions = evaluate.predict(
        model, data.Split(images, labels, tuple(classes), "photos"), normalize=_normalize(metadata)
    )
    for path, probabilities in zip(arguments.images, predictions.probabilities, strict=True):
        best = probabilities.argsort()[::-1][:top]
        print(f"{path}: " + ", ".join(f"{classes[k]} {probabilities[k]:.1%}" for k in best))


def _recipe(arguments: argparse.Namespace) -> Recipe:
    recipe = get_recipe(arguments.recipe)
    changes = {"epochs": arguments.epochs, "batch_size": arguments.batch_size, "lr": arguments.lr}
    return recipe.but(**{name: value for name, value in changes.items() if value is not None})


def _load(arguments: argparse.Namespace, part: str) -> data.Split:
    """The training or test images that ``--data`` names; a directory of one's own is taken whole."""
    if arguments.data in ("sample", "cifar10"):
        train, test = data.load_sample() if arguments.data == "sample" else data.load_cifar10()
        return train if part == "train" else test
    return data.load_folder(arguments.data, on_error="skip" if arguments.skip_unreadable else "raise")


def _load_model(weights: str, *, name: str | None = None) -> tuple[models.ResNet, dict]:
    path = models.shipped("resnet20", weights) if weights == SHIPPED else weights
    model, metadata = models.load_model(path, name=name)
    if "classes" not in metadata:
        raise ValueError(f"{path} holds weights but no class names: give a file that train or finetune wrote")
    return model, metadata


def _normalize(metadata: dict) -> Normalize:
    return Normalize(tuple(metadata["mean"]), tuple(metadata["std"]))
