"""The site as a reader gets it: complete without a network, light enough for a slow one, and fit for paper.

Tests of the whole built book are skipped where it has not been built; `make book` builds it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from resnet_tutorial import cli

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
    text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")  # a name, not a place
    assert not any(map(outside, addresses(text)))
    assert not re.search(r"\bimport\b|\bfetch\(|XMLHttpRequest|https?://", text.replace("@import", ""))


def test_paper_gets_its_own_style():
    """Printed as it is on the screen, a page loses what is scrolled out of sight and prints the sidebars."""
    css = (STATIC / "custom.css").read_text(encoding="utf-8")
    assert css.count("{") == css.count("}")
    paper = css.split("@media print {")[1]
    hidden = "".join(rule.rpartition("}")[2] for rule in paper.split("display: none")[:-1])
    for part in (".bd-sidebar-primary", ".bd-sidebar-secondary", ".bd-header-article", "button.copybtn"):
        assert part in hidden
    assert "white-space: pre-wrap" in paper
    assert re.search(r"details > \* \{\s*animation: none !important", paper)  # else opened folds print empty
    assert "beforeprint" in (STATIC / "book.js").read_text(encoding="utf-8")


def test_on_a_phone_code_is_wrapped_and_the_first_column_stays():
    """Code and tables that scroll hide the end of each line, and which row a value belongs to."""
    css = (STATIC / "custom.css").read_text(encoding="utf-8")
    first = css.split("table.table > * > tr > :first-child {")[1].partition("}")[0]
    assert "position: sticky" in first and "left: 0" in first
    phone = css.split("@media screen and (max-width: 600px) {")[1].partition("\n}\n")[0]
    assert "pre-wrap" in phone and ":not(.cell_output *) pre" in phone  # output keeps its columns


def test_the_records_are_in_tables_that_can_be_sorted():
    """Without the tag on the cell, or the script in the site, the heads of the columns are plain text."""
    notebook = json.loads((ROOT / "book" / "results.ipynb").read_text(encoding="utf-8"))
    tagged = {
        cell["id"]: "".join(cell["source"])
        for cell in notebook["cells"]
        if "sortable" in cell["metadata"].get("tags", [])
    }
    assert len(tagged) >= 4 and all("show_table(" in source for source in tagged.values())
    assert any('"record"' in source and '"command"' in source for source in tagged.values())
    script = (STATIC / "book.js").read_text(encoding="utf-8")
    assert ".tag_sortable table" in script and "aria-sort" in script and 'createElement("button")' in script


TABLE = """<!DOCTYPE html><html lang="en"><head><title>t</title><script src="book.js"></script></head><body>
<div class="cell tag_sortable"><div class="cell_output"><table><thead><tr>{head}</tr></thead>
<tbody>{body}</tbody></table></div></div>
<table id="plain"><thead><tr><th><p>a</p></th></tr></thead>
<tbody><tr><td>2</td></tr><tr><td>1</td></tr></tbody></table></body></html>"""
COLUMNS = {  # head: the cells as they stand on the page, and how they have to stand after sorting by them
    "network": (["resnet110", "plain20", "resnet20"], ["plain20", "resnet20", "resnet110"]),
    "images": (["50,000", "1,000", "9,000"], ["1,000", "9,000", "50,000"]),
    "accuracy, %": (
        ["92.08 ± 0.16", "100.00", "9.50 (9.70 ± 0.20)"],
        ["9.50 (9.70 ± 0.20)", "92.08 ± 0.16", "100.00"],
    ),
    "difference": (["-0.30", "+1.20", "\u22122.00"], ["\u22122.00", "-0.30", "+1.20"]),
    "interval": (
        ["10.1 to 11.0", "-", "9.1 to 10.0"],
        ["9.1 to 10.0", "10.1 to 11.0", "-"],
    ),
    "time": (["2.0 h (2)", "not timed", "51.7 min (1)"], ["51.7 min (1)", "2.0 h (2)", "not timed"]),
    "made on": (["2026-11-23", "2025-12-01", "2026-02-03"], ["2025-12-01", "2026-02-03", "2026-11-23"]),
    "missing": (["-", "3", "20"], ["3", "20", "-"]),
}


def test_a_table_of_records_sorts_by_click_and_by_key(tmp_path, browser):
    """Numbers sorted as text put 9,000 after 50,000; a head that is no button cannot be reached by key."""
    shutil.copy(STATIC / "book.js", tmp_path)
    head = "".join(f'<th class="head text-right"><p>{name}</p></th>' for name in COLUMNS)
    lines = zip(*(given for given, _ in COLUMNS.values()), strict=True)
    body = "".join(f"<tr>{''.join(f'<td><p>{cell}</p></td>' for cell in line)}</tr>" for line in lines)
    page = tmp_path / "table.html"
    page.write_text(TABLE.format(head=head, body=body), encoding="utf-8")
    state = """(() => {{
        const heads = [...document.querySelectorAll(".tag_sortable th")];
        const rows = [...document.querySelectorAll(".tag_sortable tbody tr")];
        const texts = rows.map(row => row.cells[{column}].textContent);
        return [heads.map(head => head.getAttribute("aria-sort")), texts];
    }})()"""
    browser.open(page)
    assert browser.evaluate("document.querySelectorAll('#plain button').length") == 0
    for column, (_, wanted) in enumerate(COLUMNS.values()):
        browser.evaluate(f"document.querySelectorAll('.tag_sortable th button')[{column}].focus()")
        directions = [None] * len(COLUMNS)
        for direction in ("ascending", "descending"):
            if direction == "ascending":  # by the Enter key, as a keyboard sends it
                enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
                browser.send("Input.dispatchKeyEvent", type="keyDown", text="\r", **enter)
                browser.send("Input.dispatchKeyEvent", type="keyUp", **enter)
            else:
                browser.evaluate("document.activeElement.click()")
                there = [cell for cell in wanted if cell not in ("-", "not timed")]
                wanted = there[::-1] + wanted[len(there) :]  # what is missing stays last
            directions[column] = direction
            assert browser.evaluate(state.format(column=column)) == [directions, wanted]


NAMED = """<!DOCTYPE html><html lang="en"><head><title>t</title><script src="book.js"></script></head>
<body class="bd-article"><button aria-label="true cat, predicted dog: 12">12</button>
<button aria-label="Search">Find a word</button><div class="bd-article">
<section><h2>One<a>#</a></h2><details><summary aria-label="Toggle hidden content">Stop</summary>x</details>
<details><summary>Code</summary>y</details></section>
<section><h2>Two<a>#</a></h2><details><summary>Stop</summary>z</details>
<details><summary>Stop</summary>z</details></section></div></body></html>"""


def test_a_name_that_says_more_than_its_button_stays_and_folds_have_names_of_their_own(tmp_path, browser):
    """Twelve cells called "12", and eight folds called "Toggle hidden content", cannot be told apart."""
    shutil.copy(STATIC / "book.js", tmp_path)
    page = tmp_path / "page.html"
    page.write_text(NAMED, encoding="utf-8")
    browser.open(page)
    names = browser.evaluate(
        "[...document.querySelectorAll('button, summary')].map((e) => e.getAttribute('aria-label'))"
    )
    assert names == [
        *("true cat, predicted dog: 12", None),
        *("Stop, under: One", "Code", "Stop, under: Two", "Stop, under: Two, 2"),
    ]


def test_the_search_ranks_the_chapters_and_the_glossary_before_the_api(tmp_path, browser):
    """Whoever looks up a term found its definition behind everything that mentions it."""
    shutil.copy(ROOT / "book" / "_ext" / "search_scorer.js", tmp_path)
    page = tmp_path / "page.html"
    page.write_text('<!DOCTYPE html><title>t</title><script src="search_scorer.js"></script>', "utf-8")
    browser.open(page)
    names = ["api_data", "01_background", "glossary", "faq", "genindex"]
    scores = browser.evaluate(f"{names}.map((name) => Scorer.score([name, '', '', '', Scorer.term]))")
    api, chapter, glossary, faq, index = scores
    assert glossary > chapter == faq > api == index
    assert browser.evaluate("Scorer.score(['03_building', '', '', '', Scorer.title])") > glossary


@built
@each_page
def test_a_page_is_no_wider_than_a_phone(page, browser):
    """One long name in code, and the whole page slides sideways under the thumb."""
    browser.open(page, width=390)
    browser.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
    browser.evaluate("document.querySelectorAll('.toggle-hidden .toggle-button').forEach((b) => b.click())")
    size = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    needed, there = browser.evaluate(size)
    assert needed <= there
    code = "[...document.querySelectorAll('.bd-article pre')].filter((p) => !p.closest('.cell_output'))"
    assert browser.evaluate(f"{code}.filter((p) => p.scrollWidth > p.clientWidth).length") == 0


@built
@each_page
def test_words_in_figures_can_be_read_on_a_phone(page):
    """A figure made for the desktop: on a phone its smallest words were nine pixels high, or five."""
    for name in Page(page.read_text(encoding="utf-8")).images:
        if (path := page.parent / name).suffix != ".svg" or "_images" not in name:
            continue
        drawing = path.read_text(encoding="utf-8")
        width = re.search(r'viewBox="0 0 ([\d.]+) ', drawing)
        # Matplotlib writes words as outlines of letters, scaled by a hundredth of their size in points.
        words = re.findall(r"translate\([^)]*\) (?:rotate\([^)]*\) )?scale\(([\d.]+) -", drawing)
        if width and words:
            pixels = 100 * min(map(float, words)) * 327 / float(width[1])  # 327 of 390 are the text's
            assert pixels > 10.4, f"{pixels:.1f} pixels in {name}"


@built
@each_page
def test_folds_have_names_of_their_own(page, browser):
    """A screen reader lists the folds of a page by their names."""
    browser.open(page)
    folds = ".bd-article :is(details > summary, .toggle-button)"
    names = browser.evaluate(
        f"[...document.querySelectorAll('{folds}')].map((e) => e.getAttribute('aria-label'))"
    )
    assert len(set(names)) == len(names)
    assert not [name for name in names if not name or re.match("Toggle|Click|Show code|Code$", name)]


@built
@each_page
def test_tables_have_a_caption_and_heads_with_a_scope(page):
    """Without them a screen reader says "table, five columns" and leaves the rest to memory."""
    text = page.read_text(encoding="utf-8")
    captions = re.findall(r'<table class="table">\s*(?:<caption[^>]*>([^<]*)</caption>)?', text)
    assert all(captions) and len(set(captions)) == len(captions)
    for table in re.findall(r'<table class="table">.*?</table>', text, re.DOTALL):
        assert not re.search(r"<th(?![^>]* scope=)[ >]", table)
        assert not re.search(r"<th[^>]*>(<p></p>)?</th>", table)


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
def test_the_built_page_of_records_can_be_sorted():
    """A tag that Jupyter Book stops passing on would leave plain tables."""
    page = (SITE / "results.html").read_text(encoding="utf-8")
    cells = page.split('<div class="cell ')[1:]
    sortable = [cell for cell in cells if "tag_sortable" in cell.split('"')[0]]
    assert sortable and any("<thead>" in cell for cell in sortable)
    assert any(urlsplit(address).path == "_static/book.js" for address in read(SITE / "results.html").fetched)


def test_the_first_page_tells_the_chapters_own_times():
    """Who plans an hour and needs an hour and a half stops in the middle."""
    index = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^:link: (\d\d_\w+)\n(?:.*\n){5}\*(\S+ h) of reading\*$", index, re.M))
    assert len(listed) == 7
    hours = {"an hour": "1 h", "an hour and a quarter": "1¼ h", "an hour and a half": "1½ h"}
    for name, time in listed.items():
        notebook = json.loads((ROOT / "book" / f"{name}.ipynb").read_text(encoding="utf-8"))
        text = "\n".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown")
        (own,) = re.findall(r"\*\*Time:\*\* (?:about )?(.+?) (?:of reading|to read)", text)
        assert hours[own] == time, name


def test_the_commands_of_the_first_page_exist():
    """The first command that a reader types must not end in a usage message."""
    index = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    commands = re.findall(r"resnet-tutorial ([^`\n]+)", index)
    assert {command.split()[0] for command in commands} >= {"check", "download"}
    for command in commands:
        cli.build_parser().parse_args(shlex.split(command))


@pytest.mark.parametrize("path", sorted((ROOT / "book").glob("*.md")), ids=lambda path: path.name)
def test_every_column_of_a_table_has_a_head(path):
    """A screen reader names the column of each cell; an empty head has no name."""
    heads = re.findall(r"^\|(.*)\|\n\|[ :|-]+\|$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert all(cell.strip() for head in heads for cell in head.split("|"))


@built
@each_page
def test_images_are_described(page):
    """A screen reader says "image" of a picture without a description."""
    for tag in re.findall(r"<img\b[^>]*>", page.read_text(encoding="utf-8")):
        assert re.search(r'\balt="[^"]', tag) or "logo" in tag or "presentation" in tag, tag
