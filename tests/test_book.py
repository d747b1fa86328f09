"""The book as files: what the strict build cannot see, or would only see after minutes.

`pytest --nbmake book` executes every notebook alone; `jupyter-book build -W -n` checks every link once more.
"""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

from resnet_tutorial import exercises

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
NOTEBOOKS = sorted(BOOK.glob("*.ipynb"))
PAGES = sorted(BOOK.glob("*.md"))

notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path: Path, kind: str | None = None) -> list[dict]:
    """The cells of a notebook, with their source as one string."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in found:
        cell["source"] = "".join(cell["source"])
    return [cell for cell in found if kind in (None, cell["cell_type"])]


def figure(cell: dict) -> dict:
    return cell["metadata"].get("mystnb", {}).get("figure", {})


def prose(path: Path) -> str:
    """The text of a page: Markdown cells and captions of a notebook, or the whole of a Markdown file."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    captions = [figure(cell).get("caption", "") for cell in cells(path, "code")]
    return "\n\n".join([*(cell["source"] for cell in cells(path, "markdown")), *captions])


def roles(text: str, role: str) -> list[str]:
    """Targets of a role: `{eq}`name``, `{term}`text <name>``; whitespace folded."""
    targets = []
    for content in re.findall(r"\{" + role + r"\}`([^`]+)`", text):
        inner = re.search(r"<([^>]+)>\s*$", content)
        targets.append(" ".join((inner[1] if inner else content).split()))
    return targets


def toc_files(toc: dict) -> list[str]:
    files = [toc["root"]]
    for part in toc["parts"]:
        for chapter in part["chapters"]:
            files += [page["file"] for page in (chapter, *chapter.get("sections", []))]
    return files


def draws(source: str, plotting: set[str]) -> bool:
    """Whether the cell makes a figure at top level, as opposed to defining a function that would."""
    source = re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)
    open_nodes, called = list(ast.parse(source).body), set()
    while open_nodes:
        node = open_nodes.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(node, ast.Call):
            called.add(ast.unparse(node.func))
        open_nodes += ast.iter_child_nodes(node)
    makers = {"plt.subplots", "plt.figure"} | {f"pl.{name}" for name in plotting} | plotting
    return bool(called & makers) and "plt.close" not in called


