"""The scripts that look at the built site in a browser and print it."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")

needs_browser = pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="needs Chromium or Chrome")

PAGE = """<!DOCTYPE html><html lang="en"><head><title>{name}</title>
<style>body {{ color: black }} @media (prefers-color-scheme: dark) {{ body {{ color: white }} }}</style>
<link rel="stylesheet" href="style.css"></head><body>
<article class="bd-article"><section id="top"><h1>{name}<a class="headerlink" href="#top">#</a></h1>
<p><a href="other.html#top">section</a> <a href="other.html">page</a> <a href="#top">here</a>
<a href="https://example.org/other.html">outside</a> <a href="absent.html">file</a></p>
<details><summary>fold</summary>text</details></section></article></body></html>"""


@pytest.fixture
def tool(monkeypatch):
    """A function that loads a script of tools/ by its name."""
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module


@pytest.fixture
def site(tmp_path) -> Path:
    for name in ("first", "other"):
        (tmp_path / f"{name}.html").write_text(PAGE.format(name=name), encoding="utf-8")
    (tmp_path / "style.css").write_text("h1 { color: red }", encoding="utf-8")
    return tmp_path


def test_pages_in_one_document_keep_their_links(tool, site):
    """A link to another page would leave the document, and equal names would all lead to the first."""
    pytest.importorskip("bs4")
    make_pdf = tool("make_pdf")
    whole = make_pdf.BeautifulSoup(make_pdf.one_document(site, ["first", "other"]), "html.parser")
    names = [tag["id"] for tag in whole.select("[id]")]
    assert names == ["first", "first--top", "other", "other--top"]
    links = [tag["href"] for tag in whole.select("#first a")]
    assert links == ["#other--top", "#other", "#first--top", "https://example.org/other.html", "absent.html"]
    assert all(fold.has_attr("open") for fold in whole.select("details"))
    with pytest.raises(FileNotFoundError, match="make book"):
        make_pdf.one_document(site, ["first", "absent"])


def test_the_document_has_every_page_of_the_contents(tool):
    """A chapter that is not printed is not missed until somebody reads on paper."""
    pytest.importorskip("bs4")
    pages = tool("make_pdf").pages_in_order(TOOLS.parent / "_toc.yml")
    assert pages[0] == "index" and {"01_background", "06_evaluation", "faq", "api"} <= set(pages)


def test_serious_findings_come_first(tool):
    """The first lines are what is read."""
    rules = [
        {"id": "a", "impact": "minor", "help": "A", "nodes": []},
        {"id": "b", "impact": "critical", "help": "B", "nodes": [{"html": "<b>", "why": "Fix:\n  x"}] * 9},
    ]
    lines = tool("check_accessibility").describe(rules, show=2).splitlines()
    assert "critical" in lines[0] and "(9 elements)" in lines[0]
    assert [line.strip() for line in lines[1:3]] == ["<b>  [x]"] * 2
    assert "minor" in lines[3] and len(lines) == 4


def test_a_page_that_is_not_there_is_one_line(tool, site, capsys):
    """Checked before the book is built, the script says what to do."""
    script = tool("check_accessibility")
    assert script.find_pages(site, []) == [site / "first.html", site / "other.html"]
    with pytest.raises(FileNotFoundError, match="run make book first"):
        script.find_pages(site, ["absent"])
    assert script.main(["--axe", str(site / "absent.js"), "--site", str(site), "--browser", "no-such"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@needs_browser
def test_the_browser_shows_what_a_reader_sees(tool, site):
    """The checks are worth nothing if the page was not complete, or dark mode not dark."""
    module = tool("browser")
    colour = "getComputedStyle(document.body).color"
    with module.Browser(module.find_browser()) as browser:
        browser.open(site / "first.html", width=390)
        assert browser.evaluate("[innerWidth, document.title]") == [390, "first"]
        assert browser.evaluate(colour) == "rgb(0, 0, 0)"
        assert [Path(url).name for url in browser.requests] == ["first.html", "style.css"]
        browser.open(site / "other.html", dark=True)
        assert browser.evaluate(colour) == "rgb(255, 255, 255)"
        assert [Path(url).name for url in browser.requests] == ["other.html", "style.css"]
        assert browser.evaluate("Promise.resolve(7)") == 7
        with pytest.raises(module.BrowserError, match="absent is not defined"):
            browser.evaluate("absent")
        with pytest.raises(module.BrowserError, match="ERR_FILE_NOT_FOUND"):
            browser.open(site / "absent.html")


@needs_browser
def test_the_whole_book_becomes_a_pdf(tool, site):
    """A PDF without content, or half of one, must not look like success."""
    pytest.importorskip("bs4")
    make_pdf = tool("make_pdf")
    out = site / "out" / "book.pdf"
    arguments = ["--site", str(site), "--out", str(out), "--pages", "first", "other"]
    assert make_pdf.main(arguments) == 0
    content = out.read_bytes()
    assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
    assert content.count(b"/Type /Page\n") + content.count(b"/Type /Page ") >= 2
    assert sorted(path.name for path in site.glob("*.html")) == ["first.html", "other.html"]
