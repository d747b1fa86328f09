"""Figures: what is drawn is what was given, and bad input is refused."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.text import Text

from resnet_tutorial import plotting
from resnet_tutorial.plotting import charts, diagrams, style
from resnet_tutorial.plotting import curves as plotted
from resnet_tutorial.plotting import pictures as image_figures

CLASSES = ("cat", "dog", "frog")
RUN = [
    {"epoch": 1, "train_loss": 2.0, "train_accuracy": 0.25, "val_loss": None, "val_accuracy": None},
    {"epoch": 2, "train_loss": 1.5, "train_accuracy": 0.50, "val_loss": 1.75, "val_accuracy": 0.375},
    {"epoch": 3, "train_loss": 1.0, "train_accuracy": 0.75, "val_loss": 1.25, "val_accuracy": 0.625},
]
ROC = (([0, 0, 1], [0, 0.5, 1]), ([0, 0.2, 1], [0, 0.8, 1]), ([], []))
PR = (([1, 0.5, 0], [0.4, 0.8, 1]), ([1, 0], [0.3, 1]), ([], []))
AUC, AP = (0.75, 0.8, np.nan), (0.6, 0.3, np.nan)
WORKED = (
    [("x", (1, -2), (3, 0.5)), ("F", (4, 0), (5, 6)), ("y", (5, -2), (5, 6))],
    [("conv", "w = 4"), ("+", "")],
)
STAGES = [
    ("stem", "conv", (16, 32, 32), 464, 0),
    ("stage", "3 blocks", (64, 8, 8), None, 3),
    ("head", "linear", (10, 1, 1), 650, 0),
]


@pytest.fixture(autouse=True)
def _own_figures() -> Iterator[None]:
    """Draw in the book's style, then close everything: over 20 open figures are a warning, so an error."""
    with plt.rc_context():
        plotting.use_book_style()
        yield
    plt.close("all")


def pictures(n: int = 3, *, size: int = 6) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def curves(axes: plt.Axes) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def draw_all() -> dict[str, Figure]:
    """Draw one figure with each function."""
    shares = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
    return {
        "bars": plotting.bars({"a": 1.0, "b": -2.0}, errors={"a": 0.5}, xlabel="x", title="Bars"),
        "block_diagram": plotting.block_diagram(list(diagrams.PARTS), title="Blocks"),
        "confusion_matrix": plotting.confusion_matrix([[5, 1, 0], [2, 3, 1], [0, 0, 0]], CLASSES),
        "image_grid": plotting.image_grid(pictures(), titles=CLASSES, title="Images"),
        "learning_curves": plotting.learning_curves(RUN, title="Curves"),
        "lines": plotting.lines({"one": [1, 2], "two": ([0, 1], [3, 4])}, title="Lines"),
        "network_diagram": plotting.network_diagram(STAGES, title="Network"),
        "numbers_diagram": plotting.numbers_diagram(*WORKED, shortcut=(0, 1)),
        "pr_curves": plotting.pr_curves(PR, CLASSES, average_precision=AP),
        "prediction_panel": plotting.prediction_panel(pictures(), shares, [0, 0, 1], CLASSES, title="Panel"),
        "reliability": plotting.reliability([0, 3, 1], [np.nan, 0.5, 0.9], [np.nan, 2 / 3, 1], ece=0.15),
        "roc_curves": plotting.roc_curves(
            ROC, CLASSES, auc=AUC, micro=(ROC[0], 0.75), macro=(ROC[1], np.nan), zoom=True
        ),
    }


def test_every_figure_renders_in_the_book_style_with_legible_text_on_white():
    """Missing glyphs, a layout that collapses, type too small for 700 pixels, a see-through background."""
    figures = draw_all()
    drawn = {name for name in plotting.__all__ if not name.lower().startswith("interactive")}
    assert set(figures) == drawn - {"PALETTE", "fonts_for", "use_book_style"}
    for name, figure in figures.items():
        figure.canvas.draw()  # warnings are errors
        assert to_hex(figure.get_facecolor()) == "#ffffff", name
        assert figure.get_figwidth() <= 7.01, name
        small = [
            text.get_text() for text in figure.findobj(Text) if text.get_text() and text.get_fontsize() < 8
        ]
        assert not small, (name, small)