def test_every_page_is_in_the_table_of_contents():
    """A page that is not listed is silently left out; a listed file that is absent ends the build."""
    listed = toc_files(yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8")))
    assert Counter(listed) == Counter(path.stem for path in NOTEBOOKS + PAGES)


def test_both_configurations_are_one():
    """`jupyter-book build book` and a build with the files of the root must make the same book."""
    config = pytest.importorskip("jupyter_book.config")
    for name in ("_config.yml", "_toc.yml"):
        link = BOOK / name
        assert link.is_symlink() and link.readlink() == Path("..", name)
    final = [
        config.get_final_config(
            user_yaml=folder / "_config.yml",
            cli_config={"latex_individualpages": False},
            sourcedir=BOOK,
            raise_on_invalid=True,
        )
        for folder in (ROOT, BOOK)
    ]
    assert final[0] == final[1]
    toc = [yaml.safe_load((folder / "_toc.yml").read_text(encoding="utf-8")) for folder in (ROOT, BOOK)]
    assert toc[0] == toc[1]


def test_the_front_page_says_when_a_cell_is_stopped():
    """The limit of a build was raised, and the page that tells of it kept the old one."""
    seconds = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["execute"]["timeout"]
    text = " ".join((BOOK / "index.md").read_text(encoding="utf-8").split())
    assert f"a cell of a book build is stopped after {seconds // 60} minutes" in text


@notebooks
def test_notebooks_hold_no_output(path):
    """A stored output is stale as soon as the code changes, and it bloats every diff."""
    for cell in cells(path, "code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        assert "execution" not in cell["metadata"]
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
    assert "widgets" not in metadata


def test_the_book_is_no_longer_than_it_promises():
    """A book that grew by a sentence a week was a third too long before anybody noticed."""
    words = {
        path.stem: sum(len(cell["source"].split()) for cell in cells(path, "markdown"))
        for path in NOTEBOOKS
        if path.stem[:2].isdigit()
    }
    assert len(words) == 8 and sum(words.values()) <= 36_000
    assert words.pop("00_quick_start") <= 1_200
    assert max(words.values()) <= 6_000, max(words, key=words.get)


@notebooks
def test_bookkeeping_stays_out_of_sight(path):
    """A call of `glue` in a page tells its reader nothing."""
    for cell in cells(path, "code"):
        if re.search(r"^ *glue\(", cell["source"], re.M):
            assert {"remove-cell", "remove-input"} & set(cell["metadata"]["tags"]), cell["source"]


@notebooks
def test_notebooks_read_as_a_chapter(path):
    """One title first, a figure or more, a summary, and a folded solution for every exercise."""
    headings = re.findall(r"^(#+) (.+)$", prose(path), flags=re.MULTILINE)
    assert [level for level, _ in headings].count("#") == 1 and headings[0][0] == "#"
    assert cells(path)[0]["cell_type"] == "markdown"
    assert sum(bool(figure(cell)) for cell in cells(path, "code")) >= (1 if path.stem == "results" else 2)
    assert any("summary" in text.lower() for _, text in headings)


@notebooks
def test_every_exercise_has_one_solution_that_is_folded_with_all_it_holds(path):
    """Of 56 solutions 26 stood open under their question: text or output below a folded cell."""
    inside, labels, solved = "", [], []
    for cell in cells(path):
        if cell["cell_type"] == "code":
            assert (inside == "solution") == ("solution" in cell["metadata"].get("tags", [])), cell["source"]
            continue
        text = cell["source"]
        marks = re.findall(r"^:::\{(exercise|solution)-(start|end)\}[^\n]*\n((?::\w+: .*\n)*):::", text, re.M)
        assert len(marks) == text.count("{exercise-") + text.count("{solution-")
        for kind, mark, options in marks:
            assert inside == ("" if mark == "start" else kind)
            inside = kind if mark == "start" else ""
            if (kind, mark) == ("exercise", "start"):
                labels += re.findall(r":label: (.+)", options)
            if (kind, mark) == ("solution", "start"):
                assert ":class: dropdown" in options
        solved += re.findall(r"^:::\{solution-start\} (.+)$", text, re.M)
    if path.stem in ("results", "00_quick_start"):
        assert labels == solved == []
        return
    number = int(path.stem[:2])
    assert inside == "" and solved == labels == [f"ex-{number:02}-{n + 1}" for n in range(len(labels))]
    assert len(labels) >= 6


def test_the_setup_cell_is_the_same_everywhere():
    """A fix of the setup that reaches five chapters of six leaves one broken in Colab."""
    setups = {path.stem: cells(path, "code")[0] for path in NOTEBOOKS}
    assert all("setup" in cell["metadata"].get("tags", []) for cell in setups.values())
    assert len({cell["source"] for cell in setups.values()}) == 1
    for path in NOTEBOOKS:
        assert sum("setup" in cell["metadata"].get("tags", []) for cell in cells(path)) == 1


@notebooks
def test_figures_have_a_name_a_caption_and_a_description(path):
    """Without alt text a screen reader says "image"; without a name the figure has no number."""
    plotting = pytest.importorskip("resnet_tutorial.plotting")
    functions = {name for name in plotting.__all__ if name.islower() and name != "use_book_style"}
    functions -= {name for name in functions if name.startswith("interactive")}
    for number, cell in enumerate(cells(path, "code")):
        where = f"{path.name}, code cell {number}"
        if draws(cell["source"], functions):
            assert figure(cell), f"{where} draws a figure that has no caption"
        if figure(cell):
            alt = cell["metadata"]["mystnb"].get("image", {}).get("alt", "")
            caption = figure(cell).get("caption", "")
            assert figure(cell)["name"].startswith(f"fig-{path.stem[:2]}-"), where
            assert len(caption.split()) >= 5, f"{where}: the caption says too little"
            assert len(alt.split()) >= 8, f"{where}: the alt text says too little"
            assert alt.strip() != caption.strip(), f"{where}: alt text describes, a caption explains"


@notebooks
def test_a_figure_to_move_has_a_name_and_a_caption(path):
    """What a cell shows as HTML has no number of its own: the page takes it from where it is glued."""
    glued = re.findall(
        r"^```\{glue:figure\} (\S+)\n:name: (fig-\d\d-[\w-]+)\n\n(.+?)\n```$", prose(path), re.M | re.S
    )
    made = [
        name
        for cell in cells(path, "code")
        if "pl.interactive_" in cell["source"]
        for name in re.findall(r'^glue\("([\w-]+)", \w+, display=False\)$', cell["source"], re.M)
        if {"remove-output", "remove-cell"} & set(cell["metadata"]["tags"])
    ]
    assert sorted(made) == sorted(name for name, _, _ in glued)
    assert len(made) == sum("pl.interactive_" in cell["source"] for cell in cells(path, "code"))
    for _, name, caption in glued:
        assert name.startswith(f"fig-{path.stem[:2]}-") and len(caption.split()) >= 5


def test_names_are_defined_once_and_references_lead_somewhere():
    """A dead {numref} or {eq} shows as raw text in the page."""
    text = {path: prose(path) for path in NOTEBOOKS + PAGES}
    figures = [figure(c)["name"] for path in NOTEBOOKS for c in cells(path, "code") if figure(c)]
    equations = [label for page in text.values() for label in re.findall(r"^\$\$ \(([\w:-]+)\)", page, re.M)]
    targets = [label for page in text.values() for label in re.findall(r"^\(([\w:-]+)\)=$", page, re.M)]
    tables = [
        label for page in text.values() for label in re.findall(r"^:(?:name|label): *([\w:-]+)$", page, re.M)
    ]
    names = Counter(figures + equations + targets + tables)
    assert [name for name, count in names.items() if count > 1] == []
    for path, page in text.items():
        dead = set(roles(page, "eq")) - set(equations)
        dead |= (set(roles(page, "numref")) | set(roles(page, "ref"))) - set(names)
        assert not dead, f"{path.name} refers to {sorted(dead)}"


def test_links_between_pages_exist():
    """A renamed chapter must not leave a dead link behind."""
    stems = {path.stem for path in NOTEBOOKS + PAGES}
    for path in NOTEBOOKS + PAGES:
        page = prose(path)
        links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page) if "://" not in link]
        for link in filter(None, links):
            assert (BOOK / link).exists() or link in stems, f"{path.name} links to {link}"
        dead = {target.strip("/") for target in roles(page, "doc")} - stems
        assert not dead, f"{path.name} refers to the pages {sorted(dead)}"


