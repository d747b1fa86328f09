"""Augmentation against torchvision, given the same draws, and the distribution of the draws."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from unittest import mock

import pytest
import torch
from scipy.stats import chisquare
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as VF

from resnet_tutorial.data import (
    CIFAR10,
    IMAGENET,
    Augment,
    Normalize,
    alternating_flips,
    augment,
    crop,
    cutout,
    draw_centres,
    draw_flips,
    draw_offsets,
    flip,
)

FORMATS = (torch.contiguous_format, torch.channels_last)
PADDING_MODE = {"zero": "constant", "reflect": "reflect"}  # ours -> torchvision's


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(n: int, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator(1))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("shape", [(32, 32), (9, 14)])
def test_crop_equals_torchvision_for_every_offset(mode, shape, memory_format):
    """Rows and columns swapped, a border one pixel off, the wrong reflection, another memory format."""
    height, width = shape
    offsets = torch.cartesian_prod(torch.arange(9), torch.arange(9))
    images = batch(81, *shape).to(memory_format=memory_format)
    ours = crop(images, offsets, padding=4, mode=mode)
    assert ours.dtype == torch.uint8 and ours.is_contiguous(memory_format=torch.channels_last)
    for image, (top, left), result in zip(images, offsets.tolist(), ours, strict=True):
        padded = VF.pad(image.contiguous(), [4], padding_mode=PADDING_MODE[mode])
        assert torch.equal(result, VF.crop(padded, top, left, height, width))


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_crop_equals_random_crop_class_given_its_draw(mode):
    """A window cut from another padded image than torchvision's recipe uses."""
    images, offsets = batch(12), draw_offsets(12, 4, generator=generator())
    transform = v2.RandomCrop(32, padding=4, padding_mode=PADDING_MODE[mode])
    ours = crop(images, offsets, padding=4, mode=mode)
    for image, (top, left), result in zip(images, offsets.tolist(), ours, strict=True):
        draw = {
            "needs_crop": True,
            "top": top,
            "left": left,
            "height": 32,
            "width": 32,
            "needs_pad": True,
            "padding": [4, 4, 4, 4],
        }
        with mock.patch.object(transform, "make_params", return_value=draw):
            assert torch.equal(transform(image), result)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_flip_equals_torchvision_and_leaves_the_others_alone(memory_format):
    """Flipping upside down, flipping the complement of the mask, another memory format."""
    images, mask = batch(16, 8, 12).to(memory_format=memory_format), draw_flips(16, generator=generator())
    assert 0 < mask.sum() < 16
    before = images.clone()
    ours = flip(images, mask)
    assert ours.dtype == torch.uint8 and ours.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, before)
    for image, mirrored, result in zip(images, mask.tolist(), ours, strict=True):
        transform = v2.RandomHorizontalFlip(p=1.0 if mirrored else 0.0)
        assert torch.equal(result, transform(image))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("normalize", [CIFAR10, IMAGENET])
def test_normalize_equals_torchvision(normalize, memory_format):
    """Dividing by 255 twice or never, channels mixed up, another memory format, the input overwritten."""
    images = batch(7, 16, 20).to(memory_format=memory_format)
    before = images.clone()
    ours = normalize(images)
    expected = v2.Normalize(normalize.mean, normalize.std)(VF.to_dtype(images, torch.float32, scale=True))
    torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)
    assert ours.is_contiguous(memory_format=torch.channels_last) and torch.equal(images, before)
    scaled = images.float() / 255
    copy = scaled.clone()
    torch.testing.assert_close(normalize(scaled), expected, rtol=0, atol=2e-6)
    assert torch.equal(scaled, copy)


def test_normalize_lets_gradients_through():
    """An in-place normalisation that breaks saliency maps with respect to the image."""
    image = (batch(1, 4, 4).float() / 255).requires_grad_()
    CIFAR10(image).sum().backward()
    expected = 1 / torch.tensor(CIFAR10.std)
    torch.testing.assert_close(image.grad[0, :, 0, 0], expected)


def test_a_normalisation_first_used_in_inference_mode_serves_in_training_too():
    """Constants kept from an evaluation that PyTorch then refuses in a backward pass."""
    normalize = Normalize((0.11, 0.12, 0.13), (0.21, 0.22, 0.23))  # used nowhere else: nothing is kept of it
    with torch.inference_mode():
        normalize(batch(1))
    image = (batch(1, 4, 4).float() / 255).requires_grad_()
    normalize(image).sum().backward()
    torch.testing.assert_close(image.grad[0, :, 0, 0], 1 / torch.tensor(normalize.std))


