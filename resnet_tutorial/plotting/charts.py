"""Figures of an evaluation: confusion matrix, curves, calibration.

Areas and errors are drawn as they are given, from a ``Report``; nothing is computed a second time here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from .style import (
    BLACK,
    BLUE,
    GREY,
    PAGE_WIDTH,
    PHONE_WIDTH,
    SKY,
    VERMILLION,
    XY,
    as_text,
    one_each,
    pair,
    series_style,
)

DASH = "\N{EN DASH}"
NAMED = 16  # curves with a name and a colour of their own; more do not fit into the legend
TICKS = 24  # names along an axis of the confusion matrix
NUMBERED = 20  # classes up to which the cells of the confusion matrix have room for numbers


def confusion_matrix(
    matrix: ArrayLike, classes: Sequence[str], *, normalize: bool = False, title: str | None = None
) -> Figure:
    """Draw a confusion matrix, rows true classes and columns predicted ones.

    ``matrix`` has counts, ``(K, K)``; with ``normalize`` each row is shown in percent of its images, an empty
    one as dashes. Above 20 classes a colour bar takes the place of the numbers; above 24 not all are named.

    Raises:
        ValueError: If the matrix is not square, negative, or of another size than the names.

    Example:
        >>> figure = confusion_matrix([[8, 2], [1, 9]], ("cat", "dog"), normalize=True)
        >>> [text.get_text() for text in figure.axes[0].texts]  # percent of each true class
        ['80', '20', '10', '90']
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size or counts.min() < 0:
        raise ValueError(f"the matrix has shape {counts.shape}: give (K, K) counts of 0 or more")
    one_each("class names", classes, len(counts))
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.where(totals > 0, totals, np.nan)  # colour is the share of the row in both cases
    ticks = range(0, len(counts), -(-len(counts) // TICKS))
    names = [as_text(classes[k]) for k in ticks]
    side = 2.2 + 0.48 * len(counts) + 0.08 * max(0, max(map(len, names)) - 10)
    side = min(side, PHONE_WIDTH if len(counts) <= 10 else PAGE_WIDTH)
    figure, axes = plt.subplots(figsize=(side, side * 0.9), layout="constrained")
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(ticks, names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(counts) <= NUMBERED:
        size = 10.5 if normalize else min(10.5, 26 / len(f"{counts.max():,}"))  # as the cells have room
        for (i, j), share in np.ndenumerate(shares):
            text = f"{counts[i, j]:,}" if not normalize else DASH if np.isnan(share) else f"{100 * share:.0f}"
            colour = "white" if share > 0.65 else BLACK if counts[i, j] else "#767676"
            axes.text(j, i, text, ha="center", va="center", fontsize=size, color=colour)
    else:
        bar = figure.colorbar(picture, ax=axes, shrink=0.7, format=PercentFormatter(1))
        bar.set_label("share of the true class")
        bar.outline.set_visible(False)
    axes.set_title(title or ("Percent of each true class" if normalize else "Number of images"))
    return figure


def roc_curves(
    roc: Sequence[XY],
    classes: Sequence[str],
    *,
    auc: ArrayLike,
    micro: tuple[XY, float] | None = None,
    macro: tuple[XY, float] | None = None,
    zoom: bool = False,
    title: str = "ROC curves, one class against the rest",
) -> Figure:
    """Draw the ROC curve of each class, with its area in the legend.

    Of more than 16 classes those with the smallest areas are named, and the others grey.

    Args:
        roc: For each class, false and true positive rates, both rising from 0 to 1; or empty.
        classes: The K class names.
        auc: Areas under the curves, ``(K,)``, NaN for a class without any.
        micro: Curve of all decisions pooled, and its area.
        macro: Mean of the curves, and its area.
        zoom: Enlarge the top left corner, where good classifiers differ.
        title: Title of the figure.

    Raises:
        ValueError: If there are not as many names and areas as curves, or a curve has two different lengths.

    Example:
        >>> perfect, guessed = ([0, 0, 1], [0, 1, 1]), ([0, 1], [0, 1])
        >>> figure = roc_curves([perfect, guessed], ("cat", "dog"), auc=[1, 0.5])
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['cat, AUC 1.000', 'dog, AUC 0.500', 'chance, AUC 0.500']
    """
    curves = _labelled(roc, classes, auc, "AUC")
    for name, mean, dashes in (("micro average", micro, "-"), ("macro average", macro, (0, (1, 1)))):
        if mean is not None:
            style: dict[str, Any] = {"color": BLACK, "linestyle": dashes, "linewidth": 2.4}
            curves.append((*pair(name, mean[0]), style | {"label": f"{name}, AUC {_area(mean[1])}"}))
    figure, axes = _square(title)
    panels = [axes]
    if zoom:
        inset = axes.inset_axes((0.4, 0.08, 0.57, 0.57), xticks=(0, 0.1, 0.2), yticks=(0.8, 0.9, 1))
        inset.set(xlim=(-0.003, 0.2), ylim=(0.8, 1.003))
        inset.tick_params(labelsize=8)
        inset.spines[:].set_visible(True)
        axes.indicate_inset_zoom(inset, edgecolor=GREY)
        panels.append(inset)
    for x, y, style in curves:
        for panel in panels:
            panel.plot(x, y, **style)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, label="chance, AUC 0.500")
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), xlabel="false positive rate", ylabel="true positive rate")
    _legend_at_the_right(figure, len(curves))
    return figure


