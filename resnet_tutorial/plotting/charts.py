"""Figures of an evaluation: confusion matrix, curves, calibration."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from .style import BLACK, BLUE, GREY, SKY, VERMILLION, WIDTH, Curve, pair, same_length, series_style

DASH = "\N{EN DASH}"


def confusion_matrix(
    matrix: ArrayLike, classes: Sequence[str], *, normalize: bool = False, title: str | None = None
) -> Figure:
    """Draw a confusion matrix, rows true classes and columns predicted ones.

    Args:
        matrix: ``(K, K)`` counts.
        classes: the K class names.
        normalize: show each row in percent of its images, instead of counts; an empty row shows dashes.
        title: title of the figure.

    Raises:
        ValueError: the matrix is not square, negative, or of another size than the names.

    Example:
        >>> figure = confusion_matrix([[8, 2], [1, 9]], ("cat", "dog"), normalize=True)
        >>> [text.get_text() for text in figure.axes[0].texts]  # percent of each true class
        ['80', '20', '10', '90']
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size or counts.min() < 0:
        raise ValueError(f"the matrix has shape {counts.shape}; give (K, K) counts of 0 or more")
    same_length("class names", classes, len(counts))
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.where(totals > 0, totals, np.nan)  # colour is the share of the row in both cases
    side = min(WIDTH, 2.2 + 0.48 * len(counts))
    figure, axes = plt.subplots(figsize=(side, side * 0.9), layout="constrained")
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    ticks = np.arange(len(counts))
    axes.set_xticks(ticks, classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, classes)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    if len(counts) <= 20:
        for (i, j), share in np.ndenumerate(shares):
            text = f"{counts[i, j]:,}" if not normalize else DASH if np.isnan(share) else f"{100 * share:.0f}"
            colour = "white" if share > 0.65 else BLACK if counts[i, j] else "#767676"
            axes.text(j, i, text, ha="center", va="center", fontsize=8.5, color=colour)
    bar = figure.colorbar(picture, ax=axes, shrink=0.7, format=PercentFormatter(1))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    axes.set_title(title or ("Percent of each true class" if normalize else "Number of images"))
    return figure


def roc_curves(
    roc: Sequence[Curve],
    classes: Sequence[str],
    *,
    micro: Curve | None = None,
    macro: Curve | None = None,
    zoom: bool = False,
    title: str = "ROC curves, one class against the rest",
) -> Figure:
    """Draw the ROC curve of each class, with its area in the legend.

    Args:
        roc: for each class, false and true positive rates, both rising from 0 to 1; empty for a class without
            any.
        classes: the K class names.
        micro: curve of all decisions pooled.
        macro: mean of the curves.
        zoom: enlarge the top left corner, where good classifiers differ.
        title: title of the figure.

    Raises:
        ValueError: another number of names than of curves, or a curve of two different lengths.

    Example:
        >>> perfect, guessed = ([0, 0, 1], [0, 1, 1]), ([0, 1], [0, 1])
        >>> figure = roc_curves([perfect, guessed], ("cat", "dog"))
        >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        ['cat, AUC 1.000', 'dog, AUC 0.500', 'chance, AUC 0.500']
    """
    same_length("class names", classes, len(roc))
    curves = [
        (name, *pair(name, curve), series_style(i))
        for i, (name, curve) in enumerate(zip(classes, roc, strict=True))
    ]
    for name, curve, dashes in (("micro average", micro, "-"), ("macro average", macro, (0, (1, 1)))):
        if curve is not None:
            curves.append((name, *pair(name, curve), {"color": BLACK, "linestyle": dashes, "linewidth": 2.4}))
    figure, axes = plt.subplots(figsize=(WIDTH, 4.4), layout="constrained")
    panels = [axes]
    if zoom:
        inset = axes.inset_axes((0.4, 0.08, 0.57, 0.57), xlim=(-0.003, 0.2), ylim=(0.8, 1.003))
        inset.tick_params(labelsize=8)
        inset.spines[:].set_visible(True)
        inset.set_xticks([0, 0.1, 0.2])
        inset.set_yticks([0.8, 0.9, 1])
        axes.indicate_inset_zoom(inset, edgecolor=GREY)
        panels.append(inset)
    for name, x, y, style in curves:
        area = f"{np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2):.3f}" if len(x) else "undefined"
        for panel in panels:
            panel.plot(x, y, label=f"{name}, AUC {area}", **style)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.9, label="chance, AUC 0.500")
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), xlabel="false positive rate", ylabel="true positive rate")
    axes.set_aspect("equal")
    axes.set_title(title)
    _legend_at_right(axes)
    return figure


