"""Figures that show images: a grid of them, or each beside what a network made of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import ArrayLike

from .style import BLUE, PHONE_WIDTH, VERMILLION, as_text, one_each, pixels, show


def image_grid(
    images: ArrayLike, *, titles: Sequence[str] | None = None, columns: int = 10, title: str | None = None
) -> Figure:
    """Show images in rows of ``columns``, without smoothing their pixels, each below its title.

    They have shape ``(N, H, W, 3)`` or ``(N, 3, H, W)``, or one channel, in uint8 or floats in 0..1.

    Raises:
        ValueError: If images have another shape or range, titles another number, or ``columns`` is below 1.

    Example:
        >>> figure = image_grid(np.zeros((10, 32, 32, 3)), titles=list("abcdefghij"), columns=4)
        >>> len(figure.axes), figure.axes[9].get_title()  # three rows; the last two places stay empty
        (12, 'j')
    """
    array = pixels(images)
    if titles is not None:
        one_each("titles", titles, len(array))
    if columns < 1:
        raise ValueError(f"columns is {columns}: give 1 or more")
    columns = min(columns, len(array))
    rows = math.ceil(len(array) / columns)
    cell = min(PHONE_WIDTH / columns, 1.6)
    height = rows * (cell + (0.17 if titles is not None else 0)) + (0.35 if title else 0)
    layout = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    size = (max(cell * columns, 2), height)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False, layout=layout)
    for axes in grid.flat:
        axes.set_axis_off()
    for i, (axes, image) in enumerate(zip(grid.flat, array, strict=False)):
        show(axes, image)
        if titles is not None:
            axes.set_title(titles[i], loc="center", fontsize=11.4, weight="normal", pad=2)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def prediction_panel(
    images: ArrayLike,
    probabilities: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[str],
    *,
    top: int = 5,
    title: str | None = None,
) -> Figure:
    """Show images, one below the other, each beside the probabilities of its likeliest classes.

    A right prediction has a tick and a blue bar, a wrong one a cross and a vermillion bar. The true class is
    in bold type; where it is not among the likeliest, it takes the last place after them.

    Args:
        images: Shape ``(N, H, W, 3)`` or ``(N, 3, H, W)``; uint8, or floats in 0..1.
        probabilities: Of each class, ``(N, K)``, in 0..1.
        labels: True classes, ``(N,)``, in 0..K-1.
        classes: The K class names.
        top: Bars an image, at most.
        title: Title of the figure.

    Raises:
        ValueError: If shapes or values do not fit together.

    Example:
        >>> probabilities, labels = [[0.9, 0.1], [0.3, 0.7]], [0, 0]
        >>> figure = prediction_panel(np.zeros((2, 32, 32, 3)), probabilities, labels, ("cat", "dog"))
        >>> [axes.get_title() for axes in figure.axes if axes.get_title()]
        ['✓ right', '✗ wrong']
    """
    array, shares, truth = pixels(images), np.asarray(probabilities, dtype=float), np.asarray(labels)
    if shares.shape != (len(array), len(classes)) or truth.shape != (len(array),):
        n, k = len(array), len(classes)
        given = f"probabilities have shape {shares.shape} and labels {truth.shape}"
        raise ValueError(f"{given}: {n} images and {k} classes need ({n}, {k}) and ({n},)")
    if shares.min() < 0 or shares.max() > 1 + 1e-6 or truth.min() < 0 or truth.max() >= len(classes):
        given = f"probabilities run from {shares.min():g} to {shares.max():g}"
        given += f" and labels from {truth.min()} to {truth.max()}"
        raise ValueError(f"{given}: give 0..1 (not logits) and 0..{len(classes) - 1}")
    if top < 1:
        raise ValueError(f"top is {top}: give 1 or more")
    rows = len(array)
    size = (PHONE_WIDTH, rows * 1.25 + (0.35 if title else 0))
    figure, grid = plt.subplots(
        rows, 2, figsize=size, width_ratios=(1, 2.2), squeeze=False, layout="constrained"
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for (left, right), image, share, label in zip(grid, array, shares, truth, strict=True):
        show(left, image)
        shown = np.argsort(-share, kind="stable")[:top]
        correct = shown[0] == label
        if label not in shown:
            shown = np.append(shown[: max(top - 1, 1)], label)
        mark, colour = ("✓ right", BLUE) if correct else ("✗ wrong", VERMILLION)
        right.set_axis_on()
        right.barh(
            range(len(shown)), share[shown], color=[colour, *["#BBBBBB"] * (len(shown) - 1)], height=0.72
        )
        right.set_yticks(range(len(shown)), [as_text(classes[k]) for k in shown])
        for tick, k in zip(right.get_yticklabels(), shown, strict=True):
            tick.set_fontweight("bold" if k == label else "normal")
        for y, k in enumerate(shown):
            rounded = f"{100 * share[k]:.0f} %"  # softmax is never at an end
            said = {"100 %": "> 99 %", "0 %": "< 1 %"}.get(rounded, rounded)
            right.text(share[k] + 0.02, y, said, va="center")
        right.set(xlim=(0, 1.36), ylim=(len(shown) - 0.4, -0.6), xticks=[])
        right.grid(False)
        right.spines["bottom"].set_visible(False)
        right.tick_params(length=0)
        right.set_title(mark, color=colour, fontsize=11.4, pad=3)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure
