"""The input pipeline: each epoch is a function of its seed and number, each process makes its own share."""

from __future__ import annotations

import pytest
import torch

from resnet_tutorial.data import CIFAR10, Augment, Split
from resnet_tutorial.training import Pipeline, distributed


def split(n: int = 40) -> Split:
    """Images whose first pixel tells their number."""
    images = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(n)
    return Split(images, torch.arange(n) % 4, ("a", "b", "c", "d"), "numbered")


def pipeline(part: Split | None = None, *, augment: Augment | None = None, seed: int = 3) -> Pipeline:
    made = augment or Augment(padding=2, flip="alternating", cutout=2)
    return Pipeline(part or split(), made, CIFAR10, batch_size=8, seed=seed)


def equal(ours, theirs) -> bool:
    return all(
        torch.equal(a, b)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("flip", ["random", "alternating", "none"])
def test_an_epoch_depends_on_seed_and_number_alone(flip):
    """A generator that runs through the epochs would have to be saved, and no epoch could be made alone."""
    part, augment = split(), Augment(padding=2, flip=flip, cutout=2)
    third = list(pipeline(part, augment=augment).epoch(2))
    fresh = pipeline(part, augment=augment)
    torch.rand(5)  # what else is drawn does not matter
    list(fresh.epoch(0))
    assert equal(third, list(fresh.epoch(2)))
    assert not equal(third, list(fresh.epoch(1)))
    assert not equal(third, list(pipeline(part, augment=augment, seed=4).epoch(2)))


def test_epochs_of_neighbouring_seeds_have_nothing_in_common():
    """A seed to which the number is added would give the second epoch of seed 3 to the first of seed 4."""
    part = split()
    assert not equal(list(pipeline(part, seed=3).epoch(1)), list(pipeline(part, seed=4).epoch(0)))


def test_an_epoch_can_be_entered_in_its_middle():
    """A resumed run goes on with the batch after the last one it has used."""
    load = pipeline()
    whole = list(load.epoch(5))
    assert len(whole) == len(load) == 5
    assert equal(whole[2:], list(load.epoch(5, skip=2)))
    assert equal(whole[2:4], list(load.epoch(5, skip=2, most=2)))
    assert list(load.epoch(5, skip=5)) == list(load.epoch(5, most=0)) == []


def test_every_image_comes_once_an_epoch_with_its_label():
    part = split(43)  # three are left over
    plain = Augment(padding=0, flip="none")
    numbers, labels = [], []
    for images, targets in pipeline(part, augment=plain).epoch(0):
        pixels = images[:, 0, 0, 0] * CIFAR10.std[0] + CIFAR10.mean[0]
        numbers += (pixels * 255).round().int().tolist()
        labels += targets.tolist()
    assert len(set(numbers)) == 40
    assert labels == [number % 4 for number in numbers]


def test_alternating_flips_follow_the_image_not_its_place_in_the_order():
    """Each image is mirrored in every other epoch, wherever the shuffle puts it."""
    part = split()
    load = pipeline(part, augment=Augment(padding=0, flip="alternating"))
    mirrored = {}
    for number in (0, 1):
        for images, _ in load.epoch(number):
            pixels = ((images[:, 0, 0] * CIFAR10.std[0] + CIFAR10.mean[0]) * 255).round().int()
            for row in pixels:
                for k, own in enumerate(part.images[:, 0, 0].int()):
                    if torch.equal(row, own) or torch.equal(row, own.flip(0)):
                        mirrored.setdefault(k, []).append(torch.equal(row, own.flip(0)))
    assert len(mirrored) == 40
    assert all(sorted(seen) == [False, True] for seen in mirrored.values())


def test_processes_make_their_own_share_and_together_the_batch(monkeypatch):
    """Each process augmenting the whole batch costs as much as one process alone."""
    part = split()
    whole = list(pipeline(part).epoch(0))
    shares = []
    monkeypatch.setattr(distributed, "size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(list(pipeline(part).epoch(0)))
    for (images, labels), first, second in zip(whole, *shares, strict=True):
        assert len(first[1]) == len(second[1]) == 4
        assert torch.equal(images[::2], first[0]) and torch.equal(images[1::2], second[0])
        assert torch.equal(labels[::2], first[1]) and torch.equal(labels[1::2], second[1])


def test_batches_are_channels_last_and_the_images_are_held_once():
    """A second copy of all images for the whole run, or a network that reorders each batch."""
    part = split()
    load = pipeline(part)
    images, _ = next(load.epoch(0))
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert load.split.images.data_ptr() == part.images.data_ptr()
    held = [value for value in vars(load).values() if isinstance(value, torch.Tensor)]
    assert held == []


@pytest.mark.parametrize("batch_size", [0, -5, 9])
def test_a_batch_has_between_one_image_and_all(batch_size):
    """An epoch of no batch, silently, or a division by zero."""
    split = Split(torch.zeros(8, 3, 4, 4, dtype=torch.uint8), torch.arange(8) % 2, ("a", "b"), "eight")
    with pytest.raises(ValueError, match="give 1 to 8, the number of images"):
        Pipeline(split, Augment(), CIFAR10, batch_size=batch_size)


def test_batches_cannot_be_skipped_backwards():
    """``skip=-1`` gave the last batch of the epoch."""
    split = Split(torch.zeros(8, 3, 4, 4, dtype=torch.uint8), torch.arange(8) % 2, ("a", "b"), "eight")
    with pytest.raises(ValueError, match="skip=-1: give numbers from 0"):
        next(Pipeline(split, Augment(), CIFAR10, batch_size=4).epoch(0, skip=-1))


def test_a_photo_has_another_view_in_every_epoch():
    """Views that repeat are one picture, learned by heart: what they are there to prevent."""
    part = Split(
        torch.randint(0, 256, (1, 3, 24, 24), dtype=torch.uint8), torch.zeros(1).long(), ("a",), "one"
    )
    load = Pipeline(part, Augment(padding=0, flip="none"), CIFAR10, batch_size=1, views="photo")
    (first, _), (second, _) = (next(load.epoch(number)) for number in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, next(load.epoch(0))[0])
