"""Trains the weights that the package ships, from all of CIFAR-10 (run ``resnet-tutorial download`` first).

    python tools/train_weights.py cifar10 --epochs 5
    python tools/train_weights.py animals --epochs 5

``cifar10`` is a ResNet-20 for the ten classes. ``animals`` is a ResNet-20 that has seen only the six animal
classes, so that the fine-tuning chapter can teach it the four vehicles. Validation images (10 %) are held out
of training; the test set is not read. The file lands in ``runs/``; to ship it, copy it to
``resnet_tutorial/assets``, and put its name and SHA-256 into ``models.SHIPPED_WEIGHTS``.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

from resnet_tutorial import data, models, runtime
from resnet_tutorial.augment import CIFAR10
from resnet_tutorial.recipes import RECIPES, get_recipe
from resnet_tutorial.train import fit

ANIMALS = ("bird", "cat", "deer", "dog", "frog", "horse")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("which", choices=("cifar10", "animals"))
    parser.add_argument("--recipe", choices=tuple(RECIPES), default="modern")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    train, _ = data.load_cifar10()
    if arguments.which == "animals":
        train = train.with_classes(ANIMALS)
    train, val = train.split(0.1, seed=arguments.seed)
    recipe = get_recipe(arguments.recipe)
    recipe = recipe.but(epochs=arguments.epochs) if arguments.epochs else recipe

    runtime.seed_everything(arguments.seed)
    model = models.resnet20(num_classes=len(train.classes))
    history = fit(model, train, val, recipe, seed=arguments.seed, on_epoch=print)

    path = Path("runs") / f"resnet20-{arguments.which}.safetensors"
    last = history.rows[-1]
    models.save_model(
        path,
        model,
        classes=train.classes,
        normalize=CIFAR10,
        recipe=history.recipe,
        setup=history.setup,
        validation_accuracy=last["val_accuracy"],
    )
    history.save(path.with_suffix(".json"))
    print(f"{path}: SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
