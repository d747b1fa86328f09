"""The benchmarks: both sides of every comparison do the same work, and each script prints a sound table."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from resnet_tutorial import data, models
from resnet_tutorial.data import CIFAR10, Augment
from resnet_tutorial.records import Measurement, load_all
from resnet_tutorial.training import RECIPES, Pipeline, Recipe

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = (
    *("input", "epoch", "throughput", "time_to_accuracy", "memory", "processes", "finetuning"),
    *("ablations", "photos"),
)
QUICK = ["--quick", "--threads", "1", "--device", "cpu"]

# Loaders fork on Linux; that is theirs to decide, and Python 3.12 and later warn of it.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def _on_the_path():
    """The scripts import each other by their plain names, as Python arranges when it runs one."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))
    for name in (*SCRIPTS, "common"):
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def _threads():
    """`--threads` is for the whole process: give the other tests theirs back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def script(name: str):
    return importlib.import_module(name)


def parse_table(text: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the only Markdown table in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1, text
    assert all(re.fullmatch(":?-+:?", cell) for cell in cells[1]), text
    return cells[0], cells[2:]


def run(name: str, capsys: pytest.CaptureFixture, *extra: str) -> tuple[str, list[str], list[list[str]]]:
    """What a script prints, and its table; nothing may go to standard error."""
    script(name).main([*QUICK, *extra])
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "**quick: for correctness only, not a measurement**" in captured.out
    assert f"torch {torch.__version__}" in captured.out and "threads: 1" in captured.out
    return captured.out, *parse_table(captured.out)


def our_batches(
    split: data.Split, batch_size: int, *, seed: int = 0, augment: Augment | None = None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    return Pipeline(split, augment or Augment(), CIFAR10, batch_size=batch_size, seed=seed).epoch(0)


@pytest.fixture(scope="module")
def split() -> data.Split:
    return data.load_sample()[0].per_class(4)


def check_ratios(rows: list[list[str]], baseline: float, *, inverse: bool) -> None:
    """Second column against the third; the numbers printed are rounded."""
    for row in rows:
        value, ratio = float(row[1]), float(row[2])
        assert value > 0 and ratio > 0
        assert ratio == pytest.approx(baseline / value if inverse else value / baseline, rel=0.05, abs=0.01)
        low, high = map(float, row[3].split(" to "))
        assert 0 < low <= high


# The two input pipelines


def test_both_pipelines_yield_the_same_pixels(split):
    """If one normalised differently, or worked on another layout, the comparison would be of unequal work."""
    module = script("input")
    load = Pipeline(split, Augment(padding=0, flip="none"), CIFAR10, batch_size=16, seed=3)
    order, plain = load._draw(0)[0].tolist(), load.epoch(0)
    rest = sorted({*range(len(split))} - {*order})
    shuffled = module.PILImages(split.subset(order + rest), module.transform(augment=False))
    theirs = module.torchvision_loader(shuffled, 16, workers=0, shuffle=False)
    ours, theirs = list(plain), list(theirs)
    assert len(ours) == 2 and len(theirs) == 3  # ours drops the incomplete batch
    for (x, y), (their_x, their_y) in zip(ours, theirs[:2], strict=True):
        assert x.dtype == their_x.dtype == torch.float32 and y.dtype == their_y.dtype == torch.int64
        assert x.shape == (16, 3, 32, 32) == their_x.shape  # ours is channels-last in memory, theirs is not
        torch.testing.assert_close(x, their_x, rtol=0, atol=3e-6)
        assert torch.equal(y, their_y)


def test_a_training_loader_drops_what_ours_drops(split):
    """One more step an epoch on one side would shift the ratio."""
    module = script("input")
    dataset = module.PILImages(split, module.transform(augment=True))
    sizes = [len(labels) for _, labels in module.torchvision_loader(dataset, 16, workers=0)]
    ours = [len(labels) for _, labels in our_batches(split, 16)]
    assert sizes == ours == [16, 16]


def test_more_workers_than_cores_do_not_warn(split, monkeypatch, recwarn):
    """The table would come with a page of torch's advice on two cores, where four workers are tried."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    module = script("input")
    loader = module.torchvision_loader(module.PILImages(split, module.transform(augment=True)), 8, workers=2)
    assert [sum(len(labels) for _, labels in loader) for _ in range(2)] == [40, 40]
    assert not [w for w in recwarn if "DataLoader will create" in str(w.message)]


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_both_pipelines_crop_and_flip_each_image_alone(side):
    """A draw for a whole batch would be cheaper, and so would leaving the crop or the flip out."""
    module = script("input")
    images = torch.zeros(600, 3, 32, 32, dtype=torch.uint8)
    images[:, 0, :, :16] = 255  # red: which half shows the flip
    images[:, 1] = 255  # green: what is left shows the crop
    split = data.Split(images, torch.zeros(600, dtype=torch.int64), ("one",), "halves")
    if side == "ours":
        batches = our_batches(split, 200)
    else:
        dataset = module.PILImages(split, module.transform(augment=True))
        batches = module.torchvision_loader(dataset, 200, workers=0)
    for x, _ in batches:
        bright = x > 0
        mirrored = bright[:, 0, :, 16:].sum((1, 2)) > bright[:, 0, :, :16].sum((1, 2))
        assert 0.35 < mirrored.float().mean() < 0.65
        kept = bright[:, 1]
        # 9 shifts of -4..4 pixels: 20 / 9 of the 32 rows are lost on average, and as many columns.
        assert kept.float().mean().item() == pytest.approx((1 - 20 / 9 / 32) ** 2, abs=0.02)
        assert len(kept.flatten(1).unique(dim=0)) > 60  # of 81 windows


