"""TensorBoard files: every number of the history and a page of predictions are in them."""

from __future__ import annotations

import errno
import sys
import threading
import time

import pytest
import torch
from PIL import Image

from resnet_tutorial.data import CIFAR10, load_folder, load_sample
from resnet_tutorial.models import cifar_resnet
from resnet_tutorial.training import Board


def test_the_board_holds_the_history_and_the_predictions(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    torch.manual_seed(0)
    board = Board(
        tmp_path, cifar_resnet(8, width=4), load_sample()[0].per_class(1), normalize=CIFAR10, shown=4
    )
    for epoch in (1, 2):
        board({"epoch": epoch, "lr": 0.1 / epoch, "train_loss": 2.0 - epoch, "val_loss": None})
    events = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert events.Tags()["scalars"] == ["lr", "train_loss"]
    assert [(e.step, e.value) for e in events.Scalars("train_loss")] == [(1, 1.0), (2, 0.0)]
    assert events.Tags()["images"] == ["predictions"]
    assert events.Images("predictions")[0].height > 100


def test_photos_that_are_read_from_their_cache_have_a_page_too(tmp_path):
    """`--tensorboard` ended the training of every folder of photos with an AttributeError."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), "red" if name == "cat" else "blue").save(
            tmp_path / "pets" / name / "0.png"
        )
    photos = load_folder(tmp_path / "pets", size=32, cache=True)
    assert not isinstance(photos.images, torch.Tensor)
    network = cifar_resnet(8, width=4, num_classes=2)
    board = Board(tmp_path / "curves", network, photos, normalize=CIFAR10)
    board({"epoch": 1, "train_loss": 2.0})
    events = accumulator.EventAccumulator(str(tmp_path / "curves")).Reload()
    assert events.Tags()["images"] == ["predictions"]


def test_without_tensorboard_one_line_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match="TensorBoard is not installed"):
        Board(tmp_path, cifar_resnet(8, width=4), None, normalize=CIFAR10)


def test_a_full_disk_ends_the_curves_not_the_training(tmp_path, monkeypatch):
    """Hours of training were lost to the pictures of it."""
    pytest.importorskip("tensorboard")
    board = Board(tmp_path, cifar_resnet(8, width=4), None, normalize=CIFAR10)
    row = {"epoch": 1, "train_loss": 2.0}
    board(row)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(board.writer, "add_scalar", full)
    with pytest.warns(UserWarning, match="no more curves: No space left on device; the training goes on"):
        board(row)
    board(row)  # nothing is tried, and nothing said, a second time


@pytest.mark.parametrize("start", [True, False])
def test_the_thread_that_meets_a_full_disk_has_ended_when_it_is_told(tmp_path, monkeypatch, start):
    """It printed a traceback when the command had gone back to Python's own way of telling."""
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter
    ended = []

    def slow(failed: threading.ExceptHookArgs) -> None:
        time.sleep(0.5)
        ended.append(str(failed.exc_value))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(threading, "excepthook", slow)
    if start:
        monkeypatch.setattr(writer, "write", full)
        with pytest.raises(ValueError, match=r"cannot write curves to .*: No space left on device"):
            Board(tmp_path, cifar_resnet(8, width=4), None, normalize=CIFAR10)
    else:
        board = Board(tmp_path, cifar_resnet(8, width=4), None, normalize=CIFAR10)
        monkeypatch.setattr(writer, "write", full)
        with pytest.warns(UserWarning, match="no more curves: No space left on device"):
            board({"epoch": 1, "train_loss": 2.0})
    assert ended == ["[Errno 28] No space left on device"]
