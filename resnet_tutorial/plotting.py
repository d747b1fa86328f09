"""The figures of the book: plain arrays in, a Matplotlib figure out.

Every function makes a figure of its own and returns it; none of them shows or saves it. In a notebook the
figure appears by itself: end the line with a semicolon, or it appears twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from .diagrams import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    block_diagram,
    network_diagram,
)

__all__ = [
    "PALETTE",
    "bars",
    "block_diagram",
    "confusion_matrix",
    "gradient_norms",
    "image_grid",
    "learning_curves",
    "lines",
    "network_diagram",
    "pr_curves",
    "prediction_panel",
    "reliability",
    "roc_curves",
    "use_book_style",
]

PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"
DASH = "\N{EN DASH}"
HISTORY_COLUMNS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
WIDTH = 7.0  # inches; 700 pixels of the page
Curve = tuple[ArrayLike, ArrayLike]


def use_book_style() -> None:
    """Apply the book's Matplotlib style to all figures made from now on."""
    plt.style.use(Path(__file__).parent / "assets" / "book.mplstyle")


def _style(i: int) -> dict[str, Any]:
    """Colour and line style of series ``i``; 28 different ones, neighbours differing in both."""
    return {"color": PALETTE[i % len(PALETTE)], "linestyle": LINE_STYLES[i % len(LINE_STYLES)]}


def _pixels(images: ArrayLike) -> NDArray[Any]:
    """Return images as ``(N, H, W, 3)`` or, if grey, ``(N, H, W)``."""
    array = np.asarray(images)
    if array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or not len(array):
        raise ValueError(
            f"images have shape {np.shape(images)}; give (N, H, W, 3) or (N, 3, H, W), N above 0"
        )
    if array.dtype != np.uint8 and (array.min() < 0 or array.max() > 1):
        raise ValueError(
            f"images run from {array.min():g} to {array.max():g}; give uint8, or floats in 0..1"
            " (undo the normalisation)"
        )
    return array[..., 0] if array.shape[3] == 1 else array


def _show(axes: Axes, image: NDArray[Any]) -> None:
    axes.imshow(
        image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else 1, interpolation="nearest"
    )
    axes.set_axis_off()


def _same_length(what: str, values: Sequence[Any], n: int) -> None:
    if len(values) != n:
        raise ValueError(f"there are {len(values)} {what} for {n}; give one for each")


def _pair(name: str, curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, y = (np.asarray(values, dtype=float) for values in curve)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"curve {name!r} has shapes {x.shape} and {y.shape}; give two equally long arrays")
    return x, y


