"""What the commands of the command line do."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from functools import partial
from pathlib import Path

import torch

from . import data, evaluation, exercises, models, records, runtime, training
from .data import CIFAR10, Normalize
from .files import atomic
from .training import Board, History, Recipe, Row, distributed, fit, get_recipe

SHIPPED = "cifar10"


def download(arguments: argparse.Namespace) -> None:
    """Fetches CIFAR-10."""
    train, test = data.load_cifar10(root=arguments.root, download=True)
    where = arguments.root or data.cache_dir()
    print(f"CIFAR-10 is complete in {where}: {len(train):,} + {len(test):,} images, content verified")


def train(arguments: argparse.Namespace) -> None:
    """Trains a network from scratch; only ``--record`` looks at the test images, after the end."""
    recipe = _recipe(arguments)
    pool = _load(arguments, "train")
    test = None
    if arguments.record is not None:
        if arguments.data not in ("sample", "cifar10"):
            raise ValueError("--record needs test images: --data sample or cifar10")
        records.changed(recipe)
        test = _load(arguments, "test")
    if arguments.classes:
        pool = pool.with_classes(arguments.classes)
        test = test and test.with_classes(arguments.classes)
    runtime.seed_everything(arguments.seed)
    model = models.create(arguments.model, num_classes=len(pool.classes))
    history, split = _run(arguments, model, pool, recipe, name=arguments.model, normalize=CIFAR10)
    if test is not None and distributed.rank() == 0:
        _record(arguments, model, recipe, history, split | {"test": test})


def _record(
    arguments: argparse.Namespace, model: models.ResNet, recipe: Recipe, history: History, splits: dict
) -> None:
    """Measures the last weights on the test images, in float32, and writes the record."""
    changes = records.changed(recipe)
    words = [arguments.model, recipe.name, *(f"{key}{value}" for key, value in changes.items())]
    about = arguments.data
    if arguments.classes:
        words.append(f"{len(arguments.classes)}classes")
        about += f", {len(arguments.classes)} classes"
    if splits["val"]:  # else it would take the place of the run on all images
        words.append(f"val{len(splits['val'])}")
    name = "-".join([*words, f"s{arguments.seed}"])
    single, flipped = (evaluation.predict(model, splits["test"], flip=flip) for flip in (False, True))
    single, digest = records.save_logits(arguments.record, name, single)
    report = evaluation.report(single)
    record = records.Run(
        name=name,
        command=shlex.join(["resnet-tutorial", *arguments.argv]),
        setup=history.setup,
        model={
            "name": arguments.model,
            "config": model.config,
            "parameters": models.count_parameters(model),
        },
        recipe=history.recipe,
        changes=changes,
        seed=arguments.seed,
        data=records.data_summary(about, **splits),
        history=history.rows,
        seconds=history.rows[-1]["seconds"],
        test={
            "accuracy": float(single.correct.mean()),
            "accuracy_flip": float(flipped.correct.mean()),
            "loss": report.loss,
            "logits_sha256": digest,
        },
    )
    path = record.save(arguments.record)
    print(
        f"test accuracy {record.test['accuracy']:.2%} (with the mirror image "
        f"{record.test['accuracy_flip']:.2%}); recorded in {path}"
    )


def finetune(arguments: argparse.Namespace) -> None:
    """Adapts a trained network to other classes."""
    recipe = _recipe(arguments)
    pool = _load(arguments, "train")
    runtime.seed_everything(arguments.seed)
    model, metadata = _load_model(arguments.weights)
    training.replace_head(model, len(pool.classes))
    if arguments.freeze == "backbone":
        training.freeze_backbone(model)
        training.freeze_batchnorm(model)
    groups = training.parameter_groups(model, lr=recipe.lr, decay=0.5, weight_decay=recipe.weight_decay)
    _run(arguments, model, pool, recipe, name="finetuned", normalize=_normalize(metadata), groups=groups)


def _run(
    arguments, model, pool: data.Split, recipe: Recipe, *, name: str, normalize: Normalize, groups=None
) -> tuple[History, dict[str, data.Split | None]]:
    """Trains, prints a line an epoch, and saves the network and its history."""
    # Refuse a device or precision that is not there before anything is written.
    device = runtime.pick_device(arguments.device or distributed.local_device())
    dtype = runtime.pick_precision(device, arguments.precision)
    train, val = pool, None
    if arguments.val_fraction:
        train, val = pool.split(arguments.val_fraction, seed=arguments.seed)
    out = arguments.out or Path("runs") / f"{name}-{recipe.name}-s{arguments.seed}"
    if not arguments.resume:
        out.mkdir(parents=True, exist_ok=True)
    held_out = f", {len(val):,} for validation" if val is not None else ""
    _say(f"{name}: {models.count_parameters(model):,} parameters; {len(train):,} training images{held_out}")
    _say(f"{_choices(device, dtype, arguments.compile)}, {recipe.optimizer}, batches of {recipe.batch_size}")

    save = partial(models.save_model, classes=pool.classes, normalize=normalize, seed=arguments.seed)
    best = out / "best.safetensors"
    board = None
    if arguments.tensorboard is not None and distributed.rank() == 0:
        board = Board(arguments.tensorboard / out.name, model, val, normalize=normalize)

    def on_epoch(row: Row) -> None:
        _print_row(row)
        if board is not None:
            board(row)
        if row["val_loss"] is not None and (row["epoch"] == 1 or row["val_loss"] < _val_loss(best)):
            recipe_fields = dataclasses.asdict(recipe)
            save(best, model, recipe=recipe_fields, epoch=row["epoch"], val_loss=row["val_loss"])

    history = fit(
        model,
        train,
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
    )
    _say(f"trained in {history.rows[-1]['seconds']:.0f} s")
    if distributed.rank() == 0:
        save(out / "model.safetensors", model, recipe=history.recipe)
        history.save(out / "history.json")
        history.save_csv(out / "history.csv")
        print(f"saved {out / 'model.safetensors'}, history.json and history.csv")
    return history, {"train": train, "val": val}


def _choices(device: torch.device, dtype: torch.dtype | None, compile: bool) -> str:
    """What is computed where and how, in words."""
    where = f"{runtime.describe(device)['device']} x {distributed.size()}".removesuffix(" x 1")
    how = "compiled" if compile else "not compiled"
    return f"{where}, {runtime.precision_name(dtype)}, channels-last, {how}"


def _say(text: str) -> None:
    """Prints, once if several processes train together."""
    if distributed.rank() == 0:
        print(text, flush=True)


def _val_loss(path: Path) -> float:
    """The validation loss of a saved network, perhaps one of an earlier process of the same run."""
    return models.load_weights(path)[1]["val_loss"]


def _print_row(row: Row) -> None:
    text = f"epoch {row['epoch']:3d}  loss {row['train_loss']:.3f}  accuracy {row['train_accuracy']:6.1%}"
    if row["val_accuracy"] is not None:
        text += f"  validation loss {row['val_loss']:.3f}  accuracy {row['val_accuracy']:6.1%}"
    print(f"{text}  {row['seconds']:6.1f} s", flush=True)


def evaluate(arguments: argparse.Namespace) -> None:
    """Measures a network."""
    model, metadata = _load_model(arguments.weights, name=arguments.model)
    split = _load(arguments, "test")
    if tuple(metadata["classes"]) != split.classes:
        raise ValueError(
            f"the network knows {', '.join(metadata['classes'])}, but {split.name} has "
            f"{', '.join(split.classes)}: evaluate it on images of its own classes, or fine-tune it"
        )
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
            file.write((json.dumps(report.to_dict(), indent=1) + "\n").encode())
        print(f"saved {arguments.json}")


def predict(arguments: argparse.Namespace) -> None:
    """Names what is in pictures."""
    model, metadata = _load_model(arguments.weights)
    classes = metadata["classes"]
    top = min(3, len(classes)) if arguments.top is None else arguments.top
    if not 1 <= top <= len(classes):
        raise ValueError(f"--top must be between 1 and {len(classes)}, not {top}")
    images = torch.stack([data.load_image(path) for path in arguments.images])  # (N, 3, 32, 32)
    labels = torch.zeros(len(images), dtype=torch.int64)  # unknown, and not used
    predictions = evaluation.predict(
        model, data.Split(images, labels, tuple(classes), "photos"), normalize=_normalize(metadata)
    )
    for path, probabilities in zip(arguments.images, predictions.probabilities, strict=True):
        best = probabilities.argsort()[::-1][:top]
        print(f"{path}: " + ", ".join(f"{classes[k]} {probabilities[k]:.1%}" for k in best))


def check(arguments: argparse.Namespace) -> None:
    """Judges a reader's answers to the exercises of a chapter."""
    verdicts = exercises.check(arguments.chapter, arguments.notebook)
    print(*verdicts, sep="\n")
    right = sum(verdict.state == "right" for verdict in verdicts)
    print(f"{right} of {len(verdicts)} right; the other exercises have no check: compare with the solutions")


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
