"""Look for barriers in the built book with axe-core, in a headless Chromium, from disk.

    npm pack axe-core && tar xzf axe-core-*.tgz
    python tools/check_accessibility.py --axe package/axe.min.js

axe-core is not part of this repository. The first line fetches it; `--axe` says where it lies. Every page is
read three times: as it is, in dark mode, and as wide as a phone. What is found is printed with the rule, the
impact and the first elements concerned. A page that asks for anything outside the disk is reported as well.
The exit status is 1 if a finding is serious or critical, or if a page asks for something outside.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from browser import Browser, BrowserError, find_browser

SITE = Path(__file__).parent.parent / "book" / "_build" / "html"
MODES = {"light": {}, "dark": {"dark": True}, "phone": {"width": 390}}
SEVERE = ("serious", "critical")
RUN = """
axe.run(document, {resultTypes: ["violations"]}).then(result => result.violations.map(rule => ({
  id: rule.id, impact: rule.impact, help: rule.help,
  nodes: rule.nodes.map(node => ({html: node.html, why: node.failureSummary})),
})))
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pages", nargs="*", help="names of pages without .html (default: all)")
    parser.add_argument("--site", type=Path, default=SITE, help="the built book (default: book/_build/html)")
    parser.add_argument("--axe", type=Path, required=True, help="axe.min.js of the npm package axe-core")
    parser.add_argument("--modes", nargs="+", choices=tuple(MODES), default=list(MODES))
    parser.add_argument("--browser", help="Chromium or Chrome (default: the first on the PATH)")
    parser.add_argument("--show", type=int, default=3, help="elements to print for each rule (default: 3)")
    arguments = parser.parse_args(argv)
    try:
        path = find_browser(arguments.browser)
        axe = arguments.axe.read_text(encoding="utf-8")
        pages = find_pages(arguments.site, arguments.pages)
        with Browser(path) as browser:
            severe = sum(
                check(browser, page, axe, mode=mode, show=arguments.show)
                for page in pages
                for mode in arguments.modes
            )
    except (OSError, BrowserError) as error:
        print(f"check_accessibility: {error}", file=sys.stderr)
        return 2
    print(f"{len(pages)} pages, {severe} serious or critical findings")
    return 1 if severe else 0


def find_pages(site: Path, names: list[str]) -> list[Path]:
    """List the named pages of a site, or all of them."""
    pages = [site / f"{name}.html" for name in names] or sorted(site.glob("*.html"))
    missing = [str(page) for page in pages if not page.is_file()]
    if missing or not pages:
        raise FileNotFoundError(f"no page {missing[0] if missing else site / '*.html'}: run make book first")
    return pages


def check(browser: Browser, page: Path, axe: str, *, mode: str, show: int) -> int:
    """Print the rules that one page breaks; return how many of them are serious or critical."""
    browser.open(page, **MODES[mode])
    theme = browser.evaluate("document.documentElement.dataset.theme")
    if theme != ("dark" if mode == "dark" else "light"):
        raise BrowserError(f"{page.name} came in {theme} colours, not as {mode}")
    outside = [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))]
    browser.evaluate(f"{axe}; 0")
    # A colour half way through a transition has a contrast that no reader sees.
    browser.evaluate("document.getAnimations().forEach(change => { try { change.finish() } catch {} })")
    found: list[dict[str, Any]] = browser.evaluate(RUN)
    print(f"{page.name}, {mode}: {len(found)} rules broken")
    print(describe(found, show=show), end="", flush=True)
    for url in outside:
        print(f"  serious   asks for {json.dumps(url)}")
    return sum(rule["impact"] in SEVERE for rule in found) + len(outside)


def describe(found: list[dict[str, Any]], *, show: int) -> str:
    """Write one line a rule, the worst first, and one for each of the first elements."""
    lines = []
    for rule in sorted(found, key=lambda rule: (rule["impact"] not in SEVERE, rule["id"])):
        lines.append(f"  {rule['impact']:9} {rule['id']}: {rule['help']} ({len(rule['nodes'])} elements)")
        for node in rule["nodes"][:show]:
            why = "; ".join(line.strip() for line in node["why"].splitlines()[1:])
            lines.append(f"            {' '.join(node['html'].split())[:140]}  [{why[:140]}]")
    return "".join(f"{line}\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
