"""Recipes: everything about a training run that is not the network or the data; those that have a name."""

from __future__ import annotations

import ast
import dataclasses
import math
import numbers
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ..data import Augment
from .optimizers import Muon, decay_groups
from .progress import BEST_BY

OPTIMIZERS = ("sgd", "adam", "adamw", "rmsprop", "muon")
SCHEDULES = ("constant", "step", "cosine", "one-cycle")
VIEWS = ("none", "photo")
LARGEST = sys.float_info.max  # whole numbers know no end, but PyTorch's do
KINDS = {"str": str, "bool": bool, "int": numbers.Integral, "float": numbers.Real, "None": type(None)}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training recipe; ``RECIPES`` lists what differs from these defaults, and why.

    Attributes:
        name: What the recipe is called in records and messages.
        epochs: Passes over the training images. Exactly one of ``epochs`` and ``steps`` is given.
        steps: Optimiser steps.
        batch_size: Images per step.
        optimizer: One of ``OPTIMIZERS``.
        lr: Peak learning rate; with Muon, that of the convolution filters.
        other_lr: Peak learning rate of all that Muon does not train (Muon only).
        momentum: Momentum of SGD, RMSProp and Muon; the first beta of Adam and AdamW.
        nesterov: Nesterov's form of momentum (SGD only; Muon has it always).
        weight_decay: L2 penalty, added to the gradient (decoupled from it in AdamW and Muon).
        decay_all: Whether weight decay also shrinks biases and batch-norm scales.
        l1: Factor of the sum of all weights' absolute values, biases and batch-norm scales left out, added
            to the loss.
        schedule: One of ``SCHEDULES``; ``one-cycle`` rises from ``lr / 25`` over the warm-up and falls along
            a cosine (after Smith and Topin, 2019, whose fall is linear), the others start at ``lr`` after an
            optional linear warm-up.
        milestones: For ``step``: fractions of the run at which the rate is multiplied by ``gamma``.
        gamma: For ``step``: that factor.
        warmup: Fraction of the run in which the rate rises linearly to ``lr``.
        warmup_lr: Constant rate during the warm-up instead of a rise, or ``None``.
        label_smoothing: Share of the target's probability that is spread over all classes.
        grad_clip: Largest norm of the whole gradient, or ``None``.
        padding: Pixels of padding before a random crop; 0 for no crop.
        pad_mode: ``zero`` or ``reflect``.
        flip: ``random``, ``alternating`` or ``none``.
        cutout: Side of a square that is blanked, in pixels; 0 for none.
        views: ``photo`` for random views as photographs need them, see ``data.photo_views``; or ``none``.
        class_weights: Whether the loss weighs each class by the inverse of its share.
        ema: Decay a step of an exponential moving average of the weights, which is what is validated and, in
            the end, kept; 0 for none.
        patience: End the run when there was no better epoch for so many of them, or ``None``. ``fit`` leaves
            the last weights in the model; the best are for ``on_best`` to save.
        best_by: What makes an epoch the best: ``loss``, ``accuracy`` or ``balanced-accuracy``, of validation.
        test_flip: Whether validation averages the logits of each image and of its mirror image.

    Example:
        >>> recipe = Recipe(name="short", epochs=5, lr=0.2, schedule="one-cycle", warmup=0.2)
        >>> recipe.total_steps(steps_per_epoch=2)
        10
        >>> [round(recipe.lr_at(step, 10), 3) for step in (0, 1, 9)]
        [0.104, 0.2, 0.008]
        >>> recipe.but(flip="vertical")
        Traceback (most recent call last):
        ValueError: recipe 'short': unknown flip 'vertical': choose one of random, alternating, none
    """

    name: str
    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.1
    other_lr: float | None = None
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_all: bool = True
    l1: float = 0.0
    schedule: str = "constant"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup: float = 0.0
    warmup_lr: float | None = None
    label_smoothing: float = 0.0
    grad_clip: float | None = None
    padding: int = 4
    pad_mode: str = "zero"
    flip: str = "random"
    cutout: int = 0
    views: str = "none"
    class_weights: bool = False
    ema: float = 0.0
    patience: int | None = None
    best_by: str = "loss"
    test_flip: bool = False

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"recipe {self.name!r}: give exactly one of epochs and steps")
        named = ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("views", VIEWS), ("best_by", BEST_BY)
        for field, allowed in named:
            if not isinstance(value := getattr(self, field), str) or value not in allowed:
                unknown = f"unknown {field} {value!r:.60}: choose one of {', '.join(allowed)}"
                raise ValueError(f"recipe {self.name!r}: {unknown}")
        for part in dataclasses.fields(self):
            kinds = [KINDS[name] for name in part.type.split(" | ") if name in KINDS]
            value = getattr(self, part.name)
            fits = isinstance(value, tuple(kinds)) and (bool in kinds or not isinstance(value, bool))
            self._require(not kinds or fits, part.name, f"of type {part.type}")
        counts = ("epochs", "steps", "batch_size", "patience")
        for field in (*counts, "lr", "other_lr", "warmup_lr", "gamma", "grad_clip"):
            value = getattr(self, field)
            self._require(value is None or 0 < value <= LARGEST, field, "greater than 0 and finite")
        for field in ("weight_decay", "l1"):
            self._require(0 <= getattr(self, field) <= LARGEST, field, "0 or greater and finite")
        for field in ("momentum", "warmup", "label_smoothing", "ema"):
            self._require(0 <= getattr(self, field) < 1, field, "at least 0 and below 1")
        shares = isinstance(self.milestones, tuple | list) and all(
            isinstance(share, int | float) for share in self.milestones
        )
        self._require(shares, "milestones", "fractions of the run, such as (0.5, 0.75)")
        rising = all(low < high for low, high in pairwise((0, *self.milestones, 1)))
        stepped = (self.schedule == "step") == bool(self.milestones)
        muon, sgd = self.optimizer == "muon", self.optimizer == "sgd"
        for holds, field, rule in (
            (rising, "milestones", "rising fractions of the run"),
            (stepped, "milestones", "given for schedule 'step', and only there"),
            (not self.nesterov or (sgd and self.momentum > 0), "nesterov", "off unless SGD has momentum"),
            (muon == (self.other_lr is not None), "other_lr", "given for Muon, and only there"),
            (not muon or self.momentum > 0, "momentum", "above 0 for Muon"),
            (self.warmup_lr is None or self.warmup > 0, "warmup_lr", "left out unless there is a warm-up"),
        ):
            self._require(holds, field, rule)
        try:
            self.augment()
        except ValueError as error:
            raise ValueError(f"recipe {self.name!r}: {error}") from None

    def _require(self, holds: bool, field: str, rule: str) -> None:
        if not holds:
            given = f"{getattr(self, field)!r:.60}"
            raise ValueError(f"recipe {self.name!r}: {field} must be {rule}, not {given}")

    def but(self, **changes: Any) -> Recipe:
        """Return a copy with some fields changed; ``epochs`` clears ``steps`` and the other way round.

        Raises:
            ValueError: If a field does not exist or a value is not allowed.
        """
        known = {field.name for field in dataclasses.fields(self)}
        if unknown := sorted(set(changes) - known):
            raise ValueError(f"unknown field {unknown[0]!r:.60}: choose one of {', '.join(sorted(known))}")
        for field, other in (("epochs", "steps"), ("steps", "epochs")):
            if changes.get(field) is not None and other not in changes:
                changes[other] = None
        return dataclasses.replace(self, **changes)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Count the optimiser steps of the whole run."""
        return self.steps if self.steps is not None else (self.epochs or 0) * steps_per_epoch

    def lr_at(self, step: int, total: int) -> float:
        """Return the learning rate of a step (0-based) of a run of ``total`` steps."""
        done = step / total
        if self.warmup and done < self.warmup:
            if self.warmup_lr is not None:
                return self.warmup_lr
            floor = 1 / 25 if self.schedule == "one-cycle" else 0.0
            # A linear warm-up from 0 would waste its first step; (step + 1) does not.
            rise = (step + 1) / max(1.0, self.warmup * total)
            return self.lr * min(1.0, floor + (1 - floor) * rise)
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "step":
            return self.lr * self.gamma ** sum(done >= milestone for milestone in self.milestones)
        falling = (done - self.warmup) / (1 - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * falling))

    def make_optimizer(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        """Build the optimiser over tensors or parameter groups, fused into one kernel where torch can."""
        groups, momentum = list(parameters), self.momentum
        common: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=momentum, nesterov=self.nesterov, fused=True, **common)
        if self.optimizer == "rmsprop":
            return torch.optim.RMSprop(groups, momentum=momentum, **common)
        if self.optimizer == "muon":
            return Muon(groups, other_lr=self.other_lr or self.lr, momentum=momentum, **common)
        adam = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return adam(groups, betas=(momentum, 0.999), fused=True, **common)

    def augment(self) -> Augment:
        """Return the augmentation of training batches."""
        return Augment(padding=self.padding, pad_mode=self.pad_mode, flip=self.flip, cutout=self.cutout)

    def parameter_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """Return the trainable parameters; without ``decay_all``, biases and batch-norm scales get no decay.

        Raises:
            ValueError: If no parameter is trainable.
        """
        trainable = [p for p in model.parameters() if p.requires_grad]
        if not trainable:
            raise ValueError("no parameter is trainable: unfreeze some, or there is nothing to fit")
        return decay_groups(trainable, weight_decay=self.weight_decay, decay_all=self.decay_all)


