"""What the commands of the command line do."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import shlex
from pathlib import Path
from typing import Any

import torch

from . import data, evaluation, exercises, models, records, runtime, training
from .data import PartList, Preprocess, Split
from .files import atomic, claimed, refuse_unwritable
from .photos import (
    CIFAR_DATA,
    LIST,
    cifar_images,
    label_as,
    only_classes,
    open_network,
    unseen_photos,
    what_is_there,
    write_table,
)
from .targets import miss_best, refuse_among_photos, refuse_foreign, refuse_outputs
from .training import Board, DivergedError, History, Recipe, Row, distributed, fit, get_recipe

SHIPPED = "cifar10"
RESULTS = ("checkpoint.pt", "model.safetensors", "best.safetensors", "history.json", "history.csv", LIST)


def download(arguments: argparse.Namespace) -> None:
    """Fetch CIFAR-10."""
    train, test = data.load_cifar10(root=arguments.root, download=True)
    where = arguments.root or data.cache_dir()
    print(f"CIFAR-10 is complete in {where}: {len(train):,} + {len(test):,} images, content verified")


def train(arguments: argparse.Namespace) -> None:
    """Train a network from scratch; only ``--record`` looks at the test images, after the end."""
    recipe, how = _recipe(arguments), Preprocess(**_given(arguments, "size", "white"))
    if arguments.classes and len({*arguments.classes}) < 2:
        raise ValueError(f"--classes {arguments.classes[0]!r}: give at least two classes to tell apart")
    test = None
    if arguments.record is not None:
        if arguments.data not in CIFAR_DATA:
            raise ValueError("--record needs test images: --data sample or cifar10")
        test = cifar_images(arguments.data, how, "test")
        test = test.with_classes(arguments.classes) if arguments.classes else test
    parts = _parts(arguments, how)
    if arguments.data not in CIFAR_DATA and arguments.classes:
        parts = {part: split.with_classes(arguments.classes) for part, split in parts.items()}
    learn, val = parts["train"], parts.get("val")
    if test is not None:
        record = _record_name(arguments, recipe, val)
        records.refuse_existing(arguments.record, record, overwrite=arguments.overwrite)
        refuse_foreign(arguments.record / f"{record}.json", what="record")
    runtime.seed_everything(arguments.seed)
    model = models.create(arguments.model, num_classes=len(learn.classes))
    history = _run(arguments, model, parts, recipe, name=arguments.model, how=how)
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
    """Adapt a trained network to other classes, or go on with the same ones."""
    recipe = _recipe(arguments)
    if arguments.resume and arguments.method == "head":
        raise ValueError("--method head takes one step and cannot be resumed: leave --resume out")
    how = {"name": arguments.model, "size": arguments.size, "white": arguments.white}
    network = open_network(arguments.weights, **how)
    parts = _parts(arguments, network.how, network.known)
    learn = parts["train"]
    runtime.seed_everything(arguments.seed)
    model, same = network.model, network.metadata.get("classes") == list(learn.classes)
    if not same:
        training.replace_head(model, len(learn.classes))
    training.choose_method(model, arguments.method, images=len(learn))
    groups = training.parameter_groups(
        model,
        lr=recipe.lr,
        decay=0.5,
        weight_decay=recipe.weight_decay,
        decay_all=recipe.decay_all,
        gradual=arguments.method == "gradual",
    )
    if same:
        _say("the same classes: training goes on from their head")
    head = arguments.method == "head" or not (same or arguments.resume)
    _run(arguments, model, parts, recipe, name="finetuned", how=network.how, groups=groups, head=head)


def _parts(arguments: argparse.Namespace, how: Preprocess, known: PartList | None = None) -> dict[str, Split]:
    """Return the images for training, and what is held out for validation and, of a folder, for the test."""
    if arguments.data not in CIFAR_DATA:
        return data.load_parts(
            arguments.data,
            size=how,
            val=arguments.val_fraction,
            test=arguments.test_fraction,
            seed=arguments.seed,
            group_by_subfolder=arguments.group_by == "subfolder",
            earlier=known,
            on_error="skip" if arguments.skip_unreadable else "raise",
            cache=True,
        )
    pool = cifar_images(arguments.data, how, "train")
    if getattr(arguments, "classes", None):
        pool = pool.with_classes(arguments.classes)
    if not arguments.val_fraction:
        return {"train": pool}
    learn, val = pool.split(arguments.val_fraction, seed=arguments.seed)
    return {"train": learn, "val": val}


def _run(
    arguments: argparse.Namespace,
    model: models.ResNet,
    parts: dict[str, Split],
    recipe: Recipe,
    *,
    name: str,
    how: Preprocess,
    groups: list[dict[str, Any]] | None = None,
    head: bool = False,
) -> History:
    """Train, print a line an epoch, and save network and history; ``head`` fits that on its own first."""
    learn, val, normalize = parts["train"], parts.get("val"), how.normalize
    photos = arguments.data not in CIFAR_DATA
    only_head = getattr(arguments, "method", "") == "head"
    # Refuse a device or precision that is not there before anything is written.
    device = runtime.pick_device(arguments.device or distributed.local_device())
    out, precision = _folder(arguments, name, recipe), arguments.precision
    if photos:
        refuse_among_photos(out, arguments.data, [file for split in parts.values() for file in split.files])
    if arguments.resume and precision == "auto" and (out / "checkpoint.pt").is_file():
        precision = training.saved_precision(out / "checkpoint.pt")
    dtype = runtime.pick_precision(device, precision)
    if arguments.tensorboard is not None:
        refuse_unwritable(arguments.tensorboard / out.name, what="curves (--tensorboard)")
    with _claimed(arguments, out, "model.safetensors" if only_head else "checkpoint.pt"):
        if arguments.resume and distributed.rank() == 0:
            miss_best(out, val)
        _say(f"{name}: {models.count_parameters(model):,} parameters; {what_is_there(parts)}")
        _say(f"{_choices(device, dtype, arguments.compile, recipe)}, {how.size} pixels")

        listed = PartList.of(arguments.data, parts) if photos else None  # hashes all photos: once a run

        def save(name: str, **about: Any) -> None:
            about |= how.stored() | {"recipe": dataclasses.asdict(recipe), "seed": arguments.seed}
            about |= {"classes": learn.classes, "normalize": normalize, "photos": photos}
            if listed is not None:
                listed.save(out / LIST)
            models.save_model(out / name, model, **about)

        if head:
            about = {"normalize": normalize, "device": device, "dtype": dtype}
            found = training.fit_head(model, learn, val, balanced=recipe.class_weights, **about)
            held = f", {found['val_accuracy']:.1%} in validation" if val is not None else ""
            _say(f"the head on its own: accuracy {found['train_accuracy']:.1%} in training{held}")

        board = None
        if arguments.tensorboard is not None and distributed.rank() == 0:
            board = Board(arguments.tensorboard / out.name, model, val, normalize=normalize)

        def on_epoch(row: Row) -> None:
            _print_row(row)
            if board is not None:
                board(row)

        def on_best(row: Row) -> None:
            save("best.safetensors", epoch=row["epoch"], val_loss=row["val_loss"])

        history = (
            History(setup=runtime.describe(device) | {"head": found})
            if only_head
            else fit(
                model,
                learn,
                val,
                recipe,
                normalize=normalize,
                seed=arguments.seed,
                device=device,
                precision=precision,
                compile=arguments.compile,
                groups=groups,
                checkpoint=out / "checkpoint.pt",
                save_every=arguments.save_every,
                resume=arguments.resume,
                on_epoch=on_epoch,
                on_best=on_best,
            )
        )
        if history.rows:
            last = history.rows[-1]
            _say(f"trained in {last['seconds']:.0f} s")
            if head and val is not None and (last["val_accuracy"] or 0) < found["val_accuracy"]:
                _say("in validation the head on its own was better: lower the rate (--lr), or --method head")
        if distributed.rank() == 0:
            about = {}
            if val is not None:
                seen = evaluation.predict(model, val, normalize=normalize, device=device)
                about["temperature"] = evaluation.fit_temperature(seen)
            history.save(out / "history.json")
            history.save_csv(out / "history.csv")
            save("model.safetensors", **about)  # last: once it is there, earlier results are dropped
            print(f"saved {out / 'model.safetensors'}, history.json and history.csv")
    return history


def _folder(arguments: argparse.Namespace, network: str, recipe: Recipe) -> Path:
    """Return where the results go: ``--out``, else a folder named after network, recipe, data and seed.

    Photos that a network is fine-tuned on have one place, ``runs/`` and the name of their folder.
    """
    data = [] if arguments.data == "sample" else [os.path.basename(os.path.realpath(arguments.data))]
    classes = getattr(arguments, "classes", None) or []
    if network == "finetuned" and arguments.data not in CIFAR_DATA:
        return arguments.out or Path("runs", *data)
    return arguments.out or Path("runs") / _name(arguments, network, recipe, *data, *classes)


def _claimed(arguments: argparse.Namespace, out: Path, state: str) -> contextlib.AbstractContextManager[None]:
    """Keep the folder of results to this run; of several processes the first one does it for all."""
    if distributed.rank() != 0:
        return contextlib.nullcontext()
    how = {"resume": arguments.resume, "overwrite": arguments.overwrite, "final": "model.safetensors"}
    return claimed(out, RESULTS, state=state, hopeless=DivergedError, **how)


def _choices(device: torch.device, dtype: torch.dtype | None, compile: bool, recipe: Recipe) -> str:
    """Say what is computed where and how."""
    where = f"{runtime.describe(device)['device']} x {distributed.size()}".removesuffix(" x 1")
    how = f"{'' if compile else 'not '}compiled, {recipe.optimizer}, batches of {recipe.batch_size}"
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
    """Measure a network, on images that it was not trained on."""
    network = open_network(
        arguments.weights, name=arguments.model, size=arguments.size, white=arguments.white
    )
    refuse_outputs({"report": arguments.json, "logits": arguments.logits}, arguments.report)
    seen = 0
    where = arguments.data or (None if network.known or network.metadata.get("photos") else "sample")
    if where in CIFAR_DATA:
        split = label_as(cifar_images(where, network.how, "test"), network.classes)
    else:
        on_error = "skip" if arguments.skip_unreadable else "raise"
        options = {"part": arguments.part, "allow_seen": arguments.allow_seen}
        split, seen = unseen_photos(network, where, **options, on_error=on_error, cache=True)
        if arguments.report is not None and (folder := where or (network.known and network.known.folder)):
            refuse_among_photos(arguments.report, folder, split.files)
    split = only_classes(split, arguments.classes)
    raw = evaluation.predict(
        network.model,
        split,
        normalize=network.how.normalize,
        device=runtime.pick_device(arguments.device),
        flip=arguments.flip,
    )
    predictions = raw.tempered(network.temperature)
    report = evaluation.report(predictions)
    print(f"{split.name}: {len(split):,} images")
    print(report)
    if arguments.logits is not None:
        print(f"saved {raw.save(arguments.logits)}")
    if arguments.report is not None:
        about = {
            "weights": arguments.weights,
            "parameters": f"{models.count_parameters(network.model):,}",
            "data": split.name,
            "view": "each image and its mirror image" if arguments.flip else "single",
            "pixels": network.how.size,
            "temperature": network.temperature,
            "seen in training": seen,
        }
        page = evaluation.write_report(
            arguments.report, predictions, split, title=f"Model report: {arguments.weights}", about=about
        )
        print(f"saved {page}")
    if arguments.json is not None:
        content = report.to_dict() | {"data": split.name, "seen_in_training": seen}
        with atomic(arguments.json, parents=True) as file:
            file.write((json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        print(f"saved {arguments.json}")


def predict(arguments: argparse.Namespace) -> None:
    """Name what is in pictures."""
    network = open_network(
        arguments.weights, name=arguments.model, size=arguments.size, white=arguments.white
    )
    classes = network.classes
    top = min(3, len(classes)) if arguments.top is None else arguments.top
    if not 1 <= top <= len(classes):
        raise ValueError(f"--top must be between 1 and {len(classes)}, not {top}")
    refuse_outputs({"table": arguments.csv})
    paths = data.find_pictures(arguments.images)
    on_error = "skip" if arguments.skip_unreadable else "raise"
    device, rows = runtime.pick_device(arguments.device), []
    for start in range(0, len(paths), 512):
        images, read = data.load_images(paths[start : start + 512], size=network.how, on_error=on_error)
        raw = evaluation.predict(
            network.model, images, classes=classes, normalize=network.how.normalize, device=device
        )
        for path, probabilities in zip(read, raw.tempered(network.temperature).probabilities, strict=True):
            best = probabilities.argsort()[::-1][:top]
            rows.append((path, [(classes[k], probabilities[k]) for k in best]))
            if arguments.csv is None:
                line = f"{path}: " + ", ".join(f"{name} {share:.1%}" for name, share in rows[-1][1])
                print(" ".join(line.splitlines()))  # one picture, one line, whatever its classes are called
    if arguments.csv is not None:
        write_table(arguments.csv, rows)
        print(f"saved {arguments.csv}: {len(rows):,} pictures")


def export(arguments: argparse.Namespace) -> None:
    """Write a network as ONNX."""
    network = open_network(arguments.weights, name=arguments.model, size=arguments.size)
    refuse_outputs({"ONNX network": arguments.file})
    how, temperature = network.how, network.temperature
    error = evaluation.export_onnx(
        arguments.file, network.model, classes=network.classes, how=how, temperature=temperature
    )
    print(f"saved {arguments.file}: logits differ by at most {error:.1e} from the network's")


def check(arguments: argparse.Namespace) -> None:
    """Judge a reader's answers to the exercises of a chapter."""
    verdicts = exercises.check_notebook(arguments.chapter, arguments.notebook, seconds=120)
    print(*verdicts, sep="\n")
    right = sum(verdict.state == "right" for verdict in verdicts)
    print(f"{right} of {len(verdicts)} right; the other exercises have no check: compare with the solutions")


def _recipe(arguments: argparse.Namespace) -> Recipe:
    recipe = get_recipe(arguments.recipe)
    changes = training.read_changes(arguments.set or ())
    changes |= _given(arguments, "epochs", "batch_size", "lr", "best_by")
    if arguments.class_weights:
        changes["class_weights"] = True
    return recipe.but(**changes)


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return those of some options that have a value."""
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}
