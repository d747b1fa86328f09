"""Fine-tuning: a new head, what is frozen, and a learning rate for each stage.

All of it works on the networks of this package and on torchvision's ResNets: the head is ``fc``, the stages
are ``layer1``, ``layer2``, ..., and the stem is what comes before them.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from threadpoolctl import threadpool_limits
from torch import nn

from ..data import Split
from ..evaluation import predict
from ..models import ResNet, linear_head
from .optimizers import decay_groups

METHODS = ("head", "bn", "last-stage", "gradual", "all")
# With fewer images than these, running statistics of batch normalisation stay those of the first training.
STATISTICS_FROM = 2000
PENALTIES = tuple(10.0**k for k in range(-3, 2))  # inverse strengths tried for a head on its own
SMALL = (
    10**8
)  # features times classes: with fewer, threads cost more than they bring, far more on a busy machine


def stages(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Name the parts of a ResNet in the order of the forward pass: "stem", "layer1", ..., "head".

    The final batch normalisation of a pre-activation network belongs to its last stage.

    Raises:
        ValueError: If the last layer is not a linear layer called ``fc``.

    Example:
        >>> from resnet_tutorial.models import resnet20
        >>> list(stages(resnet20()))
        ['stem', 'layer1', 'layer2', 'layer3', 'head']
    """
    head = _head(model)
    parts: dict[str, list[nn.Module]] = {"stem": []}
    current = "stem"
    for name, child in model.named_children():
        if name.startswith("layer"):
            current = name
        if name != "fc":
            parts.setdefault(current, []).append(child)
    return parts | {"head": [head]}


def _head(model: nn.Module) -> nn.Linear:
    head = getattr(model, "fc", None)
    if not isinstance(head, nn.Linear):
        raise ValueError(f"expected a ResNet whose last layer is a linear `fc`, got {type(model).__name__}")
    return head


def trainable(model: nn.Module) -> list[str]:
    """Name the parameters that training will change.

    Example:
        >>> from resnet_tutorial.models import resnet20
        >>> trainable(freeze_backbone(resnet20()))
        ['fc.weight', 'fc.bias']
    """
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def replace_head(model: nn.Module, num_classes: int) -> nn.Module:
    """Give the model a new, trainable head with ``num_classes`` logits; returns the model.

    The rest stays as it is: what was frozen stays frozen.

    Raises:
        ValueError: If the model has no ``fc``, or num_classes is less than 1.

    Example:
        >>> from resnet_tutorial.models import resnet20
        >>> replace_head(resnet20(), 4).fc
        Linear(in_features=64, out_features=4, bias=True)
    """
    head = _head(model)
    if isinstance(model, ResNet):
        model.reset_head(num_classes)
    else:
        model.fc = linear_head(head.in_features, num_classes).to(head.weight)
    return model


def freeze_backbone(model: nn.Module) -> nn.Module:
    """Let training change the head only; returns the model.

    The head ends up trainable whether it was replaced before or is replaced later. Batch normalisation still
    updates its running statistics in train mode: see ``freeze_batchnorm``.

    Example:
        >>> from resnet_tutorial.models import resnet20
        >>> model = freeze_backbone(resnet20())
        >>> model.conv1.weight.requires_grad, model.fc.weight.requires_grad
        (False, True)
    """
    head = _head(model)
    model.requires_grad_(False)
    head.requires_grad_(True)
    return model


def unfreeze(model: nn.Module, from_stage: str) -> nn.Module:
    """Let training change a stage (see ``stages``) and all that come after it; returns the model.

    Raises:
        ValueError: If there is no such stage.

    Example:
        >>> from resnet_tutorial.models import resnet20
        >>> model = unfreeze(freeze_backbone(resnet20()), "layer3")
        >>> sorted({name.split(".")[0] for name in trainable(model)})
        ['fc', 'layer3']
    """
    parts = stages(model)
    if from_stage not in parts:
        raise ValueError(f"unknown stage {from_stage!r}: choose one of {', '.join(parts)}")
    for modules in list(parts.values())[list(parts).index(from_stage) :]:
        nn.ModuleList(modules).requires_grad_(True)
    return model


class FrozenBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation that stays in eval mode: it uses its running statistics and never updates them.

    Example:
        >>> layer = FrozenBatchNorm2d(4).train()
        >>> layer.training
        False
    """

    def train(self, mode: bool = True) -> FrozenBatchNorm2d:
        """Stay in eval mode, whatever mode the model is put in."""
        return super().train(False)


def freeze_batchnorm(model: nn.Module) -> nn.Module:
    """Keep the running statistics of batch normalisation as they are, in train mode too; returns the model.

    ``requires_grad`` does not do this: statistics are no parameters, and every forward pass in train mode
    moves them. Scale and shift are parameters and stay trainable unless frozen. Pass a stage, such as
    ``model.layer1``, to keep only its statistics.

    Example:
        >>> from resnet_tutorial.models import resnet20
        >>> model = freeze_batchnorm(resnet20()).train()
        >>> model.training, model.bn1.training
        (True, False)
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = FrozenBatchNorm2d  # same weights and names; survives copying and pickling
            module.train()
    return model


def choose_method(model: nn.Module, method: str, *, images: int) -> nn.Module:
    """Freeze what a method of fine-tuning leaves alone; returns the model.

    Args:
        model: With the head for the new classes.
        method: ``head``; ``bn`` (the head, and scales and shifts of batch normalisation); ``last-stage``
            (with the head); ``gradual`` and ``all`` train everything, the former one stage more at a time.
        images: Number for training. With fewer than 2,000, and in frozen stages, the running statistics of
            batch normalisation stay as they are, except for ``bn``.

    Raises:
        ValueError: If there is no such method.

    Example:
        >>> from resnet_tutorial.models import resnet20
        >>> len(trainable(choose_method(resnet20(), "bn", images=100)))
        40
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    if method in ("gradual", "all"):
        model.requires_grad_(True)
        return model if method == "all" and images >= STATISTICS_FROM else freeze_batchnorm(model)
    freeze_backbone(model)
    if method == "bn":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(True)
        return model
    if method == "head":
        return freeze_batchnorm(model)
    last = list(stages(model))[-2]
    unfreeze(model, last)
    for name, modules in stages(model).items():
        if name != last or images < STATISTICS_FROM:
            freeze_batchnorm(nn.ModuleList(modules))
    return model


def fit_head(
    model: nn.Module, train: Split, val: Split | None, *, balanced: bool = False, **how: Any
) -> dict[str, float]:
    """Fit the head alone, on features that are computed once: logistic regression, by scikit-learn.

    Args:
        model: Whose head has an output for each class; its weights are replaced.
        train: Images to learn from, without augmentation.
        val: Images that choose how strongly large weights are penalised, or ``None`` for a middle value.
        balanced: Whether each class counts the same in the loss.
        how: As for ``evaluation.predict``: ``normalize``, ``device``, ``dtype``.

    Returns:
        The penalty chosen (``C``), and losses and accuracies: ``train_loss``, ``train_accuracy``,
        ``val_loss``, ``val_accuracy``.

    Example:
        >>> from resnet_tutorial.data import load_sample
        >>> from resnet_tutorial.models import create
        >>> train, val = load_sample()[0].with_classes(["cat", "ship"]).split(0.5)
        >>> model = replace_head(create("resnet20", weights="animals", num_classes=6), 2)
        >>> fit_head(model, train, val)["val_accuracy"] > 0.8
        True
    """
    head = _head(model)
    parts = {"train": train} | ({} if val is None else {"val": val})
    model.fc = nn.Identity()
    try:
        features = {
            name: predict(model, split.images, **how).logits.astype(np.float64)  # (N, C)
            for name, split in parts.items()
        }
    finally:
        model.fc = head
    labels = {name: split.labels.cpu().numpy() for name, split in parts.items()}
    centre, scale = features["train"].mean(axis=0), float(features["train"].std()) or 1.0
    features = {name: (values - centre) / scale for name, values in features.items()}  # far fewer steps
    found: dict[str, float] = {}
    small = features["train"].size * len(train.classes) < SMALL
    for penalty in PENALTIES if val is not None else (0.1,):
        fitted = LogisticRegression(C=penalty, max_iter=1000, class_weight="balanced" if balanced else None)
        with warnings.catch_warnings(), threadpool_limits(1 if small else None):
            warnings.simplefilter("ignore", ConvergenceWarning)  # the best of so many steps will do
            fitted.fit(features["train"], labels["train"])
        result: dict[str, float] = {"C": penalty}
        for name in parts:
            shares = np.zeros((len(labels[name]), len(train.classes)))
            shares[:, fitted.classes_] = fitted.predict_proba(features[name])
            result[f"{name}_loss"] = float(log_loss(labels[name], shares, labels=range(len(train.classes))))
            result[f"{name}_accuracy"] = float((shares.argmax(1) == labels[name]).mean())
        if not found or result["val_loss"] < found["val_loss"]:
            found, best = result, fitted
    coefficients, classes = best.coef_ / scale, best.classes_
    offsets = best.intercept_ - coefficients @ centre
    if len(classes) == 2:  # one row tells the two apart
        coefficients, offsets = (np.concatenate([-x / 2, x / 2]) for x in (coefficients, offsets))
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-30.0)  # a class without an image in training is never predicted
        head.weight[classes] = torch.from_numpy(coefficients).to(head.weight)
        head.bias[classes] = torch.from_numpy(offsets).to(head.bias)
    return found


def parameter_groups(
    model: nn.Module,
    *,
    lr: float,
    decay: float = 1.0,
    weight_decay: float = 0.0,
    decay_all: bool = True,
    gradual: bool = False,
) -> list[dict[str, Any]]:
    """Group the trainable parameters by stage for an optimiser, the head first.

    Args:
        model: The network.
        lr: Learning rate of the head.
        decay: Factor from each stage to the one before it: 1 gives one rate to all, 0.5 halves it at each
            (discriminative fine-tuning: Howard and Ruder, "Universal language model fine-tuning for text
            classification", ACL 2018, section 3.2).
        weight_decay: Weight decay of the weights of convolutions and linear layers.
        decay_all: Whether it acts on biases and on scales and shifts of normalisation too.
        gradual: Whether each stage waits ("start", a fraction of the run) for the one after it.

    Returns:
        Dicts with "name", "params", "lr" and "weight_decay"; each trainable parameter is in exactly one.

    Raises:
        ValueError: If a rate is out of range or nothing is trainable.

    Example:
        >>> from resnet_tutorial.models import resnet20
        >>> model = unfreeze(freeze_backbone(resnet20()), "layer2")
        >>> [(group["name"], group["lr"]) for group in parameter_groups(model, lr=0.1, decay=0.5)]
        [('head', 0.1), ('layer3', 0.05), ('layer2', 0.025)]
    """
    if lr <= 0 or not 0 < decay <= 1 or weight_decay < 0:
        given = f"lr={lr}, decay={decay}, weight_decay={weight_decay}"
        raise ValueError(f"need lr > 0, 0 < decay <= 1 and weight_decay >= 0, got {given}")
    groups, parts = [], stages(model)
    for steps, (name, modules) in enumerate(reversed(parts.items())):
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        for group in decay_groups(parameters, weight_decay=weight_decay, decay_all=decay_all):
            start = {"start": steps / len(parts)} if gradual else {}
            groups.append({"name": name, "lr": lr * decay**steps, **start, **group})
    if not groups:
        raise ValueError("nothing is trainable: call unfreeze(model, 'head') or replace_head first")
    return groups
