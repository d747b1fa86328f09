"""What all figures share: palette, line styles, the style sheet, and the checks of what they are given."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any, SupportsFloat

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from numpy.typing import ArrayLike, NDArray

from ..files import ASSETS

# Okabe and Ito, "Color Universal Design" (2008).
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, YELLOW = "#E69F00", "#56B4E9", "#000000", "#F0E442"
PALETTE = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
LINE_STYLES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#666666"
PAGE_WIDTH = 7.0  # inches; 700 pixels of the page
PHONE_WIDTH = 4.6  # inches; at this width the usual fonts can be read on a phone
LONGEST_NAME = 24  # characters of a class name; more would leave no room for the picture
XY = tuple[ArrayLike, ArrayLike]


def use_book_style() -> None:
    """Apply the book's Matplotlib style to all figures made from now on; notebooks show them as SVG.

    Example:
        >>> with plt.rc_context():  # the settings end with the block
        ...     use_book_style()
        ...     plt.rcParams["figure.dpi"]
        144.0
    """
    plt.style.use(ASSETS / "book.mplstyle")
    if "ipykernel" in sys.modules:
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg")  # type: ignore[no-untyped-call]


def series_style(i: int) -> dict[str, Any]:
    """Return colour and line style of series ``i``; 28 different ones, neighbours differing in both."""
    return {"color": PALETTE[i % len(PALETTE)], "linestyle": LINE_STYLES[i % len(LINE_STYLES)]}


def number(value: SupportsFloat, *, digits: int = 4) -> str:
    """Return a number without trailing zeros, with a minus sign of its own instead of a hyphen."""
    return f"{round(float(value), digits) + 0:g}".replace("-", "\N{MINUS SIGN}")


def as_text(name: str) -> str:
    """Return a class name such that Matplotlib shows it as it is, on one line and not too long.

    Matplotlib would set ``$...$`` as mathematics and leave a name that begins with ``_`` out of a legend. A
    folder's name may have line breaks, or bytes that are no text (surrogates in Python).
    """
    shown = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    if len(shown) > LONGEST_NAME:
        shown = shown[: LONGEST_NAME - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return (" " if shown.startswith("_") else "") + shown.replace("$", r"\$")


def fonts_for(names: Sequence[str]) -> list[str]:
    """Return families of fonts, on this system, for the characters of names that the present one lacks.

    Warns:
        UserWarning: If there is none for some; it says what to install.

    Example:
        >>> fonts_for(["cat", "Bär"])
        []
    """
    usual = FT2Font(findfont(FontProperties(family=plt.rcParams["font.family"]))).get_charmap()
    missing = {ord(letter) for name in names for letter in name if letter.isprintable()} - usual.keys()
    found: list[str] = []
    for font in fontManager.ttflist if missing else ():
        if covered := missing & FT2Font(font.fname).get_charmap().keys():
            found.append(font.name)
            missing -= covered
    if missing:
        shown = "".join(map(chr, sorted(missing)[:5]))
        warnings.warn(f"no font here has {shown}: install one, such as Noto Sans CJK", stacklevel=2)
    return found


def pixels(images: ArrayLike) -> NDArray[Any]:
    """Return images as ``(N, H, W, 3)`` or, if grey, ``(N, H, W)``."""
    array = np.asarray(images)
    if array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or not len(array):
        allowed = "(N, H, W, 3) or (N, 3, H, W), N above 0"
        raise ValueError(f"images have shape {np.shape(images)}: give {allowed}")
    if array.dtype != np.uint8 and (array.min() < 0 or array.max() > 1):
        allowed = "uint8, or floats in 0..1 (undo the normalisation)"
        raise ValueError(f"images run from {array.min():g} to {array.max():g}: give {allowed}")
    return array[..., 0] if array.shape[3] == 1 else array


def show(axes: Axes, image: NDArray[Any]) -> None:
    """Show one image of ``pixels``, without smoothing and without axes."""
    top = 255 if image.dtype == np.uint8 else 1
    axes.imshow(image, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
    axes.set_axis_off()


def one_each(what: str, values: Sequence[Any], n: int) -> None:
    """Raise ``ValueError`` unless there are ``n`` values."""
    if len(values) != n:
        raise ValueError(f"there are {len(values)} {what} for {n}: give one for each")


def pair(name: str, curve: XY) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both arrays of a curve as float64 ``(n,)``."""
    x, y = (np.asarray(values, dtype=float) for values in curve)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"curve {name!r} has shapes {x.shape} and {y.shape}: give two equally long arrays")
    return x, y
