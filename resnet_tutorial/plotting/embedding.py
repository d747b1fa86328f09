"""A figure as one piece of HTML: static picture, data, and the scripts that make it move."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from ..files import ASSETS
from .style import number


@dataclass(frozen=True)
class Interactive:
    """A figure to move; a notebook shows it, ``html`` is its source.

    Attributes:
        html: Static picture, data and scripts.
        title: What the figure is called by a screen reader.

    Example:
        >>> from resnet_tutorial.plotting import interactive_convolution
        >>> figure = interactive_convolution([[1, 2], [3, 4]], [[1]])
        >>> isinstance(figure, Interactive), figure
        (True, <Interactive: A window slides over an image>)
    """

    html: str = field(repr=False)
    title: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        """Name the figure, for places that show no HTML."""
        return f"<Interactive: {self.title}>"


def embed(script: str, title: str, data: Mapping[str, Any], static: Figure | str) -> Interactive:
    """Put the shared helper, one script, its data and the static picture into one piece of HTML."""
    if isinstance(static, Figure):
        buffer = io.BytesIO()
        with plt.rc_context({"svg.hashsalt": script}):
            static.savefig(buffer, format="svg", metadata={"Date": None})
        plt.close(static)
        static = (
            f'<img src="{data_uri("image/svg+xml", buffer.getvalue())}" alt="{title}, as a static picture">'
        )
    folder = ASSETS / "interactive"
    helper, draw = (
        (folder / f"{name}.js").read_text(encoding="utf-8").strip() for name in ("helper", script)
    )
    # In a script the text of "</script>" would end it, wherever it stands.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    name = f"{script}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    drawn = f"(data, say) => (\n{draw}\n)(data, say, residualFigures)"
    call = f'residualFigures.mount("{name}", "{title}", {drawn},\n{text});'
    return Interactive(
        f'<div data-figure="{name}"></div><div class="rt-paper">{static}</div>\n'
        f"<script>\n{helper}\n</script>\n<script>\n{call}\n</script>",
        title,
    )


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def table(rows: Sequence[Sequence[float | str]], names: Sequence[str] | None = None) -> str:
    """Return a plain HTML table; ``names`` head the rows."""
    style = ' style="padding: 0.1em 0.6em; border: 1px solid #888"'
    lines = []
    for i, row in enumerate(rows):
        head = f'<th scope="row"{style}>{html.escape(names[i])}</th>' if names else ""
        texts = (cell if isinstance(cell, str) else number(cell) for cell in row)
        lines.append(head + "".join(f"<td{style}>{html.escape(text)}</td>" for text in texts))
    return f"<table><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"


def short(values: ArrayLike) -> Any:
    """Return floats with six decimals as JSON wants them: lists, ``None`` for NaN."""
    rounded = np.round(np.asarray(values, dtype=float), 6)
    whole = np.array(rounded, dtype=object)
    whole[np.isnan(rounded)] = None
    return whole.tolist()
