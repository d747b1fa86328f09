"""From predictions to every metric and curve, through scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn import metrics

from .predictions import Predictions, frozen

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
CURVES = ("roc", "roc_micro", "roc_macro", "pr")  # of a report; they are not in its dictionary
ECE_BINS = 15


class Averages(NamedTuple):
    """Precision, recall and F1, averaged over the classes that occur in the labels."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, eq=False)
class Report:
    """Every metric of one set of predictions. Immutable; arrays are read-only.

    A class that does not occur in the labels has NaN in its per-class metrics and empty curves, and is left
    out of the macro averages. A class that occurs but is never predicted has precision 0, as in scikit-learn.

    Attributes:
        n: Number of images.
        classes: The K class names.
        accuracy: Share of images whose predicted class is true.
        interval: 95 % Wilson score interval of the accuracy, lower and upper end.
        topk: From k to the share of images whose true class is among the k largest logits.
        loss: Mean cross-entropy, in nats.
        precision: Of each class, ``(K,)``.
        recall: Of each class, ``(K,)``.
        f1: Of each class, ``(K,)``.
        support: Images of each class, int64 ``(K,)``.
        macro: Averages in which each class counts the same.
        weighted: Averages in which each image counts the same; its recall is the accuracy.
        confusion: Rows are true classes, columns predicted ones, int64 ``(K, K)``.
        roc: One-vs-rest ROC curve of each class, ``(fpr, tpr)``.
        roc_micro: ROC curve of all N * K decisions pooled.
        roc_macro: Mean over classes of the true positive rate at each false positive rate.
        auc: Areas under ``roc``, ``(K,)``.
        auc_micro: Area under ``roc_micro``.
        auc_macro: Mean of ``auc``, which is also the area under ``roc_macro``.
        pr: Precision-recall curve of each class, ``(recall, precision)``.
        average_precision: Step-wise areas under ``pr``, ``(K,)``.
        ece: Expected calibration error, 15 bins of equal width.

    Example:
        >>> result = report(Predictions([[4, 1], [3, 2], [0, 1]], [0, 1, 1], ("cat", "dog")))
        >>> result.macro, result.recall.tolist()  # one of two dogs was taken for a cat
        (Averages(precision=0.75, recall=0.75, f1=0.66...), [1.0, 0.5])
    """

    n: int
    classes: tuple[str, ...]
    accuracy: float
    interval: tuple[float, float]
    topk: Mapping[int, float]
    loss: float
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]
    support: NDArray[np.int64]
    macro: Averages
    weighted: Averages
    confusion: NDArray[np.int64]
    roc: tuple[Curve, ...]
    roc_micro: Curve
    roc_macro: Curve
    auc: NDArray[np.float64]
    auc_micro: float
    auc_macro: float
    pr: tuple[Curve, ...]
    average_precision: NDArray[np.float64]
    ece: float

    @property
    def never_predicted(self) -> tuple[str, ...]:
        """The classes that occur in the labels and in no prediction."""
        missed = (self.support > 0) & (self.confusion.sum(axis=0) == 0)
        return tuple(name for name, one in zip(self.classes, missed, strict=True) if one)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the curves, in types that JSON knows; NaN becomes ``None``."""
        names = [field.name for field in fields(self) if field.name not in CURVES]
        return {"interval_method": "95 % Wilson score"} | {
            name: _plain(getattr(self, name)) for name in names
        }

    def __str__(self) -> str:
        """Lay the report out as a table of text, a line for each class, with fractions of 1."""
        low, high = self.interval
        names = [" ".join(name.splitlines()) for name in self.classes]
        lines = [
            f"images    {self.n:,}",
            f"accuracy  {self.accuracy:.4f}   (95 % Wilson score interval {low:.4f} to {high:.4f})",
            *(f"top-{k:<5} {share:.4f}" for k, share in self.topk.items() if k > 1),
            f"balanced  {self.macro.recall:.4f}   (balanced accuracy: mean of the classes' recalls)",
            f"loss      {self.loss:.4f}   (mean cross-entropy, nats)",
            f"ECE       {self.ece:.4f}   ({ECE_BINS} bins)",
            f"AUC       {_cell(self.auc_micro)} micro, {_cell(self.auc_macro)} macro   (one-vs-rest)",
            "",
        ]
        width = max(len("weighted average"), *(len(name) for name in names))
        lines.append(f"{'class':{width}}  precision  recall      F1     AUC      AP   images")
        for k, name in enumerate(names):
            lines.append(
                f"{name:{width}}     {_cell(self.precision[k])}  {_cell(self.recall[k])}  {_cell(self.f1[k])}"
                f"  {_cell(self.auc[k])}  {_cell(self.average_precision[k])}  {self.support[k]:7,}"
            )
        for name, mean in (("macro average", self.macro), ("weighted average", self.weighted)):
            cells = "  ".join(_cell(value) for value in mean)
            lines.append(f"{name:{width}}     {cells}                  {self.n:7,}")
        if self.never_predicted:
            missed = " ".join(", ".join(self.never_predicted).splitlines())
            lines.append(f"never predicted, though it occurs: {missed}")
        return "\n".join(lines)


def _cell(value: float) -> str:
    return "     -" if np.isnan(value) else f"{value:6.4f}"


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        value = value.tolist()
    elif isinstance(value, Averages):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def fit_temperature(predictions: Predictions) -> float:
    """Return the temperature whose probabilities have the smallest cross-entropy, on validation images.

    Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2. It is 1, which changes
    nothing, where the images cannot tell: fewer than 30, or all of them right.

    Example:
        >>> logits = np.array([[4.0, 0.0]] * 40)  # 98 % sure of each, and right three times of four
        >>> round(fit_temperature(Predictions(logits, [0, 0, 0, 1] * 10, ("cat", "dog"))), 2)
        3.64
    """
    labels = predictions.known_labels
    if len(labels) < 30 or predictions.correct.all():
        return 1.0

    def loss(logarithm: float) -> float:
        shares = predictions.tempered(math.exp(logarithm)).log_probabilities
        return float(-shares[np.arange(len(labels)), labels].mean())

    return round(math.exp(minimize_scalar(loss, bounds=(-2, 4), method="bounded").x), 4)


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95 % score interval of a proportion (Wilson, 1927), which stays in 0..1, also near the ends.

    Raises:
        ValueError: If ``successes`` is not in 0..n, or ``n`` is 0.

    Example:
        >>> [round(end, 3) for end in wilson_interval(90, 100)]
        [0.826, 0.945]
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} trials: give 0 <= successes <= n and n above 0")
    low, high = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    return float(low), float(high)


def reliability_bins(
    predictions: Predictions, *, bins: int = ECE_BINS
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Group images by confidence, the largest probability, in bins of equal width ``(low, high]`` over 0..1.

    Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 2.

    Returns:
        For each bin: number of images, mean confidence, accuracy; ``(bins,)``, the last two NaN if empty.

    Raises:
        ValueError: If ``bins`` is below 1, or the predictions have no labels.

    Example:
        >>> predictions = Predictions(np.log([[0.9, 0.1], [0.6, 0.4]]), [0, 1], ("cat", "dog"))
        >>> counts, confidence, accuracy = reliability_bins(predictions, bins=2)
        >>> counts.tolist(), round(float(confidence[1]), 2), float(accuracy[1])
        ([0, 2], 0.75, 0.5)
    """
    if bins < 1:
        raise ValueError(f"bins is {bins}: give 1 or more")
    confidence = predictions.probabilities.max(axis=1)
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    filled = np.where(counts > 0, counts, np.nan)
    mean_confidence = np.bincount(index, weights=confidence, minlength=bins) / filled
    accuracy = np.bincount(index, weights=predictions.correct, minlength=bins) / filled
    return counts, mean_confidence, accuracy


