"""Networks: the right counts, torchvision's logits, honest errors, files that hold what they say."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from resnet_tutorial import models
from resnet_tutorial.models import (
    BasicBlock,
    ResNet,
    cifar_resnet,
    count_multiply_adds,
    count_parameters,
    create,
    weights,
)

OPTION_A = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}
OPTION_B = {20: 272_474, 32: 466_906, 44: 661_338, 56: 855_770, 110: 1_730_714}
IMAGENET = {18: 11_689_512, 34: 21_797_672, 50: 25_557_032, 101: 44_549_160, 152: 60_192_808}
SMALL = {
    "basic A": {"width": 4},
    "basic B": {"width": 4, "shortcut": "B"},
    "basic C": {"width": 4, "shortcut": "C"},
    "plain": {"width": 4, "shortcut": "none"},
    "preact A": {"width": 4, "block": "preact"},
    "preact B": {"width": 4, "block": "preact", "shortcut": "B"},
    "zero init": {"width": 4, "zero_init": True},
}
NORMALIZE = SimpleNamespace(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def on_meta(name: str, **options) -> ResNet:
    """Build a network that has shapes but no memory."""
    with torch.device("meta"):
        return create(name, **options)


@pytest.fixture(params=SMALL)
def small(request) -> ResNet:
    return cifar_resnet(8, **SMALL[request.param])


# Counts


def test_the_table_of_networks_is_right():
    """A count typed into the page of the package stays when the network changes."""
    page = (Path(__file__).parents[2] / "book" / "api_models.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| ([\d,]+) \| (\d+) \| ([\d.]+) \|$", page, re.M)
    assert [row[0] for row in rows] == [n for n in models.MODELS if not n.startswith(("plain", "preact"))]
    for name, side, classes, depth, millions in rows:
        network = create(name)
        weighted = [
            path
            for path, module in network.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear) and "downsample" not in path
        ]
        assert int(side) == (224 if network.config["stem"] == "imagenet" else 32), name
        assert int(classes.replace(",", "")) == network.config["num_classes"], name
        assert (int(depth), millions) == (len(weighted), f"{count_parameters(network) / 1e6:.2f}"), name


@pytest.mark.parametrize("depth", OPTION_A)
def test_cifar_networks_have_the_known_size_and_depth(depth):
    """Another architecture under the right name: the commonest fault of ResNets for CIFAR-10."""
    name = f"resnet{depth}"
    assert count_parameters(on_meta(name)) == OPTION_A[depth]
    assert count_parameters(on_meta(name, shortcut="B")) == OPTION_B[depth]
    assert count_parameters(on_meta(f"plain{depth}")) == OPTION_A[depth]
    for family in ("resnet", "plain", "preact_resnet"):
        assert on_meta(f"{family}{depth}").depth == depth


@pytest.mark.parametrize("depth", IMAGENET)
def test_imagenet_networks_have_the_known_size_and_depth(depth):
    """Wrong stage sizes, a bias too many, or "ResNet-50" with 49 layers."""
    model = on_meta(f"resnet{depth}")
    assert count_parameters(model) == IMAGENET[depth]
    assert model.depth == depth


def test_cifar_stem_18():
    """The 7x7 stem or the max-pool left in: 32 x 32 would shrink to 1 x 1 before the pooling."""
    model = on_meta("resnet18_cifar")
    assert count_parameters(model) == 11_173_962
    assert model.forward_features(torch.empty(1, 3, 32, 32, device="meta")).shape == (1, 512, 4, 4)


def _hand_count(n: int, *, projections: bool) -> int:
    """Multiply-adds of ResNet-(6n+2) at 32 x 32: out * in * kernel area * pixels, layer by layer."""
    total = 16 * 3 * 9 * 32 * 32 + 64 * 10
    for channels, size in ((16, 32), (32, 16), (64, 8)):
        total += 2 * n * channels * channels * 9 * size * size
        if channels > 16:  # the first convolution reads half as many channels
            total -= channels * (channels // 2) * 9 * size * size
            total += projections * channels * (channels // 2) * size * size
    return total


def test_multiply_adds():
    """Counting at the input's resolution, additions as well, or shortcuts not at all."""
    for n in (3, 9):
        for shortcut in "AB":
            counted = count_multiply_adds(on_meta(f"resnet{6 * n + 2}", shortcut=shortcut), (3, 32, 32))
            assert counted == _hand_count(n, projections=shortcut == "B")
    assert count_multiply_adds(on_meta("resnet20"), 32) == 40_551_040
    assert count_multiply_adds(on_meta("resnet20", shortcut="B"), 32) == 40_813_184
    assert count_multiply_adds(on_meta("preact_resnet20"), 32) == 40_551_040
    assert count_multiply_adds(on_meta("resnet50"), 224) == 4_089_184_256
    # torchvision publishes 1.81, 4.09 and 11.51 GFLOPS for these (in multiply-adds).
    for name, billions in (("resnet18", 1.81), ("resnet50", 4.09), ("resnet152", 11.51)):
        assert round(count_multiply_adds(on_meta(name), 224) / 1e9, 2) == billions