def test_two_normalisations_do_not_share_constants():
    """Constants kept under a key that leaves something out: ImageNet's statistics on CIFAR-10."""
    images = batch(2, 4, 4)
    scaled = images.float() / 255
    for normalize in (CIFAR10, IMAGENET, Normalize(IMAGENET.mean, CIFAR10.std)):
        mean, std = (torch.tensor(values)[:, None, None] for values in (normalize.mean, normalize.std))
        torch.testing.assert_close(normalize(images), (scaled - mean) / std, rtol=0, atol=2e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("flip", ["random", "alternating"])
def test_a_gpu_never_makes_the_host_wait(flip):
    """A blocking copy in every step of training: the GPU runs dry while the host prepares the next one."""
    images, augment = batch(64).cuda(), Augment(flip=flip, cutout=8)
    mask = alternating_flips(64, 0, seed=1) if flip == "alternating" else None
    draws = augment.draw(64, 32, 32, generator=generator(3), flip_mask=mask)
    expected = CIFAR10(augment.apply(images.cpu(), draws))
    CIFAR10(images)  # the constants are copied once
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = draws.to("cuda")  # for a whole epoch at once
        parts = [CIFAR10(augment.apply(images[i : i + 32], there[i : i + 32])) for i in (0, 32)]
        at_once = CIFAR10(augment(images, generator=generator(3), flip_mask=mask))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(torch.cat(parts).cpu(), expected, rtol=0, atol=2e-6)
    torch.testing.assert_close(at_once.cpu(), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("mode", ["zero", "reflect"])
@pytest.mark.parametrize("memory_format", FORMATS)
def test_an_epoch_drawn_at_once_is_applied_batch_by_batch(mode, memory_format):
    """Images that get the draws of others when the draws of an epoch are cut into batches."""
    images, augment = batch(50).to(memory_format=memory_format), Augment(pad_mode=mode, cutout=8)
    whole = augment(images, generator=generator(5))
    draws = augment.draw(50, 32, 32, generator=generator(5))
    order = torch.randperm(50, generator=generator(6))
    for indices in order.split(16):
        assert torch.equal(augment.apply(images[indices], draws[indices]), whole[indices])
    parts = [augment.apply(images[i : i + 20], draws[i : i + 20]) for i in (0, 20, 40)]
    assert torch.equal(torch.cat(parts), whole)
    assert all(part.is_contiguous(memory_format=torch.channels_last) for part in parts)


def test_draws_keep_what_was_not_asked_for_empty():
    """A crop drawn for a recipe without one would shift all later draws of its run."""
    random = generator(1)
    draws = Augment(padding=0, flip="none", cutout=8).draw(5, 32, 32, generator=random).to("cpu")[:2]
    assert draws.offsets is None and draws.flips is None and draws.centres.shape == (2, 2)
    assert torch.equal(draws.centres, draw_centres(5, 32, 32, generator=generator(1))[:2])


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (4, 3, 1, 1), (1, 3, 1, 6), (4, 1, 5, 1)])
def test_images_of_one_pixel_or_one_channel_work(shape):
    """Shapes for which both memory formats come to the same: strides without meaning, taken seriously."""
    images, augment = torch.arange(1, 1 + 24, dtype=torch.uint8)[: shape[0]], Augment(padding=1, flip="none")
    images = images[:, None, None, None].expand(shape)
    draws = augment.draw(shape[0], *shape[2:], generator=generator(2))
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    expected = torch.stack(
        [
            p[:, t : t + shape[2], w : w + shape[3]]
            for p, (t, w) in zip(padded, draws.offsets.tolist(), strict=True)
        ]
    )
    for memory_format in FORMATS:
        laid_out = images.contiguous(memory_format=memory_format)
        assert torch.equal(augment.apply(laid_out, draws), expected)
        normalize = Normalize((0.25,) * shape[1], (0.5,) * shape[1])
        torch.testing.assert_close(normalize(laid_out), (images / 255 - 0.25) / 0.5, rtol=0, atol=2e-6)