def test_no_text_is_cut_off_at_the_edge_of_a_figure():
    """A title or a tick label that runs out of the picture."""
    for name, figure in draw_all().items():
        figure.canvas.draw()
        frame = figure.bbox.padded(1)
        for axes in [figure, *figure.axes]:
            own = [text for text in axes.texts if text.get_text()]
            if axes is not figure and axes.axison:
                own += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]
            for text in own:
                if text.get_text():
                    box = text.get_window_extent()
                    assert frame.x0 <= box.x0 and box.x1 <= frame.x1, (name, text.get_text())
                    assert frame.y0 <= box.y0 and box.y1 <= frame.y1, (name, text.get_text())


@pytest.mark.parametrize("module", [plotting, charts, plotted, diagrams, image_figures, style])
def test_plotting_needs_no_torch(module):
    """A plotting module that cannot be used, or tested, without the whole training stack."""
    imported = set()
    for node in ast.walk(ast.parse(Path(inspect.getfile(module)).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add("." * node.level + (node.module or "").split(".")[0])
    assert imported <= {
        "__future__",
        "collections",
        "math",
        "pathlib",
        "sys",
        "typing",
        "warnings",
        "matplotlib",
        "matplotlib_inline",
        "numpy",
        ".charts",
        ".embedding",
        ".interactive",
        ".curves",
        ".diagrams",
        ".pictures",
        ".style",
        "..files",
    }


def test_figures_are_not_shown_and_belong_to_pyplot(monkeypatch):
    """plt.show() in a build without a screen; a figure that a notebook does not display."""
    monkeypatch.setattr(plt, "show", lambda *_args, **_kwargs: pytest.fail("plt.show was called"))
    figures = draw_all()
    assert [plt.figure(number) for number in plt.get_fignums()] == list(figures.values())


def test_palette_and_line_styles_tell_28_series_apart():
    """Ten classes of which two look the same, in colour or in print."""
    styles = [tuple(style.series_style(i).values()) for i in range(28)]
    assert len(set(styles)) == 28
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(styles))


@pytest.mark.parametrize("layout", ["channels last", "channels first", "grey", "float"])
def test_image_grid_shows_the_given_pixels(layout):
    """Channels and rows mixed up, or images in another order."""
    images = pictures(5)
    given = {
        "channels last": images,
        "channels first": images.transpose(0, 3, 1, 2),
        "grey": images[..., :1],
        "float": images / 255,
    }[layout]
    figure = plotting.image_grid(given, columns=3, titles=list("abcde"))
    assert len(figure.axes) == 6 and sum(len(axes.images) for axes in figure.axes) == 5
    for axes, image, name in zip(figure.axes, images, "abcde", strict=False):
        expected = {"grey": image[..., 0], "float": image / 255}.get(layout, image)
        np.testing.assert_array_equal(axes.images[0].get_array(), expected)
        assert axes.get_title(loc="center") == name


def test_learning_curves_draw_the_history():
    """Training and validation swapped; missing validation values drawn as zero."""
    loss, accuracy = plotting.learning_curves(RUN).axes
    assert curves(loss) == [([1, 2, 3], [2.0, 1.5, 1.0]), ([2, 3], [1.75, 1.25])]
    assert curves(accuracy) == [([1, 2, 3], [0.25, 0.5, 0.75]), ([2, 3], [0.375, 0.625])]
    assert [line.get_linestyle() for line in loss.lines] == ["-", "--"]


def test_learning_curves_of_several_runs_are_named():
    """Runs in one colour; 'validation' in the legend of runs that had none."""
    bare = [{key: value for key, value in row.items() if not key.startswith("val")} for row in RUN]
    figure = plotting.learning_curves({"plain": bare, "resnet": bare})
    assert len(figure.axes[0].lines) == 2
    assert len({line.get_color() for line in figure.axes[0].lines}) == 2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["plain", "resnet", "training"]


def test_confusion_matrix_keeps_true_classes_in_rows():
    """The transposed matrix; counts written where percentages are announced; a division by an empty row."""
    matrix = [[5, 3, 0], [1, 1, 2], [0, 0, 0]]
    counts = plotting.confusion_matrix(matrix, CLASSES).axes[0]
    assert [text.get_text() for text in counts.texts] == ["5", "3", "0", "1", "1", "2", "0", "0", "0"]
    assert (counts.get_ylabel(), counts.get_xlabel()) == ("true class", "predicted class")
    assert [label.get_text() for label in counts.get_yticklabels()] == list(CLASSES)
    shares = plotting.confusion_matrix(matrix, CLASSES, normalize=True).axes[0]
    written = [text.get_text() for text in shares.texts]
    assert written == ["62", "38", "0", "25", "25", "50", *[charts.DASH] * 3]
    np.testing.assert_allclose(np.ma.getdata(shares.images[0].get_array())[0], [5 / 8, 3 / 8, 0])


def test_roc_curves_draw_the_rates_and_write_their_areas():
    """Axes swapped; areas computed again, or of another class; a class without a curve dropped."""
    figure = plotting.roc_curves(ROC, CLASSES, auc=(0.123, 0.8, np.nan), micro=(ROC[1], 0.456), zoom=True)
    axes = figure.axes[0]
    assert curves(axes)[:2] == [([0, 0, 1], [0, 0.5, 1]), ([0, 0.2, 1], [0, 0.8, 1])]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        "cat, AUC 0.123",
        "dog, AUC 0.800",
        "frog, AUC undefined",
        "micro average, AUC 0.456",
        "chance, AUC 0.500",
    ]
    (inset,) = axes.child_axes
    assert len(inset.lines) == 4 and inset.get_xlim()[1] == 0.2 and inset.get_ylim()[0] == 0.8
    assert not plotting.roc_curves(ROC, CLASSES, auc=AUC).axes[0].child_axes