def pr_curves(
    pr: Sequence[Curve],
    classes: Sequence[str],
    *,
    title: str = "Precision and recall, one class against the rest",
) -> Figure:
    """Draw the precision-recall curve of each class, with its average precision in the legend.

    Args:
        pr: for each class, recall and precision, recall falling to 0 (scikit-learn's order); empty for a
            class without any.
        classes: the K class names.
        title: title of the figure.

    Raises:
        ValueError: another number of names than of curves, or a curve of two different lengths.

    Example:
        >>> figure = pr_curves([([1, 0.5, 0], [0.5, 1, 1])], ["cat"])
        >>> figure.axes[0].get_legend().get_texts()[0].get_text()
        'cat, AP 0.750'
    """
    same_length("class names", classes, len(pr))
    figure, axes = plt.subplots(figsize=(WIDTH, 4.4), layout="constrained")
    for i, (name, curve) in enumerate(zip(classes, pr, strict=True)):
        recall, precision = pair(name, curve)
        area = f"{-np.sum(np.diff(recall) * precision[:-1]):.3f}" if len(recall) else "undefined"
        # Steps, because precision between two thresholds is not on the straight line between them.
        axes.plot(recall, precision, drawstyle="steps-post", label=f"{name}, AP {area}", **series_style(i))
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_aspect("equal")
    axes.set_title(title)
    _legend_at_right(axes)
    return figure


def _legend_at_right(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=8.5)


def reliability(
    counts: ArrayLike, confidence: ArrayLike, accuracy: ArrayLike, *, title: str = "Reliability diagram"
) -> Figure:
    """Draw accuracy against confidence, with the number of images in each bin below.

    Args:
        counts: number of images of each of B bins of equal width over 0..1, ``(B,)``.
        confidence: mean confidence in each bin, ``(B,)``; NaN where it is empty.
        accuracy: share of correct predictions in each bin, ``(B,)``; NaN where it is empty.
        title: title of the figure; the expected calibration error is added to it.

    Raises:
        ValueError: arrays of other shapes, or no image at all.

    Example:
        >>> figure = reliability([0, 4], [np.nan, 0.75], [np.nan, 0.5])  # two bins, the first one empty
        >>> figure.axes[0].get_title()
        'Reliability diagram (ECE 0.250)'
    """
    number, sure, right = (np.asarray(values, dtype=float) for values in (counts, confidence, accuracy))
    if number.ndim != 1 or not number.shape == sure.shape == right.shape or not number.sum() > 0:
        raise ValueError(
            f"counts, confidence and accuracy have shapes {number.shape}, {sure.shape} and {right.shape};"
            " give three equally long arrays with an image in some bin"
        )
    bins, filled = len(number), number > 0
    ece = float((number * np.abs(right - sure))[filled].sum() / number.sum())
    middle = (np.arange(bins) + 0.5) / bins
    figure, (top, bottom) = plt.subplots(
        2, 1, figsize=(5.0, 5.0), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    top.bar(
        middle[filled],
        right[filled],
        width=0.9 / bins,
        color=SKY,
        edgecolor=BLUE,
        linewidth=0.8,
        label="accuracy",
    )
    top.plot(sure[filled], right[filled], "o", color=VERMILLION, label="accuracy at mean confidence")
    top.plot([0, 1], [0, 1], color=BLACK, linestyle="--", linewidth=1.1, label="perfect calibration")
    top.set(xlim=(0, 1), ylim=(0, 1.03), ylabel="accuracy")
    top.set_title(f"{title} (ECE {ece:.3f})")
    bottom.bar(middle, number, width=0.9 / bins, color=GREY)
    bottom.set(xlabel="confidence (largest probability)", ylabel="images")
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    figure.legend(loc="outside lower center", ncols=2)
    return figure
