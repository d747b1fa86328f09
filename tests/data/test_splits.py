"""Splits: parts that fit together, one layout of memory, and divisions that can be repeated."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from resnet_tutorial.data import Split, load_sample, take


def make(counts: tuple[int, ...] = (6, 4, 10), *, size: int = 8) -> Split:
    """A split of random images whose classes are interleaved at random."""
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels))]
    images = torch.randint(0, 256, (len(labels), 3, size, size), dtype=torch.uint8)
    return Split(images, labels, tuple("abcdefghij"[: len(counts)]), "made up")


def places(part: Split, whole: Split) -> list[int]:
    """Where each image of `part` stands in `whole`."""
    return [int((whole.images == image).flatten(1).all(1).nonzero()) for image in part.images]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.rand(2, 3, 4, 4)}, "images are float32 .*: give a uint8 tensor"),
        ({"images": np.zeros((2, 3, 4, 4), np.uint8)}, "images are ndarray: give a uint8 tensor"),
        ({"images": torch.zeros(2, 4, 4, 3, dtype=torch.uint8)}, r"\(N, 3, H, W\)"),
        ({"images": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}, "repeat a grey channel three times"),
        ({"images": torch.zeros(2, 4, 4, 4, dtype=torch.uint8)}, "a training loop of your own"),
        ({"images": torch.zeros(0, 3, 4, 4, dtype=torch.uint8)}, "at least one image"),
        ({"labels": torch.zeros(2)}, "int64"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "2 images .* 3 labels"),
        ({"labels": torch.tensor([0, 2])}, "labels run from 0 to 2: 2 classes"),
        ({"labels": torch.tensor([-1, 0])}, "labels run from -1"),
        ({"classes": ("a", "a")}, "differ"),
        ({"classes": "ab"}, "tuple of names"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    """A float image, a swapped axis or a label out of range found only as a strange loss in training."""
    parts = {
        "images": torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        "labels": torch.tensor([0, 1]),
        "classes": ("a", "b"),
        "name": "x",
    }
    Split(**parts)
    with pytest.raises(ValueError, match=message) as caught:
        Split(**(parts | change))
    assert "\n" not in str(caught.value)


def test_a_split_is_immutable() -> None:
    """Attributes reassigned under a cached fingerprint; a list of classes that somebody appends to."""
    split = make()
    with pytest.raises(FrozenInstanceError):
        split.labels = split.labels + 1
    assert isinstance(Split(split.images, split.labels, ["a", "b", "c"], "x").classes, tuple)
    assert repr(split) == "Split('made up', 20 images of 8x8, 3 classes)"


def channels_last(split: Split) -> bool:
    """Whether the values of a pixel lie side by side, and nothing lies between images."""
    return split.images.permute(0, 2, 3, 1).is_contiguous()


@pytest.mark.parametrize("shape", [(4, 3, 5, 6), (1, 3, 5, 6), (4, 3, 1, 1), (4, 3, 1, 6), (1, 3, 1, 1)])
def test_images_are_held_once_and_channels_last(shape: tuple[int, ...]) -> None:
    """A second copy of 150 MB, or planar images that every batch has to be converted from."""
    planar = torch.randint(0, 256, shape, dtype=torch.uint8)
    labels = torch.zeros(len(planar), dtype=torch.int64)
    split = Split(planar, labels, ("a",), "x")
    assert channels_last(split) and torch.equal(split.images, planar)
    assert split.images.is_contiguous(memory_format=torch.channels_last)
    again = Split(split.images, labels, ("a",), "x")
    assert again.images.data_ptr() == split.images.data_ptr()
    assert split.to("cpu").images.data_ptr() == split.images.data_ptr()


def test_every_part_of_a_split_is_channels_last_too() -> None:
    """A layout lost on the way: after `split` or `subset` training would be slower, without a word."""
    whole = make()
    parts = [
        whole.subset([5, 0, 5]),
        whole.subset(whole.labels == 1),
        whole.per_class(2),
        whole.with_classes(["c", "a"]),
        *whole.split(0.5),
        whole.to("cpu"),
    ]
    assert all(channels_last(part) for part in parts)
    only = whole.with_classes(["b"])
    assert torch.equal(only.images, whole.images[whole.labels == 1])


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_take_gives_the_images_that_indexing_gives(memory_format) -> None:
    """Channels taken for columns where the layout is not the one expected."""
    images = make(size=5).images.contiguous(memory_format=memory_format)
    indices = torch.tensor([7, 7, 0])
    taken = take(images, indices)
    assert torch.equal(taken, images[indices])
    assert taken.is_contiguous(memory_format=torch.channels_last)


def test_subset_takes_what_is_named_in_that_order_and_copies() -> None:
    """Images and labels permuted differently; a change of the part that reaches the whole."""
    split = make()
    for indices in ([5, 0, 5], np.array([5, 0, 5]), torch.tensor([5, 0, 5], dtype=torch.int32)):
        part = split.subset(indices)
        assert torch.equal(part.images, split.images[[5, 0, 5]])
        assert torch.equal(part.labels, split.labels[[5, 0, 5]])
    mask = split.labels == 1
    assert torch.equal(split.subset(mask).images, split.images[mask])
    before = split.images.clone()
    split.subset(range(len(split))).images.zero_()
    assert torch.equal(split.images, before)
    assert split.subset([1], name="one").name == "one"


@pytest.mark.parametrize("indices", [[], [20], [-1], [0.5], [[1]], torch.zeros(3, dtype=torch.bool)])
def test_subset_refuses_indices_that_do_not_fit(indices: object) -> None:
    """-1 read as "from the end", or a mask of the wrong length as indices 0 and 1."""
    with pytest.raises(ValueError, match=r"ind|mask"):
        make().subset(indices)


def test_per_class_takes_the_first_or_a_seeded_draw() -> None:
    """Unequal classes, another order, or a draw that depends on the global generator."""
    split = make()
    first = split.per_class(3)
    expected = sorted(i for k in range(3) for i in (split.labels == k).nonzero().flatten().tolist()[:3])
    assert places(first, split) == expected
    drawn = split.per_class(3, seed=1)
    torch.rand(5)
    assert drawn.fingerprint == split.per_class(3, seed=1).fingerprint
    assert drawn.fingerprint != first.fingerprint != split.per_class(3, seed=2).fingerprint
    assert drawn.counts().tolist() == [3, 3, 3]
    assert places(drawn, split) == sorted(places(drawn, split))
    for n in (0, 5):
        with pytest.raises(ValueError, match="at most 4, as many images as class 'b' has"):
            split.per_class(n)


def test_split_is_stratified_disjoint_and_complete() -> None:
    """An image in training and validation both, or a validation set without some class."""
    whole = make((20, 40, 60))
    rest, held_out = whole.split(0.1, seed=3)
    assert held_out.counts().tolist() == [2, 4, 6]
    assert rest.counts().tolist() == [18, 36, 54]
    assert sorted(places(rest, whole) + places(held_out, whole)) == list(range(120))
    assert places(held_out, whole) == sorted(places(held_out, whole))
    assert (rest.name, held_out.name) == ("made up (rest)", "made up (held out)")


@pytest.mark.parametrize(
    ("counts", "fraction", "expected"),
    [
        ((5,) * 10, 0.1, [1] * 5 + [0] * 5),  # rounding each class by itself would hold out 0 or 10
        ((100, 100), 0.29, [29, 29]),  # 0.29 * 100 is 28.999999999999996
        ((7, 5), 0.5, [4, 2]),
        ((2, 1), 0.9, [2, 1]),
    ],
)
def test_split_rounds_to_the_right_total(counts: tuple, fraction: float, expected: list) -> None:
    """A total of 0 or 20 % where 10 % was asked for, because each class was rounded by itself."""
    whole = make(counts)
    if sum(expected) == len(whole):
        with pytest.raises(ValueError, match="leaves images in both parts"):
            whole.split(fraction)
    else:
        assert whole.split(fraction)[1].counts().tolist() == expected


def test_split_depends_on_its_seed_only() -> None:
    """Another validation set in every run, or a change of the training's random numbers by splitting."""
    whole = make((20, 20))
    state = torch.get_rng_state()
    one = whole.split(0.25, seed=0)[1].fingerprint
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert whole.split(0.25, seed=0)[1].fingerprint == one
    assert whole.split(0.25, seed=1)[1].fingerprint != one


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, 0.001, float("nan")])
def test_split_refuses_to_leave_a_part_empty(fraction: float) -> None:
    """A percentage given for a fraction, or an empty validation set and its 0/0."""
    with pytest.raises(ValueError, match="leaves images in both parts"):
        make().split(fraction)