def test_terms_are_in_the_glossary():
    """{term} of a word that the glossary lacks shows as plain text."""
    lines = (BOOK / "glossary.md").read_text(encoding="utf-8").split("```{glossary}")[1].splitlines()
    terms = [line for line in lines if line and not line.startswith((" ", ":", "`"))]
    assert [term for term, count in Counter(term.lower() for term in terms).items() if count > 1] == []
    known = {term.lower() for term in terms}
    for path in NOTEBOOKS + PAGES:
        unknown = {term for term in roles(prose(path), "term") if term.lower() not in known}
        assert not unknown, f"{path.name}: not in the glossary: {sorted(unknown)}"
    entries = re.findall(r"^(?! |:|`)(.+)\n((?:(?! ).+\n)*) {2}\S", "\n".join(lines) + "\n", re.M)
    english_only = [first for first, more in entries if not re.search(r"[\u4e00-\u9fff]", first + more)]
    assert len(entries) > 50 and english_only == [], "terms that lack the Chinese one beside them"


# What readers found defined in two ways: words of the entry, and what no page may say of the term.
ONE_STATEMENT = {
    "over-fitting": (
        "A gap between the two alone is usual",
        r"over-fitting\W+(is|means) (a|the) gap|over-fitted \w+ (does|is) (clearly )?better",
    ),
    "early stopping": ("the best network so far", r"early stopping\W[^.]*\bkeep(s|ing) (the|its) last"),
    "kernel": ("looks at one input channel", r"\bkernels?\W+(make|give)s? (an|one|the) output channel"),
    "Nesterov momentum": ("to which momentum is about to lead", r"nesterov\W[^.]*\b(previous|old) gradient"),
    "standard deviation": (
        "± stands for the standard deviation over runs",
        r"±[^.|]{0,20}\b(range|maximum)\b",
    ),
}


@pytest.mark.parametrize("term", ONE_STATEMENT)
def test_a_term_has_one_definition(term):
    """Over-fitting was defined in three ways, a kernel in two: the glossary's is the one."""
    words, other = ONE_STATEMENT[term]
    entry = re.search(
        rf"^{term}\n(?:\S.*\n)+((?:  \S.*\n?)+)", (BOOK / "glossary.md").read_text("utf-8"), re.M
    )
    assert entry and words in entry[1], f"the glossary's entry of {term} says something else"
    for path in NOTEBOOKS + PAGES:
        found = re.search(other, prose(path), re.IGNORECASE)
        assert not found, f"{path.name} defines {term} in another way: {found[0]}"


@notebooks
def test_what_stands_after_a_plus_minus_sign_is_said(path):
    """A standard error read as a standard deviation makes every difference look settled."""
    text = [cell["source"] for cell in cells(path)]
    for number, cell in enumerate(cells(path)):
        if cell["cell_type"] == "markdown" and re.search(r"[\w}%] ± ", cell["source"]):
            near = "\n".join(text[max(0, number - 2) : number + 3])
            assert re.search("standard (deviation|error)", near), f"{path.name}: {cell['source'][:80]}"


def test_citations_are_in_the_bibliography():
    """A mistyped key shows as a question mark; a key used twice makes one work hide another."""
    entries = re.findall(r"^@(\w+)\{([^,]+),", (BOOK / "references.bib").read_text(encoding="utf-8"), re.M)
    keys = [key for _, key in entries]
    assert len(keys) == len(set(keys))
    for path in NOTEBOOKS + PAGES:
        cited = {
            key.strip()
            for role in ("cite", r"cite:\w+")
            for c in roles(prose(path), role)
            for key in c.split(",")
        }
        assert cited <= set(keys), f"{path.name} cites {sorted(cited - set(keys))}"


