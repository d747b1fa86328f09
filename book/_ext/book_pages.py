"""What the pages need beyond their theme: labels of works, cards, search, dark figures, plain notebooks."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from bs4 import BeautifulSoup
from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style
from pybtex.style.labels import BaseLabelStyle
from resnet_tutorial import __version__
from resnet_tutorial.exercises import STRICT
from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

import plain_edition


class AuthorYear(BaseLabelStyle):
    """Labels such as "He et al. 2016a": names and year, with a letter where two works would share them."""

    def format_labels(self, sorted_entries: list[Any]) -> Any:
        labels = [self._label(entry) for entry in sorted_entries]
        often, seen = Counter(labels), Counter()
        for label in labels:
            yield label + (ascii_lowercase[seen[label]] if often[label] > 1 else "")
            seen[label] += 1

    def _label(self, entry: Any) -> str:
        people = entry.persons.get("author") or entry.persons.get("editor") or []
        names = [" ".join([*person.prelast_names, *person.last_names]) for person in people]
        who = f"{names[0]} et al." if len(names) > 2 else " and ".join(names) or entry.key
        return f"{who} {entry.fields.get('year', '')}".strip()


class BookStyle(Style):
    """The list of works, in the order of their labels."""

    default_label_style = AuthorYear
    default_sorting_style = "author_year_title"


class JoinedWords(SearchEnglish):
    """English in which "over-fitting" is found as "overfitting", too."""

    def split(self, text: str) -> list[str]:
        joined = [word.replace("-", "") for word in re.findall(r"\b[A-Za-z]+-[A-Za-z]+\b", text)]
        return super().split(text) + joined


def configure(app: Sphinx, config: Any) -> None:
    """Put the version under every page, rank chapters before the API, name the address for other sites."""
    config.html_search_scorer = str(Path(__file__).with_name("search_scorer.js"))
    address = config.html_theme_options.get("repository_url", "")
    if on_github := re.fullmatch(r"https://github\.com/([\w.-]+)/([\w.-]+)", address):
        config.ogp_site_url = "https://{}.github.io/{}/".format(
            *on_github.groups()
        )  # where the workflow puts it
        config.ogp_image = "_static/social.png"
    footer = config.html_theme_options["extra_footer"]
    config.html_theme_options["extra_footer"] = f"{footer.strip()} Version {__version__}."


def mark_pictures(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Give a figure that holds photographs a class: on a dark page its colours stay as they are."""
    for image in doctree.findall(nodes.image):
        places = [Path(folder, image["uri"]) for folder in (app.srcdir, app.outdir)]
        drawn = next((path for path in places if path.suffix == ".svg" and path.is_file()), None)
        if drawn is not None and "<image" in drawn.read_text(encoding="utf-8"):
            image["classes"].append("picture")


def name_folds(app: Sphinx, doctree: nodes.document) -> None:
    """Name the folds that every notebook begins with; the others say in their cells what they hold."""
    for cell in doctree.findall(nodes.container):
        if cell.get("prompt_show") == app.config.nb_code_prompt_show:
            if "tag_setup" in cell["classes"]:
                cell["prompt_show"] = "Code: setup"
            elif re.match(r"(import|from) ", cell.astext()):
                cell["prompt_show"] = "Code: imports"


def label_tables(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Give each table a caption and its heads a scope, for screen readers.

    The caption is the line in bold type, the name of the folded code, or the heading above it.
    """
    said, seen, scope = "", Counter[str](), "col"

    def label(found: re.Match[str]) -> str:
        nonlocal said, scope
        whole = found[0]
        if name := found["heading"] or found["fold"] or found["bold"]:
            said = re.sub(r"<[^>]+>", "", name).strip()
            said = said[:1].upper() + said[1:]
        elif whole.startswith("<table"):
            seen[said] += 1
            number = f" ({seen[said]})" if seen[said] > 1 else ""
            whole += "" if found["caption"] else f'<caption class="visually-hidden">{said}{number}</caption>'
        elif whole in ("<thead", "<tbody"):
            scope = "col" if whole == "<thead" else "row"
        elif whole == "<th":
            whole += f' scope="{scope}"'
        return whole

    parts = (
        r'<h[1-6]>(?P<heading>.*?)<a class="headerlink"|admonition-title">Code for tables?: (?P<fold>.*?)</p>'
    )
    parts += r"|<p><strong>(?P<bold>[^<]+)</strong></p>"
    parts += r'|<table class="table">\s*(?P<caption><caption)?|<thead|<tbody|<th(?=>| class=)'
    context["body"] = re.sub(parts, label, context.get("body", ""), flags=re.DOTALL)


def write_social_picture(app: Sphinx, error: Exception | None) -> None:
    """Draw the picture that a link to the book shows elsewhere, if the book has an address."""
    if error is None and app.config.ogp_image and app.builder.name == "html":
        from resnet_tutorial import plotting

        figure = plotting.block_diagram(["plain", "basic"], columns=2)
        figure.set_size_inches(12, 6.3)
        figure.suptitle(app.config.ogp_site_name, fontsize=36)
        figure.savefig(Path(app.outdir, app.config.ogp_image), dpi=100)


def write_cards(app: Sphinx, error: Exception | None) -> None:
    """Collect what the glossary says of each term, for the cards over links."""
    page = Path(app.outdir, "glossary.html")
    if error is not None or app.builder.name != "html" or not page.is_file():
        return
    entries = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").select("dl.glossary > dt[id]")
    # Nothing links to a Chinese term, whose name is a number.
    named = [entry for entry in entries if not re.fullmatch(r"term-\d+", entry["id"])]
    cards = {entry["id"]: " ".join(entry.find_next_sibling("dd").get_text().split()) for entry in named}
    target = Path(app.outdir, "_static", "cards.js")
    target.write_text(f"window.bookCards = {json.dumps(cards, ensure_ascii=False)};\n", encoding="utf-8")


def open_plain_notebooks(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Let the buttons for Colab and for the download open the plain edition of a chapter."""
    name = f"{page}.ipynb"
    if context.get("sourcename") != name:
        return
    for group in context.get("header_buttons", []):
        for button in group.get("buttons", []):
            if button.get("url", "").endswith(f"_sources/{name}"):
                button["url"] = f"{context['pathto']('notebooks', 1)}/{name}"
            elif "colab" in button.get("url", ""):
                button["url"] = re.sub(r"/blob/.*", f"/blob/{plain_edition.BRANCH}/{name}", button["url"])


def write_plain_edition(app: Sphinx, error: Exception | None) -> None:
    """Put the plain notebooks beside the pages, their numbers from the run that made the pages."""
    if error is None and app.builder.name == "html":
        executed = Path(app.outdir).parent / "jupyter_execute"
        plain_edition.write(Path(app.srcdir), Path(app.outdir, "notebooks"), executed=executed)


def setup(app: Sphinx) -> dict[str, bool]:
    os.environ[STRICT] = "1"  # a result other than the text describes stops the build
    register_plugin("pybtex.style.formatting", "book", BookStyle)
    app.add_search_language(JoinedWords)
    app.connect("config-inited", configure)
    app.add_js_file("cards.js", defer="defer")
    app.connect("doctree-read", name_folds)
    app.connect("doctree-resolved", mark_pictures)
    app.connect("html-page-context", label_tables)
    app.connect("build-finished", write_social_picture)
    app.connect("build-finished", write_cards)
    app.connect("html-page-context", open_plain_notebooks, priority=900)  # after the theme's own
    app.connect("build-finished", write_plain_edition)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