def test_counting_leaves_the_model_alone(small):
    """A hook left behind, statistics moved by the counting pass, or the mode changed."""
    before = {name: value.clone() for name, value in small.state_dict().items()}
    small.train()
    assert count_multiply_adds(small, 32) > 0
    assert small.training and not any(m._forward_hooks for m in small.modules())
    assert all(torch.equal(value, before[name]) for name, value in small.state_dict().items())


# Against torchvision


@pytest.mark.parametrize("depth", IMAGENET)
def test_torchvision_weights_load_both_ways_with_equal_logits(depth):
    """Another stride, another name, another order: each still trains, and none can be fine-tuned."""
    theirs = getattr(torchvision.models, f"resnet{depth}")(weights=None).eval()
    for name, values in theirs.named_buffers():
        if name.endswith("running_mean"):
            values.normal_(std=0.1)
        elif name.endswith("running_var"):
            values.uniform_(0.5, 1.5)
    ours = create(f"resnet{depth}").eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = theirs(x)
        assert expected.std() > 0
        torch.testing.assert_close(ours(x), expected)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict(), strict=True)


def test_convolutions_start_as_in_torchvision():
    """He initialisation by fan-in or with the wrong gain: gradients grow or fade with depth."""
    model = create("resnet20")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.15)
        elif isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all()


# Behaviour


def test_every_parameter_receives_a_finite_gradient(small):
    """A layer that is built but not used, or cut off."""
    F.cross_entropy(small(torch.randn(4, 3, 16, 16)), torch.tensor([0, 1, 2, 3])).backward()
    for name, parameter in small.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("name", ["resnet20", "resnet110", "plain56", "preact_resnet56"])
def test_the_first_loss_is_that_of_guessing(name):
    """A head whose first logits are large: training starts by unlearning them, and the loss shows nothing."""
    with torch.no_grad():
        loss = F.cross_entropy(create(name)(torch.randn(16, 3, 16, 16)), torch.arange(16) % 10)
    assert loss.item() == pytest.approx(math.log(10), abs=0.2)


def test_images_do_not_influence_one_another_in_eval_mode(small):
    """Batch statistics used in eval mode, or a pooling over the batch; a batch of one must work."""
    small(torch.randn(8, 3, 16, 16))  # statistics other than the initial ones
    small.eval()
    x = torch.randn(5, 3, 16, 16)
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.inference_mode():
        logits = small(x)
        torch.testing.assert_close(small(x[order]), logits[order])
        torch.testing.assert_close(small(x[:1]), logits[:1])


def test_any_size_and_number_of_channels():
    """A head that only fits 32 x 32, or three channels written in."""
    model = cifar_resnet(8, in_channels=1, num_classes=3)
    for height, width in ((32, 32), (48, 48), (33, 20), (8, 8)):
        features = model.forward_features(torch.randn(2, 1, height, width))
        assert features.shape == (2, 64, math.ceil(height / 4), math.ceil(width / 4))
        assert model.forward_head(features).shape == (2, 3)


def test_forward_is_features_then_head(small):
    """A seam for fine-tuning and for maps of activation that is not the network's own path."""
    small.eval()
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(small(x), small.forward_head(small.forward_features(x)))
    assert (small.forward_features(x) >= 0).all(), "the last feature map is past a ReLU"


def test_zero_init_starts_as_the_shortcuts_alone():
    """zero_init that is accepted and ignored: with identity shortcuts the first stage must change nothing."""
    stem = torch.rand(2, 16, 8, 8)
    for block in ("basic", "preact"):
        assert torch.equal(cifar_resnet(20, block=block, zero_init=True).layer1(stem), stem)
        assert not torch.equal(cifar_resnet(20, block=block).layer1(stem), stem)