def test_every_work_says_who_what_where_and_when():
    """Public tutorials cite the ResNet paper under wrong names; a gap in an entry is the first step there."""
    where = {
        "inproceedings": "booktitle",
        "incollection": "booktitle",
        "article": "journal",
        "book": "publisher",
    }
    where |= {"techreport": "institution", "mastersthesis": "school", "misc": "eprint|howpublished"}
    text = (BOOK / "references.bib").read_text(encoding="utf-8")
    for kind, key, body in re.findall(r"^@(\w+)\{([^,]+),\n(.*?)^\}", text, re.M | re.S):
        for field in ("author", "title", "year", where[kind]):
            assert re.search(rf"^  ({field}) = \{{.+\}},$", body, re.M), f"{key} has no {field}"


def stored(node: ast.AST) -> set[str]:
    """The names that a statement gives a value, without those inside functions and comprehensions."""
    inner = ast.FunctionDef | ast.ClassDef | ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp
    if isinstance(node, inner | ast.GeneratorExp):
        return set()
    own = {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
    return own.union(*map(stored, ast.iter_child_nodes(node)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_name_of_a_function_is_that_of_nothing_else(path):
    """A reader who goes back to an earlier cell finds a tensor where a function was."""
    functions, values = set(), set()
    for cell in cells(path, "code"):
        for node in ast.parse(exercises._plain(cell["source"])).body:
            kind = ast.FunctionDef | ast.ClassDef
            functions |= {node.name} if isinstance(node, kind) else set()
            values |= stored(node)
    assert functions & values == set()


@pytest.mark.parametrize("path", NOTEBOOKS + PAGES, ids=lambda path: path.name)
def test_no_absolute_path(path):
    """A path of the author's machine works nowhere else."""
    text = "\n".join(cell["source"] for cell in cells(path)) if path.suffix == ".ipynb" else prose(path)
    assert not re.findall(r"(?<![\w.:/])/(?:home|root|Users|tmp|mnt|work|content)/|\b[A-Z]:\\\\?\w", text)


def test_a_built_page_asks_the_network_for_nothing(tmp_path, build_book):
    """One script, font or style from a CDN, and the book is broken on a train."""
    book = tmp_path / "book"
    book.mkdir()
    for name in ("_config.yml", "references.bib", "references.md", "glossary.md"):
        shutil.copy(BOOK / name, book / name)
    (book / "index.md").write_text(
        "# Title\n\n$y = F(x) + x$ {cite}`He2016` {term}`logits`\n", encoding="utf-8"
    )
    toc = {"format": "jb-book", "root": "index", "chapters": [{"file": "glossary"}, {"file": "references"}]}
    (book / "_toc.yml").write_text(yaml.safe_dump(toc), encoding="utf-8")
    build_book(book, "-n")

    html = book / "_build" / "html"
    pages = {path.name: path.read_text(encoding="utf-8") for path in html.glob("*.html")}
    assert {"index.html", "glossary.html", "references.html"} <= set(pages)
    assert 'src="_static/mathjax/' in pages["index.html"]
    assert "He et al. 2016a</a>" in pages["index.html"]
    assert '"term-logits": "' in (html / "_static/cards.js").read_text(encoding="utf-8")
    assert (html / "_static/mathjax/tex-chtml.js").stat().st_size > 100_000
    for name, page in pages.items():
        tags = re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", page)
        outside = [tag for tag in tags if re.search(r"(?:src|href)=[\"']?(?:https?:)?//", tag)]
        assert outside == [], f"{name}: {outside}"
        assert not re.search(r"unpkg|jsdelivr|cdnjs|googleapis", page), name
    for style in html.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"@import[^;]*//|url\([\"']?(?:https?:)?//", text), style.name


def test_numbers_in_the_answer_on_photos_are_those_of_the_record():
    """A page of plain Markdown cannot compute: a new record would leave the old numbers in it."""
    record = json.loads((BOOK / "results" / "finetuning-classes.json").read_text(encoding="utf-8"))
    page = (BOOK / "faq.md").read_text(encoding="utf-8")
    typed = re.findall(r"from (\d+) images(?: a class)? (?:it got )?(\d+) %", page)
    assert len(typed) == 3
    for images, percent in typed:
        reached = [row[3] for row in record["rows"] if row[:2] == ["full", int(images)]]
        assert len(reached) == 3 and f"{sum(reached) / len(reached):.0f}" == percent, images


@pytest.mark.parametrize("path", NOTEBOOKS + PAGES, ids=lambda path: path.stem)
def test_no_page_holds_the_marks_of_a_merge(path):
    """Both versions of a paragraph stood on the page of questions, with git's marks around them."""
    assert not re.search(r"<{7} |>{7} ", path.read_text(encoding="utf-8"))
