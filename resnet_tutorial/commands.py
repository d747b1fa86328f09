"""What the commands of the command line do."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
import warnings
from pathlib import Path
from typing import Any

import torch

from . import data, evaluation, exercises, models, records, runtime, training
from .data import CIFAR10, Normalize, Split
from .files import atomic, claimed, refuse_unwritable
from .training import Board, History, Recipe, Row, distributed, fit, get_recipe

SHIPPED = "cifar10"
RESULTS = ("checkpoint.pt", "model.safetensors", "best.safetensors", "history.json", "history.csv")


def download(arguments: argparse.Namespace) -> None:
    """Fetch CIFAR-10."""
    train, test = data.load_cifar10(root=arguments.root, download=True)
    where = arguments.root or data.cache_dir()
    print(f"CIFAR-10 is complete in {where}: {len(train):,} + {len(test):,} images, content verified")


def train(arguments: argparse.Namespace) -> None:
    """Train a network from scratch; only ``--record`` looks at the test images, after the end."""
    recipe = _recipe(arguments)
    pool = _load(arguments, "train")
    test = None
    if arguments.record is not None:
        if arguments.data not in ("sample", "cifar10"):
            raise ValueError("--record needs test images: --data sample or cifar10")
        test = _load(arguments, "test")
    if arguments.classes:
        pool = pool.with_classes(arguments.classes)
        test = test and test.with_classes(arguments.classes)
    learn, val = _divide(arguments, pool)
    if test is not None:
        record = _record_name(arguments, recipe, val)
        records.refuse_existing(arguments.record, record, overwrite=arguments.overwrite)
    runtime.seed_everything(arguments.seed)
    model = models.create(arguments.model, num_classes=len(pool.classes))
    history = _run(arguments, model, learn, val, recipe, name=arguments.model, normalize=CIFAR10)
    if test is not None and distributed.rank() == 0:
        about = f"{arguments.data}, {len(arguments.classes)} classes" if arguments.classes else arguments.data
        done = records.record_run(
            arguments.record,
            record,
            command=shlex.join(["resnet-tutorial", *arguments.argv]),
            network=arguments.model,
            model=model,
            history=history,
            data=about,
            train=learn,
            val=val,
            test=test,
            overwrite=arguments.overwrite,
        )
        print(
            f"test accuracy {done.test['accuracy']:.2%} (with the mirror image "
            f"{done.test['accuracy_flip']:.2%}); recorded in {arguments.record / done.name}.json"
        )


def _record_name(arguments: argparse.Namespace, recipe: Recipe, val: Split | None) -> str:
    words = [f"{len(arguments.classes)}classes"] if arguments.classes else []
    if val is not None:  # else it would take the place of the run on all images
        words.append(f"val{len(val)}")
    return _name(arguments, arguments.model, recipe, *words)


def _name(arguments: argparse.Namespace, network: str, recipe: Recipe, *words: str) -> str:
    """Return a name that runs of other settings do not have."""
    changes = (f"{key}{value}" for key, value in records.changed(recipe).items())
    return "-".join([network, recipe.name, *changes, *words, f"s{arguments.seed}"])


def finetune(arguments: argparse.Namespace) -> None:
    """Adapt a trained network to other classes."""
    recipe = _recipe(arguments)
    learn, val = _divide(arguments, _load(arguments, "train"))
    runtime.seed_everything(arguments.seed)
    model, metadata = _load_model(arguments.weights)
    training.replace_head(model, len(learn.classes))
    if arguments.freeze == "backbone":
        training.freeze_backbone(model)
        training.freeze_batchnorm(model)
    groups = training.parameter_groups(
        model, lr=recipe.lr, decay=0.5, weight_decay=recipe.weight_decay, decay_all=recipe.decay_all
    )
    normalize = _normalize(metadata)
    _run(arguments, model, learn, val, recipe, name="finetuned", normalize=normalize, groups=groups)


def _divide(arguments: argparse.Namespace, pool: Split) -> tuple[Split, Split | None]:
    """Hold out images for validation, as many as ``--val-fraction`` asks for."""
    if not arguments.val_fraction:
        return pool, None
    return pool.split(arguments.val_fraction, seed=arguments.seed)


def _run(
    arguments: argparse.Namespace,
    model: models.ResNet,
    learn: Split,
    val: Split | None,
    recipe: Recipe,
    *,
    name: str,
    normalize: Normalize,
    groups: list[dict[str, Any]] | None = None,
) -> History:
    """Train, print a line an epoch, and save the network and its history."""
    # Refuse a device or precision that is not there before anything is written.
    device = runtime.pick_device(arguments.device or distributed.local_device())
    dtype = runtime.pick_precision(device, arguments.precision)
    out = _folder(arguments, name, recipe)
    with _claimed(arguments, out):
        if arguments.resume and distributed.rank() == 0:
            _miss_best(out, val)
        held_out = f", {len(val):,} for validation" if val is not None else ""
        size = f"{models.count_parameters(model):,} parameters"
        _say(f"{name}: {size}; {len(learn):,} training images{held_out}")
        how = _choices(device, dtype, arguments.compile)
        _say(f"{how}, {recipe.optimizer}, batches of {recipe.batch_size}")

        def save(name: str, **about: Any) -> None:
            details = {"classes": learn.classes, "normalize": normalize, "seed": arguments.seed, **about}
            models.save_model(out / name, model, **details)

        board = None
        if arguments.tensorboard is not None and distributed.rank() == 0:
            refuse_unwritable(arguments.tensorboard, what="curves (--tensorboard)")
            board = Board(arguments.tensorboard / out.name, model, val, normalize=normalize)

        def on_epoch(row: Row) -> None:
            _print_row(row)
            if board is not None:
                board(row)

        def on_best(row: Row) -> None:
            fields = dataclasses.asdict(recipe)
            save("best.safetensors", recipe=fields, epoch=row["epoch"], val_loss=row["val_loss"])

        history = fit(
            model,
            learn,
            val,
            recipe,
            normalize=normalize,
            seed=arguments.seed,
            device=device,
            precision=arguments.precision,
            compile=arguments.compile,
            groups=groups,
            checkpoint=out / "checkpoint.pt",
            save_every=arguments.save_every,
            resume=arguments.resume,
            on_epoch=on_epoch,
            on_best=on_best,
        )
        _say(f"trained in {history.rows[-1]['seconds']:.0f} s")
        if distributed.rank() == 0:
            save("model.safetensors", recipe=history.recipe)
            history.save(out / "history.json")
            history.save_csv(out / "history.csv")
            print(f"saved {out / 'model.safetensors'}, history.json and history.csv")
    return history


def _folder(arguments: argparse.Namespace, network: str, recipe: Recipe) -> Path:
    """Return where the results go: ``--out``, else a folder named after network, recipe, data and seed."""
    data = [] if arguments.data == "sample" else [os.path.basename(os.path.realpath(arguments.data))]
    classes = getattr(arguments, "classes", None) or []
    return arguments.out or Path("runs") / _name(arguments, network, recipe, *data, *classes)


def _claimed(arguments: argparse.Namespace, out: Path) -> contextlib.AbstractContextManager[None]:
    """Keep the folder of results to this run; of several processes the first one does it for all."""
    if distributed.rank() != 0:
        return contextlib.nullcontext()
    how = {"resume": arguments.resume, "overwrite": arguments.overwrite}
    return claimed(out, RESULTS, state="checkpoint.pt", **how)


def _miss_best(out: Path, val: Split | None) -> None:
    """Warn if the best network of a run that goes on cannot be had: only a better one will be written."""
    path = out / "best.safetensors"
    best = History.from_checkpoint(out / "checkpoint.pt").best()
    if best is None or val is None:
        return
    try:
        epoch = models.load_weights(path)[1].get("epoch", 0)
        problem = f"is of epoch {epoch}, not of {best['epoch']}" if epoch < best["epoch"] else ""
    except (FileNotFoundError, ValueError) as error:
        problem = f"cannot be used ({error})"
    if problem:
        warnings.warn(f"{path} {problem}: it is written again only if a later epoch is better", stacklevel=2)


def _choices(device: torch.device, dtype: torch.dtype | None, compile: bool) -> str:
    """Say what is computed where and how."""
    where = f"{runtime.describe(device)['device']} x {distributed.size()}".removesuffix(" x 1")
    how = "compiled" if compile else "not compiled"
    return f"{where}, {runtime.precision_name(dtype)}, channels-last, {how}"


def _say(text: str) -> None:
    """Print, once if several processes train together."""
    if distributed.rank() == 0:
        print(text, flush=True)


def _print_row(row: Row) -> None:
    text = f"epoch {row['epoch']:3d}  loss {row['train_loss']:.3f}  accuracy {row['train_accuracy']:6.1%}"
    if row["val_accuracy"] is not None:
        text += f"  validation loss {row['val_loss']:.3f}  accuracy {row['val_accuracy']:6.1%}"
    print(f"{text}  {row['seconds']:6.1f} s", flush=True)


def evaluate(arguments: argparse.Namespace) -> None:
    """Measure a network."""
    model, metadata = _load_model(arguments.weights, name=arguments.model)
    if arguments.report is not None:
        refuse_unwritable(arguments.report, what="the page (--report)")
    if arguments.json is not None:
        refuse_unwritable(arguments.json.parent, what="the numbers (--json)")
    split = _of_its_classes(_load(arguments, "test"), tuple(metadata["classes"]), only=arguments.classes)
    predictions = evaluation.predict(
        model,
        split,
        normalize=_normalize(metadata),
        device=runtime.pick_device(arguments.device),
        flip=arguments.flip,
    )
    report = evaluation.report(predictions)
    print(f"{split.name}: {len(split):,} images")
    print(report)
    if arguments.report is not None:
        about = {
            "weights": arguments.weights,
            "parameters": f"{models.count_parameters(model):,}",
            "data": split.name,
            "view": "each image and its mirror image" if arguments.flip else "single",
        }
        page = evaluation.write_report(
            arguments.report, predictions, split, title=f"Model report: {arguments.weights}", about=about
        )
        print(f"saved {page}")
    if arguments.json is not None:
        with atomic(arguments.json) as file:
            file.write((json.dumps(report.to_dict(), indent=1, allow_nan=False) + "\n").encode())
        print(f"saved {arguments.json}")


def _of_its_classes(split: Split, known: tuple[str, ...], *, only: list[str] | None) -> Split:
    """Return the images of the classes that a network knows, or of some of these, labelled as it does."""
    if set(known) - set(split.classes):
        raise ValueError(
            f"the network knows {', '.join(known)}, but {split.name} has {', '.join(split.classes)}: "
            "evaluate it on images of its own classes, or fine-tune it"
        )
    if known != split.classes:
        split = split.with_classes(known, name=f"{split.name} ({len(known)} of {len(split.classes)} classes)")
    if not only:
        return split
    if unknown := [name for name in only if name not in known]:
        raise ValueError(f"unknown class {unknown[0]!r}: choose among {', '.join(known)}")
    only = list(dict.fromkeys(only))
    wanted = torch.tensor([known.index(name) for name in only], device=split.labels.device)
    return split.subset(torch.isin(split.labels, wanted), name=f"{split.name}, only {', '.join(only)}")


def predict(arguments: argparse.Namespace) -> None:
    """Name what is in pictures."""
    model, metadata = _load_model(arguments.weights)
    classes = metadata["classes"]
    top = min(3, len(classes)) if arguments.top is None else arguments.top
    if not 1 <= top <= len(classes):
        raise ValueError(f"--top must be between 1 and {len(classes)}, not {top}")
    images = torch.stack([data.load_image(path) for path in arguments.images])  # (N, 3, 32, 32)
    predictions = evaluation.predict(model, images, classes=classes, normalize=_normalize(metadata))
    for path, probabilities in zip(arguments.images, predictions.probabilities, strict=True):
        best = probabilities.argsort()[::-1][:top]
        print(f"{path}: " + ", ".join(f"{classes[k]} {probabilities[k]:.1%}" for k in best))


def check(arguments: argparse.Namespace) -> None:
    """Judge a reader's answers to the exercises of a chapter."""
    verdicts = exercises.check_notebook(arguments.chapter, arguments.notebook, seconds=120)
    print(*verdicts, sep="\n")
    right = sum(verdict.state == "right" for verdict in verdicts)
    print(f"{right} of {len(verdicts)} right; the other exercises have no check: compare with the solutions")


