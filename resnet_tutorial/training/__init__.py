"""Training: recipes, the loop and what surrounds it, fine-tuning, several processes."""

from __future__ import annotations

# fmt: off
from . import distributed

from .finetune import (
    METHODS, FrozenBatchNorm2d, choose_method, fit_head, freeze_backbone, freeze_batchnorm, parameter_groups,
    replace_head, stages, trainable, unfreeze,
)

from .loop import DivergedError, class_weights, fit, train_step
from .memory import BatchTooLargeError, is_out_of_memory
from .monitor import Board
from .optimizers import Muon
from .pipeline import Pipeline
from .progress import BEST_BY, History, Progress, Row, saved_precision
from .recipes import OPTIMIZERS, RECIPES, SCHEDULES, Recipe, get_recipe, read_changes

__all__ = [
    "BEST_BY", "METHODS", "OPTIMIZERS", "RECIPES", "SCHEDULES", "BatchTooLargeError", "Board",
    "DivergedError", "FrozenBatchNorm2d", "History", "Muon", "Pipeline", "Progress", "Recipe", "Row",
    "choose_method", "class_weights", "distributed", "fit", "fit_head", "freeze_backbone",
    "freeze_batchnorm", "get_recipe", "is_out_of_memory", "parameter_groups", "read_changes", "replace_head",
    "saved_precision", "stages", "train_step", "trainable", "unfreeze",
]
# fmt: on