def test_our_pipeline_is_the_one_that_fit_trains_on(split):
    """A pipeline tuned only in the benchmark would measure nothing that anybody runs."""
    seen = []
    model = models.create("resnet8", width=4)
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    recipe = RECIPES["paper"].but(epochs=1, batch_size=16)
    script("epoch").fit(model, split, None, recipe, seed=5, device="cpu", precision="fp32", progress=False)
    ours = [x for x, _ in our_batches(split, 16, seed=5)]
    assert len(seen) == len(ours) == 2
    for x, y in zip(seen, ours, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_the_images_are_torchvisions(split):
    """The class in the script stands for `torchvision.datasets.CIFAR10`: same type, pixels and label."""
    ours = script("input").PILImages(split)
    theirs = datasets.CIFAR10.__new__(datasets.CIFAR10)
    theirs.data, theirs.targets, theirs.transform, theirs.target_transform = (
        split.images.permute(0, 2, 3, 1).numpy(),
        split.labels.tolist(),
        None,
        None,
    )
    for index in (0, 17, 39):
        (image, label), (their_image, their_label) = ours[index], theirs[index]
        assert type(image) is type(their_image) is Image.Image and image.mode == their_image.mode == "RGB"
        assert np.array_equal(np.asarray(image), np.asarray(their_image))
        assert type(label) is type(their_label) is int and label == their_label


def test_torchvisions_own_files_are_used_where_they_are(monkeypatch):
    """The note under the table must say which dataset was measured."""
    module = script("input")
    many = data.Split(
        torch.zeros(50_000, 3, 1, 1, dtype=torch.uint8), torch.zeros(50_000).long(), ("a",), "all"
    )
    roots = []

    def fake(root, *, train, transform):
        roots.append(str(root))
        if root != Path("data"):
            raise RuntimeError("Dataset not found or corrupted.")
        return "theirs"

    monkeypatch.setattr(module.datasets, "CIFAR10", fake)
    dataset, note = module.training_images(many, "cifar10")
    assert dataset == "theirs" and "reads `torchvision.datasets.CIFAR10`" in note
    assert roots == [str(data.cache_dir()), "data"]
    dataset, note = module.training_images(many.subset(range(100)), "sample")
    assert isinstance(dataset, module.PILImages) and "class of this script" in note


# The two loops


def without_augmentation(monkeypatch: pytest.MonkeyPatch, batch_size: int) -> Recipe:
    module = script("epoch")
    plain = script("input").transform(augment=False)
    monkeypatch.setattr(module, "transform", lambda *, augment: plain)
    return module.RECIPE.but(
        padding=0, flip="none", batch_size=batch_size, schedule="constant", milestones=(), weight_decay=0.1
    )


def test_both_loops_take_the_same_steps(split, monkeypatch):
    """Another loss, rate, momentum, decay or mode on one side: a faster loop that trains another way."""
    module = script("epoch")
    # One batch an epoch, so that its order does not matter; two steps, for the momentum to show.
    recipe = without_augmentation(monkeypatch, len(split)).but(epochs=2)
    torch.manual_seed(1)
    ours = models.create("resnet8", width=4)
    theirs = models.create("resnet8", width=4)
    theirs.load_state_dict(ours.state_dict())

    history = module.fit(ours, split, split, recipe, device="cpu", precision="fp32", progress=False)
    cpu = torch.device("cpu")
    loaders = module.textbook_loaders(split, split, len(split), workers=0, device=cpu)
    optimizer = module.textbook_optimizer(theirs, recipe)
    for row, rel in zip(history.rows, (1e-5, 1e-3), strict=True):
        loss, accuracy = module.textbook_epoch(theirs, optimizer, *loaders, cpu)
        assert loss == pytest.approx(row["train_loss"], rel=rel)
        assert accuracy == pytest.approx(row["val_accuracy"], abs=0.051)  # of 40 images; ties may turn
    start = models.create("resnet8", width=4)
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(weight, theirs.state_dict()[name], rtol=1e-3, atol=1e-5, msg=name)
    assert not torch.equal(ours.conv1.weight, start.conv1.weight)


def test_the_textbook_loop_learns(split, monkeypatch):
    """A baseline that steps in the wrong place, or never leaves eval mode, is no baseline."""
    module = script("epoch")
    without_augmentation(monkeypatch, 10)
    cpu, model = torch.device("cpu"), models.create("resnet8", width=8)
    optimizer = module.textbook_optimizer(model)
    loaders = module.textbook_loaders(split, split, 10, workers=0, device=cpu)
    losses = [module.textbook_epoch(model, optimizer, *loaders, cpu)[0] for _ in range(12)]
    assert losses[-1] < 0.8 * losses[0]


# The scripts, from options to table


def test_input_prints_a_sound_table(capsys):
    text, header, rows = run("input", capsys, "--repeats", "2")
    assert header[:2] == ["pipeline", "images/s"]
    assert [row[0] for row in rows] == ["torchvision, workers: 0", "torchvision, workers: 2", "ours"]
    best = max(rows[:2], key=lambda row: float(row[1]))
    check_ratios(rows, float(best[1]), inverse=False)
    assert best[2:] == ["1.00", "1.00 to 1.00"]
    assert f"torchvision's best here: {best[0].removeprefix('torchvision, ')}" in text


def test_epoch_prints_a_sound_table(capsys, monkeypatch):
    """With `--compile`, compiled rows of their own carry the compile time; the others carry none."""
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda model, mode=None: compiled.append(model) or model)
    text, header, rows = run("epoch", capsys, "--compile", "--workers", "0")
    kinds = script("common").precisions(torch.device("cpu"))
    assert len(rows) == 1 + 2 * len(kinds) and header[1] == "seconds"
    assert rows[0][0] == "textbook, fp32, workers: 0" and rows[1][0] == "ours, fp32"
    check_ratios(rows, float(rows[0][1]), inverse=True)
    for row in rows:
        assert (row[4] == "-") == ("compiled" not in row[0])
    assert len({id(model) for model in compiled}) == len(kinds)  # one network a row, compiled once
    assert ("No mixed precision" in text) == (len(kinds) == 1)