_PAPER = Recipe(
    name="paper",  # He et al. (2016a), section 4.2
    steps=64_000,
    schedule="step",
    milestones=(0.5, 0.75),  # 32k and 48k iterations
)
_MODERN = Recipe(
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
)
_CPU = _MODERN.but(
    name="cpu",  # for resnet8_wide: the most accuracy from minutes on two cores
    epochs=8,
    batch_size=250,  # fewer steps, each with larger matrix products
    lr=0.15,  # larger, as are the batches
    other_lr=0.1,
    label_smoothing=0.1,  # a network of this size grows sure of itself in so few epochs
    padding=2,  # 4 are too much to learn in so few epochs
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
        _MODERN,
        _CPU,
        _CPU.but(
            name="speedrun",  # for resnet14_wide on a GPU: 94 % in as few seconds as possible
            epochs=16,
            batch_size=500,  # a GPU is idle with less
            lr=0.2,
            test_flip=True,  # the target counts the mirror image in; the record has both numbers
        ),
        Recipe(
            name="photos",  # a trained network goes on with photos of one's own
            epochs=8,
            batch_size=32,
            lr=0.01,  # features of ImageNet do not survive 0.1
            schedule="one-cycle",
            warmup=0.1,
            nesterov=True,
            padding=0,
            flip="none",
            views="photo",
        ),
    )
}


def read_changes(words: Iterable[str]) -> dict[str, Any]:
    """Read changes of a recipe that were typed as ``field=value``, for ``Recipe.but``.

    Raises:
        ValueError: If one has another form.

    Example:
        >>> read_changes(["lr=0.05", "views=none", "milestones=(0.5, 0.75)"])
        {'lr': 0.05, 'views': 'none', 'milestones': (0.5, 0.75)}
    """
    changes: dict[str, Any] = {}
    for word in words:
        field, equals, text = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r:.60} changes no field: give field=value")
        try:
            changes[field] = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            changes[field] = text  # no value of Python's, or one that is nested too deeply to be read
    return changes


def get_recipe(name: str) -> Recipe:
    """Look a recipe up.

    Raises:
        ValueError: If there is none of that name; the message lists those there are.

    Example:
        >>> get_recipe("paper").milestones
        (0.5, 0.75)
        >>> get_recipe("fast")
        Traceback (most recent call last):
        ValueError: unknown recipe 'fast': choose one of quick, paper, ...
    """
    if name not in RECIPES:
        raise ValueError(f"unknown recipe {name!r}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
