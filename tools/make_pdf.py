"""Make one PDF of the built book, through its HTML, with a headless Chromium.

    make book
    python tools/make_pdf.py

The pages are put one after the other in the order of the table of contents, links between them become links
within the document, everything folded is opened, and the browser prints it in the print style of the book.
Jupyter Book's own `pdfhtml` builder needs a browser that it downloads itself; this one takes what is there.
"""

from __future__ import annotations

import argparse
import base64
import sys
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from browser import Browser, BrowserError, find_browser
from bs4 import BeautifulSoup, Tag

ROOT = Path(__file__).parent.parent
SITE = ROOT / "book" / "_build" / "html"
LEFT_OUT = ("button", ".headerlink", ".prev-next-area", ".toggle-button", "script")
FOOTER = """
<div style="width: 100%; font: 8pt sans-serif; text-align: center">
  <span class="pageNumber"></span> / <span class="totalPages"></span>
</div>
"""
STYLE = """
<style>
  @page { size: A4; }
  body { background: #fff; }
  .chapter { break-before: page; }
  .chapter:first-of-type { break-before: auto; }
  .bd-main .bd-content .bd-article.chapter h1 { display: block; } /* the theme prints the title elsewhere */
</style>
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--site", type=Path, default=SITE, help="the built book (default: book/_build/html)")
    parser.add_argument("--out", type=Path, default=SITE.parent / "book.pdf", help="(default: book/_build/)")
    parser.add_argument("--pages", nargs="+", help="names of pages without .html (default: the whole book)")
    parser.add_argument("--browser", help="Chromium or Chrome (default: the first on the PATH)")
    arguments = parser.parse_args(argv)
    try:
        browser = find_browser(arguments.browser)
        pages = arguments.pages or pages_in_order(ROOT / "_toc.yml")
        combined = arguments.site / "_whole_book.html"  # beside the others, where its images are
        combined.write_text(one_document(arguments.site, pages), encoding="utf-8")
        try:
            size = print_pdf(browser, combined, arguments.out)
        finally:
            combined.unlink()
    except (OSError, BrowserError) as error:
        print(f"make_pdf: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {len(pages)} chapters, {size / 1e6:.1f} MB")
    return 0


def pages_in_order(toc: Path) -> list[str]:
    """List the pages of the table of contents, the first page first."""
    content = yaml.safe_load(toc.read_text(encoding="utf-8"))
    return [content["root"], *(chapter["file"] for part in content["parts"] for chapter in part["chapters"])]


def one_document(site: Path, pages: list[str]) -> str:
    """All pages as one HTML text, with the head of the first."""
    chapters = []
    for page in pages:
        path = site / f"{page}.html"
        if not path.is_file():
            raise FileNotFoundError(f"no page {path}: run make book first")
        soup = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        chapters.append((page, soup, soup.select_one("article.bd-article")))
    # MathJax stands in the head of pages with an equation only.
    heads = [soup.head for _, soup, _ in chapters]
    head = next((head for head in heads if head.select_one("script[src*=mathjax]")), heads[0])
    for script in head.select("script"):
        if "mathjax" not in script.get("src", "") and "MathJax" not in (script.string or ""):
            script.decompose()  # the theme's scripts expect the rest of the page
    body = "".join(chapter(page, article, set(pages)) for page, _, article in chapters)
    return (
        f'<!DOCTYPE html>\n<html lang="en" data-theme="light" data-mode="light">{head.decode()}{STYLE}'
        f'<body><main class="bd-main"><div class="bd-content"><div class="bd-article-container">{body}'
        "</div></div></main></body></html>"
    )


def chapter(page: str, article: Tag, pages: set[str]) -> str:
    """Return the text of one page, its names made different from those of other pages."""
    for part in article.select(", ".join(LEFT_OUT)):
        part.decompose()
    for fold in article.select("details"):
        fold["open"] = ""
    for named in article.select("[id]"):
        named["id"] = f"{page}--{named['id']}"
    for link in article.select("a[href]"):
        link["href"] = within(link["href"], page, pages)
    return f'<article class="bd-article chapter" id="{page}">{article.decode_contents()}</article>'


def within(href: str, page: str, pages: set[str]) -> str:
    """Where a link of a page leads in the whole document; other links stay as they are."""
    parts = urlsplit(href)
    target = parts.path.removesuffix(".html") or page
    if parts.scheme or parts.netloc or target not in pages:
        return href
    return f"#{target}--{parts.fragment}" if parts.fragment else f"#{target}"


def print_pdf(browser: str, document: Path, out: Path) -> int:
    """Print a page of the disk; returns the number of bytes."""
    with Browser(browser, timeout=900) as tab:
        tab.open(document, media="print")
        answer = tab.send(
            "Page.printToPDF",
            displayHeaderFooter=True,
            headerTemplate="<span></span>",
            footerTemplate=FOOTER,
            preferCSSPageSize=True,
            printBackground=True,
            generateTaggedPDF=True,
            generateDocumentOutline=True,
        )
    content = base64.b64decode(answer["data"])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(content)
    return len(content)


if __name__ == "__main__":
    sys.exit(main())