def test_throughput_prints_a_sound_table(capsys):
    _, header, rows = run("throughput", capsys)
    kinds = script("common").precisions(torch.device("cpu"))
    assert [row[1:4] for row in rows] == [
        ["default", "fp32", "no"],
        *(["channels-last", kind, "no"] for kind in kinds),
    ]
    assert all(float(row[header.index("images/s")]) > 0 for row in rows)


def test_finetuning_prints_a_sound_table(capsys):
    _, header, rows = run("finetuning", capsys, "--task", "classes")
    assert [row[0] for row in rows] == ["from scratch", "linear probe", "BN-only", "full", "gradual"]
    assert all(0 <= float(row[header.index("test accuracy (%)")]) <= 100 for row in rows)

    _, header, rows = run("finetuning", capsys, "--task", "jpeg")
    assert [row[0] for row in rows] == ["nothing", "JPEG 10", "mixture"]
    assert all(0 <= float(value) <= 100 for row in rows for value in row[3:])


def test_a_mixture_is_half_compressed():
    """A mixture of one kind only would be the other lesson under its name."""
    module = script("finetuning")
    images = data.load_sample()[0].per_class(1)  # 10 images
    mixture = module.half_compressed(images)
    changed = (mixture.images != images.images).flatten(1).any(dim=1)
    assert changed.tolist() == [True, False] * 5
    assert torch.equal(mixture.images[0], module.jpeg(images, 10).images[0])