def _recipe(arguments: argparse.Namespace) -> Recipe:
    recipe = get_recipe(arguments.recipe)
    changes = {"epochs": arguments.epochs, "batch_size": arguments.batch_size, "lr": arguments.lr}
    return recipe.but(**{name: value for name, value in changes.items() if value is not None})


def _load(arguments: argparse.Namespace, part: str) -> Split:
    """Return the images that ``--data`` names, to train or to test on; a folder is taken whole."""
    if arguments.data in ("sample", "cifar10"):
        train, test = data.load_sample() if arguments.data == "sample" else data.load_cifar10()
        return train if part == "train" else test
    return data.load_folder(arguments.data, on_error="skip" if arguments.skip_unreadable else "raise")


def _load_model(weights: str, *, name: str | None = None) -> tuple[models.ResNet, dict[str, Any]]:
    """Read a weights file, or the shipped ResNet-20 of that name."""
    path = weights if Path(weights).suffix else models.shipped("resnet20", weights)
    model, metadata = models.load_model(path, name=name)
    if "classes" not in metadata:
        raise ValueError(f"{path} holds weights but no class names: give a file that train or finetune wrote")
    return model, metadata


def _normalize(metadata: dict[str, Any]) -> Normalize:
    return Normalize(tuple(metadata["mean"]), tuple(metadata["std"]))
