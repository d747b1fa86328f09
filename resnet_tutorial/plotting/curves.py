"""Figures of numbers: learning curves, labelled series, bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike, NDArray

from .style import BLACK, BLUE, GREY, MARKERS, PAGE_WIDTH, PALETTE, VERMILLION, XY, pair, series_style


def learning_curves(
    rows: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Mapping[str, Any]]], *, title: str | None = None
) -> Figure:
    """Draw loss and accuracy against the epoch, training solid and validation dashed.

    Args:
        rows: One mapping an epoch with ``epoch``, ``train_loss``, ``train_accuracy`` and, where measured,
            ``val_loss`` and ``val_accuracy`` (accuracies in 0..1; None or NaN is left out); or several such
            runs by name.
        title: Title of the figure.

    Raises:
        ValueError: If there are no epochs, or a row has not the columns.

    Example:
        >>> rows = [{"epoch": n, "train_loss": 2 / n, "train_accuracy": n / 5} for n in range(1, 5)]
        >>> [axes.get_ylabel() for axes in learning_curves(rows).axes]
        ['nats', 'share correct']
    """
    runs = dict(rows) if isinstance(rows, Mapping) else {"": rows}
    if not runs or not all(len(run) for run in runs.values()):
        raise ValueError("there are no epochs to draw: give one row an epoch")
    single = len(runs) == 1
    keys = [(part, what) for part in ("train", "val") for what in ("loss", "accuracy")]
    columns = [{key: _column(run, "_".join(key)) for key in keys} for run in runs.values()]
    figure, panels = plt.subplots(2, 1, figsize=(4.6, 5), sharex=True, layout="constrained")
    for i, column in enumerate(columns):
        colours = (BLUE, VERMILLION) if single else (PALETTE[i % len(PALETTE)],) * 2
        for axes, what in zip(panels, ("loss", "accuracy"), strict=True):
            for part, colour, dashes in zip(("train", "val"), colours, ("-", "--"), strict=True):
                x, y = column[part, what]
                if len(x):
                    marker = MARKERS[i % len(MARKERS)] if len(x) <= 12 else None
                    axes.plot(x, y, color=colour, linestyle=dashes, marker=marker)
    panels[0].set(title="Cross-entropy", ylabel="nats")
    panels[1].set(title="Accuracy", xlabel="epoch", ylabel="share correct")
    panels[1].yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    neutral = (BLUE, VERMILLION) if single else (GREY, GREY)
    handles = [Line2D([], [], color=neutral[0], linestyle="-", label="training")]
    if any(len(column["val", what][0]) for column in columns for what in ("loss", "accuracy")):
        handles.append(Line2D([], [], color=neutral[1], linestyle="--", label="validation"))
    if not single:
        handles[:0] = [
            Line2D([], [], color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)], label=name)
            for i, name in enumerate(runs)
        ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def _column(run: Sequence[Mapping[str, Any]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return epochs and values of a column, without the missing ones."""
    if any("epoch" not in row or (name.startswith("train") and name not in row) for row in run):
        raise ValueError(f"a row has no 'epoch' or no {name!r}: its columns are {', '.join(run[0])}")
    x, y = np.array([(row["epoch"], row.get(name)) for row in run], dtype=float).T  # None becomes NaN
    return x[~np.isnan(y)], y[~np.isnan(y)]


def bars(
    values: Mapping[str, float],
    *,
    errors: Mapping[str, float] | None = None,
    xlabel: str = "",
    fmt: str = "{:.1f}",
    highlight: str | None = None,
    title: str | None = None,
) -> Figure:
    """Draw horizontal bars with their values, in format ``fmt``, beside them, the first on top.

    ``errors`` has half the lengths of error bars, for some or all of the names; ``highlight`` is the name of
    a bar to colour differently. The label of the axis says the unit.

    Raises:
        ValueError: If there are no bars, a length is not finite, or an error or highlight names no bar.

    Example:
        >>> figure = bars({"apples": 3, "pears": 4.5}, errors={"pears": 0.5}, xlabel="kg")
        >>> [text.get_text() for text in figure.axes[0].texts]
        ['3.0', '4.5']
    """
    errors = errors or {}
    if not values or not all(np.isfinite(value) for value in values.values()):
        raise ValueError(f"bars are {dict(values)}: give at least one name, and finite values")
    unknown = [name for name in [*errors, *([highlight] if highlight else [])] if name not in values]
    if unknown:
        raise ValueError(f"there is no bar named {', '.join(unknown)}: the bars are {', '.join(values)}")
    names, lengths = list(values), np.array(list(values.values()), dtype=float)
    half = np.array([errors.get(name, 0.0) for name in names])
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 0.75 + 0.34 * len(names)), layout="constrained")
    colours = [VERMILLION if name == highlight else BLUE for name in names]
    positions = np.arange(len(names))
    spread = np.where(half > 0, half, np.nan) if half.any() else None
    axes.barh(positions, lengths, xerr=spread, color=colours, height=0.66, ecolor=BLACK, capsize=3)
    for y, (length, extra) in enumerate(zip(lengths, half, strict=True)):
        sign = 1 if length >= 0 else -1
        beside: dict[str, Any] = {
            "xytext": (4 * sign, 0),
            "textcoords": "offset points",
            "va": "center",
        }
        end, side = length + sign * extra, "left" if sign > 0 else "right"
        axes.annotate(fmt.format(length), (end, y), ha=side, **beside)
    low, high = min(0.0, (lengths - half).min()), max(0.0, (lengths + half).max())
    room = 0.12 * ((high - low) or 1)
    axes.set(xlim=(low - room if low < 0 else 0, high + room if high > 0 else 0), xlabel=xlabel)
    axes.set_yticks(positions, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_title(title or "")
    return figure


def lines(
    series: Mapping[str, ArrayLike | XY],
    *,
    xlabel: str = "",
    ylabel: str = "",
    title: str | None = None,
    logx: bool = False,
    markers: bool = False,
) -> Figure:
    """Draw labelled series, each with a colour and a line style of its own, points marked with ``markers``.

    A series is ``y`` of shape ``(n,)``, drawn against 1..n, or a tuple ``(x, y)`` of such arrays. The labels
    of the axes say the units; ``logx`` makes the horizontal one logarithmic.

    Raises:
        ValueError: If there is no series, or one has another shape.

    Example:
        >>> figure = lines({"squares": [1, 4, 9], "a line": ([0, 3], [0, 3])})
        >>> [len(curve.get_xdata()) for curve in figure.axes[0].lines]
        [3, 2]
    """
    if not series:
        raise ValueError("there is no series to draw: give at least one name and its values")
    curves = {}
    for name, values in series.items():
        if not isinstance(values, tuple):
            values = (np.arange(1, np.size(values) + 1), values)
        if len(values) != 2:
            raise ValueError(f"series {name!r} is a tuple of {len(values)}: give y, or (x, y)")
        curves[name] = pair(name, values)
    figure, axes = plt.subplots(figsize=(PAGE_WIDTH, 3.6), layout="constrained")
    for i, (name, (x, y)) in enumerate(curves.items()):
        axes.plot(x, y, label=name, marker=MARKERS[i % len(MARKERS)] if markers else None, **series_style(i))
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title or "", xscale="log" if logx else "linear")
    if len(curves) > 1 or next(iter(curves)):
        figure.legend(loc="outside lower center", ncols=min(len(curves), 4))
    return figure