def _macro_roc(curves: Sequence[Curve]) -> Curve:
    """Return the mean of ROC curves over the union of their false positive rates.

    Both ends of a vertical rise are kept, so that the area under the mean is the mean of the areas.
    """
    grid = np.unique(np.concatenate([fpr for fpr, _ in curves]))
    # Of equal positions np.interp takes the last; mirrored, it takes the first.
    lower = np.mean([np.interp(-grid, -fpr[::-1], tpr[::-1]) for fpr, tpr in curves], axis=0)
    upper = np.mean([np.interp(grid, fpr, tpr) for fpr, tpr in curves], axis=0)
    return frozen(np.repeat(grid, 2)), frozen(np.stack([lower, upper], axis=1).ravel())


def _curves(truth: NDArray[np.bool_], score: NDArray[np.float64]) -> tuple[Curve, Curve, float, float]:
    """Return ROC, precision-recall, AUC and average precision of one class against the rest."""
    if truth.all() or not truth.any():  # without both kinds a rate has the denominator 0
        empty = (frozen([], float), frozen([], float))
        return empty, empty, np.nan, np.nan
    fpr, tpr, _ = metrics.roc_curve(truth, score)
    precision, recall, _ = metrics.precision_recall_curve(truth, score)
    roc, pr = (frozen(fpr), frozen(tpr)), (frozen(recall), frozen(precision))
    return roc, pr, float(metrics.auc(fpr, tpr)), float(metrics.average_precision_score(truth, score))


