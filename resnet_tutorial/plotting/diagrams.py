"""Drawings of residual blocks and of whole networks, with one visual grammar; nothing but Matplotlib.

A convolution is a blue box, batch normalisation an orange one, ReLU a green one, an addition a circle with a
plus; a thin arrow is data, and the thick arrow on the right is the shortcut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Rectangle

from .style import BLACK, BLUE, GREEN, GREY, ORANGE, VERMILLION, number

# Pale fills of the same hues, on which black text keeps its contrast, with an edge in the full colour.
FILLS = {"conv": ("#D6E8F5", BLUE), "bn": ("#FBE9C6", ORANGE), "relu": ("#D3EEE4", GREEN)}
PARTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "plain": ("Plain", ("conv3", "bn", "relu", "conv3", "bn", "relu")),
    "basic": ("Basic", ("conv3", "bn", "relu", "conv3", "bn", "+", "relu")),
    "bottleneck": (
        "Bottleneck",
        ("conv1", "bn", "relu", "conv3", "bn", "relu", "conv1", "bn", "+", "relu"),
    ),
    "preact": ("Pre-activation", ("bn", "relu", "conv3", "bn", "relu", "conv3", "+")),
}
TIMES = "\N{MULTIPLICATION SIGN}"
STEP = 0.72  # vertical distance of two boxes
BOX_WIDTH, BOX_HEIGHT = 1.9, 0.46
SIDE = 1.75  # distance of the shortcut from the middle of the boxes


def _box(
    axes: Axes, x: float, y: float, text: str, kind: str, *, width: float = BOX_WIDTH, fontsize: float = 10
) -> None:
    fill, edge = FILLS[kind]
    corner, style = (x - width / 2, y - BOX_HEIGHT / 2), "round,pad=0,rounding_size=0.09"
    axes.add_patch(FancyBboxPatch(corner, width, BOX_HEIGHT, boxstyle=style, fc=fill, ec=edge, lw=1.1))
    axes.text(x, y, text, ha="center", va="center", fontsize=fontsize)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    form: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0}
    options = form | {"joinstyle": "miter", "lw": 1.1, "color": BLACK} | style
    axes.add_patch(FancyArrowPatch(start, end, **options))


def _plus(axes: Axes, x: float, y: float) -> None:
    axes.add_patch(Circle((x, y), 0.2, fc="white", ec=BLACK, lw=1.1))
    axes.plot([x - 0.11, x + 0.11], [y, y], color=BLACK, lw=1.3)
    axes.plot([x, x], [y - 0.11, y + 0.11], color=BLACK, lw=1.3)


def _draw_block(axes: Axes, kind: str, *, channels: int | None, shortcut: str) -> None:
    title, parts = PARTS[kind]
    axes.text(0, 0.02, "$x$", ha="center", va="bottom", fontsize=11)
    plus, fork = None, -0.3  # heights of the addition and of the point where the shortcut leaves
    below = 0.0  # where the last thing drawn ends
    for i, part in enumerate(parts):
        y = -STEP * (i + 1) - 0.1
        if part == "+":
            _arrow(axes, (0, below), (0, y + 0.2))
            _plus(axes, 0, y)
            plus, below = y, y - 0.2
            continue
        _arrow(axes, (0, below), (0, y + BOX_HEIGHT / 2))
        text = {"bn": "BN", "relu": "ReLU"}.get(part, f"{part[-1]}{TIMES}{part[-1]} conv")
        if channels is not None and part.startswith("conv"):
            widened = kind == "bottleneck" and "conv3" in parts[:i]  # its last convolution
            text += f", {4 * channels if widened else channels}"
        _box(axes, 0, y, text, part.rstrip("13"), fontsize=10 if channels is None else 9)
        below = y - BOX_HEIGHT / 2
    _arrow(axes, (0, below), (0, below - 0.38))
    total = "F(x)+S(x)" if shortcut == "projection" else "F(x)+x"
    result = {"plain": "$F(x)$", "preact": f"${total}$"}.get(kind, f"ReLU$({total})$")
    axes.text(0, below - 0.42, result, ha="center", va="top", fontsize=10)
    if plus is not None:
        axes.add_patch(Circle((0, fork), 0.045, fc=BLACK, ec=BLACK))
        axes.plot([0, SIDE, SIDE], [fork, fork, plus], color=VERMILLION, lw=1.9, zorder=0.5)
        _arrow(axes, (SIDE, plus), (0.2, plus), color=VERMILLION, lw=1.9)
        middle = (fork + plus) / 2
        if shortcut == "projection":
            _box(axes, SIDE, middle + STEP / 2, f"1{TIMES}1 conv", "conv", width=1.2)
            _box(axes, SIDE, middle - STEP / 2, "BN", "bn", width=1.2)
            axes.text(SIDE, plus - 0.1, "$S(x)$", ha="center", va="top", fontsize=9.5, color=VERMILLION)
        else:
            place: dict[str, Any] = {"rotation": 270, "ha": "left", "va": "center", "color": VERMILLION}
            axes.text(SIDE + 0.1, middle, "identity $x$", fontsize=9.5, **place)
        axes.text(-BOX_WIDTH / 2 - 0.1, middle, "$F(x)$", ha="right", va="center", fontsize=10)
    axes.set_title(title, loc="center")


def block_diagram(
    kind: str | Sequence[str] = "basic",
    *,
    channels: int | None = None,
    shortcut: str = "identity",
    columns: int | None = None,
    title: str | None = None,
) -> Figure:
    """Draw residual blocks, data flowing from top to bottom; several kinds stand side by side.

    The blocks are those of He et al. (CVPR 2016), figure 5, and, for ``"preact"``, of He et al. (ECCV 2016),
    figure 1.

    Args:
        kind: One of ``"plain"``, ``"basic"``, ``"bottleneck"``, ``"preact"``, or several of them.
        channels: Output channels written into the convolutions; a bottleneck ends with four times as many.
        shortcut: Either ``"identity"`` or ``"projection"`` (1x1 convolution and BN).
        columns: Blocks in a row, by default all of them; two can be read on a phone.
        title: Title of the figure.

    Raises:
        ValueError: If kind or shortcut is unknown, there is no kind at all, or columns is below 1.

    Example:
        >>> figure = block_diagram(["plain", "basic"], channels=64)
        >>> [axes.get_title() for axes in figure.axes]
        ['Plain', 'Basic']
    """
    kinds = [kind] if isinstance(kind, str) else list(kind)
    if not kinds or any(name not in PARTS for name in kinds):
        raise ValueError(f"unknown kind of block in {kinds}: choose from {', '.join(PARTS)}")
    if shortcut not in ("identity", "projection"):
        raise ValueError(f"unknown shortcut {shortcut!r}: choose one of identity, projection")
    wide = min(len(kinds), len(kinds) if columns is None else columns)
    if wide < 1:
        raise ValueError(f"columns={columns}: give 1 or more blocks in a row")
    rows = [kinds[i : i + wide] for i in range(0, len(kinds), wide)]
    width = 4.4  # of a block, in the units of the drawing; so are the heights of the rows
    heights = [STEP * max(len(PARTS[name][1]) for name in row) + 1.6 for row in rows]
    scale = min(0.43, 7.0 / (width * wide))  # inches a unit
    size = (max(3.2, scale * width * wide), scale * sum(heights) + 0.35 * len(rows) + (0.35 if title else 0))
    figure, grid = plt.subplots(
        len(rows), wide, figsize=size, squeeze=False, layout="constrained", height_ratios=heights
    )
    for axes in grid.flat:
        axes.set_axis_off()
    for drawn, row, height in zip(grid, rows, heights, strict=True):
        for axes, name in zip(drawn, row, strict=False):  # the last row may be shorter
            axes.set(aspect="equal", xlim=(-1.9, 2.5), ylim=(-height + 0.45, 0.45))
            _draw_block(axes, name, channels=channels, shortcut=shortcut)
    if title:
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def numbers_diagram(
    rows: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    layers: Sequence[tuple[str, str]],
    *,
    shortcut: tuple[int, int],
) -> Figure:
    """Draw a worked block: values run down on the left, gradients up on the right, layers in between.

    Args:
        rows: Name, n values and n gradients of each of the S rows, from the input to the output.
        layers: Kind (``"conv"``, ``"bn"``, ``"relu"`` or ``"+"``) and text of the S - 1 layers between them.
        shortcut: The row where the shortcut leaves, and the layer where it is added.

    Raises:
        ValueError: If rows differ in length, a layer is unknown, or the shortcut does not end at a ``"+"``.

    Example:
        >>> rows = [("$x$", (1, 2), (3, 5)), ("$F$", (4, 0), (3, 5)), ("$y$", (5, 2), (3, 5))]
        >>> figure = numbers_diagram(rows, [("conv", "w = 4"), ("+", "")], shortcut=(0, 1))
        >>> [text.get_text() for text in figure.axes[0].texts][:3]
        ['$x$', '1', '2']
    """
    n = len(rows[0][1]) if rows else 0
    if not n or any(len(values) != n or len(gradients) != n for _, values, gradients in rows):
        raise ValueError("rows differ in length: give (name, n values, n gradients) for each")
    if len(layers) != len(rows) - 1 or any(kind not in (*FILLS, "+") for kind, _ in layers):
        raise ValueError(f"layers {[kind for kind, _ in layers]}: give one of conv, bn, relu, + between rows")
    start, end = shortcut
    if not (0 <= start <= end < len(layers) and layers[end][0] == "+"):
        raise ValueError(f"shortcut={shortcut}: it leaves at a row above and ends at the number of a +")
    cell, high, step = 0.8, 0.52, 1.62  # width and height of a cell, distance of two rows
    middle = 0.4 + n * cell / 2  # of the values on the left; the gradients are its mirror image
    edge = 0.4 + n * cell + 0.45
    size = (0.45 * 2 * (edge + 0.15), 0.45 * (step * (len(rows) - 1) + high + 1.1))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.set_axis_off()
    bottom = -step * (len(rows) - 1)
    axes.set(aspect="equal", xlim=(-edge - 0.15, edge + 0.15), ylim=(bottom - 0.35, 0.95))
    for i, (name, values, gradients) in enumerate(rows):
        y = -step * i
        axes.text(0, y, name, ha="center", va="center", fontsize=12)
        for side, numbers, colour in ((-1, values, BLACK), (1, gradients, VERMILLION)):
            for j, value in enumerate(numbers):
                x = side * middle + (j - (n - 1) / 2) * cell
                corner = (x - cell / 2, y - high / 2)
                axes.add_patch(Rectangle(corner, cell, high, fc="none", ec=GREY, lw=0.7))
                axes.text(
                    x, y, number(value, digits=2), ha="center", va="center", fontsize=10.6, color=colour
                )
    for side, text, colour in ((-1, "values", BLACK), (1, "gradients", VERMILLION)):
        axes.text(side * middle, 0.5, text, ha="center", va="bottom", fontsize=11, color=colour)
    for i, (kind, text) in enumerate(layers):
        y, reach = -step * (i + 0.5), 0.2 if kind == "+" else BOX_HEIGHT / 2
        top, low = -step * i - high / 2, -step * (i + 1) + high / 2
        for x, ends, colour in ((-middle, (top, low), BLACK), (middle, (low, top), VERMILLION)):
            first, last = (y + reach, y - reach) if ends[0] > ends[1] else (y - reach, y + reach)
            axes.plot([x, x], [ends[0], first], color=colour, lw=1.1)
            _arrow(axes, (x, last), (x, ends[1]), color=colour)
        if kind == "+":
            _plus(axes, -middle, y)
            axes.add_patch(Circle((middle, y), 0.07, fc=VERMILLION, ec=VERMILLION))
            axes.plot([middle, middle], [y - 0.2, y + 0.2], color=VERMILLION, lw=1.1)
        else:
            _box(axes, 0, y, text, kind, width=2 * middle + 1.2, fontsize=10.5)
    plus, row = -step * (end + 0.5), -step * start
    thick: dict[str, Any] = {"color": VERMILLION, "lw": 1.9}
    axes.plot([-edge + 0.43, -edge, -edge], [row, row, plus], zorder=0.5, **thick)
    _arrow(axes, (-edge, plus), (-middle - 0.2, plus), **thick)
    axes.plot([middle, edge, edge], [plus, plus, row], zorder=0.5, **thick)
    _arrow(axes, (edge, row), (edge - 0.43, row), **thick)
    return figure


def network_diagram(
    rows: Sequence[tuple[str, str, tuple[int, int, int], int | None, int]], *, title: str | None = None
) -> Figure:
    """Draw a network from stem to head, one row a part, every residual block with its shortcut.

    The height of a box grows with the square root of the spatial size, its width with that of the channels.
    A shortcut is dashed where it leads to another shape than that of the part before.

    Args:
        rows: Name, description (such as ``"3 basic blocks"``), output shape ``(channels, height, width)``,
            number of parameters (or None), and number of residual blocks, 0 for a part without.
        title: Title of the figure.

    Raises:
        ValueError: If there are no rows, or one has another form.

    Example:
        >>> rows = [("stem", "3x3 conv", (16, 32, 32), 464, 0), ("stage", "2 blocks", (16, 32, 32), 9344, 2)]
        >>> [text.get_text() for text in network_diagram(rows).axes[0].texts][::3]
        ['stem', 'stage']
    """
    rows = list(rows)
    for row in rows:
        if len(row) != 5 or len(row[2]) != 3 or min(row[2]) < 1 or row[4] < 0:
            form = "(name, description, (channels, height, width), parameters, blocks)"
            raise ValueError(f"row {row!r}: give {form}")
    if not rows:
        raise ValueError("there are no rows to draw: give one (name, description, shape, parameters) a stage")
    largest, widest = max(row[2][1] for row in rows), max(row[2][0] for row in rows)
    length, step = 4.6, 1.1  # inches: of a row, and from one row to the next
    figure, axes = plt.subplots(figsize=(length, step * len(rows) + 0.25), layout="constrained")
    axes.set_axis_off()
    axes.set(aspect="equal", xlim=(0, length), ylim=(-step * len(rows) + 0.1, 0.25), title=title or "")
    left, middle, end, before = 0.3, 0.0, 0.0, rows[0][2]
    for i, (name, description, shape, parameters, blocks) in enumerate(rows):
        channels, height, width = shape
        tall = max(0.06, 0.36 * (height / largest) ** 0.5)
        slot = (length - 2 * left) / max(blocks, 4)  # of a block, with the arrow before it
        wide = max(0.05, min(0.62 * slot, 0.62 * (channels / widest) ** 0.5))
        place = f"{channels}{TIMES}{height}{TIMES}{width}" if height * width > 1 else f"{channels}"
        count = f", {parameters:,} parameters" if parameters else ""
        top = -step * i
        axes.text(left, top, name, va="center", fontsize=11, weight="bold")
        axes.text(length, top, place, ha="right", va="center", fontsize=11.3)
        axes.text(left, top - 0.2, description + count, va="center", fontsize=11.3)
        if i:  # from the end of the row above to the beginning of this one
            turn = top + 0.18
            axes.plot([end, end + 0.12, end + 0.12, 0.1], [middle, middle, turn, turn], color=BLACK, lw=1.1)
            axes.plot([0.1, 0.1], [turn, top - 0.66], color=BLACK, lw=1.1)
        middle, end = top - 0.66, 0.1
        fill, edge = FILLS["conv" if blocks else "bn" if i < len(rows) / 2 else "relu"]
        for k in range(max(blocks, 1)):
            start = left + k * slot + 0.3 * slot
            head = {"mutation_scale": 9 if slot > 0.3 else 4}
            _arrow(axes, (end, middle), (start, middle), **head)
            corner = (start, middle - tall / 2)
            axes.add_patch(Rectangle(corner, wide, tall, fc=fill, ec=edge, lw=1.2))
            if blocks:
                fork, over = start - 0.15 * slot, middle + tall / 2 + 0.09
                past, dashes = start + wide + 0.1 * slot, "-" if k or shape == before else (0, (2, 1))
                axes.plot(
                    [fork, fork, past, past],
                    [middle, over, over, middle],
                    color=VERMILLION,
                    lw=1.6,
                    ls=dashes,
                )
            end = start + wide + (0.1 * slot if blocks else 0)
            if blocks:
                axes.plot([start + wide, end], [middle, middle], color=BLACK, lw=1.1)
        before = shape
    return figure
