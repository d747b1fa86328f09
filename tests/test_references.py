"""The bibliography: a wrong year, a lost author or a dead link leads readers to no work, or another one."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

BOOK = Path(__file__).parent.parent / "book"
BIB = BOOK / "references.bib"

REQUIRED = {  # besides author, title, year and one identifier
    "article": {"journal"},
    "inproceedings": {"booktitle"},
    "incollection": {"booktitle", "publisher"},
    "book": {"publisher"},
    "techreport": {"institution"},
    "misc": set(),  # a preprint, or `howpublished`
}
IDENTIFIERS = {"doi", "eprint", "url"}
OPTIONAL = {"volume", "number", "pages", "series", "archiveprefix", "howpublished"} | IDENTIFIERS
STATISTICS = "International Conference on Artificial Intelligence and Statistics"
VENUES = {  # how the book writes them; `#` stands for a number
    "AAAI": "Proceedings of the # AAAI Conference on Artificial Intelligence (AAAI)",
    "AISTATS": f"Proceedings of the # {STATISTICS} (AISTATS)",
    "ECCV": "European Conference on Computer Vision (ECCV)",
    "ICLR": "International Conference on Learning Representations (ICLR)",
    "ICML": "Proceedings of the # International Conference on Machine Learning (ICML)",
    "NeurIPS": "Advances in Neural Information Processing Systems #",
}
NAMES = r"\b(?:Adam|Bayesian|Boltzmann|Gaussian|Go|Huffman|Inception|Matplotlib|Python|Transformer)\b"
ENTRY = re.compile(r"^@(\w+)\{([^,\s]+),\n((?:  \w+ = \{.*\},\n)+)\}$", re.M)
FIELD = re.compile(r"^  (\w+) = \{(.*)\},$", re.M)

TEXT = BIB.read_text(encoding="utf-8")
WORKS = {key: dict(FIELD.findall(body), kind=kind) for kind, key, body in ENTRY.findall(TEXT)}


def strings(node: object) -> list[str]:
    """Every string in a notebook, captions too; the lines of a cell joined, for a role may run over two."""
    if isinstance(node, str):
        return [node]
    if isinstance(node, list) and all(isinstance(part, str) for part in node):
        return ["".join(node)]
    parts = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [text for part in parts for text in strings(part)]


def cited() -> dict[str, set[str]]:
    """Keys in `{cite}` and its variants, with the files that have them."""
    found: dict[str, set[str]] = {}
    for path in sorted([*BOOK.glob("*.ipynb"), *BOOK.glob("*.md")]):
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            text = "\n".join(strings(json.loads(text)))
        for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text):
            for key in keys.split(","):
                found.setdefault(key.strip(), set()).add(path.name)
    return found


def outside_braces(title: str) -> str:
    while (less := re.sub(r"\{[^{}]*\}", "", title)) != title:
        title = less
    return title


def test_the_file_is_nothing_but_entries():
    """A brace or comma too few makes the parser swallow the next work; a key used twice hides one."""
    rest = [line for line in ENTRY.sub("", TEXT).splitlines() if line and not line.startswith("%")]
    assert rest == []
    keys = Counter(key for _, key, _ in ENTRY.findall(TEXT))
    assert [key for key, count in keys.items() if count > 1] == []
    for _, key, body in ENTRY.findall(TEXT):
        names = [name for name, _ in FIELD.findall(body)]
        assert len(names) == len(set(names)), f"{key} has a field twice"


def test_what_is_cited_is_there_and_what_is_there_is_cited():
    """A mistyped key shows as a question mark; a work that no page cites is one that nobody checks."""
    sites = cited()
    assert {key: sorted(files) for key, files in sites.items() if key not in WORKS} == {}
    assert sorted(set(WORKS) - set(sites)) == []


def test_no_work_twice():
    """One work under two keys has two labels, and reads like two works."""
    titles = Counter(re.sub(r"\W+", " ", work["title"]).lower().strip() for work in WORKS.values())
    assert [title for title, count in titles.items() if count > 1] == []
    identifiers = Counter(work[name].lower() for work in WORKS.values() for name in IDENTIFIERS & set(work))
    assert [name for name, count in identifiers.items() if count > 1] == []


def test_every_work_has_the_fields_of_its_type():
    """A venue under the wrong field name is not printed; an abstract is not ours to print."""
    for key, work in WORKS.items():
        assert work["kind"] in REQUIRED, f"{key}: @{work['kind']}"
        needed, has = {"author", "title", "year"} | REQUIRED[work["kind"]], set(work) - {"kind"}
        assert needed <= has, f"{key} lacks {sorted(needed - has)}"
        assert has <= needed | OPTIONAL, f"{key}: unknown {sorted(has - needed - OPTIONAL)}"
        assert work["kind"] != "misc" or has & {"eprint", "howpublished"}, f"{key}: where did it appear?"
        assert all(value == value.strip() != "" for value in work.values()), f"{key}: empty or padded field"


def test_year_volume_and_pages_are_numbers():
    """A year of five digits, pages that run backwards: each a slip of a finger."""
    for key, work in WORKS.items():
        assert re.fullmatch(r"(19|20)\d\d", work["year"]), key
        for name in ("volume", "number"):
            assert re.fullmatch(r"\d+", work.get(name, "1")), f"{key}: {name} {work[name]}"
        pages = work.get("pages", "1")
        assert re.fullmatch(r"\d+--\d+|e?\d+", pages), f"{key}: {pages}"
        first, _, last = pages.partition("--")
        assert not last or int(first) < int(last), f"{key}: {pages}"


def test_one_identifier_that_can_be_followed():
    """Without one the reader searches by title; of two, one goes out of date unnoticed."""
    for key, work in WORKS.items():
        assert len(IDENTIFIERS & set(work)) == 1, f"{key} needs exactly one of {sorted(IDENTIFIERS)}"
        assert re.fullmatch(r"10\.\d{4,}/\S+", work.get("doi", "10.0000/0")), f"{key}: {work['doi']}"
        url = work.get("url", "https://example.org/")
        assert re.fullmatch(r"https://[\w.-]+\.[a-z]+(/\S*)?", url), f"{key}: {url}"
        assert not re.search(r"//(\w+\.)?(arxiv|doi)\.org", url), f"{key}: give the number in its own field"


def test_preprint_numbers_fit_the_year():
    """A number with two digits swapped is as a rule another paper, of another year."""
    for key, work in WORKS.items():
        assert ("eprint" in work) == (work.get("archiveprefix") == "arXiv"), key
        if "eprint" in work:
            number = re.fullmatch(r"(\d\d)(?:0[1-9]|1[0-2])\.(\d{4,5})", work["eprint"])
            assert number, f"{key}: {work['eprint']}"
            posted = 2000 + int(number[1])
            assert abs(posted - int(work["year"])) <= 2, f"{key} of {work['year']} was posted in {posted}"
            assert len(number[2]) == (5 if posted >= 2015 else 4), f"{key}: {work['eprint']}"


def test_titles_keep_their_names():
    """The style lowers letters outside braces: ImageNet would become imagenet. It also adds the full stop."""
    for key, title in ((key, work["title"]) for key, work in WORKS.items()):
        assert re.match(r"[A-Z0-9{]", title) and not title.endswith("."), f"{key}: {title}"
        assert title.count("{") == title.count("}") and not re.search(r"[$~]|\\(?!%)", title), (
            f"{key}: {title}"
        )
        lost = re.findall(
            rf"{NAMES}|\w*[a-z0-9][A-Z]\w*|\w*[A-Z]{{2,}}\w*|\b[A-Z]-Net\b", outside_braces(title)
        )
        assert lost == [], f"{key}: put braces round {lost}"


def test_every_author_is_named():
    """`and others` leaves all but the first without credit."""
    for key, work in WORKS.items():
        for author in work["author"].split(" and "):
            assert re.fullmatch(r"[^,\d\\{}&]+ [^,\d\\{}&]+", author) and "et al" not in author, (
                f"{key}: {author}"
            )


def test_a_venue_has_one_name():
    """One conference written in three ways looks like three conferences."""
    for key, work in WORKS.items():
        venue = re.sub(r"\b\d+(st|nd|rd|th)?\b", "#", work.get("booktitle", ""))
        short = re.search(r"\((\w+)\)$", venue)
        name = short[1] if short else "NeurIPS" if venue.startswith("Advances in Neural") else ""
        assert venue == VENUES.get(name, venue), f"{key}: {work['booktitle']}"
        if "proceedings.mlr.press" in work.get("url", ""):
            assert work["series"] == "Proceedings of Machine Learning Research", key
            assert f"/v{work['volume']}/" in work["url"], f"{key}: volume {work['volume']}, {work['url']}"