def test_the_plain_network_adds_nothing():
    """A "plain" twin that keeps its shortcuts: degradation would not show. Zero branches must give zero."""
    model = cifar_resnet(8, shortcut="none")
    for block in (model.layer1[0], model.layer2[0]):
        block.zero_init()
        assert block(torch.rand(2, block.conv1.in_channels, 8, 8)).abs().sum() == 0


def test_channels_last_gives_the_same_logits(small):
    """A reshape that depends on the memory format."""
    small.eval()
    x = torch.randn(2, 3, 16, 16)
    expected = small(x)
    fast = small.to(memory_format=torch.channels_last)
    torch.testing.assert_close(fast(x.contiguous(memory_format=torch.channels_last)), expected)


def test_the_network_is_one_graph():
    """Python that depends on the data breaks torch.compile and export into pieces."""
    for options in ({}, {"block": "preact", "shortcut": "B"}):
        model = cifar_resnet(8, width=4, **options).eval()
        x = torch.randn(2, 3, 16, 16)
        exported = torch.export.export(model, (x,), strict=False)
        torch.testing.assert_close(exported.module()(x), model(x))


def test_reset_head():
    """A new head that is not in the config, or of another type."""
    model = cifar_resnet(8, width=4).double()
    model.reset_head(3)
    assert model(torch.randn(2, 3, 16, 16, dtype=torch.float64)).shape == (2, 3)
    assert model.config["num_classes"] == 3


# Names and configs


@pytest.mark.parametrize("name", models.MODELS)
def test_config_round_trip(name):
    """A config that JSON cannot hold, or that forgets an option."""
    model = on_meta(name, num_classes=7, in_channels=1)
    config = json.loads(json.dumps(model.config))
    with torch.device("meta"):
        twin = ResNet.from_config(config)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    assert {key: value.shape for key, value in twin.state_dict().items()} == shapes
    assert twin.config == model.config == config
    assert str(twin) == str(model)  # plain and residual twins differ in no tensor


def test_names():
    """A name that builds something else; a documented function that does not exist."""
    assert on_meta("resnet14").depth == 14
    assert on_meta("preact_resnet164").config["block"] == "preact"
    assert on_meta("plain8").config["shortcut"] == "none"
    assert on_meta("resnet50").config["stem"] == "imagenet"  # 50 and 152 are 6n+2 too
    assert on_meta("resnet34_cifar").config["stem"] == "cifar"
    for name in (*(f"resnet{depth}" for depth in (*OPTION_A, *IMAGENET)), "resnet18_cifar"):
        function = getattr(models, name)
        assert function.func is create and function.args == (name,)
    assert models.resnet20(num_classes=3).config == create("resnet20", num_classes=3).config


@pytest.mark.parametrize("name", ["resnet", "vgg16", "resnet020", "resnet20_cifar", "ResNet20", "", None])
def test_an_unknown_name_lists_the_known_ones(name):
    """An error that leaves the reader guessing names."""
    with pytest.raises(ValueError, match=r"^unknown network .*: choose one of resnet20, .*resnet14_wide$"):
        create(name)


@pytest.mark.parametrize(
    ("depth", "nearest"), [(21, "20 and 26"), (18, "14 and 20"), (9, "8 and 14"), (7, "8"), (2, "8")]
)
def test_a_depth_that_is_not_6n_plus_2_names_the_nearest(depth, nearest):
    """Rounding silently to another network, or naming depths that do not exist."""
    with pytest.raises(ValueError, match=rf"6n\+2 .* got {depth}: nearest valid is {nearest}$"):
        cifar_resnet(depth)
    with pytest.raises(ValueError, match=f"got {depth}"):
        create(f"plain{depth}")


