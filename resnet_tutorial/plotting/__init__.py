"""The figures of the book: plain arrays in, a Matplotlib figure out.

Every function makes a figure of its own and returns it; none of them shows or saves it. In a notebook the
figure appears by itself: end the line with a semicolon, or it appears twice. The ``interactive_`` functions
return HTML instead, which a reader can move: end their line without a semicolon.
"""

from __future__ import annotations

# fmt: off
from .charts import confusion_matrix, pr_curves, reliability, roc_curves
from .curves import bars, learning_curves, lines
from .diagrams import block_diagram, network_diagram, numbers_diagram
from .embedding import Interactive
from .interactive import (
    interactive_block, interactive_calibration, interactive_confusion, interactive_convolution,
    interactive_schedules, interactive_threshold,
)
from .pictures import image_grid, prediction_panel
from .style import PALETTE, fonts_for, use_book_style

__all__ = [
    "PALETTE", "Interactive", "bars", "block_diagram", "confusion_matrix", "fonts_for", "image_grid",
    "interactive_block", "interactive_calibration", "interactive_confusion", "interactive_convolution",
    "interactive_schedules", "interactive_threshold", "learning_curves", "lines", "network_diagram",
    "numbers_diagram", "pr_curves", "prediction_panel", "reliability", "roc_curves", "use_book_style",
]
# fmt: on