def pr_curves(
    pr: Sequence[XY],
    classes: Sequence[str],
    *,
    average_precision: ArrayLike,
    title: str = "Precision and recall, one class against the rest",
) -> Figure:
    """Draw the precision-recall curve of each class, with its average precision in the legend.

    Of more than 16 classes those with the smallest average precision are named, and the others grey.

    Args:
        pr: For each class, recall and precision, recall falling to 0 (scikit-learn's order); or empty.
        classes: The K class names.
        average_precision: Step-wise areas under the curves, ``(K,)``, NaN for a class without any.
        title: Title of the figure.

    Raises:
        ValueError: If there are not as many names and areas as curves, or a curve has two different lengths.

    Example:
        >>> figure = pr_curves([([1, 0.5, 0], [0.5, 1, 1])], ["cat"], average_precision=[0.75])
        >>> figure.legends[0].get_texts()[0].get_text()
        'cat, AP 0.750'
    """
    curves = _labelled(pr, classes, average_precision, "AP")
    figure, axes = _square(title)
    for recall, precision, style in curves:
        # Steps, because precision between two thresholds is not on the straight line between them.
        axes.plot(recall, precision, drawstyle="steps-post", **style)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    _legend_at_the_right(figure, len(curves))
    return figure


def _labelled(
    curves: Sequence[XY], classes: Sequence[str], areas: ArrayLike, unit: str
) -> list[tuple[NDArray[np.float64], NDArray[np.float64], dict[str, Any]]]:
    """Return x, y and style of each curve; of too many, first those that stay grey."""
    sizes = np.asarray(areas, dtype=float)
    one_each("class names", classes, len(curves))
    if sizes.shape != (len(curves),):
        raise ValueError(f"the areas have shape {sizes.shape} for {len(curves)} curves: give one for each")
    pairs = [pair(name, curve) for name, curve in zip(classes, curves, strict=True)]
    order = np.argsort(sizes, kind="stable")  # NaN comes last
    drawn = []
    for i, k in enumerate(np.sort(order[NAMED:])):
        about = {} if i else {"label": f"{len(order) - NAMED} others"}
        drawn.append((*pairs[k], {"color": "#BBBBBB", "linewidth": 0.7} | about))
    for i, k in enumerate(np.sort(order[:NAMED])):
        label = f"{as_text(classes[k])}, {unit} {_area(sizes[k])}"
        drawn.append((*pairs[k], series_style(i) | {"label": label}))
    return drawn


def _legend_at_the_right(figure: Figure, curves: int) -> None:
    figure.legend(loc="outside right center", fontsize=11 if curves <= 12 else 8.5)


def _area(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.3f}"


def _square(title: str) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 4.4), layout="compressed", subplot_kw={"aspect": 1})
    axes.set_title(title)
    return figure, axes


def reliability(
    counts: ArrayLike,
    confidence: ArrayLike,
    accuracy: ArrayLike,
    *,
    ece: float,
    title: str = "Reliability diagram",
) -> Figure:
    """Draw accuracy against confidence, with the number of images in each bin below.

    Args:
        counts: Number of images of each of B bins of equal width over 0..1, ``(B,)``.
        confidence: Mean confidence in each bin, ``(B,)``; NaN where it is empty.
        accuracy: Share of correct predictions in each bin, ``(B,)``; NaN where it is empty.
        ece: Expected calibration error, added to the title.
        title: Title of the figure.

    Raises:
        ValueError: If the arrays have other shapes, or there is no image at all.

    Example:
        >>> figure = reliability([0, 4], [np.nan, 0.75], [np.nan, 0.5], ece=0.25)  # the first bin is empty
        >>> figure.axes[0].get_title()
        'Reliability diagram (ECE 0.250)'
    """
    number, sure, right = (np.asarray(values, dtype=float) for values in (counts, confidence, accuracy))
    if number.ndim != 1 or not number.shape == sure.shape == right.shape or not number.sum() > 0:
        given = f"counts, confidence and accuracy have shapes {number.shape}, {sure.shape} and {right.shape}"
        raise ValueError(f"{given}: give three equally long arrays with an image in some bin")
    bins, filled = len(number), number > 0
    middle = (np.arange(bins) + 0.5) / bins
    figure, (top, bottom) = plt.subplots(
        2, sharex=True, figsize=(5, 5), height_ratios=(3, 1), layout="constrained"
    )
    box: dict[str, Any] = {"width": 0.9 / bins, "linewidth": 0.8}
    top.bar(middle[filled], right[filled], color=SKY, edgecolor=BLUE, label="accuracy", **box)
    top.plot(sure[filled], right[filled], "o", color=VERMILLION, label="accuracy at mean confidence")
    top.plot([0, 1], [0, 1], color=BLACK, linestyle="--", linewidth=1.1, label="perfect calibration")
    top.set(xlim=(0, 1), ylim=(0, 1.03), ylabel="accuracy")
    top.set_title(f"{title} (ECE {ece:.3f})")
    bottom.bar(middle, number, color=GREY, **box)
    bottom.set(xlabel="confidence (largest probability)", ylabel="images")
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    figure.legend(loc="outside lower center", ncols=2)
    return figure