def image_grid(
    images: ArrayLike, *, titles: Sequence[str] | None = None, columns: int = 10, title: str | None = None
) -> Figure:
    """Show images in rows, without smoothing their pixels.

    Args:
        images: ``(N, H, W, 3)`` or ``(N, 3, H, W)``, or with one channel; uint8, or floats in 0..1.
        titles: one short text above each image.
        columns: images a row.
        title: title of the figure.

    Raises:
        ValueError: another shape or range, another number of titles, or ``columns`` below 1.
    """
    array = _pixels(images)
    if titles is not None:
        _same_length("titles", titles, len(array))
    if columns < 1:
        raise ValueError(f"columns is {columns}; give 1 or more")
    columns = min(columns, len(array))
    rows = math.ceil(len(array) / columns)
    cell = min(WIDTH / columns, 1.6)
    height = rows * (cell + (0.12 if titles is not None else 0)) + (0.35 if title else 0)
    figure, grid = plt.subplots(
        rows, columns, figsize=(max(cell * columns, 2), height), squeeze=False, layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    for i, axes in enumerate(grid.flat):
        axes.set_axis_off()
        if i < len(array):
            _show(axes, array[i])
            if titles is not None:
                axes.set_title(titles[i], loc="center", fontsize=8, weight="normal", pad=2)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def learning_curves(
    rows: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Mapping[str, Any]]], *, title: str | None = None
) -> Figure:
    """Draw loss and accuracy against the epoch, training solid and validation dashed.

    Args:
        rows: one mapping an epoch with ``epoch``, ``train_loss``, ``train_accuracy`` and, if there was a
            validation split, ``val_loss`` and ``val_accuracy`` (accuracies in 0..1; None or NaN is left out);
            or several such runs by name.
        title: title of the figure.

    Raises:
        ValueError: no epochs, or a row without the columns.
    """
    runs = dict(rows) if isinstance(rows, Mapping) else {"": rows}
    if not runs or not all(len(run) for run in runs.values()):
        raise ValueError("there are no epochs to draw; give one row an epoch")
    columns = [
        {name: _column(run, name, required=name.startswith("train")) for name in HISTORY_COLUMNS}
        for run in runs.values()
    ]
    figure, panels = plt.subplots(1, 2, figsize=(WIDTH, 3.2), layout="constrained")
    single, validated = len(runs) == 1, False
    for i, column in enumerate(columns):
        colours = (BLUE, VERMILLION) if single else (PALETTE[i % len(PALETTE)],) * 2
        for axes, quantity in zip(panels, ("loss", "accuracy"), strict=True):
            for part, colour, dashes in zip(("train", "val"), colours, ("-", "--"), strict=True):
                x, y = column[f"{part}_{quantity}"]
                if len(x):
                    validated |= part == "val"
                    marker = MARKERS[i % len(MARKERS)] if len(x) <= 12 else None
                    axes.plot(x, y, color=colour, linestyle=dashes, marker=marker)
    panels[0].set(title="Loss", xlabel="epoch", ylabel="cross-entropy (nats)")
    panels[1].set(title="Accuracy", xlabel="epoch", ylabel="images classified correctly")
    panels[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    neutral = (BLUE, VERMILLION) if single else (GREY, GREY)
    handles = [Line2D([], [], color=neutral[0], linestyle="-", label="training")]
    if validated:
        handles.append(Line2D([], [], color=neutral[1], linestyle="--", label="validation"))
    if not single:
        named = [
            Line2D([], [], color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)], label=name)
            for i, name in enumerate(runs)
        ]
        handles = named + handles
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles) if len(handles) <= 5 else math.ceil(len(handles) / 2),
    )
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def _column(
    run: Sequence[Mapping[str, Any]], name: str, *, required: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Epochs and values of a column, without the missing ones."""
    if any("epoch" not in row or (required and name not in row) for row in run):
        raise ValueError(f"a row has no 'epoch' or no {name!r}; its columns are {', '.join(run[0])}")
    values = [row.get(name) for row in run]
    y = np.array([np.nan if value is None else value for value in values], dtype=float)
    x = np.array([row["epoch"] for row in run], dtype=float)
    return x[~np.isnan(y)], y[~np.isnan(y)]


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
    """
    counts = np.asarray(matrix)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not counts.size or counts.min() < 0:
        raise ValueError(f"the matrix has shape {counts.shape}; give (K, K) counts of 0 or more")
    _same_length("class names", classes, len(counts))
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
    """
    _same_length("class names", classes, len(roc))
    curves = [
        (name, *_pair(name, curve), _style(i))
        for i, (name, curve) in enumerate(zip(classes, roc, strict=True))
    ]
    for name, curve, dashes in (("micro average", micro, "-"), ("macro average", macro, (0, (1, 1)))):
        if curve is not None:
            curves.append(
                (name, *_pair(name, curve), {"color": BLACK, "linestyle": dashes, "linewidth": 2.4})
            )
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
    """
    _same_length("class names", classes, len(pr))
    figure, axes = plt.subplots(figsize=(WIDTH, 4.4), layout="constrained")
    for i, (name, curve) in enumerate(zip(classes, pr, strict=True)):
        recall, precision = _pair(name, curve)
        area = f"{-np.sum(np.diff(recall) * precision[:-1]):.3f}" if len(recall) else "undefined"
        # Steps, because precision between two thresholds is not on the straight line between them.
        axes.plot(recall, precision, drawstyle="steps-post", label=f"{name}, AP {area}", **_style(i))
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


def prediction_panel(
    images: ArrayLike,
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    *,
    top: int = 5,
    columns: int = 2,
    title: str | None = None,
) -> Figure:
    """Show images, each beside the probabilities of its likeliest classes.

    A right prediction has a tick and a blue bar, a wrong one a cross and a vermillion bar. The true class is
    in bold type; where it is not among the likeliest, it takes the last place after them.

    Args:
        images: ``(N, H, W, 3)`` or ``(N, 3, H, W)``; uint8, or floats in 0..1.
        probabilities: ``(N, K)``, in 0..1.
        labels: ``(N,)``, true classes, in 0..K-1.
        classes: the K class names.
        top: bars an image, at most.
        columns: images a row.
        title: title of the figure.

    Raises:
        ValueError: shapes or values that do not fit together.
    """
    array, shares, truth = _pixels(images), np.asarray(probabilities, dtype=float), np.asarray(labels)
    if shares.shape != (len(array), len(classes)) or truth.shape != (len(array),):
        raise ValueError(
            f"probabilities have shape {shares.shape} and labels {truth.shape}; {len(array)} images and"
            f" {len(classes)} classes need ({len(array)}, {len(classes)}) and ({len(array)},)"
        )
    if shares.min() < 0 or shares.max() > 1 + 1e-6 or truth.min() < 0 or truth.max() >= len(classes):
        raise ValueError(f"give probabilities in 0..1 (not logits) and labels in 0..{len(classes) - 1}")
    if top < 1 or columns < 1:
        raise ValueError(f"top is {top} and columns is {columns}; give 1 or more")
    columns = min(columns, len(array))
    rows = math.ceil(len(array) / columns)
    figure, grid = plt.subplots(
        rows,
        2 * columns,
        figsize=(WIDTH * columns / 2 if columns < 2 else WIDTH, rows * 1.55 + (0.35 if title else 0)),
        width_ratios=(1.0, 1.25) * columns,
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for i, (image, share, label) in enumerate(zip(array, shares, truth, strict=True)):
        row, column = divmod(i, columns)
        left, right = grid[row, 2 * column], grid[row, 2 * column + 1]
        _show(left, image)
        shown = np.argsort(-share, kind="stable")[:top]
        correct = shown[0] == label
        if label not in shown:
            shown = np.append(shown[: max(top - 1, 1)], label)
        colours = [BLUE if correct else VERMILLION] + ["#BBBBBB"] * (len(shown) - 1)
        right.set_axis_on()
        right.barh(np.arange(len(shown)), share[shown], color=colours, height=0.72)
        right.set_yticks(np.arange(len(shown)), [classes[k] for k in shown], fontsize=8.5)
        for tick, k in zip(right.get_yticklabels(), shown, strict=True):
            tick.set_fontweight("bold" if k == label else "normal")
        for y, k in enumerate(shown):
            right.text(share[k] + 0.02, y, f"{100 * share[k]:.0f} %", va="center", fontsize=8)
        right.set(xlim=(0, 1.28), ylim=(len(shown) - 0.4, -0.6), xticks=[])
        right.grid(False)
        right.spines["bottom"].set_visible(False)
        right.tick_params(length=0)
        mark, colour = ("✓ right", BLUE) if correct else ("✗ wrong", VERMILLION)
        right.set_title(mark, color=colour, fontsize=9, pad=3)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def gradient_norms(
    series: Mapping[str, ArrayLike],
    *,
    xlabel: str = "layer, from input to output",
    ylabel: str = "norm of the gradient",
    title: str | None = None,
) -> Figure:
    """Draw one value a layer for several networks, on a logarithmic axis.

    Args:
        series: name to norms ``(L,)`` in the order of the layers; zeros, having no logarithm, leave a gap.
        xlabel: label of the horizontal axis, which counts layers from 1.
        ylabel: label of the vertical axis.
        title: title of the figure.

    Raises:
        ValueError: no series, or one that is not one-dimensional.
    """
    positive = {}
    for name, values in series.items():
        norms = np.asarray(values, dtype=float)
        positive[name] = np.where(norms > 0, norms, np.nan)
    figure = lines(positive, xlabel=xlabel, ylabel=ylabel, title=title, logy=True, markers=True)
    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def bars(
    values: Mapping[str, float],
    *,
    errors: Mapping[str, float] | None = None,
    xlabel: str = "",
    fmt: str = "{:.1f}",
    highlight: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw horizontal bars with their values written beside them, the first on top.

    Args:
        values: name to length.
        errors: name to half the length of an error bar, for some or all of the names.
        xlabel: label of the axis, with its unit.
        fmt: how to write a value.
        highlight: name of a bar to colour differently.
        title: title of the figure.

    Raises:
        ValueError: no bars, a length that is not finite, or an error or highlight of an unknown name.
    """
    if not values or not all(np.isfinite(value) for value in values.values()):
        raise ValueError(f"bars need at least one name and finite values, not {dict(values)}")
    unknown = [name for name in [*(errors or {}), *([highlight] if highlight else [])] if name not in values]
    if unknown:
        raise ValueError(f"there is no bar named {', '.join(unknown)}; the bars are {', '.join(values)}")
    names, lengths = list(values), np.array(list(values.values()), dtype=float)
    half = np.array([(errors or {}).get(name, 0.0) for name in names])
    figure, axes = plt.subplots(figsize=(WIDTH, 0.75 + 0.34 * len(names)), layout="constrained")
    colours = [VERMILLION if name == highlight else BLUE for name in names]
    positions = np.arange(len(names))
    axes.barh(
        positions,
        lengths,
        xerr=np.where(half > 0, half, np.nan) if half.any() else None,
        color=colours,
        height=0.66,
        ecolor=BLACK,
        capsize=3,
    )
    for y, (length, extra) in enumerate(zip(lengths, half, strict=True)):
        axes.annotate(
            fmt.format(length),
            (length + extra if length >= 0 else length - extra, y),
            xytext=(4 if length >= 0 else -4, 0),
            textcoords="offset points",
            ha="left" if length >= 0 else "right",
            va="center",
            fontsize=9,
        )
    low, high = min(0.0, (lengths - half).min()), max(0.0, (lengths + half).max())
    room = 0.12 * ((high - low) or 1)
    axes.set(xlim=(low - room if low < 0 else 0, high + room if high > 0 else 0), xlabel=xlabel)
    axes.set_yticks(positions, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    if title:
        axes.set_title(title)
    return figure


def lines(
    series: Mapping[str, ArrayLike | Curve],
    *,
    xlabel: str = "",
    ylabel: str = "",
    title: str | None = None,
    logx: bool = False,
    logy: bool = False,
    markers: bool = False,
) -> Figure:
    """Draw labelled series, each with a colour and a line style of its own.

    Args:
        series: name to ``y`` of shape ``(n,)``, drawn against 1..n, or to a tuple ``(x, y)`` of such arrays.
        xlabel: label of the horizontal axis, with its unit.
        ylabel: label of the vertical axis, with its unit.
        title: title of the figure.
        logx: make the horizontal axis logarithmic.
        logy: make the vertical axis logarithmic.
        markers: mark the points.

    Raises:
        ValueError: no series, or one of another shape.
    """
    if not series:
        raise ValueError("there is no series to draw; give at least one name and its values")
    curves = {}
    for name, values in series.items():
        if not isinstance(values, tuple):
            values = (np.arange(1, np.size(values) + 1), values)
        if len(values) != 2:
            raise ValueError(f"series {name!r} is a tuple of {len(values)}; give y, or (x, y)")
        curves[name] = _pair(name, values)
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6), layout="constrained")
    for i, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, label=name, marker=MARKERS[i % len(MARKERS)] if markers else None, **_style(i))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if logx:
        axes.set_xscale("log")
    if logy:
        axes.set_yscale("log")
    if len(curves) > 1 or next(iter(curves)):
        figure.legend(loc="outside lower center", ncols=min(len(curves), 4))
    if title:
        axes.set_title(title)
    return figure