def test_options_that_make_no_sense_are_refused():
    """An error from deep inside PyTorch, or none."""
    for call, message in (
        (lambda: cifar_resnet(20.0), "depth must be a whole number of at least 1, got 20.0"),
        (lambda: cifar_resnet(8, num_classes=0), "num_classes must be a whole number of at least 1, got 0"),
        (lambda: cifar_resnet(8, in_channels=-1), "in_channels must be"),
        (lambda: cifar_resnet(8, width=2.5), "width must be"),
        (lambda: cifar_resnet(8).reset_head(0), "num_classes must be"),
        (lambda: cifar_resnet(8, shortcut="D"), "unknown shortcut 'D'"),
        (
            lambda: cifar_resnet(8, block="bottleneck"),
            "unknown block 'bottleneck': choose one of basic, preact",
        ),
        (lambda: cifar_resnet(8, shortcut="none", zero_init=True), "zero_init needs a shortcut"),
        (lambda: ResNet(BasicBlock, [1, 1], num_classes=2, stem="vgg"), "unknown stem 'vgg'"),
        (lambda: ResNet(BasicBlock, [], num_classes=2), "layers must be"),
        (lambda: models.imagenet_resnet(20), "no ImageNet layout of depth 20: choose one of 18, 34"),
        (lambda: create("plain20", shortcut="A"), "'plain20' already means shortcut='none'"),
        (lambda: ResNet.from_config({"block": "vgg"}), "not the config of a ResNet: 'vgg'"),
        (lambda: ResNet.from_config({"block": "basic", "layers": [1], "colour": 1}), "colour"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [
        ((3, 32, 32), torch.float32, r"expected images of shape \(N, 3, H, W\), got \(3, 32, 32\)"),
        ((2, 1, 32, 32), torch.float32, r"expected images of shape \(N, 3, H, W\), got \(2, 1, 32, 32\)"),
        ((2, 32, 32, 3), torch.float32, r"got \(2, 32, 32, 3\)"),
        ((2, 3, 32, 32), torch.uint8, r"expected normalised float images, got torch.uint8"),
    ],
)
def test_wrong_images_are_refused_helpfully(shape, kind, message):
    """One image without a batch, grey for colour, channels last in the shape, raw bytes."""
    with pytest.raises(ValueError, match=message):
        cifar_resnet(8, width=4)(torch.zeros(shape, dtype=kind))


# Files


@pytest.mark.parametrize("compiled", [False, True])
def test_a_saved_model_predicts_the_same(small, tmp_path, compiled):
    """Statistics, head or config lost on the way; names prefixed by torch.compile."""
    small.reset_head(3)
    small(torch.randn(8, 3, 16, 16))
    wrapped = torch.compile(small) if compiled else small
    path = models.save_model(
        tmp_path / "m.safetensors", wrapped, classes=("a", "b", "c"), normalize=NORMALIZE, seed=1
    )
    loaded, metadata = models.load_model(path)
    assert not loaded.training and metadata["config"] == small.config
    assert metadata["classes"] == ["a", "b", "c"] and metadata["seed"] == 1
    assert metadata["mean"] == [0.5, 0.5, 0.5] and metadata["std"] == [0.25, 0.25, 0.25]
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(x), small.eval()(x))


def test_a_file_of_another_network_is_refused(tmp_path):
    """A plain network's file has the very tensors of the residual one, and predicts nonsense in it."""
    plain, plain_path = create("plain8"), tmp_path / "plain.safetensors"
    classes = [str(k) for k in range(10)]
    models.save_model(plain_path, plain, classes=classes, normalize=NORMALIZE)
    for load in (
        lambda: models.load_model(plain_path, name="resnet8"),
        lambda: create("resnet8", weights=plain_path),
    ):
        with pytest.raises(ValueError, match="is of another network: shortcut 'none', not 'A'"):
            load()
    with pytest.raises(ValueError, match=r"another network: layers \[1, 1, 1\], not \[3, 3, 3\]"):
        models.load_model(plain_path, name="resnet20")
    torch.save(plain.state_dict(), tmp_path / "plain.pth")  # no config to compare: names tell
    with pytest.raises(ValueError, match=r"another network, 44 tensors where this one has \d+: \d+ missing"):
        models.load_model(tmp_path / "plain.pth", name="resnet20")


def test_weights_of_a_file(tmp_path):
    """weights= that is accepted and ignored; a bare state dict with another number of classes."""
    model = create("resnet8", num_classes=4)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "bare.pth")
    twin = create("resnet8", num_classes=4, weights=tmp_path / "bare.pth")
    assert torch.equal(twin.fc.weight, model.fc.weight)
    loaded, metadata = models.load_model(tmp_path / "bare.pth", name="resnet8")
    assert loaded.fc.out_features == 4 and metadata == {}
    with pytest.raises(ValueError, match="does not say which network it holds: give its name"):
        models.load_model(tmp_path / "bare.pth")
    with pytest.raises(ValueError, match=r"fc.weight \(4, 64\) for \(10, 64\)"):
        create("resnet8", weights=tmp_path / "bare.pth")
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors does not exist"):
        create("resnet8", weights=tmp_path / "nothing.safetensors")
    weights.save_weights(tmp_path / "other.safetensors", {"w": torch.zeros(2)}, {})
    with pytest.raises(ValueError, match=r"holds no ResNet: it lacks conv1.weight or fc.bias"):
        models.load_model(tmp_path / "other.safetensors", name="resnet8")


