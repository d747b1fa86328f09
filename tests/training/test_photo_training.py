"""Training on photos: batches from disk, random views, class weights, the best epoch, a head on its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from resnet_tutorial import training
from resnet_tutorial.data import CIFAR10, Augment, Split, load_folder, load_sample, photo_views
from resnet_tutorial.models import cifar_resnet, create
from resnet_tutorial.training import History, Pipeline, Recipe, class_weights, fit, fit_head, parameter_groups
from resnet_tutorial.training import pipeline as pipeline_module

QUIET = {"device": "cpu", "precision": "fp32", "progress": False}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RESNET_TUTORIAL_DATA", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for k in range(24):
        path = tmp_path / "photos" / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return tmp_path / "photos"


def test_batches_from_disk_are_those_from_memory(folder):
    """Photos that do not fit into memory must train the same network."""
    plain, stored = load_folder(folder), load_folder(folder, cache=True)
    for views in ("none", "photo"):
        how = {"batch_size": 8, "seed": 3, "views": views}
        a, b = (Pipeline(split, Augment(), CIFAR10, **how).epoch(1, skip=1) for split in (plain, stored))
        for (images, labels), (others, same) in zip(a, b, strict=True):
            assert torch.equal(images, others) and torch.equal(labels, same)
    models = []
    for split in (plain, stored):
        torch.manual_seed(0)
        models.append(cifar_resnet(8, width=4, num_classes=2))
        train, val = split.split(0.25)
        fit(models[-1], train, val, Recipe(name="short", epochs=2, batch_size=6), **QUIET)
    assert all(torch.equal(*pair) for pair in zip(*(m.state_dict().values() for m in models), strict=True))


def test_the_next_batch_is_read_ahead_in_order():
    """A thread that reads ahead must lose none, and pass on what goes wrong."""
    assert list(pipeline_module._ahead(iter(range(5)))) == [0, 1, 2, 3, 4]

    def broken():
        yield 1
        raise ValueError("the disk is gone")

    with pytest.raises(ValueError, match="the disk is gone"):
        list(pipeline_module._ahead(broken()))


def test_views_differ_and_leave_the_generator_alone():
    """One draw for all would show the network the same cut of every photo; a moved generator, another run."""
    image = torch.randint(0, 256, (1, 3, 40, 40), dtype=torch.uint8)
    before = torch.get_rng_state()
    views = photo_views(image.expand(16, -1, -1, -1), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert len(torch.unique(views.flatten(1), dim=0)) == 8
    assert views.dtype == torch.uint8 and not torch.equal(
        views, photo_views(image.expand(16, -1, -1, -1), seed=2)
    )


def test_rare_classes_weigh_more():
    """The loss is that of torch with these weights, whose mean over the images is 1."""
    images, labels = torch.zeros(10, 3, 8, 8, dtype=torch.uint8), torch.tensor([0] * 8 + [1] * 2)
    weight = class_weights(Split(images, labels, ("cat", "dog", "none"), "ten"))
    assert weight[labels].mean().item() == pytest.approx(1) and weight[2] == 0
    model, recipe = nn.Sequential(nn.Flatten(), nn.Linear(3, 3)), Recipe(name="plain", epochs=1)
    x = torch.randn(10, 3, 1, 1)
    expected = F.cross_entropy(model(x), labels, weight)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizer = recipe.make_optimizer(model.parameters())
    loss, *_ = training.train_step(model, x, labels, optimizer, recipe, scaler=scaler, weight=weight)
    assert torch.equal(loss, expected)


@pytest.mark.parametrize(("by", "epoch"), [("loss", 1), ("accuracy", 2), ("balanced-accuracy", 3)])
def test_the_best_epoch_is_what_was_asked_for(by, epoch):
    """With 76 of one class and 4 of another, the best accuracy is that of a network that knows one class."""
    values = [(0.5, 0.7, 0.6), (0.6, 0.9, 0.5), (0.7, 0.8, 0.8)]
    names = ("val_loss", "val_accuracy", "val_balanced_accuracy")
    rows = [{"epoch": k, **dict(zip(names, row, strict=True))} for k, row in enumerate(values, 1)]
    assert History(rows, {"best_by": by}).best()["epoch"] == epoch


def test_the_balanced_accuracy_is_the_mean_recall():
    train, _ = load_sample()
    part = train.with_classes(["cat", "dog"]).subset(range(0, 400, 4))
    history = fit(cifar_resnet(8, width=4, num_classes=2), part, part, Recipe(name="x", epochs=1), **QUIET)
    assert 0 <= history.rows[0]["val_balanced_accuracy"] <= 1
    assert history.rows[0]["val_balanced_accuracy"] != history.rows[0]["val_accuracy"]


def test_gradual_stages_wait_for_their_time():
    """A stage that moves from the first step on is not gradual."""
    model = training.freeze_batchnorm(cifar_resnet(8, width=4, num_classes=10))
    train = load_sample()[0].per_class(4)
    before = {name: value.clone() for name, value in model.named_parameters()}
    recipe = Recipe(name="x", steps=4, batch_size=10)
    groups = parameter_groups(model, lr=0.01, gradual=True)
    assert [group["start"] for group in groups] == [0, 0.2, 0.4, 0.6, 0.8]
    moved = []
    monkey = pytest.MonkeyPatch()
    original = training.loop.train_step
    monkey.setattr(
        training.loop,
        "train_step",
        lambda *a, **k: (
            original(*a, **k),
            moved.append(
                {n.split(".")[0] for n, p in model.named_parameters() if not torch.equal(p, before[n])}
            ),
        )[0],
    )
    fit(model, train, None, recipe, groups=groups, **QUIET)
    monkey.undo()
    assert moved[0] == {"fc"} and moved[1] == {"fc", "layer3"} and "conv1" not in moved[2]


def test_a_head_on_its_own_is_logistic_regression():
    """Its weights in the network must give what scikit-learn predicted, with two classes and with more."""
    train, _ = load_sample()
    for names in (["cat", "ship"], ["cat", "ship", "frog"]):
        learn, val = train.with_classes(names).split(0.5)
        model = training.replace_head(create("resnet20", weights="cifar10"), len(names))
        body = model.conv1.weight.clone()
        found = fit_head(model, learn, val, normalize=CIFAR10)
        assert torch.equal(model.conv1.weight, body)
        loss, accuracy = training.loop.class_sums(model, val, normalize=CIFAR10)[:2].sum(1) / len(val)
        assert found["val_loss"] == pytest.approx(loss.item(), abs=1e-4)
        assert found["val_accuracy"] == pytest.approx(accuracy.item()) and accuracy > 0.85


def test_statistics_stay_where_images_are_few():
    """Statistics of a hundred photos are worse than those of the first training."""
    for images, frozen in ((100, True), (5000, False)):
        model = training.choose_method(cifar_resnet(8, width=4), "all", images=images)
        assert isinstance(model.bn1, training.FrozenBatchNorm2d) == frozen
    with pytest.raises(ValueError, match="unknown method 'tail'"):
        training.choose_method(cifar_resnet(8, width=4), "tail", images=100)