def test_pr_curves_are_steps_with_the_area_given():
    """Recall and precision swapped; straight lines, whose area is too large."""
    figure = plotting.pr_curves(PR, CLASSES, average_precision=AP)
    axes = figure.axes[0]
    assert curves(axes)[0] == ([1, 0.5, 0], [0.4, 0.8, 1])
    assert axes.lines[0].get_drawstyle() == "steps-post"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["cat, AP 0.600", "dog, AP 0.300", "frog, AP undefined"]


def test_reliability_draws_bins_and_their_error():
    """Bars at the wrong confidence; empty bins drawn as accuracy 0."""
    figure = plotting.reliability([0, 3, 1], [np.nan, 0.5, 0.9], [np.nan, 2 / 3, 1], ece=0.1234)
    top, bottom = figure.axes
    bars = [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in top.patches]
    np.testing.assert_allclose(bars, [(0.5, 2 / 3), (5 / 6, 1)])
    assert [bar.get_height() for bar in bottom.patches] == [0, 3, 1]
    assert "ECE 0.123" in top.get_title(loc="left")


def test_prediction_panel_marks_right_and_wrong_by_sign_and_colour():
    """A wrong answer shown as right, bars in another order, or the true class missing from the list."""
    shares = [[0.7, 0.2, 0.06, 0.04], [0.5, 0.3, 0.15, 0.05]]
    figure = plotting.prediction_panel(pictures(2), shares, [0, 3], (*CLASSES, "ship"), top=3)
    right, wrong = figure.axes[1], figure.axes[3]
    assert [bar.get_width() for bar in right.patches] == [0.7, 0.2, 0.06]
    assert [bar.get_width() for bar in wrong.patches] == [0.5, 0.3, 0.05]
    assert [label.get_text() for label in wrong.get_yticklabels()] == ["cat", "dog", "ship"]
    assert [label.get_fontweight() for label in wrong.get_yticklabels()] == ["normal", "normal", "bold"]
    titles = [axes.title.get_text() or axes._left_title.get_text() for axes in (right, wrong)]
    assert "✓" in titles[0] and "✗" in titles[1]
    colours = [to_hex(axes.patches[0].get_facecolor()) for axes in (right, wrong)]
    assert colours == [style.BLUE.lower(), style.VERMILLION.lower()]
    assert len(figure.axes[0].images) == len(figure.axes[2].images) == 1