@pytest.mark.parametrize(
    ("method", "moved"),
    [
        ("linear_probe", {"fc"}),
        ("batchnorm_only", {"fc", "bn"}),
        ("full", {"fc", "bn", "conv"}),
        ("gradual", {"fc", "bn", "conv"}),
        ("scratch", {"fc", "bn", "conv"}),
    ],
)
def test_every_method_trains_what_its_name_says(method, moved):
    """A probe whose batch norm drifts, or a full fine-tuning that is frozen, would be compared wrongly."""
    module = script("finetuning")
    images = data.load_sample()[0].with_classes(module.VEHICLES).per_class(3)
    torch.manual_seed(0)
    start = module.pretrained().state_dict()
    model = getattr(module, method)(images, 8, seed=0, device="cpu", precision="fp32", progress=False)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, start[name])}
    kinds = {kind for kind in ("fc", "bn", "conv") if any(kind in name for name in changed)}
    assert kinds == moved
    assert any("running_mean" in name for name in changed) == (method not in ("linear_probe", "gradual"))


@pytest.mark.slow
def test_two_processes_print_a_sound_table(capsys):
    """Both sides must follow the same loss curve, up to batch normalisation's share of a batch."""
    _, header, rows = run("processes", capsys, "--epochs", "2", "--repeats", "1")
    assert [row[:2] for row in rows] == [["1", "1"], ["1", "2"], ["2", "1"], ["2", "2"]]
    losses = [float(row[header.index("training loss")]) for row in rows]
    assert losses[:2] == pytest.approx(losses[2:], rel=0.1)


def test_a_table_can_be_recorded(tmp_path, capsys):
    """A record must say what was printed, and a quick run is no measurement."""
    common = script("common")
    words = ["--data", "sample", "--device", "cpu", "--images", "50", "--record", str(tmp_path)]
    args, train, _ = common.parse(common.options("x"), words)
    assert len(train) == 50
    common.report("Title", args, ("a", "b"), [("x", 1.5)], name="table", how="once", notes=["A note."])
    record = Measurement.load(tmp_path / "table.json")
    record.check()
    assert (record.title, record.columns, record.rows) == ("Title", ["a", "b"], [["x", 1.5]])
    assert record.notes[0].startswith("Once.") and record.notes[1:] == ["A note."]
    assert record.setup["data"] == "sample"
    assert "| x | 1.5 |" in capsys.readouterr().out
    args.quick = True
    with pytest.raises(SystemExit, match="--quick is no measurement"):
        common.report("Title", args, ("a",), [("x",)], name="t", how="once")


def test_time_to_accuracy_prints_a_sound_table(capsys):
    text, header, rows = run("time_to_accuracy", capsys, "--repeats", "2", "--target", "0.01")
    assert [row[0] for row in rows] == ["0", "1", "mean ± sd, n = 2"]
    seconds = [float(row[header.index("seconds")]) for row in rows[:2]]
    mean, sd = map(float, rows[2][header.index("seconds")].split(" ± "))
    assert min(seconds) > 0
    assert mean == pytest.approx(np.mean(seconds), abs=0.11) and sd == pytest.approx(
        np.std(seconds, ddof=1), abs=0.11
    )
    for row in rows[:2]:
        assert all(0 <= float(cell) <= 100 for cell in row[1:4])
    assert re.search(r"[012] of 2 runs end at or above the target", text)


def test_memory_prints_a_sound_table(capsys, monkeypatch):
    """Both runs, here in this process: new ones take long to start, and one of them is tested below."""
    monkeypatch.setattr(script("memory"), "in_new_process", lambda function, *args: function(*args))
    text, header, rows = run("memory", capsys, "--epochs", "1")
    assert [row[0] for row in rows] == ["textbook, fp32", "ours, fp32"] and header[-1] == "on the GPU (MiB)"
    check_ratios(rows, float(rows[0][1]), inverse=False)
    imports = float(re.search(r"imports alone: (\d+) MiB", text)[1])
    assert all(float(row[1]) >= imports > 30 for row in rows)


# Time to accuracy: what may be looked at, and when


def test_the_test_images_are_seen_once_and_last(monkeypatch):
    """Looking at the test images during training, to stop or to choose, would make the accuracy a lie."""
    module = script("time_to_accuracy")
    train, test = script("common").load("sample", quick=True)
    args = module.argparse.Namespace(
        device=torch.device("cpu"), precision="fp32", compile=False, quick=True, val_fraction=0.25, target=0.9
    )
    log = []
    fit, predict = module.fit, module.predict

    def spied_fit(model, part, val, recipe, **options):
        log.append(("fit", len(part), len(val)))
        shown = {image.numpy().tobytes() for image in torch.cat([part.images, val.images])}
        assert not shown & {image.numpy().tobytes() for image in test.images}
        return fit(model, part, val, recipe, **options)

    def spied_predict(model, split, **options):
        log.append(("predict", split is test, options["flip"]))
        return predict(model, split, **options)

    monkeypatch.setattr(module, "fit", spied_fit)
    monkeypatch.setattr(module, "predict", spied_predict)
    result = module.train_and_test(train, test, RECIPES["modern"].but(epochs=1, batch_size=32), args, seed=0)
    assert log == [("fit", 120, 40), ("predict", True, False), ("predict", True, True)]
    assert result.seconds > 0 and result.validation is not None