def test_fingerprint_changes_with_content_only() -> None:
    """Two data sets that count as one, or one as two because it has another name."""
    split = make()
    same = Split(split.images.clone(), split.labels.clone(), split.classes, "another name")
    assert same.fingerprint == split.fingerprint
    images, labels = split.images.clone(), split.labels.clone()
    images[3, 1, 2, 2] ^= 1
    labels[[0, 1]] = (labels[[0, 1]] + 1) % 3
    changed = [
        Split(images, split.labels, split.classes, split.name),
        Split(split.images, labels, split.classes, split.name),
        Split(split.images, split.labels, ("a", "b", "d"), split.name),
        Split(split.images.reshape(20, 3, 4, 16), split.labels, split.classes, split.name),
    ]
    assert len({split.fingerprint, *(other.fingerprint for other in changed)}) == 5


# Computed when images were stored one plane after another; recorded runs carry such values.
FINGERPRINTS = {
    (2, 2, 3): "1e215a7e20b4134f632ee71ff1a6448b9069c936fcd901a5f545cc36342f1d81",
    (1, 1, 1): "354d5f54bcd73fe0e22f7594ae6eb5aa192fd660004b49f64302de2998a8851d",
    (1, 5, 4): "f4d2f0c323a6b7dce05a986e16ce9147eb55a15c294aa609c01485209a6ae8a8",
    (1500, 1, 2): "543b257cfc118c2a5b2d32121aafbffa61a6df560819c437c8d81fbe3c6fe14c",
}


