"""TensorBoard: curves of a run, and a page of its predictions."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from ..data import Normalize, Split
from ..evaluation import predict
from ..plotting import prediction_panel
from .progress import Row


class Board:
    """Write what :func:`~resnet_tutorial.training.fit` reports to TensorBoard; pass it as ``on_epoch``.

    ``tensorboard --logdir DIR`` shows it, during the run too.

    Runs in neighbouring folders are shown together. The first ``shown`` images of ``val``, if there is one,
    make a page of predictions by ``model``, with ``normalize`` as in training.

    Raises:
        ValueError: If the package ``tensorboard`` is not installed, or nothing can be written to ``folder``.

    Example:
        >>> from resnet_tutorial.data import CIFAR10
        >>> board = Board("curves", nn.Linear(2, 2), None, normalize=CIFAR10)
        >>> board({"epoch": 1, "train_loss": 2.3, "train_accuracy": 0.1})
        >>> [path.name.split(".")[2] for path in Path("curves").iterdir()]
        ['tfevents']
    """

    def __init__(
        self,
        folder: str | Path,
        model: nn.Module,
        val: Split | None,
        *,
        normalize: Normalize,
        shown: int = 12,
    ) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            raise ValueError("TensorBoard is not installed: pip install tensorboard") from None
        before = set(threading.enumerate())
        try:
            self.writer: Any = SummaryWriter(str(folder))
        except OSError as error:
            _wait(set(threading.enumerate()) - before)
            raise ValueError(f"cannot write curves to {folder}: {error.strerror or error}") from None
        self.threads = set(threading.enumerate()) - before
        self.model, self.normalize = model, normalize
        self.page = None if val is None else val.subset(range(min(shown, len(val))))

    def __call__(self, row: Row) -> None:
        """Write one epoch: every column of the history, and the page of predictions.

        Warns:
            UserWarning: If it cannot be written, on a full disk say; nothing is written after that.
        """
        if self.writer is None:
            return
        try:
            self._write(self.writer, row)
        except OSError as error:
            self.writer = None
            _wait(self.threads)
            reason = error.strerror or str(error)
            warnings.warn(f"TensorBoard gets no more curves: {reason}; the training goes on", stacklevel=2)

    def _write(self, writer: Any, row: Row) -> None:
        epoch = int(row["epoch"])
        for name, value in row.items():
            if name != "epoch" and value is not None:
                writer.add_scalar(name, value, epoch)
        if (page := self.page) is not None:
            probabilities = predict(self.model, page, normalize=self.normalize).probabilities
            images, labels = page.images[:].cpu().numpy(), page.labels.cpu().numpy()
            figure = prediction_panel(images, probabilities, labels, page.classes)
            writer.add_figure("predictions", figure, epoch)
        writer.flush()


def _wait(threads: set[threading.Thread]) -> None:
    """Let TensorBoard's thread, which has met the error, end while somebody listens to what it says."""
    for thread in threads:
        thread.join(timeout=2)
