"""A model report: one page of HTML with figures, and the same numbers as JSON."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from ..data import Split
from ..files import atomic
from ..plotting import confusion_matrix, fonts_for, pr_curves, prediction_panel, reliability, roc_curves
from .metrics import Report, reliability_bins, report
from .predictions import Predictions

FIGURES = ("confusion", "roc", "precision-recall", "calibration", "mistakes")  # not every report has all
REPORT_FILES = ("index.html", "report.json", *(f"{name}.png" for name in FIGURES))
LISTED = 200  # wrong predictions with their files
MISTAKES = 8  # how many of the most confident wrong predictions are shown
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 56rem;
  margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .8rem; text-align: right }
td:first-child, th:first-child { text-align: left } thead { border-bottom: 2px solid #222 }
h1 { overflow-wrap: anywhere } img { max-width: 100%; height: auto } .scroll { overflow-x: auto }
"""


def write_report(
    folder: str | Path,
    predictions: Predictions,
    split: Split,
    *,
    title: str,
    about: Mapping[str, Any],
) -> Path:
    """Write ``index.html``, ``report.json`` and the figures into a folder; return the path of the page.

    The page holds its figures, and can be sent on its own. The folder is made if missing. An earlier report's
    files are replaced once all new ones are on the disk, its page last; figures of it that the new one lacks
    are removed. Predictions are of the images of ``split``, in its order; ``about`` is what else to say of
    network and data, name and value.

    Raises:
        ValueError: If predictions and split are of different images, a number in ``about`` is not finite, or
            a file cannot be written.

    Example:
        >>> import torch
        >>> images, labels = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
        >>> pets = Split(images, labels, ("cat", "dog"), "pets")
        >>> predictions = Predictions([[2, 0], [0, 1], [0, 3], [0, 1]], [0, 1, 0, 1], pets.classes)
        >>> page = write_report("report", predictions, pets, title="Pets", about={"network": "a guess"})
        >>> sorted(path.name for path in page.parent.iterdir())
        ['calibration.png', 'confusion.png', 'index.html', 'mistakes.png', 'precision-recall.png',
        'report.json', 'roc.png']
    """
    if not np.array_equal(predictions.known_labels, split.labels.cpu().numpy()):
        raise ValueError(f"the predictions are not of {split.name!r}: their labels differ")
    for name, value in about.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"about {name!r} is {value}: give a finite number, or text")
    folder = Path(folder)
    result = report(predictions)
    sections, files = [_summary(result, about), _per_class(result)], {}
    families = [*plt.rcParams["font.family"], *fonts_for(result.classes)]
    with plt.rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # fonts_for has said it
        for name, heading, alt, figure in _figures(result, predictions, split):
            picture = io.BytesIO()
            figure.savefig(picture, format="png", dpi=150)
            plt.close(figure)
            files[f"{name}.png"] = picture.getvalue()
            data = base64.b64encode(files[f"{name}.png"]).decode()
            source = f"data:image/png;base64,{data}"
            sections.append(f'<h2>{heading}</h2>\n<img src="{source}" alt="{html.escape(alt)}">')
    if split.files:
        sections.append(_wrong_files(predictions, split))
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )
    content = {"title": title, "about": dict(about), "metrics": result.to_dict()}
    texts = {"report.json": json.dumps(content, indent=1, allow_nan=False) + "\n", "index.html": page}
    # A class may have a name that is no text.
    files |= {name: text.encode(errors="replace") for name, text in texts.items()}
    earlier = (folder / "index.html").exists()
    with ExitStack() as written:  # they take their names when all are written, the first one opened last
        for name in reversed(files):
            file = written.enter_context(atomic(folder / name, parents=True))
            file.write(files[name])
            file.flush()  # a full disk is met here, before any file is replaced
    for name in FIGURES:
        if earlier and f"{name}.png" not in files and (folder / f"{name}.png").is_file():
            (folder / f"{name}.png").unlink()
    return folder / "index.html"


