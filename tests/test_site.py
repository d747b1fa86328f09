"""The site as a reader gets it: complete without a network, light enough for a slow one, and fit for paper.

Tests of the whole built book are skipped where it has not been built; `make book` builds it.
"""

from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).parent.parent
STATIC = ROOT / "book" / "_static"
SITE = ROOT / "book" / "_build" / "html"
PAGES = sorted(SITE.glob("*.html"))
HEAVIEST = 1_500_000  # bytes of a page with its images

# What the browser fetches by itself when it shows a page; a link that the reader may follow is not among it.
FETCHED = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "object": "data",
    "embed": "src",
    "use": "href",
    "image": "href",
}
NOT_FETCHED = {"canonical", "next", "prev", "search", "index", "author", "license"}

built = pytest.mark.skipif(not PAGES, reason="the book has not been built: make book")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


class Page(HTMLParser):
    """Addresses that a page fetches, addresses that it links to, and the names that a link can lead to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []
        self.names: set[str] = set()
        self._style = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.names |= {given[key] for key in ("id", "name") if key in given}
        self._style = tag == "style"
        self.fetched += addresses(given.get("style", ""))
        for candidate in given.get("srcset", "").split(","):
            self.fetched += candidate.split()[:1]
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in FETCHED and given.get(FETCHED[tag]):
            if tag == "link" and set(given.get("rel", "").split()) <= NOT_FETCHED:
                return
            self.fetched.append(given[FETCHED[tag]])
            if tag == "img":
                self.images.append(given["src"])

    def handle_data(self, data: str) -> None:
        if self._style:
            self.fetched += addresses(data)

    def handle_endtag(self, tag: str) -> None:
        self._style = False


def addresses(css: str) -> list[str]:
    """What a style sheet fetches: `url(...)` and `@import`."""
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    found = re.findall(r"url\(\s*[\"']?([^\"')\s]+)", css)
    return found + re.findall(r"@import\s+[\"']([^\"']+)", css)


def outside(address: str) -> bool:
    """Whether fetching the address needs a network; `data:` holds its content itself."""
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme not in ("", "data", "blob", "about")


@cache
def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "html",
    [
        '<script async src="https://cdn.example.org/x.js"></script>',
        '<link rel="preload stylesheet" href="//fonts.example.org/css">',
        "<style>@import 'https://example.org/a.css'; b {}</style>",
        '<p style="background: url(https://example.org/a.png)">',
        '<img srcset="a.png 1x, https://example.org/b.png 2x">',
        '<iframe src="http://example.org"></iframe>',
    ],
)
def test_the_search_for_outside_addresses_finds_them(html):
    """A check that overlooks a way of fetching would pass on a page that breaks on a train."""
    assert any(outside(address) for address in Page(html).fetched)


def test_the_search_for_outside_addresses_leaves_links_alone():
    """A link that the reader chooses to follow is no dependency."""
    html = '<a href="https://example.org">x</a><link rel="canonical" href="https://e.org"><img src="a.png">'
    html += '<img src="data:image/png;base64,AA=="><script src="_static/a.js"></script>'
    assert not any(outside(address) for address in Page(html).fetched)


def test_no_setting_names_an_outside_script_or_style():
    """Extensions that load from a CDN by default are left out or told not to; this keeps it so."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
    assert not {"sphinx_thebe", "sphinx.ext.intersphinx", "sphinx.ext.mathjax"} & set(config["extensions"])
    assert "sphinx-mathjax-offline" in config["extensions"]
    assert config["nb_ipywidgets_js"] == {}
    for name in ("html_js_files", "html_css_files", "mathjax_path"):
        assert name not in config
    assert "analytics" not in config["html_theme_options"]


@pytest.mark.parametrize("path", sorted(STATIC.iterdir()), ids=lambda path: path.name)
def test_our_own_styles_and_scripts_fetch_nothing(path):
    """What stands in book/_static goes into every page."""
    text = path.read_text(encoding="utf-8")
    assert not any(map(outside, addresses(text)))
    assert not re.search(r"\bimport\b|\bfetch\(|XMLHttpRequest|https?://", text.replace("@import", ""))


def test_paper_gets_its_own_style():
    """Printed as it is on the screen, a page loses what is scrolled out of sight and prints the sidebars."""
    css = (STATIC / "custom.css").read_text(encoding="utf-8")
    assert css.count("{") == css.count("}")
    paper = css.split("@media print {")[1]
    hidden = paper.split("display: none")[0]
    for part in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", "button.copybtn"):
        assert part in hidden
    assert "white-space: pre-wrap" in paper
    assert "beforeprint" in (STATIC / "book.js").read_text(encoding="utf-8")


@built
@each_page
def test_a_page_fetches_nothing_from_outside(page):
    """The book opened from disk without a network must be complete."""
    found = read(page).fetched
    assert found, "a page without any style sheet is no page of the book"
    assert [address for address in found if outside(address)] == []


@built
def test_no_style_sheet_fetches_from_outside():
    """A font from a CDN hides in a style sheet, where no page shows it."""
    sheets = sorted(SITE.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        found = [address for address in addresses(sheet.read_text(encoding="utf-8")) if outside(address)]
        assert found == [], sheet.name


@built
@each_page
def test_what_a_page_fetches_is_there(page):
    """A file left out of the site shows as a broken image or as raw TeX."""
    for address in read(page).fetched:
        path = unquote(urlsplit(address).path)
        if path and urlsplit(address).scheme != "data":
            assert (page.parent / path).is_file(), address


@built
@each_page
def test_links_inside_the_book_lead_somewhere(page):
    """A renamed section leaves links that jump to the top of the page."""
    for link in set(read(page).links):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or link in ("", "#"):
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page.resolve()
        assert target.is_file(), link
        if parts.fragment and target.suffix == ".html":
            assert unquote(parts.fragment) in read(target).names, link


@built
@each_page
def test_a_page_is_light(page):
    """With its images a page stays below 1.5 MB, which a phone can take; scripts are shared and cached."""
    images = {
        unquote(urlsplit(address).path) for address in read(page).images if urlsplit(address).scheme != "data"
    }
    weight = page.stat().st_size + sum((page.parent / image).stat().st_size for image in images)
    assert weight < HEAVIEST, f"{page.name}: {weight:,} bytes"


@built
@each_page
def test_images_are_described(page):
    """A screen reader says "image" of a picture without a description."""
    for tag in re.findall(r"<img\b[^>]*>", page.read_text(encoding="utf-8")):
        assert re.search(r'\balt="[^"]', tag) or "logo" in tag or "presentation" in tag, tag