def test_shipped_weights_are_found_and_verified(tmp_path, monkeypatch):
    """Weights of another release, or damaged in the package, used without a word."""
    with pytest.raises(ValueError, match=r"no weights 'cats' for resnet8 \(shipped: .*\): give a .safetens"):
        create("resnet8", weights="cats")
    model = create("resnet8")
    path = tmp_path / "resnet8-tiny.safetensors"
    models.save_model(path, model, classes=[str(k) for k in range(10)], normalize=NORMALIZE)
    monkeypatch.setattr(weights, "ASSETS", tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(weights, "SHIPPED_WEIGHTS", {("resnet8", "tiny"): digest})
    assert torch.equal(create("resnet8", weights="tiny").fc.weight, model.fc.weight)
    with pytest.raises(ValueError, match=r"shipped: 'tiny' for resnet8"):
        create("resnet14", weights="tiny")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is not the file that was shipped: reinstall the package"):
        create("resnet8", weights="tiny")


def test_every_shipped_file_is_there_and_loads():
    """A table of weights that names a file the package does not hold."""
    for name, which in weights.SHIPPED_WEIGHTS:
        _, metadata = models.load_model(models.shipped(name, which))
        create(name, weights=which, num_classes=len(metadata["classes"]))


def test_a_model_and_its_description_must_agree(tmp_path):
    """Nine class names for ten logits would be found out at the first wrong prediction."""
    path, model = tmp_path / "m.safetensors", cifar_resnet(8, width=4)
    for classes in ("abcdefghi", "abcdefghii", [*"abcdefghi", ""], [*"abcdefghi", 9]):
        with pytest.raises(ValueError, match=rf"^{path}: classes must be 10 different names: \["):
            models.save_model(path, model, classes=classes, normalize=NORMALIZE)
    with pytest.raises(ValueError, match=r"mean must be 1 numbers: \[0.5, 0.5, 0.5\]"):
        grey = cifar_resnet(8, width=4, in_channels=1)
        models.save_model(path, grey, classes=list("abcdefghij"), normalize=NORMALIZE)
    with pytest.raises(ValueError, match="save_model takes a ResNet, not a Linear"):
        models.save_model(path, nn.Linear(2, 2), classes=["a", "b"], normalize=NORMALIZE)
    with pytest.raises(ValueError, match="unknown block 'Mine': choose one of basic, bottleneck, preact"):
        mine = ResNet(type("Mine", (BasicBlock,), {}), (1, 1), num_classes=2, width=4)
        models.save_model(path, mine, classes=["a", "b"], normalize=NORMALIZE)
    with torch.no_grad():
        model.layer2[0].conv1.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match=r"^.*m.safetensors: layer2.0.conv1.weight is not finite"):
        models.save_model(path, model, classes=list("abcdefghij"), normalize=NORMALIZE)
    assert not path.exists()