@pytest.mark.parametrize("shape", FINGERPRINTS)
def test_fingerprints_of_records_stay_valid(shape: tuple[int, int, int]) -> None:
    """A layout in memory that changes the identity of data: old records would match nothing."""
    n, height, width = shape
    pixels = (torch.arange(n * 3 * height * width) % 251).to(torch.uint8).view(n, 3, height, width)
    split = Split(pixels, torch.arange(n) % 2, ("a", "b"), "x")
    assert split.fingerprint == FINGERPRINTS[shape]


def test_fingerprints_of_the_sample_stay_valid() -> None:
    """The same for two splits that anybody has."""
    assert [split.fingerprint for split in load_sample()] == [
        "a621be7c87992e48f2be045f40960df7bcacf85631c8a4f30f68529c8d3b1e98",
        "61f9a25197462b776b825697a36b6a25673f47821b85a8711a5302a5411e9a24",
    ]


@pytest.mark.gpu
def test_a_split_on_the_gpu_divides_as_on_the_cpu() -> None:
    """Another validation set on another device."""
    whole = make((20, 20))
    there = whole.to("cuda")
    assert there.images.is_cuda and there.labels.is_cuda and channels_last(there)
    for a, b in zip(whole.split(0.25), there.split(0.25), strict=True):
        assert b.images.is_cuda and a.fingerprint == b.fingerprint
    assert whole.per_class(3).fingerprint == there.per_class(3).fingerprint


def test_labels_of_another_order_of_classes() -> None:
    """Photos measured with a network whose classes stand in another order, or that lacks all of them."""
    part = make()
    again = part.labelled_as(("z", "c", "a"))
    assert again.classes == ("z", "c", "a") and again.counts().tolist() == [0, 10, 6]
    assert all(
        part.labels[k] == {1: 2, 2: 0}[int(n)] for k, n in zip(places(again, part), again.labels, strict=True)
    )
    with pytest.raises(ValueError, match=r"^made up has none of the classes y, z: it has a, b, c$"):
        part.labelled_as(("y", "z"))


def test_with_classes_keeps_the_right_images_and_numbers_them_anew() -> None:
    """Labels left as they were would point outside a smaller head, or at the wrong class."""
    train, _ = load_sample()
    part = train.with_classes(["truck", "cat"])
    assert part.classes == ("truck", "cat")
    assert part.counts().tolist() == [200, 200]
    assert torch.equal(part.images[part.labels == 0], train.images[train.labels == 9])
    assert torch.equal(part.images[part.labels == 1], train.images[train.labels == 3])
    with pytest.raises(ValueError, match="no class 'wolf'"):
        train.with_classes(["cat", "wolf"])
    with pytest.raises(ValueError, match="differ"):
        train.with_classes(["cat", "cat"])