def test_first_epoch_at_the_target():
    """The first epoch counts, not the best or the last, and equality is enough."""
    first_at = script("time_to_accuracy").first_at
    accuracies = (0.2, 0.9, 0.8, 0.95)
    rows = [
        {"epoch": i, "val_accuracy": value, "seconds": 10.0 * i}
        for i, value in enumerate(accuracies, start=1)
    ]
    assert first_at(rows, 0.9) == (2, 20.0)
    assert first_at(rows, 0.96) is None
    assert first_at([{"epoch": 1, "val_accuracy": None, "seconds": 1.0}], 0.1) is None


def test_a_mean_over_seeds_needs_every_seed():
    """A mean over the seeds that reached the target, without those that did not, would flatter."""
    module = script("time_to_accuracy")
    runs = [module.Run(0.9, 0.91, 0.92, 10.0, (3, 6.0)), module.Run(0.8, 0.81, 0.82, 12.0, None)]
    assert module.cells("x", runs[:1]) == ["x", "90.00", "91.00", "92.00", "10.0", "3", "6.0"]
    assert module.cells("x", runs)[5:] == ["-", "-"]
    assert module.cells("x", runs)[2] == "86.00 ± 7.07"
    assert module.cells("x", [module.Run(None, 0.5, 0.5, 1.0, None)])[1] == "-"


# Memory


def test_a_run_has_its_own_process_and_peak():
    """On Linux `ru_maxrss` of a child starts at its parent's peak: every run would look as large."""
    module = script("memory")
    ballast = np.ones(600 * 2**20, dtype=np.uint8)  # raises this process's peak for good
    here = module.peak_resident()
    assert here > ballast.nbytes
    args = module.argparse.Namespace(
        data="sample", quick=True, epochs=1, threads=1, device=torch.device("cpu")
    )
    imports, peak, on_gpu = module.in_new_process(module.measure, args, "fp32")
    assert 30 * 2**20 < imports < peak < here and on_gpu == 0
    assert ballast[-1] == 1


# Helpers


def test_rounds_interleave_and_alternate():
    """In blocks, or always in one order, a machine that gets slower would favour whoever ran first."""
    calls = []

    def variant(name):
        return lambda: calls.append(name) or float(len(calls))

    results = script("common").interleave({name: variant(name) for name in "abc"}, 3)
    assert "".join(calls) == "abccbaabc"
    assert results == {"a": [1.0, 6.0, 7.0], "b": [2.0, 5.0, 8.0], "c": [3.0, 4.0, 9.0]}


def test_ratios_pair_the_rounds():
    """Range of the ratios within rounds, not of all combinations; ratio of the medians, not of the means."""
    assert script("common").ratio([10, 20, 60], [5, 10, 10]) == ["2.00", "2.00 to 6.00"]