def report(predictions: Predictions, *, topk: Sequence[int] = (1, 5)) -> Report:
    """Compute every metric from logits and labels of N images, K classes.

    Of the top-k accuracies a k of K or more, where every image would count, is left out.

    Raises:
        ValueError: If a k is below 1, or the predictions have no labels.

    Example:
        >>> report(Predictions([[4, 1], [3, 2], [0, 1]], [0, 1, 1], ("cat", "dog"))).confusion.tolist()
        [[1, 0], [1, 1]]
    """
    if any(k < 1 for k in topk):
        raise ValueError(f"topk is {tuple(topk)}: give numbers of 1 or more")
    labels, probabilities, n = predictions.known_labels, predictions.probabilities, len(predictions)
    every = np.arange(len(predictions.classes))
    truth = labels[:, None] == every  # (N, K)

    # Rank of the true class: larger logits, and equal ones of an earlier class, come first, as in argmax.
    own = predictions.logits[truth][:, None]
    ahead = (predictions.logits > own) | ((predictions.logits == own) & (every < labels[:, None]))
    rank = ahead.sum(axis=1)
    shares = {int(k): float((rank < k).mean()) for k in topk if k < len(every) or k == 1}

    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        labels, predictions.predicted, labels=every, zero_division=0
    )
    present = support > 0
    per_class = np.stack([precision, recall, f1])  # (3, K)
    macro = Averages(*per_class[:, present].mean(axis=1).tolist())
    weighted = Averages(*np.average(per_class, axis=1, weights=support).tolist())
    precision, recall, f1 = np.where(present, per_class, np.nan)
    # Counted here: scikit-learn's confusion_matrix warns of a 1 x 1 matrix even where K is 1.
    confusion = np.bincount(labels * len(every) + predictions.predicted, minlength=len(every) ** 2)

    curves = [_curves(truth[:, k], probabilities[:, k]) for k in every]
    roc, pr, auc, average_precision = (tuple(column) for column in zip(*curves, strict=True))
    roc_micro, _, auc_micro, _ = _curves(truth.ravel(), probabilities.ravel())
    drawn = [curve for curve in roc if len(curve[0])]

    counts, confidence, accuracy = reliability_bins(predictions)
    return Report(
        n=n,
        classes=predictions.classes,
        accuracy=float(predictions.correct.mean()),
        interval=wilson_interval(int(predictions.correct.sum()), n),
        topk=MappingProxyType(shares),
        loss=float(-predictions.log_probabilities[truth].mean()),
        precision=frozen(precision),
        recall=frozen(recall),
        f1=frozen(f1),
        support=frozen(support, np.int64),
        macro=macro,
        weighted=weighted,
        confusion=frozen(confusion.reshape(len(every), len(every)), np.int64),
        roc=roc,
        roc_micro=roc_micro,
        roc_macro=_macro_roc(drawn) if drawn else roc[0],
        auc=frozen(auc, np.float64),
        auc_micro=auc_micro,
        auc_macro=float(np.mean([area for area in auc if not np.isnan(area)])) if drawn else np.nan,
        pr=pr,
        average_precision=frozen(average_precision, np.float64),
        ece=float(np.nansum(counts / n * np.abs(accuracy - confidence))),
    )