@pytest.mark.parametrize(
    ("kind", "boxes", "conv"), [("plain", 6, 2), ("basic", 6, 2), ("bottleneck", 9, 3), ("preact", 6, 2)]
)
def test_block_diagram_has_the_parts_of_the_block(kind, boxes, conv):
    """A BN or a ReLU too many; a shortcut drawn into the plain block."""
    figure = plotting.block_diagram(kind, channels=64)
    written = texts(figure)
    assert len([patch for patch in figure.axes[0].patches if isinstance(patch, FancyBboxPatch)]) == boxes
    assert sum("conv" in text for text in written) == conv
    assert ("identity $x$" in written) == (kind != "plain")
    assert any(text.endswith("conv, 256") for text in written) == (kind == "bottleneck")
    order = [part for part in diagrams.PARTS[kind][1] if part != "+"]
    heights = {text.get_position()[1]: text.get_text() for text in figure.axes[0].texts}
    names = [heights[y] for y in sorted(heights, reverse=True)]
    drawn = [name for name in names if name in ("BN", "ReLU") or "conv" in name]
    assert [{"bn": "BN", "relu": "ReLU"}.get(part, "conv") for part in order] == [
        "conv" if "conv" in name else name for name in drawn
    ]


def test_block_diagram_of_a_projection_and_side_by_side():
    """An identity announced where a projection is drawn; kinds that overwrite each other."""
    written = texts(plotting.block_diagram("basic", shortcut="projection"))
    assert "$S(x)$" in written and "identity $x$" not in written and written.count("BN") == 3
    figure = plotting.block_diagram(["basic", "preact"])
    assert [axes.get_title() for axes in figure.axes] == ["Basic", "Pre-activation"]


def test_block_diagram_wraps_into_rows():
    """Four blocks in one row cannot be read on a phone; a last row may be shorter."""
    figure = plotting.block_diagram(["plain", "basic", "preact"], columns=2)
    assert [axes.get_title() for axes in figure.axes] == ["Plain", "Basic", "Pre-activation", ""]
    assert not figure.axes[3].texts and figure.get_figwidth() < 5


def test_numbers_diagram_shows_both_ways_and_the_shortcut():
    """The gradient of the addition goes both ways: the picture must have the shortcut on either side."""
    figure = plotting.numbers_diagram(*WORKED, shortcut=(0, 1))
    assert texts(figure) == [
        "x",
        "1",
        "\N{MINUS SIGN}2",
        "3",
        "0.5",
        "F",
        "4",
        "0",
        "5",
        "6",
        "y",
        "5",
        "\N{MINUS SIGN}2",
        "5",
        "6",
        "values",
        "gradients",
        "w = 4",
    ]
    thick = [line.get_xydata() for line in figure.axes[0].lines if line.get_linewidth() == 1.9]
    assert len(thick) == 2 and thick[0][:, 0].max() < 0 < thick[1][:, 0].min()
    assert np.allclose(sorted({*thick[0][:, 1]}), sorted({*thick[1][:, 1]}))


def test_network_diagram_is_drawn_to_its_scale_with_its_shortcuts():
    """Channels drawn as height; a residual network drawn without its shortcuts; a wrong parameter count."""
    axes = plotting.network_diagram(STAGES).axes[0]
    stem, *blocks, head = (patch for patch in axes.patches if isinstance(patch, Rectangle))
    assert len(blocks) == 3 and {block.get_height() / stem.get_height() for block in blocks} == {0.5}
    assert blocks[0].get_width() / stem.get_width() == pytest.approx((64 / 16) ** 0.5)
    assert stem.get_y() > blocks[0].get_y() > head.get_y()
    shortcuts = [line for line in axes.lines if line.get_linewidth() == 1.6]
    for block, line in zip(blocks, shortcuts, strict=True):
        x, y = line.get_xdata(), line.get_ydata()
        assert min(x) < block.get_x() and max(x) > block.get_x() + block.get_width()
        assert max(y) > block.get_y() + block.get_height()
    assert [line.get_linestyle() for line in shortcuts] == ["--", "-", "-"]  # the first changes the shape
    written = "\n".join(text.get_text() for text in axes.texts)
    assert "464 parameters" in written and "None" not in written
    assert diagrams.TIMES.join(["16", "32", "32"]) in written