def test_a_row_of_another_length_is_refused():
    """Markdown would silently show the table with its columns shifted."""
    table = script("common").markdown_table
    assert table(("a", "b"), [("x", 1)]) == "| a | b |\n| :-- | --: |\n| x | 1 |"
    with pytest.raises(ValueError, match="every row needs 2 cells: a, b"):
        table(("a", "b"), [("x", 1, 2)])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("input", ["--repeats", "0"], "'0' is not a whole number of 1 or more"),
        ("input", ["--threads", "two"], "'two' is not a whole number"),
        ("input", ["--data", "imagenet"], "invalid choice: 'imagenet'"),
        ("input", ["--data", "cifar10"], "CIFAR-10"),  # not on the disk in tests
        ("epoch", ["--quick", "--device", "abacus"], "unknown device 'abacus'"),
        ("epoch", ["--quick", "--workers", "3"], "invalid choice: 3"),
        ("epoch", ["--quick", "--batch-size", "100"], "--batch-size 100: at most half of the 160"),
        ("memory", ["--epochs", "-1"], "'-1' is not a whole number"),
        ("time_to_accuracy", ["--target", "90"], "'90' is not a number from 0 up to 1"),
        ("time_to_accuracy", ["--recipe", "secret"], "invalid choice: 'secret'"),
        (
            "time_to_accuracy",
            ["--quick", "--device", "cpu", "--precision", "fp16"],
            "precision 'fp16' needs a CUDA GPU",
        ),
        ("time_to_accuracy", ["--quick", "--val-fraction", "0.0001"], "leaves images in both parts"),
        ("ablations", ["--variants", "magic"], "invalid choice: 'magic'"),
        ("ablations", ["--data", "sample", "--keep", __file__], "does not hold finished runs"),
    ],
)
def test_bad_options_end_with_one_line(name, options, message, capsys):
    """A benchmark of minutes must refuse a wrong option at once, and not with a traceback."""
    with pytest.raises(SystemExit) as stopped:
        script(name).main(options)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error.splitlines()[-1]


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_readme_names_every_script(name):
    """A script that nobody finds is not run."""
    assert f"{name}.py" in (FOLDER / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path", sorted((FOLDER.parent / "book" / "results").glob("*.json")), ids=lambda path: path.stem
)
def test_the_readme_shows_what_was_recorded(path):
    """A table that was typed, or that belongs to an older record, would go unnoticed."""
    if '"columns"' not in path.read_text(encoding="utf-8"):
        pytest.skip("a training run, not a table")
    record = Measurement.load(path)
    table = script("common").markdown_table(record.columns, record.rows)
    assert table in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_chapter_5_says_how_long_the_recorded_runs_are():
    """Steps that were typed into the chapter outlive those of the script."""
    *few, most = script("finetuning").STEPS.values()
    told = f"have {', '.join(map(str, few))} and {most} steps of {script('finetuning').BATCH_SIZE} images"
    assert told in (FOLDER.parent / "book" / "05_fine_tuning.ipynb").read_text(encoding="utf-8")


# Ablations: each variant is the base with one change, and nothing else


def ablation_recipe(module, name: str) -> Recipe:
    return RECIPES["modern"].but(epochs=2, batch_size=16, **module.VARIANTS[name].recipe)


def test_ablations_print_a_sound_table(capsys):
    _, header, rows = run("ablations", capsys)
    assert [row[0] for row in rows] == list(script("ablations").VARIANTS)
    test, difference = header.index("test accuracy (%)"), header.index("difference to base")
    base, best = rows[0], rows[-1]
    assert base[difference] == "-" and (base[0], best[0]) == ("base", "best-epoch")
    assert float(best[difference]) >= 0 and best[header.index("training accuracy (%)")] == "-"
    for row in rows[1:]:
        assert 0 <= float(row[test]) <= 100
        assert float(row[difference]) == pytest.approx(float(row[test]) - float(base[test]), abs=0.02)
    for row in rows[:-1]:
        assert 0 <= float(row[header.index("training accuracy (%)")]) <= 100


def test_some_ablations_are_compared_with_the_base(capsys):
    """Without the base there is nothing to take a difference to."""
    _, _, rows = run("ablations", capsys, "--variants", "no-decay")
    assert [row[0] for row in rows] == ["base", "no-decay"]
    assert rows[1][3] == rows[1][5] == "-"  # of one seed there is no standard deviation


def ablated_networks(module) -> dict[str, models.ResNet]:
    variants = module.VARIANTS.items()
    return {name: module.network(variant, 1, quick=True).eval() for name, variant in variants}


def test_ablated_networks_lack_what_their_names_say():
    """An edit that finds nothing to edit would be measured as an ingredient without worth."""
    nets = ablated_networks(script("ablations"))
    counts = {
        (name, kind): sum(type(part) is kind for part in net.modules())
        for name, net in nets.items()
        for kind in (torch.nn.BatchNorm2d, torch.nn.ReLU, torch.nn.MaxPool2d, torch.nn.Identity)
    }
    assert (counts["base", torch.nn.BatchNorm2d], counts["no-batchnorm", torch.nn.BatchNorm2d]) == (7, 0)
    convolutions = [part for part in nets["no-batchnorm"].modules() if isinstance(part, torch.nn.Conv2d)]
    assert len(convolutions) == 7 and all(conv.bias.requires_grad for conv in convolutions)
    blocks = [nets["no-shortcut"].get_submodule(f"layer{k}.0") for k in (1, 2, 3)]
    assert all(block.downsample is None for block in blocks)
    assert [counts[name, torch.nn.ReLU] for name in ("base", "relu-shortcut", "relu-branch")] == [0, 2, 3]
    assert nets["stem-7x7"].conv1.kernel_size == (7, 7) and counts["stem-7x7", torch.nn.MaxPool2d] == 1

    images = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        logits = {name: net(images) for name, net in nets.items()}
    others = {name for name in nets if not torch.equal(logits[name], logits["base"])}
    edited = {"no-batchnorm", "no-shortcut", "projection", "relu-shortcut", "relu-branch", "stem-7x7"}
    assert others == edited
    assert not torch.equal(logits["relu-shortcut"], logits["projection"])


