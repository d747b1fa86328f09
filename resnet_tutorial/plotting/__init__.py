"""The figures of the book: plain arrays in, a Matplotlib figure out.

Every function makes a figure of its own and returns it; none of them shows or saves it. In a notebook the
figure appears by itself: end the line with a semicolon, or it appears twice.
"""

from __future__ import annotations

from .charts import confusion_matrix, pr_curves, reliability, roc_curves
from .curves import bars, learning_curves, lines
from .diagrams import block_diagram, network_diagram
from .pictures import image_grid, prediction_panel
from .style import PALETTE, use_book_style

# fmt: off
__all__ = [
    "PALETTE", "bars", "block_diagram", "confusion_matrix", "image_grid", "learning_curves", "lines",
    "network_diagram", "pr_curves", "prediction_panel", "reliability", "roc_curves", "use_book_style",
]
# fmt: on
