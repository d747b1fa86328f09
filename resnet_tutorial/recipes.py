"""The recipes that have a name: each lists what differs from the defaults of ``Recipe``, and why."""

from __future__ import annotations

from .recipe import OPTIMIZERS, SCHEDULES, Recipe

__all__ = ["OPTIMIZERS", "RECIPES", "SCHEDULES", "Recipe", "get_recipe"]

_PAPER = Recipe(
    name="paper",  # He et al. (2016), section 4.2
    steps=64_000,
    schedule="step",
    milestones=(0.5, 0.75),  # 32k and 48k iterations
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="quick",  # learns something from 2,000 images
            epochs=12,
            batch_size=50,  # small, for enough steps: 2,000 images give 40 an epoch
            schedule="one-cycle",  # few epochs need a high rate early and none at the end
            warmup=0.25,
            nesterov=True,
            weight_decay=5e-4,  # stronger than the paper's: the data are few
        ),
        _PAPER,
        _PAPER.but(
            name="paper110",  # for ResNet-110, whose training does not start at 0.1
            # The paper trains at 0.01 until the training error is below 80 %: about 400 iterations.
            warmup=400 / 64_000,
            warmup_lr=0.01,
        ),
        Recipe(
            name="modern",  # a short schedule for all of CIFAR-10
            epochs=40,
            optimizer="muon",  # after 3 epochs of ResNet-20 well ahead of SGD with Nesterov momentum
            lr=0.08,
            other_lr=0.08,
            weight_decay=0.01,  # decoupled, hence of another size than SGD's
            schedule="one-cycle",  # few epochs: a high rate early, none at the end
            warmup=0.2,
            pad_mode="reflect",  # no black borders, which a test image never has
            flip="alternating",  # nearly every image is seen both ways in every two epochs
        ),
        Recipe(
            name="cpu",  # for resnet8_wide: the most accuracy from minutes on two cores
            epochs=8,
            batch_size=250,  # fewer steps, each with larger matrix products
            optimizer="muon",
            lr=0.15,  # larger than in `modern`, as are the batches
            other_lr=0.1,
            weight_decay=0.01,
            schedule="one-cycle",
            warmup=0.2,
            label_smoothing=0.1,  # a network of this size grows sure of itself in so few epochs
            padding=2,  # 4 are too much to learn in so few epochs
            pad_mode="reflect",
            flip="alternating",
        ),
        Recipe(
            name="speedrun",  # for resnet14_wide on a GPU: 94 % in as few seconds as possible
            epochs=16,
            batch_size=500,  # a GPU is idle with less
            optimizer="muon",
            lr=0.2,
            other_lr=0.1,
            weight_decay=0.01,
            schedule="one-cycle",
            warmup=0.2,
            label_smoothing=0.1,
            padding=2,
            pad_mode="reflect",
            flip="alternating",
            test_flip=True,  # the target counts the mirror image in; the record has both numbers
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """Looks a recipe up.

    Raises:
        ValueError: If there is none of that name; the message lists those there are.

    Example:
        >>> get_recipe("paper").milestones
        (0.5, 0.75)
        >>> get_recipe("fast")
        Traceback (most recent call last):
        ValueError: unknown recipe 'fast': use one of quick, paper, ...
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: use one of {', '.join(RECIPES)}")
    return RECIPES[name]