def test_ablated_networks_share_their_initial_weights():
    """Other weights at the start would add the spread of the seeds to every difference."""
    module = script("ablations")
    nets = ablated_networks(module)
    base = dict(nets["base"].named_parameters())
    new = {
        "no-batchnorm": {key for key in base if "bn" in key},
        "relu-branch": {key for key in base if "bn2" in key},  # under another name
        "stem-7x7": {"conv1.weight"},
    }
    for name, net in nets.items():
        own = dict(net.named_parameters())
        differ = {key for key, value in base.items() if key not in own or not torch.equal(own[key], value)}
        assert differ == new.get(name, set()), name
    other_seed = module.network(module.VARIANTS["base"], 2, quick=True)
    assert not torch.equal(other_seed.conv1.weight, base["conv1.weight"])


def test_a_relu_in_a_shortcut_of_the_base_would_change_nothing():
    """Why that variant has projections: what enters a block has passed a ReLU, and zeros are not negative."""
    net, images = models.create("resnet20"), torch.randn(2, 3, 32, 32)
    before = net(images)
    blocks = [block for stage in (net.layer1, net.layer2, net.layer3) for block in stage]
    for block in blocks:
        block.downsample = torch.nn.Sequential(block.downsample, torch.nn.ReLU())
    assert len(blocks) == 9 and torch.equal(net(images), before)


@pytest.mark.parametrize("name", ["no-decay", "sgd", "smoothing", "cutout", "ema", "l1", "constant-rate"])
def test_ablated_recipes_differ_from_the_base_in_what_they_say(name):
    """A change of two things at once says nothing of either."""
    module = script("ablations")
    base, other = vars(ablation_recipe(module, "base")), vars(ablation_recipe(module, name))
    differ = {key for key in base if base[key] != other[key]}
    assert differ == {
        "no-decay": {"weight_decay"},
        "sgd": {"optimizer", "nesterov", "lr", "other_lr", "weight_decay"},
        "smoothing": {"label_smoothing"},
        "constant-rate": {"schedule", "warmup"},
    }.get(name, {name})
    assert other["lr"] == (RECIPES["paper"].lr if name == "sgd" else RECIPES["modern"].lr)


def test_ablations_of_a_seed_see_the_same_images_in_the_same_order(split, monkeypatch):
    """Order and augmentation draw from one generator: a draw left out must not change the others."""
    module, epoch = script("ablations"), Pipeline.epoch
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def spied(self, number, **options):
        order = self._draw(number)[0].split(16)
        for indices, batch in zip(order, epoch(self, number, **options), strict=True):
            seen.append((indices, batch[0]))
            yield batch

    monkeypatch.setattr(Pipeline, "epoch", spied)

    def batches(name: str, recipe: Recipe) -> list[tuple[torch.Tensor, torch.Tensor]]:
        seen.clear()
        net = module.network(module.VARIANTS[name], 3, quick=True)
        module.fit(net, split, None, recipe, seed=3, device="cpu", precision="fp32", progress=False)
        assert len(seen) == 4
        return list(seen)

    base = batches("base", RECIPES["modern"].but(epochs=2, batch_size=16))  # the recipe as it is
    for name in ("base", "no-batchnorm", "sgd", "ema", "no-augmentation", "cutout"):
        for (indices, images), (others, theirs) in zip(
            base, batches(name, ablation_recipe(module, name)), strict=True
        ):
            assert torch.equal(indices, others), name
            if name == "no-augmentation":
                assert torch.equal(theirs, CIFAR10(split.images[indices]))
            elif name == "cutout":
                share = (theirs != images).any(1).float().mean((1, 2)) * 1024
                assert share.max() <= 64 and share.mean() > 16
            else:
                assert torch.equal(theirs, images), name


def test_the_test_images_choose_an_epoch_only_where_it_is_said():
    """The row of the best epoch shows the flattery; any other row must be free of it."""
    module = script("ablations")
    base = [{"test": 0.5, "train": 0.9, "epochs": [0.25, 0.625, 0.5]}]
    assert module.cells("best-epoch", [module.best_epoch(base[0])], base)[2:] == [62.5, "-", 12.5, "-", "-"]
    assert module.cells("base", base, base)[2:] == [50.0, "-", "-", "-", 90.0]
    assert module.best_epoch({"test": None}) == {"test": None}


