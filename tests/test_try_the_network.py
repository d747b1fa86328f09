"""The page "Try the network": its arithmetic, its way of reading pictures, its controls, what it fetches."""

from __future__ import annotations

import base64
import importlib
import io
import json
import re
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from torch import nn

from resnet_tutorial.data import CIFAR10, IMAGENET, load_image, load_sample
from resnet_tutorial.models import load_model, shipped

ROOT = Path(__file__).parent.parent
TRY = ROOT / "book" / "_extra" / "try"
PAGE = ROOT / "book" / "try_the_network.md"
BUILT = ROOT / "book" / "_build" / "html" / "try_the_network.html"
FIND = "document.querySelector('[data-try=\"{}\"]')"
ANSWER = "tryNetwork.settled().then(() => document.querySelector('[data-try=answer]').textContent)"


@pytest.fixture
def page(tmp_path) -> Path:
    """The living part of the page alone, with its scripts, without the theme around it."""
    (body,) = re.findall(r"```\{raw\} html\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "try").symlink_to(TRY)
    html = f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>t</title></head>{body}</html>'
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    return path


def logits(browser, images: torch.Tensor, norm: str = "trained", connected: str = "[true, true, true]"):
    """What the page computes for uint8 images (N, 3, 32, 32): float64 (N, 10)."""
    pixels = base64.b64encode(images.permute(0, 2, 3, 1).contiguous().numpy().tobytes()).decode()
    return np.array(
        browser.evaluate(f"""(async () => {{
            const all = Uint8Array.from(atob("{pixels}"), (letter) => letter.charCodeAt(0));
            const found = [];
            for (let at = 0; at < all.length; at += 3072)
                found.push(await tryNetwork.logits(all.slice(at, at + 3072), "{norm}", {connected}));
            return found;
        }})()""")
    )


def test_the_committed_weights_are_those_of_the_package(monkeypatch):
    """New weights in the package and old ones in the page would answer differently."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    tool = importlib.import_module("make_browser_weights")
    assert (TRY / "weights.js").read_text(encoding="ascii") == tool.content()


def test_the_page_computes_what_pytorch_computes(browser, page):
    """An error in one loop of the script would give other answers than the book's network."""
    model, _ = load_model(shipped("resnet20", "cifar10"))
    _, test = load_sample()
    images = test.images[::10]  # 100 of all classes
    with torch.inference_mode():
        expected = model.eval()(CIFAR10(images)).numpy()
    browser.open(page)
    found = logits(browser, images)
    assert found.shape == expected.shape == (100, 10)
    assert np.abs(found - expected).max() < 1e-2 * expected.std()
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()


def test_the_switches_compute_what_they_say(browser, page):
    """A switch that does something else teaches something wrong."""
    model, _ = load_model(shipped("resnet20", "cifar10"))
    images = load_sample()[1].images[:3]
    browser.open(page)
    inputs = {
        "imagenet": IMAGENET(images),
        "unit": images / 255,
        "bytes": images.float(),
        "swapped": CIFAR10(images.flip(1)),
    }
    with torch.inference_mode():
        for norm, x in inputs.items():
            expected = model.eval()(x).numpy()
            found = logits(browser, images, norm)
            assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max(), norm
        for k, stage in enumerate(("layer1", "layer2", "layer3")):
            cut, _ = load_model(shipped("resnet20", "cifar10"))
            for block in getattr(cut, stage):
                assert isinstance(block.downsample, nn.Module)
                block.downsample = None
            expected = cut.eval()(CIFAR10(images)).numpy()
            connected = json.dumps([stage != k for stage in range(3)])
            found = logits(browser, images, connected=connected)
            assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max(), stage


def photo(i: int) -> tuple[bytes, str]:
    """A generated picture of its own size, kind and format: smooth shapes, an edge, some noise."""
    rng = np.random.default_rng(i)
    height, width = (int(side) for side in rng.integers(20, 700, size=2))
    if i == 0:
        height = width = 32
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = [np.sin(2 * np.pi * (rng.uniform(-3, 3) * x + rng.uniform(-3, 3) * y)) for _ in range(4)]
    values = 128 + 70 * np.stack(waves, axis=2) + rng.normal(0, 12, (height, width, 4))
    values[y > 0.4] -= 60
    pixels = values.clip(0, 255).astype(np.uint8)
    mode = ("RGB", "L", "RGBA", "P")[i % 4]
    layer = Image.fromarray(pixels)  # RGBA
    picture = layer if mode == "RGBA" else layer.convert("RGB").convert(mode)
    kind = "PNG" if mode in ("RGBA", "P") else ("JPEG", "PNG", "WEBP")[i % 3]
    exif = Image.Exif()
    if kind == "JPEG":
        exif[0x0112] = 1 + i % 8  # how the camera was held
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {"quality": 92} if kind == "JPEG" else {}
    picture.save(buffer, format=kind, exif=exif, **options)
    return buffer.getvalue(), kind.lower()


def test_a_picture_becomes_the_pixels_of_load_image(browser, page, tmp_path):
    """Another crop or another filter, and the page shows what the network of the book never sees."""
    browser.open(page)
    kinds, most = set(), 2 if int(PIL.__version__.split(".")[0]) >= 13 else 3  # older ones round otherwise
    for i in range(20):
        content, kind = photo(i)
        kinds.add(kind)
        path = tmp_path / f"photo.{kind}"
        path.write_bytes(content)
        expected = load_image(path).permute(1, 2, 0).flatten().numpy().astype(int)
        found = browser.evaluate(
            f"fetch('data:image/{kind};base64,{base64.b64encode(content).decode()}')"
            ".then((answer) => answer.blob()).then(tryNetwork.loadImage).then((pixels) => Array.from(pixels))"
        )
        assert np.abs(np.array(found) - expected).max() <= most, f"picture {i}, {kind}"
    assert kinds == {"jpeg", "png", "webp"}


def test_every_control_works_by_mouse_and_by_key(browser, page, tmp_path):
    """A control that only one of them reaches shuts readers out."""
    browser.open(page)

    def find(name):
        return FIND.format(name)

    first = browser.evaluate(ANSWER)
    assert first.startswith("Test image “airplane 1”: ")
    assert browser.evaluate("document.querySelectorAll('[data-try=maps] canvas').length") == 24
    assert browser.evaluate(f"{find('samples')}.children.length") == 20

    frog = f"{find('samples')}.children[12]"
    browser.click(frog)
    frog_1 = browser.evaluate(ANSWER)
    assert frog_1.startswith("Test image “frog 1”: frog ")
    browser.press("Enter", on=f"{find('samples')}.children[0]")
    assert browser.evaluate(ANSWER) == first
    browser.press("Space", on=frog)
    assert browser.evaluate(ANSWER) == frog_1

    bars = "[...document.querySelectorAll('.try-bar')].map((bar) => bar.style.width).join()"
    seen = f"{find('seen')}.firstChild.toDataURL()"
    state = f"tryNetwork.settled().then(() => [{bars}, {seen}])"
    for name, key, changes_pixels in (
        ("stage1", "Space", False),
        ("stage2", "Space", False),
        ("stage3", "Space", False),
        ("mirror", "Space", True),
        ("right", "ArrowRight", True),
        ("down", "Home", True),
        ("norm", "ArrowDown", False),
        ("jpeg", "End", True),
    ):
        before = browser.evaluate(state)
        browser.press(key, on=find(name))
        after = browser.evaluate(state)
        assert before[0] != after[0], f"{name} changes no probability"
        assert (before[1] != after[1]) == changes_pixels, name
        if key == "Space":  # and back, with the mouse
            browser.click(find(name))
            again = browser.evaluate(state)
            assert again == before, name
        else:
            browser.click(find("reset"))
            assert browser.evaluate(ANSWER) == frog_1, name

    browser.click(f"{find('classes')}.children[3].firstChild")
    browser.evaluate(ANSWER)
    assert browser.evaluate(f"{find('activation-class')}.textContent") == "cat"

    (tmp_path / "sky.png").write_bytes(photo(4)[0])
    (tmp_path / "note.txt").write_text("no picture")
    document = browser.send("DOM.getDocument")["root"]["nodeId"]
    node = browser.send("DOM.querySelector", nodeId=document, selector="input[type=file]")["nodeId"]
    for name in ("note.txt", "sky.png"):
        browser.send("DOM.setFileInputFiles", nodeId=node, files=[str(tmp_path / name)])
        browser.evaluate("new Promise((done) => setTimeout(done, 300))")
        assert (name in browser.evaluate(f"{find('error')}.textContent")) == (name == "note.txt")
        assert browser.evaluate(ANSWER).startswith(name) == (name == "sky.png")
    uri = "data:image/png;base64," + base64.b64encode(photo(7)[0]).decode()
    browser.evaluate(f"""(async () => {{
        const blob = await (await fetch("{uri}")).blob();
        const transfer = new DataTransfer();
        transfer.items.add(new File([blob], "dropped.png"));
        {find("drop")}.dispatchEvent(new DragEvent("drop", {{ dataTransfer: transfer, cancelable: true }}));
        await new Promise((done) => setTimeout(done, 300));
    }})()""")
    assert browser.evaluate(ANSWER).startswith("dropped.png")


def test_no_probability_is_shown_as_certain(browser, page):
    """ "100.0 %" beside nine classes that are not at zero is a sum that cannot be."""
    browser.open(page)
    given = [0.9999999, 0.9991, 0.999, 0.996, 0.98, 0.5, 0.0994, 0.001, 0.0009, 1e-9]
    shown = browser.evaluate(f"{given}.map(tryNetwork.percent)")
    assert shown[:4] == ["> 99.9 %", "> 99.9 %", "99.9 %", "99.6 %"]
    assert shown[4:] == ["98 %", "50 %", "9.9 %", "0.1 %", "< 0.1 %", "< 0.1 %"]


def test_the_page_asks_for_its_own_files_alone(browser, page):
    """The page says that nothing is sent anywhere."""
    browser.open(page)
    browser.evaluate(ANSWER)
    asked = [url for url in browser.requests if not url.startswith(("data:", "blob:"))]
    assert all(url.startswith("file:") for url in asked)
    assert {Path(url).name for url in asked} == {"page.html", *(path.name for path in TRY.iterdir())}


@pytest.mark.parametrize("path", sorted(TRY.iterdir()), ids=lambda path: path.name)
def test_the_scripts_of_the_page_fetch_nothing(path):
    """What would be fetched only after a click is not seen when the page opens."""
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"\bimport\b|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon|https?://|url\(", text)