def test_bars_have_their_lengths_labels_and_errors():
    """Names attached to the wrong bars; labels outside the axis."""
    figure = plotting.bars(
        {"ours": 91.25, "plain": 88.0}, errors={"ours": 0.5}, fmt="{:.2f} %", highlight="plain"
    )
    axes = figure.axes[0]
    assert [bar.get_width() for bar in axes.patches] == [91.25, 88.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ours", "plain"]
    assert [text.get_text() for text in axes.texts] == ["91.25 %", "88.00 %"]
    assert to_hex(axes.patches[1].get_facecolor()) == style.VERMILLION.lower()
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    low, high = axes.get_xlim()
    assert low == 0 and high > 91.75


def test_lines_draw_y_against_its_number_or_against_x():
    """x and y swapped; log axes ignored; a legend for a single series without a name."""
    figure = plotting.lines(
        {"a": [4, 5, 6], "b": ([10, 20], [1, 2])}, logx=True, xlabel="step", ylabel="loss"
    )
    axes = figure.axes[0]
    assert curves(axes) == [([1, 2, 3], [4, 5, 6]), ([10, 20], [1, 2])]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "loss")
    assert not plotting.lines({"": [1, 2]}).legends


def drawn_classes(names: list[str]) -> dict[str, Figure]:
    """Draw every figure that names classes."""
    k = len(names)
    curve = ([0, 0.5, 1], [0, 0.7, 1])
    shares = np.full((1, k), 1 / k)
    return {
        "confusion_matrix": plotting.confusion_matrix(np.eye(k, dtype=int), names),
        "roc_curves": plotting.roc_curves(
            [curve] * k, names, auc=np.linspace(1, 0, k), micro=(curve, 0.6), macro=(curve, 0.6)
        ),
        "pr_curves": plotting.pr_curves([curve] * k, names, average_precision=np.linspace(1, 0, k)),
        "prediction_panel": plotting.prediction_panel(pictures(1), shares, [0], names),
    }


@pytest.mark.parametrize(
    ("name", "shown"),
    [("$x$", "$x$"), ("a\\$b$", "a\\$b$"), ("_", " _"), ("a\nb", "a\ufffdb"), ("\udcff", "\ufffd")],
)
def test_class_names_are_shown_letter_by_letter(name, shown):
    """Dollars set as mathematics, a class left out of the legend, a figure that cannot be drawn."""
    for figure_name, figure in drawn_classes([name, "dog"]).items():
        figure.canvas.draw()
        written = [text for text in figure.findobj(Text) if text.get_text().startswith(style.as_text(name))]
        assert written, figure_name
        for text in written:
            plain, is_math = text._preprocess_math(text.get_text())
            assert not is_math and plain.startswith(shown), figure_name


def test_a_hundred_classes_with_long_names_fit_into_a_figure():
    """A legend higher than the page, axes squeezed to nothing, names on top of each other."""
    for name, figure in drawn_classes([f"{k} is a class with a very long name" for k in range(100)]).items():
        figure.canvas.draw()  # a layout that fails is a warning, so an error
        axes, frame = figure.axes[0 if name != "prediction_panel" else 1], figure.bbox.padded(1)
        assert axes.get_window_extent().width > 0.25 * figure.bbox.width, name
        box = figure.get_tightbbox().transformed(figure.dpi_scale_trans)
        assert frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1, name
        labels = [label.get_window_extent() for label in axes.get_yticklabels()]
        assert not any(a.overlaps(b) for a, b in pairwise(labels)), name