def _summary(result: Report, about: Mapping[str, Any]) -> str:
    low, high = result.interval
    rows = [
        *about.items(),
        ("images", f"{result.n:,}"),
        ("accuracy", f"{result.accuracy:.2%} (95 % Wilson score interval {low:.2%} to {high:.2%})"),
        ("balanced accuracy (mean recall)", f"{result.macro.recall:.2%}"),
        *((f"top-{k}", f"{share:.2%}") for k, share in result.topk.items() if k > 1),
        ("cross-entropy", f"{result.loss:.4f} nats"),
        ("expected calibration error", f"{result.ece:.4f}"),
        ("macro F1", f"{result.macro.f1:.4f}"),
        ("macro AUC, one class against the rest", _number(result.auc_macro)),
    ]
    return _table(("", ""), rows)


def _per_class(result: Report) -> str:
    columns = ("precision", "recall", "f1", "auc", "average_precision")
    rows = [
        (name, *(_number(getattr(result, column)[k]) for column in columns), f"{result.support[k]:,}")
        for k, name in enumerate(result.classes)
    ]
    header = ("class", *(column.replace("_", " ") for column in columns), "images")
    names = html.escape(", ".join(result.never_predicted))
    never = f"<p>Never predicted, though among the images: {names}.</p>\n" if names else ""
    return f"<h2>Classes</h2>\n{never}{_table(header, rows)}"


def _wrong_files(predictions: Predictions, split: Split) -> str:
    """List the wrong predictions with the names of their files, the most confident first."""
    sure, wrong = predictions.probabilities.max(axis=1), np.flatnonzero(~predictions.correct)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")]
    names, truth = predictions.classes, predictions.known_labels
    rows: list[tuple[Any, ...]] = [
        (split.files[k], names[truth[k]], names[predictions.predicted[k]], f"{sure[k]:.1%}")
        for k in wrong[:LISTED]
    ]
    heading = f"<h2>Wrong predictions: {len(wrong):,}</h2>"
    return f"{heading}\n{_table(('file', 'true class', 'predicted', 'confidence'), rows)}"


def _figures(result: Report, predictions: Predictions, split: Split) -> list[tuple[str, str, str, Figure]]:
    """Return file name, heading, text for who cannot see it, and figure of each picture."""
    classes = result.classes
    alt = "Rows are true classes, columns predicted ones; the numbers are in report.json."
    matrix = confusion_matrix(result.confusion, classes, normalize=result.n > 200)
    figures = [("confusion", "Confusion matrix", alt, matrix)]
    if any(len(curve[0]) for curve in result.roc):
        micro, macro = (result.roc_micro, result.auc_micro), (result.roc_macro, result.auc_macro)
        roc = roc_curves(result.roc, classes, auc=result.auc, micro=micro, macro=macro)
        alt = "True against false positive rate of every class; the areas are in the table above."
        figures.append(("roc", "ROC curves", alt, roc))
        pr = pr_curves(result.pr, classes, average_precision=result.average_precision)
        alt = "Precision against recall of every class; the average precisions are in the table above."
        figures.append(("precision-recall", "Precision and recall", alt, pr))
    alt = f"Accuracy against confidence; the expected calibration error is {result.ece:.4f}."
    bins = reliability(*reliability_bins(predictions), ece=result.ece)
    figures.append(("calibration", "Calibration", alt, bins))
    wrong = np.flatnonzero(~predictions.correct)
    if len(wrong):
        sure = predictions.probabilities.max(axis=1)
        worst = wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]
        images, labels = split.images[worst].cpu().numpy(), predictions.known_labels[worst]
        panel = prediction_panel(images, predictions.probabilities[worst], labels, classes)
        alt = "Wrongly classified images, each with the probabilities of its likeliest classes."
        figures.append(("mistakes", "Most confident mistakes", alt, panel))
    return figures


def _table(header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    def line(cells: tuple[Any, ...], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    head = f"<thead>{line(header, 'th')}</thead>\n" if any(header) else ""
    body = "\n".join(line(row, "td") for row in rows)
    return f'<div class="scroll"><table>\n{head}<tbody>\n{body}\n</tbody>\n</table></div>'


def _number(value: float) -> str:
    return "undefined" if np.isnan(value) else f"{value:.4f}"