def test_the_page_and_its_weights_stay_light():
    """The weights in float16 are most of the page; everything else together is a tenth of them."""
    sizes = {path.name: path.stat().st_size for path in TRY.iterdir()}
    assert sizes.pop("weights.js") < 820_000
    assert sum(sizes.values()) + PAGE.stat().st_size < 60_000


def test_without_scripts_and_on_paper_the_page_says_what_to_do(browser, page):
    """An empty place where the controls should be looks like a broken page."""
    told = "getComputedStyle(document.querySelector('.try-elsewhere')).display !== 'none'"
    alive = "getComputedStyle(document.querySelector('#try-network')).display !== 'none'"
    browser.open(page)
    assert browser.evaluate(f"[{told}, {alive}]") == [False, True]
    browser.open(page, media="print")
    assert browser.evaluate(f"[{told}, {alive}]") == [True, False]
    browser.send("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        assert browser.evaluate(f"[{told}, {alive}]") == [True, False]
    finally:
        browser.send("Emulation.setScriptExecutionDisabled", value=False)


def test_every_control_has_a_name(browser, page):
    """A screen reader says "button" of a button without a name."""
    browser.open(page)
    browser.evaluate(ANSWER)
    nodes = browser.send("Accessibility.getFullAXTree")["nodes"]
    roles = ("button", "checkbox", "slider", "combobox", "image", "img")
    names = [
        (node["role"]["value"], node["name"]["value"])
        for node in nodes
        if not node["ignored"] and node.get("role", {}).get("value") in roles
    ]
    assert len(names) > 60
    assert all(name for _, name in names)


@pytest.mark.skipif(not BUILT.exists(), reason="the book has not been built: make book")
def test_the_built_page_finds_its_scripts(browser):
    """Scripts that are left out of the site leave a page without its controls."""
    browser.open(BUILT)
    assert browser.evaluate(ANSWER).startswith("Test image “airplane 1”")
    assert all(url.startswith(("file:", "data:", "blob:")) for url in browser.requests)
    other = BUILT.with_name("index.html").read_text(encoding="utf-8")
    assert "try/weights.js" not in other, "every page would load the weights"