def test_draws_depend_on_the_seed_only():
    """Runs that cannot be repeated; draws that come from the global generator."""
    draws = [draw_offsets(50, 4, generator=generator(7)) for _ in range(2)]
    assert torch.equal(*draws) and not torch.equal(draws[0], draw_offsets(50, 4, generator=generator(8)))
    assert torch.equal(draw_flips(50, generator=generator(7)), draw_flips(50, generator=generator(7)))
    centres = [draw_centres(50, 9, 5, generator=generator(7)) for _ in range(2)]
    assert torch.equal(*centres)
    images, augment = batch(20), Augment(cutout=8)
    first, again = (augment(images, generator=generator(3)) for _ in range(2))
    assert torch.equal(first, again) and not torch.equal(first, augment(images, generator=generator(4)))


def test_shifts_are_uniform_over_all_81_offsets():
    """An offset that never occurs (randint's open end) or rows tied to columns."""
    offsets = draw_offsets(40_500, 4, generator=generator())
    counts = torch.bincount(offsets[:, 0] * 9 + offsets[:, 1], minlength=81)
    assert len(counts) == 81 and chisquare(counts.numpy()).pvalue > 0.01


def test_cutout_centres_are_uniform_over_all_pixels():
    """Squares that never reach the last row or column; height and width swapped."""
    centres = draw_centres(28_000, 4, 7, generator=generator())
    counts = torch.bincount(centres[:, 0] * 7 + centres[:, 1], minlength=28)
    assert len(counts) == 28 and chisquare(counts.numpy()).pvalue > 0.01


def test_half_of_the_images_are_flipped():
    """A biased coin: 10,000 fair ones stay within four standard deviations of 5,000."""
    assert abs(int(draw_flips(10_000, generator=generator()).sum()) - 5_000) < 200


def test_alternating_flips_mirror_each_image_every_other_epoch():
    """An alternation that is random each epoch, or the same for all images."""
    epochs = torch.stack([alternating_flips(1_000, epoch, seed=5) for epoch in range(6)])
    assert torch.equal(epochs[1:], ~epochs[:-1])
    assert 400 < int(epochs[0].sum()) < 600
    assert not torch.equal(epochs[0], alternating_flips(1_000, 0, seed=6))


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_alternating_flips_are_not_the_first_draws_of_the_run(seed):
    """The same seed for both ties each image's first flip to the shuffling or the crops of the run.

    An offset above 32 bits would change nothing: the CPU's generator drops them.
    """
    flips = alternating_flips(1_000, 0, seed=seed)
    again = draw_flips(1_000, generator=generator(seed))
    assert 400 < int((flips == again).sum()) < 600
    assert 0 < augment.FLIP_STREAM < 2**32


def test_each_image_gets_its_own_draw():
    """One shift, one coin and one square for the whole batch."""
    images = batch(1).expand(200, 3, 32, 32).contiguous()
    for change in (Augment(flip="none"), Augment(padding=0), Augment(padding=0, flip="none", cutout=8)):
        results = {image.numpy().tobytes() for image in change(images, generator=generator())}
        assert len(results) == 2 if change.flip == "random" else len(results) > 40


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_augment_is_crop_then_flip_then_cutout(mode):
    """Steps left out, in another order, or drawing in an order that changes results of a seed."""
    images, random = batch(30), generator(2)
    offsets, mask = draw_offsets(30, 4, generator=random), draw_flips(30, generator=random)
    centres = draw_centres(30, 32, 32, generator=random)
    expected = cutout(flip(crop(images, offsets, mode=mode), mask), centres, size=8)
    augmented = Augment(pad_mode=mode, cutout=8)(images, generator=generator(2))
    assert torch.equal(augmented, expected) and augmented.dtype == torch.uint8


def test_augment_with_everything_off_changes_nothing():
    """A flip or a crop that stays on by accident."""
    images = batch(6)
    assert torch.equal(Augment(padding=0, flip="none")(images, generator=generator()), images)


@pytest.mark.parametrize("mode", ["zero", "reflect"])
def test_no_images_are_augmented_to_none(mode):
    """A filter that leaves no image gave an error about strides."""
    images = batch(0)
    assert Augment(pad_mode=mode, cutout=8)(images, generator=generator()).shape == images.shape


def test_alternating_augment_uses_the_mask():
    """The mask ignored, and half of the images flipped at random on top of it."""
    images, mask = batch(10), alternating_flips(10, 3, seed=0)
    augment = Augment(padding=0, flip="alternating")
    assert torch.equal(augment(images, generator=generator(), flip_mask=mask), flip(images, mask))


