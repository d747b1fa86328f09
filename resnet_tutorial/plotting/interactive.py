"""Figures that a reader can move: HTML with its own script, for the built book and for JupyterLab.

Each function returns an object that a notebook shows by itself, as the last line of a cell without a
semicolon. No widget extension and no network is needed. Where scripts are off, and on paper, a static picture
stands in its place. The numbers come from Python; the scripts are in ``assets/interactive``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from .charts import confusion_matrix, reliability, roc_curves
from .curves import lines
from .embedding import Interactive, data_uri, embed, short, table
from .style import number, one_each, pixels

LOG_ODDS = np.linspace(-7, 7, 141)  # of the thresholds that can be chosen; 0.5 is in the middle
TEMPERATURES = 2 ** np.linspace(-2, 2, 81)  # 1 is in the middle
FIELDS = ("lr", "schedule", "warmup", "warmup_lr", "milestones", "gamma")  # of a recipe


def interactive_convolution(
    image: ArrayLike, kernel: ArrayLike, *, stride: int = 1, padding: int = 0
) -> Interactive:
    """Let a window slide over an image: stride, padding and position move, and the sum is written out.

    Args:
        image: Numbers, ``(H, W)``; up to about 8 x 8 fit on a phone.
        kernel: Weights, ``(k, k)``, k not above H or W.
        stride: What the slider begins with, 1 to 3.
        padding: What the slider begins with, 0 to 2.

    Raises:
        ValueError: If the shapes are others, or a slider cannot begin there.

    Example:
        >>> interactive_convolution([[1, 0, 2], [0, 1, 1], [2, 1, 0]], [[1, -1], [0, 2]], padding=1)
        <Interactive: A window slides over an image>
    """
    x, w = _matrix("image", image), _matrix("kernel", kernel)
    if w.shape[0] != w.shape[1] or w.shape[0] > min(x.shape):
        raise ValueError(f"the kernel has shape {w.shape}: give (k, k), not larger than the image {x.shape}")
    if stride not in (1, 2, 3) or padding not in (0, 1, 2):
        raise ValueError(
            f"stride={stride!r}, padding={padding!r}: give a stride of 1 to 3, a padding of 0 to 2"
        )
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, padding), w.shape)
    result = (windows[::stride, ::stride] * w).sum(axis=(2, 3))  # (H', W')
    parts = {"image": x, "kernel": w, f"result, stride {stride}, padding {padding}": result}
    static = "".join(f"<p>{name}</p>{table(values.tolist())}" for name, values in parts.items())
    data = {"image": short(x), "kernel": short(w), "stride": stride, "padding": padding}
    return embed("convolution", "A window slides over an image", data, static)


def interactive_block(
    names: Sequence[str],
    values: ArrayLike,
    gradients: ArrayLike,
    *,
    forward: Sequence[str],
    backward: Sequence[str],
    sources: Mapping[int, Sequence[int]] | None = None,
) -> Interactive:
    """Walk through a block step by step: the values row by row downwards, then the gradients upwards.

    Args:
        names: The S steps, in the order of the forward pass, such as ``("x", "a", "u")``.
        values: Forward, ``(S, n)``.
        gradients: Of the loss with respect to each value, ``(S, n)``.
        forward: How each row of ``values`` comes about, S sentences.
        backward: How each row of ``gradients`` comes about, S sentences, in the order of ``names``.
        sources: For a row, the rows that it is computed from, where that is not just the row above. After a
            shortcut, ``{6: (5, 0)}``.

    Raises:
        ValueError: If there is not one of everything for each step, or a source is not above its row.

    Example:
        >>> interactive_block(
        ...     ["x", "y"], [[1, -2], [1, 0]], [[3, 0], [3, 4]],
        ...     forward=["the input", "ReLU keeps what is positive"],
        ...     backward=["ReLU lets through where x > 0", "comes from the layers behind"],
        ... )
        <Interactive: A block, step by step>
    """
    value, gradient = _matrix("values", values), _matrix("gradients", gradients)
    if value.shape != gradient.shape:
        raise ValueError(f"values {value.shape} and gradients {gradient.shape}: give both (S, n)")
    for what, given in (("names", names), ("sentences forward", forward), ("sentences backward", backward)):
        one_each(what, given, len(value))
    rows = {i: [i - 1] if i else [] for i in range(len(value))} | {
        i: list(above) for i, above in (sources or {}).items()
    }
    for i, above in rows.items():
        if not 0 <= i < len(value) or any(not 0 <= j < i for j in above):
            raise ValueError(
                f"sources[{i}] = {tuple(above)}: name rows above row {i}, of 0..{len(value) - 1}"
            )
    down = [[*map(number, row), text] for row, text in zip(value.tolist(), forward, strict=True)]
    up = [[*map(number, row), text] for row, text in zip(gradient.tolist(), backward, strict=True)][::-1]
    static = f"<p>Forward</p>{table(down, names)}<p>Backward</p>{table(up, names[::-1])}"
    data = {
        "names": list(names),
        "values": short(value),
        "gradients": short(gradient),
        "forward": list(forward),
        "backward": list(backward),
        "sources": [rows[i] for i in range(len(value))],
    }
    return embed("block", "A block, step by step", data, static)


def interactive_threshold(
    logits: ArrayLike, labels: ArrayLike, classes: Sequence[str], *, selected: int = 0
) -> Interactive:
    """Let a threshold move counts, precision, recall, F1, and the points on the ROC and PR curves of a class.

    The score of an image is the class's softmax probability; images of all other classes are the negatives.
    A second slider lets each positive count for less: the ROC curve stays, precision falls.

    Args:
        logits: ``(N, K)``.
        labels: True classes, ``(N,)``; each class occurs.
        classes: The K class names.
        selected: The class that is shown first.

    Raises:
        ValueError: If the shapes are others, a label is not in 0..K-1, or a class does not occur.

    Example:
        >>> interactive_threshold([[2, 0], [1, 0], [0, 3]], [0, 1, 1], ("cat", "dog"))
        <Interactive: A threshold, and what depends on it>
    """
    z, truth = _scores(logits, labels)
    one_each("class names", classes, z.shape[1])
    if not 0 <= selected < z.shape[1]:
        raise ValueError(f"selected={selected!r}: give a class, 0 to {z.shape[1] - 1}")
    if missing := [classes[k] for k in range(z.shape[1]) if not (truth == k).any()]:
        raise ValueError(f"no image of class {missing[0]!r}: give labels in which every class occurs")
    thresholds = 1 / (1 + np.exp(-LOG_ODDS))
    probability = np.exp(z - z.max(axis=1, keepdims=True))
    probability /= probability.sum(axis=1, keepdims=True)  # (N, K)
    data: dict[str, Any] = {
        "classes": list(classes),
        "thresholds": short(thresholds),
        "selected": selected,
        "start": len(thresholds) // 2,
    } | {key: [] for key in ("tp", "fp", "positives", "negatives", "curves", "auc")}
    roc = []
    for k in range(z.shape[1]):
        yes, no = (np.sort(probability[mask, k]) for mask in (truth == k, truth != k))
        steps = np.unique(yes)[::-1]  # every score of a positive, highest first
        above = [len(yes) - np.searchsorted(yes, steps), len(no) - np.searchsorted(no, steps)]
        lower, equal_or_lower = (np.searchsorted(no, yes, side) for side in ("left", "right"))
        data["tp"].append((len(yes) - np.searchsorted(yes, thresholds)).tolist())
        data["fp"].append((len(no) - np.searchsorted(no, thresholds)).tolist())
        data["positives"].append(len(yes))
        data["negatives"].append(len(no))
        data["curves"].append([counts.tolist() for counts in above])
        data["auc"].append(short((lower + equal_or_lower).mean() / 2 / len(no)))  # a tie counts half
        roc.append((np.r_[0, above[1] / len(no), 1], np.r_[0, above[0] / len(yes), 1]))
    static = roc_curves(roc, classes, auc=data["auc"])
    return embed("threshold", "A threshold, and what depends on it", data, static)


def interactive_confusion(
    labels: ArrayLike, predicted: ArrayLike, images: ArrayLike, classes: Sequence[str], *, show: int = 6
) -> Interactive:
    """Draw a confusion matrix whose cells, when chosen, show their images.

    Args:
        labels: True classes, ``(N,)``.
        predicted: Predicted classes, ``(N,)``.
        images: The same N images, uint8, ``(N, H, W, 3)`` or ``(N, 3, H, W)``.
        classes: The K class names.
        show: Images of a cell, at most. They travel in the page, about 1 kB each.

    Raises:
        ValueError: If the lengths differ, or a class is not in 0..K-1.

    Example:
        >>> pictures = np.zeros((3, 32, 32, 3), dtype=np.uint8)
        >>> interactive_confusion([0, 1, 1], [0, 0, 1], pictures, ("cat", "dog"))
        <Interactive: Confusion matrix with its images>
    """
    truth, guess, tiles = np.asarray(labels), np.asarray(predicted), pixels(images)
    k = len(classes)
    if not truth.shape == guess.shape == tiles.shape[:1] or tiles.dtype != np.uint8:
        raise ValueError(
            f"labels {truth.shape}, predicted {guess.shape}, images {tiles.shape} of {tiles.dtype}:"
            " give one of each, images as uint8"
        )
    if min(truth.min(), guess.min()) < 0 or max(truth.max(), guess.max()) >= k:
        raise ValueError(
            f"a class is not in 0..{k - 1}: give labels and predictions as numbers of the classes"
        )
    if show < 1:
        raise ValueError(f"show={show!r}: give the number of images of a cell, at least 1")
    cells = [[np.flatnonzero((truth == i) & (guess == j)) for j in range(k)] for i in range(k)]
    chosen = [int(n) for row in cells for cell in row for n in cell[:show]]
    place = {n: at for at, n in enumerate(chosen)}
    columns = 20
    height, width = tiles.shape[1:3]
    rows = -(-len(chosen) // columns)
    sheet = np.zeros((rows * height, columns * width, *tiles.shape[3:]), dtype=np.uint8)
    for n, at in place.items():
        top, left = at // columns * height, at % columns * width
        sheet[top : top + height, left : left + width] = tiles[n]
    buffer = io.BytesIO()
    Image.fromarray(sheet).save(buffer, format="JPEG", quality=92, subsampling=0)
    counts = np.array([[len(cell) for cell in row] for row in cells])
    data = {
        "classes": list(classes),
        "counts": counts.tolist(),
        "places": [[[place[int(n)] for n in cell[:show]] for cell in row] for row in cells],
        "sprite": data_uri("image/jpeg", buffer.getvalue()),
        "side": height,
        "columns": columns,
        "rows": rows,
    }
    static = confusion_matrix(counts, classes)
    return embed("confusion", "Confusion matrix with its images", data, static)


def interactive_schedules(
    recipes: Mapping[str, Mapping[str, Any]],
    rates: Mapping[str, Sequence[float]],
    *,
    schedules: Sequence[str],
) -> Interactive:
    """Draw the learning rate over the steps, for fields of a recipe that the reader changes.

    Args:
        recipes: From a name to the fields of a recipe: ``vars(recipe)``.
        rates: From the same names to the rates of all T steps: ``[recipe.lr_at(t, T) for t in range(T)]``.
        schedules: The names to choose from: ``resnet_tutorial.training.SCHEDULES``.

    Raises:
        ValueError: If a field is missing, a schedule is unknown, or the rates have other names or lengths.

    Example:
        >>> from resnet_tutorial.training import RECIPES, SCHEDULES
        >>> recipes = {name: RECIPES[name] for name in ("paper", "modern")}
        >>> interactive_schedules(
        ...     {name: vars(recipe) for name, recipe in recipes.items()},
        ...     {name: [recipe.lr_at(t, 1000) for t in range(1000)] for name, recipe in recipes.items()},
        ...     schedules=SCHEDULES,
        ... )
        <Interactive: Learning rate over a run>
    """
    lengths = {len(values) for values in rates.values()}
    if not recipes or set(recipes) != set(rates) or len(lengths) != 1 or min(lengths) < 2:
        raise ValueError(
            "give the same names in recipes and rates, and equally many rates, at least 2, in each"
        )
    for name, fields in recipes.items():
        if missing := [key for key in FIELDS if key not in fields]:
            raise ValueError(f"recipe {name!r} has no field {missing[0]!r}: give vars(recipe)")
        if fields["schedule"] not in schedules:
            raise ValueError(
                f"recipe {name!r}: schedule {fields['schedule']!r} is none of {', '.join(schedules)}"
            )
    steps = lengths.pop()
    chosen = {name: {key: fields[key] for key in FIELDS} for name, fields in recipes.items()}
    curves = {name: (np.arange(steps), values) for name, values in rates.items()}
    static = lines(curves, xlabel="step", ylabel="learning rate", title="Learning rate over a run")
    data = {"recipes": chosen, "schedules": list(schedules), "steps": steps}
    return embed("schedules", "Learning rate over a run", data, static)


def interactive_calibration(logits: ArrayLike, labels: ArrayLike, *, bins: int = 15) -> Interactive:
    """Let a temperature move the reliability diagram, the ECE and the cross-entropy.

    Args:
        logits: ``(N, K)``.
        labels: True classes, ``(N,)``.
        bins: Bins of equal width, each open on the left: ``((b - 1) / bins, b / bins]``.

    Raises:
        ValueError: If the shapes are others, a label is not in 0..K-1, or there is no bin.

    Example:
        >>> interactive_calibration([[2, 0], [1, 0], [0, 3]], [0, 1, 1])
        <Interactive: Temperature and calibration>
    """
    z, truth = _scores(logits, labels)
    if bins < 1:
        raise ValueError(f"bins={bins!r}: give the number of bins, at least 1")
    right = z.argmax(axis=1) == truth
    data: dict[str, Any] = {key: [] for key in ("counts", "confidence", "accuracy", "ece", "loss")}
    for temperature in TEMPERATURES:
        scaled = (z - z.max(axis=1, keepdims=True)) / temperature
        total = np.exp(scaled).sum(axis=1)
        sure = 1 / total  # of the largest logit, which is 0 here
        index = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
        counts, *sums = (np.bincount(index, weights, minlength=bins) for weights in (None, sure, right))
        confidence, accuracy = (part / np.where(counts > 0, counts, np.nan) for part in sums)
        data["counts"].append(counts.tolist())
        data["confidence"].append(short(confidence))
        data["accuracy"].append(short(accuracy))
        data["ece"].append(short(np.nansum(counts * np.abs(accuracy - confidence)) / len(z)))
        data["loss"].append(short((np.log(total) - scaled[np.arange(len(z)), truth]).mean()))
    one = len(TEMPERATURES) // 2
    data |= {"temperatures": short(TEMPERATURES), "start": one, "best": int(np.argmin(data["loss"]))}
    at_one = [np.array(data[key][one], dtype=float) for key in ("counts", "confidence", "accuracy")]
    static = reliability(*at_one, ece=data["ece"][one])
    return embed("calibration", "Temperature and calibration", data, static)


def _matrix(what: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=float)
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{what} has shape {array.shape}: give a matrix of finite numbers")
    return array


def _scores(logits: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    z, truth = np.asarray(logits, dtype=float), np.asarray(labels)
    if z.ndim != 2 or truth.shape != z.shape[:1] or not z.size or not np.isfinite(z).all():
        raise ValueError(f"logits {z.shape} and labels {truth.shape}: give finite (N, K) and (N,), N above 0")
    if truth.min() < 0 or truth.max() >= z.shape[1]:
        raise ValueError(
            f"labels run from {truth.min()} to {truth.max()}: give classes, 0 to {z.shape[1] - 1}"
        )
    return z, truth.astype(np.int64)