def test_the_differences_of_the_seeds_are_paired():
    """Seeds that differ by ten points can agree on a difference: its spread is not that of the seeds."""
    module = script("ablations")
    base, other = (
        [{"test": value, "train": 1.0, "epochs": []} for value in values]
        for values in ((0.5, 0.75), (0.625, 0.875))
    )
    assert module.cells("cutout", other, base)[2:6] == [75.0, 17.68, 12.5, 0.0]


def test_a_diverged_ablation_is_reported():
    """A mean over the seeds that did not diverge would flatter, and an error would end the others."""
    module = script("ablations")
    fine, lost = {"test": 0.5, "train": 0.5, "epochs": [0.5]}, {"test": None}
    row = module.cells("sgd", [fine, lost], [fine, fine])
    assert row[2:] == ["diverged: 1 of 2", "-", "-", "-", "-"]
    assert module.cells("sgd", [fine, fine], [fine, lost])[2:6] == [50.0, 0.0, "-", "-"]
    train, test = script("common").load("sample", quick=True)
    args = module.argparse.Namespace(device=torch.device("cpu"), quick=True)
    recipe = ablation_recipe(module, "sgd").but(lr=1e30)
    assert module.train_and_test("sgd", train, test, recipe, args, 0) == lost


def test_interrupted_ablations_go_on(tmp_path, monkeypatch, capsys):
    """Half an hour of finished runs must outlive Ctrl-C, and may not be taken for runs of other settings."""
    module, calls = script("ablations"), []

    def fake(name, train, test, recipe, args, seed):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append((name, seed))
        assert train.counts().tolist() == [3] * 10 and recipe.epochs in (4, 5)
        return {"test": 0.5 + seed / 8, "train": 1.0, "epochs": [0.5, 0.75]}

    monkeypatch.setattr(module, "train_and_test", fake)
    words = ["--data", "sample", "--device", "cpu", "--images", "30", "--epochs", "4", "--repeats", "2"]
    words += ["--variants", "no-decay", "best-epoch", "--keep", str(tmp_path / "kept" / "runs.json")]
    with pytest.raises(KeyboardInterrupt):
        module.main(words)
    assert calls == [("base", 0), ("no-decay", 0), ("base", 1)]
    calls.clear()
    module.main([*words, "--record", str(tmp_path)])
    assert calls == [("no-decay", 1)]
    assert "Of an earlier, interrupted call: 3 of the runs." in capsys.readouterr().out
    runs, [table] = load_all(tmp_path)
    table.check()
    assert not runs and table.name == "ablations"
    assert table.column("variant") == ["base", "no-decay", "best-epoch"]
    assert table.column("test accuracy (%)") == [56.25, 56.25, 75.0]
    calls.clear()
    words[words.index("4")] = "5"
    with pytest.raises(KeyboardInterrupt):
        module.main(words)
    assert len(calls) == 3


def test_interrupted_finetuning_goes_on(tmp_path, monkeypatch, capsys):
    module, calls = script("finetuning"), []

    def fake(images, steps, *, seed, **how):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append((len(images), steps, seed))
        return module.pretrained()

    monkeypatch.setattr(module, "METHODS", {"linear probe": fake})
    monkeypatch.setattr(module, "STEPS", {5: 1, 10: 2})
    words = ["--task", "classes", "--data", "sample", "--device", "cpu", "--repeats", "2"]
    words += ["--methods", "linear probe", "--keep", str(tmp_path / "runs.json")]
    with pytest.raises(KeyboardInterrupt):
        module.main(words)
    assert calls == [(20, 1, 0), (20, 1, 1)]
    calls.clear()
    module.main([*words, "--record", str(tmp_path / "results")])
    assert calls == [(40, 2, 0), (40, 2, 1)]
    _, [table] = load_all(tmp_path / "results")
    assert [row[1:3] for row in table.rows] == [[5, 0], [5, 1], [10, 0], [10, 1]]
    assert "Of an earlier, interrupted call: 2 of the runs." in table.notes


def test_photos_prints_sound_tables(capsys, monkeypatch):
    """Three tables, from photos that it makes itself."""
    module = script("photos")
    monkeypatch.setattr(module, "in_new_process", lambda function, *args: function(*args))
    monkeypatch.setenv("RESNET_TUTORIAL_DATA", "")  # the script sets its own; this puts the old one back
    module.main(["--quick"])
    text = capsys.readouterr().out
    assert text.count("### ") == 3 and "plain loop" in text
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ours")]
    assert len(rows) == 3 and all(float(cell) > 0 for row in rows for cell in row[1:3])