@pytest.mark.parametrize(
    ("centre", "rows", "columns"),
    [
        ((5, 6), (3, 7), (4, 8)),
        ((0, 0), (0, 2), (0, 2)),
        ((9, 11), (7, 10), (9, 12)),
        ((1, 11), (0, 3), (9, 12)),
    ],
)
@pytest.mark.parametrize("memory_format", FORMATS)
def test_cutout_covers_the_square_clipped_at_the_border(centre, rows, columns, memory_format):
    """A square that wraps around, is one pixel off, or is pushed back inside."""
    images = torch.full((1, 3, 10, 12), 9, dtype=torch.uint8).to(memory_format=memory_format)
    result = cutout(images, torch.tensor([centre]), size=4)
    expected = torch.full((1, 3, 10, 12), 9, dtype=torch.uint8)
    expected[:, :, slice(*rows), slice(*columns)] = 0
    assert torch.equal(result, expected) and int(images.max()) == 9
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(cutout(images, torch.tensor([centre]), size=0), images)


def test_cutout_of_odd_size_has_its_full_area():
    """A side of 5 that paints 4 x 4 because half of it is rounded twice."""
    images = torch.full((1, 1, 20, 20), 1, dtype=torch.uint8)
    assert int((cutout(images, torch.tensor([[10, 10]]), size=5) == 0).sum()) == 25


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: crop(batch(2).float(), draw_offsets(2, 4)), "torch.uint8"),
        (lambda: crop(batch(2)[0], draw_offsets(2, 4)), r"\(N, C, H, W\)"),
        (lambda: crop(batch(2), draw_offsets(3, 4)), "offsets"),
        (lambda: crop(batch(2), draw_offsets(2, 4).float()), "offsets"),
        (lambda: crop(batch(2), torch.full((2, 2), 9), padding=4), r"0\.\.8"),
        (lambda: crop(batch(2), draw_offsets(2, 4), mode="edge"), "zero, reflect"),
        (lambda: crop(batch(2, 4, 4), draw_offsets(2, 4), mode="reflect"), "less than the side"),
        (lambda: crop(batch(2), draw_offsets(2, 4), padding=-1), "padding -1"),
        (lambda: flip(batch(2), torch.ones(2)), "mask"),
        (lambda: flip(batch(2).float(), draw_flips(2)), "torch.uint8"),
        (lambda: cutout(batch(2), torch.zeros(2, dtype=torch.int64), size=4), "centres"),
        (lambda: cutout(batch(2), draw_centres(2, 32, 32), size=-1), "size -1"),
        (lambda: Augment(flip="x"), "^unknown flip 'x': choose one of random, alternating, none$"),
        (lambda: Augment(pad_mode="edge"), "^unknown pad_mode 'edge': choose one of zero, reflect$"),
        (lambda: Augment(padding=-1), "padding -1: give"),
        (lambda: Augment(cutout=-1), "cutout -1: give"),
        (lambda: Augment().apply(batch(2), Augment().draw(3, 32, 32)), r"\[3, 3, None\].*\[2, 2, None\]"),
        (lambda: Augment(cutout=8).apply(batch(2), Augment().draw(2, 32, 32)), r"\[2, 2, 2\]"),
        (lambda: Augment(padding=0).apply(batch(2), Augment().draw(2, 32, 32)), r"\[None, 2, None\]"),
        (lambda: Augment(pad_mode="reflect")(batch(2, 4, 9)), "less than the side"),
        (lambda: Augment()(batch(2).float()), "torch.uint8"),
        (lambda: Augment(flip="alternating")(batch(2)), "without a flip_mask"),
        (lambda: Augment()(batch(2), flip_mask=draw_flips(2)), "only then"),
        (lambda: Augment(flip="alternating")(batch(2), flip_mask=draw_flips(3)), "flip_mask"),
        (lambda: Normalize((0.5,), (0.0,)), "above 0"),
        (lambda: Normalize((0.5, 0.5), (0.2,)), "one value a channel"),
        (lambda: CIFAR10(batch(2)[:, :1]), r"\(N, 3, H, W\)"),
        (lambda: CIFAR10(batch(2)[0]), r"\(N, 3, H, W\)"),
        (lambda: CIFAR10(batch(2).float()), "divide by 255"),
        (lambda: CIFAR10(batch(2).long()), "torch.int64"),
    ],
)
def test_bad_input_is_refused_in_one_line(call, words):
    """A silent wrong result, or an error from deep inside torch."""
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_settings_are_immutable_and_compare_by_value():
    """A recipe changed behind the back of a recorded run; lists from JSON that compare unequal."""
    with pytest.raises(FrozenInstanceError):
        Augment().padding = 2
    assert Normalize([0.5], [0.25]) == Normalize((0.5,), (0.25,))