def test_of_many_curves_those_with_the_smallest_areas_are_named():
    """Ninety curves nobody can tell apart; the class that fails hidden among them."""
    curve = ([0, 0.5, 1], [0, 0.7, 1])
    areas = np.linspace(0.5, 1, 20)[::-1]
    figure = plotting.pr_curves([curve] * 20, list("abcdefghijklmnopqrst"), average_precision=areas)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[0] == "4 others" and [text[0] for text in legend[1:]] == list("efghijklmnopqrst")
    assert legend[-1] == "t, AP 0.500" and len(figure.axes[0].lines) == 20


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: plotting.image_grid(np.zeros((2, 5, 5))), r"\(N, H, W, 3\)"),
        (lambda: plotting.image_grid(np.zeros((0, 5, 5, 3))), "N above 0"),
        (lambda: plotting.image_grid(np.full((1, 5, 5, 3), -1.5)), "undo the normalisation"),
        (lambda: plotting.image_grid(pictures(), titles=["one"]), "1 titles for 3"),
        (lambda: plotting.image_grid(pictures(), columns=0), "columns is 0"),
        (lambda: plotting.learning_curves([]), "no epochs"),
        (lambda: plotting.learning_curves({"a": []}), "no epochs"),
        (lambda: plotting.learning_curves([{"epoch": 1, "loss": 2}]), "train_loss"),
        (lambda: plotting.confusion_matrix(np.zeros((2, 3)), CLASSES), r"\(K, K\)"),
        (lambda: plotting.confusion_matrix(-np.ones((3, 3)), CLASSES), "0 or more"),
        (lambda: plotting.confusion_matrix(np.zeros((2, 2)), CLASSES), "class names"),
        (lambda: plotting.roc_curves(ROC[:2], CLASSES, auc=AUC), "class names"),
        (lambda: plotting.roc_curves((([0, 1], [0]), ROC[1], ROC[2]), CLASSES, auc=AUC), "equally long"),
        (lambda: plotting.pr_curves(PR[:2], CLASSES, average_precision=AP), "class names"),
        (lambda: plotting.pr_curves(PR, CLASSES, average_precision=AP[:2]), r"\(2,\) for 3 curves"),
        (lambda: plotting.reliability([1, 2], [0.5], [0.5, 0.5], ece=0), "equally long"),
        (lambda: plotting.reliability([0], [np.nan], [np.nan], ece=0), "an image in some bin"),
        (lambda: plotting.prediction_panel(pictures(1), [[0.5, 0.5]], [0], CLASSES), r"\(1, 3\)"),
        (lambda: plotting.prediction_panel(pictures(1), [[5.0, -2, 1]], [0], CLASSES), "not logits"),
        (lambda: plotting.prediction_panel(pictures(1), [[1, 0, 0]], [3], CLASSES), r"0\.\.2"),
        (lambda: plotting.prediction_panel(pictures(1), [[1, 0, 0]], [0], CLASSES, top=0), "top is 0"),
        (lambda: plotting.block_diagram("dense"), "plain, basic, bottleneck, preact"),
        (lambda: plotting.block_diagram([]), "plain, basic"),
        (lambda: plotting.block_diagram(shortcut="B"), "identity, projection"),
        (lambda: plotting.block_diagram("basic", columns=0), "columns=0"),
        (lambda: plotting.numbers_diagram([], [], shortcut=(0, 0)), "rows differ in length"),
        (
            lambda: plotting.numbers_diagram(WORKED[0], [("fc", "")] * 2, shortcut=(0, 1)),
            "one of conv, bn, relu",
        ),
        (lambda: plotting.numbers_diagram(*WORKED, shortcut=(0, 0)), "ends at the number of a"),
        (lambda: plotting.network_diagram([]), "no rows"),
        (lambda: plotting.network_diagram([("stem", "conv", (16, 32), 464, 0)]), "channels, height, width"),
        (lambda: plotting.bars({}), "at least one"),
        (lambda: plotting.bars({"a": np.nan}), "finite"),
        (lambda: plotting.bars({"a": 1}, errors={"b": 1}), "no bar named b"),
        (lambda: plotting.bars({"a": 1}, highlight="c"), "no bar named c"),
        (lambda: plotting.lines({}), "no series"),
        (lambda: plotting.lines({"a": ([1, 2], [1, 2], [3])}), r"\(x, y\)"),
        (lambda: plotting.lines({"a": ([1, 2], [1])}), "equally long"),
    ],
)
def test_bad_input_is_refused_in_one_line_before_anything_is_drawn(call, words):
    """An error from deep inside Matplotlib, or an empty figure left behind in the notebook."""
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
    assert not plt.get_fignums()
