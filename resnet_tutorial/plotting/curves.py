"""The figures of the book: plain arrays in, a Matplotlib figure out.

Every function makes a figure of its own and returns it; none of them shows or saves it. In a notebook the
figure appears by itself: end the line with a semicolon, or it appears twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from .style import (
    BLACK,
    BLUE,
    GREY,
    MARKERS,
    PALETTE,
    VERMILLION,
    WIDTH,
    Curve,
    pair,
    series_style,
)

HISTORY_COLUMNS = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")


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

    Example:
        >>> rows = [{"epoch": n, "train_loss": 2 / n, "train_accuracy": n / 5} for n in range(1, 5)]
        >>> [axes.get_ylabel() for axes in learning_curves(rows).axes]
        ['cross-entropy (nats)', 'images classified correctly']
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

    Example:
        >>> gradient_norms({"plain": [0.1, 1, 10], "residual": [2, 3, 4]}).axes[0].get_yscale()
        'log'
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

    Example:
        >>> figure = bars({"apples": 3, "pears": 4.5}, errors={"pears": 0.5}, xlabel="kg")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['3.0', '4.5']
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

    Example:
        >>> figure = lines({"squares": [1, 4, 9], "a line": ([0, 3], [0, 3])})
        >>> [len(curve.get_xdata()) for curve in figure.axes[0].lines]
        [3, 2]
    """
    if not series:
        raise ValueError("there is no series to draw; give at least one name and its values")
    curves = {}
    for name, values in series.items():
        if not isinstance(values, tuple):
            values = (np.arange(1, np.size(values) + 1), values)
        if len(values) != 2:
            raise ValueError(f"series {name!r} is a tuple of {len(values)}; give y, or (x, y)")
        curves[name] = pair(name, values)
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6), layout="constrained")
    for i, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, label=name, marker=MARKERS[i % len(MARKERS)] if markers else None, **series_style(i))
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