CONTRADICTIONS = {
    "wide": ({"config": {"width": 10**6}}, r"its config says width 1000000, its tensors 4$"),
    "deep": (
        {"config": {"layers": [10**6, 1, 1]}},
        r"says layers \[1000000, 1, 1\], its tensors \[1, 1, 1\]$",
    ),
    "many stages": ({"config": {"layers": [1] * 10**6}}, r"says layers \[1, 1, .*, its tensors \[1, 1, 1\]$"),
    "many classes": ({"config": {"num_classes": 10**9}}, "says num_classes 1000000000, its tensors 2$"),
    "many channels": ({"config": {"in_channels": 10**9}}, "says in_channels 1000000000, its tensors 3$"),
    "text for a number": ({"config": {"width": "4"}}, "its config lacks what"),
    "truth for a number": ({"config": {"width": True}}, "its config lacks what"),
    "fractions": ({"config": {"layers": [1.0, 1, 1]}}, "not the config of a ResNet"),
    "another key": ({"config": {"colour": 1}}, "its config lacks what"),
    "no config": ({"config": None}, "its config lacks what"),
    "unknown block": ({"config": {"block": "vgg"}}, "unknown block 'vgg': choose one of basic"),
    "unknown stem": ({"config": {"stem": "vgg"}}, "unknown stem 'vgg'"),
    "other shapes": (
        {"config": {"block": "bottleneck"}},
        r"is of another network, 44 tensors where .*: \d+ miss",
    ),
    "no names": ({"classes": None}, "classes must be 2 different names: None"),
    "one text": ({"classes": "ab"}, "classes must be 2 different names: 'ab'"),
    "a number as a name": ({"classes": ["a", 2]}, "classes must be 2 different names"),
    "the same name twice": ({"classes": ["a", "a"]}, "classes must be 2 different names"),
    "an empty name": ({"classes": ["a", ""]}, "classes must be 2 different names"),
    "no mean": ({"mean": None}, "mean must be 3 numbers: None"),
    "text in the mean": ({"mean": [0.5, 0.5, "0.5"]}, "mean must be 3 numbers"),
    "two means": ({"mean": [0.5, 0.5]}, "mean must be 3 numbers"),
    "huge": ({"mean": [0.5, 0.5, 10**400]}, "mean must be 3 numbers"),
    "no spread": ({"std": [0.5, 0.5, 0]}, "std must be 3 numbers"),
    "not a number": ({"std": [0.5, 0.5, math.nan]}, "std must be 3 numbers"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_file_that_contradicts_itself_is_refused_before_memory_is_taken(case, tmp_path):
    """A small file that asks for a terabyte; names, sizes or means found wrong at the first prediction."""
    model = cifar_resnet(8, width=4, num_classes=2)
    metadata = {"config": model.config, "classes": ["a", "b"], "mean": [0.5] * 3, "std": [0.25] * 3}
    change, message = CONTRADICTIONS[case]
    for key, value in change.items():
        metadata[key] = metadata[key] | value if isinstance(value, dict) else value
    path = tmp_path / "m.safetensors"
    save_file(model.state_dict(), path, metadata={"resnet_tutorial": json.dumps(metadata)})
    with pytest.raises(ValueError, match=message) as error:
        models.load_model(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 400


@pytest.mark.parametrize(
    ("variance", "message"),
    [(math.inf, "bn1.running_var is not finite"), (-0.1, "bn1.running_var, a variance, is negative")],
)
def test_weights_that_give_no_numbers_are_refused(tmp_path, variance, message):
    """A network whose training diverged gives every image the same class, with a probability of NaN."""
    model = create("resnet8", num_classes=4)
    model.bn1.running_var[3] = variance
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    for load in (
        lambda: models.load_model(tmp_path / "bare.pth", name="resnet8"),
        lambda: create("resnet8", num_classes=4, weights=tmp_path / "bare.pth"),
    ):
        with pytest.raises(ValueError, match=f"^.*{message}"):
            load()


def test_loading_draws_no_random_numbers(tmp_path):
    """Initial weights that are drawn and thrown away, and another order of images after loading."""
    path = tmp_path / "m.safetensors"
    models.save_model(path, cifar_resnet(8, width=4), classes="abcdefghij", normalize=NORMALIZE)
    before = torch.get_rng_state()
    loaded, _ = models.load_model(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(value.device.type == "cpu" for value in loaded.state_dict().values())


def test_wide_networks_pool_after_the_stem():
    """The same layers without the pooling would cost four times as much."""
    model = create("resnet8_wide").eval()
    assert (model.depth, model.conv1.out_channels) == (8, 48)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        # While all scales are positive, as at the start, pooling before or after BN and ReLU is the same.
        first = F.max_pool2d(F.relu(model.bn1(model.conv1(x))), 2)  # (2, 48, 16, 16)
        features = model.forward_features(x)
        expected = model.layer3(model.layer2(model.layer1(first)))
    assert first.shape == (2, 48, 16, 16)
    assert features.shape == (2, 192, 4, 4)
    torch.testing.assert_close(features, expected)
    with pytest.raises(ValueError, match="already means stem='pool'"):
        create("resnet8_wide", stem="cifar")
    with pytest.raises(ValueError, match="unknown network 'plain8_wide'"):
        create("plain8_wide")
