"""The plain edition: no markup left, nothing lost, the book's numbers; and it runs on the wheel alone."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
BOOK = ROOT / "book"
pytest.importorskip("pybtex")
sys.path.insert(0, str(BOOK / "_ext"))
import plain_edition  # noqa: E402

NOTEBOOKS = sorted(path.name for path in BOOK.glob("*.ipynb"))
chapters = pytest.mark.parametrize("name", NOTEBOOKS)
MARKUP = re.compile(
    r"\{[\w:-]+\}`|^:::|^[`~]{3,}\{|^\([\w:-]+\)=|^:(?:class|label|name):|\b(?:fig|eq|sec|tab|exercise)-\d\d?-\w",
    re.MULTILINE,
)
GLUE = re.compile(r"\{glue:text\}`([^`:]+)")


def cells(path: Path, kind: str) -> list[dict]:
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in found if cell["cell_type"] == kind]


def prose(path: Path) -> str:
    return "\n\n".join(cell["source"] for cell in cells(path, "markdown"))


def paragraph(text: str, page: str = "05_fine_tuning") -> str:
    """A text of the book in plain words."""
    return plain_edition.Chapter(shelf(), page).markdown(text)


def shelf() -> plain_edition.Book:
    return plain_edition.Book(BOOK)


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """The plain edition, as it is without a build of the book."""
    folder = tmp_path_factory.mktemp("plain")
    written, left = plain_edition.write(BOOK, folder)
    assert written == NOTEBOOKS and left == []
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of the book in which every glued value is 12.3456 and every cell prints its number."""
    folder = tmp_path_factory.mktemp("executed")
    for name in NOTEBOOKS:
        notebook = json.loads((BOOK / name).read_text(encoding="utf-8"))
        for number, cell in enumerate(plain_edition.code_cells(notebook)):
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [f"cell {number}"]}]
        (folder / name).write_text(json.dumps(notebook), encoding="utf-8")
        glued = {key: {"data": {"text/plain": "12.3456"}} for key in GLUE.findall(prose(BOOK / name))}
        (folder / name).with_suffix(".glue.json").write_text(json.dumps(glued), encoding="utf-8")
    return folder


@chapters
def test_no_markup_is_left(name, plain):
    """JupyterLab, Colab and GitHub show a role, a directive or a label as it stands."""
    nbformat.validate(nbformat.read(plain / name, as_version=4))
    assert MARKUP.findall(prose(plain / name)) == []
    keys = set(GLUE.findall(prose(BOOK / name)))
    assert not [key for key in keys if "-" in key and key in prose(plain / name)]
    for cell in cells(plain / name, "code"):
        assert cell["outputs"] == [] and cell["execution_count"] is None


@chapters
def test_no_code_prints_markup(name):
    """JupyterLab shows an output as it is: a reference of chapter 4 stood there, raw."""
    code = "\n".join(cell["source"] for cell in cells(BOOK / name, "code"))
    assert re.findall(r"\{(?:ref|numref|eq|term|cite(?::\w)?|doc|glue(?::\w+)?)\}`", code) == []


def test_the_search_for_markup_finds_it():
    """The test above is worth nothing if a kind of markup slips through."""
    assert all(len(MARKUP.findall(prose(BOOK / name))) > 10 for name in NOTEBOOKS if name[:2] < "07")


@chapters
def test_nothing_is_lost(name, plain):
    """A cell or a paragraph that the generator drops is missed by nobody who reads only this edition."""
    made = [cell["source"].split("\n") for cell in cells(plain / name, "code")]
    source = [cell["source"].split("\n") for cell in cells(BOOK / name, "code")]
    assert len(made) == len(source)
    for new, old in zip(made, source, strict=True):
        if "from myst_nb import glue" not in "\n".join(old):
            begin = new[0].startswith("# @title")
            assert new[begin : begin + len(old)] == old
    text = prose(plain / name)
    for line in prose(BOOK / name).split("\n"):
        if not re.search(r"[`{}:$\[\]]|^#|^\(|^\s*$", line):
            assert line.strip() in text, line


@chapters
def test_solutions_and_long_plots_are_folded(name, plain):
    """A solution that stands open under its question takes the exercise away."""
    unfolded = re.sub(r"<details>.*?</details>", "", prose(plain / name), flags=re.DOTALL)
    questions = re.split(r"^### Exercise ", unfolded, flags=re.MULTILINE)[1:]
    assert len(questions) == prose(BOOK / name).count("{exercise-start}")
    solutions = re.findall(
        r"\{solution-start\}.*?\n:::\n(.*?)(?=:::\{solution-end\}|\Z)", prose(BOOK / name), re.DOTALL
    )
    for line in "\n".join(solutions).split("\n"):
        if len(line) > 30 and not re.search(r"[`{}:$\[\]]|^#", line):
            assert line not in unfolded
    for cell in cells(plain / name, "code"):
        tags = set(cell["metadata"].get("tags", []))
        hidden = cell["metadata"].get("jupyter", {})
        if tags & {"solution", "hide-input", "remove-cell", "setup"}:
            assert hidden["source_hidden"] and cell["source"].startswith("# @title ")
        if "solution" in tags:
            assert hidden["outputs_hidden"] and "Solution of exercise" in cell["source"]


def test_references_say_what_the_book_says(plain):
    """A wrong number sends the reader to the wrong place."""
    text = paragraph(
        "{numref}`fig-02-blocks` follows {eq}`eq-02-conv`, see {ref}`sec-02-bn`. {doc}`07_pitfalls`"
    )
    sections = re.findall(r"^## (\S+) (.*)$", prose(plain / "02_block_math.ipynb"), re.MULTILINE)
    (number,) = [number for number, title in sections if title == "Batch normalisation"]
    assert text == (
        f"Figure 2.3 follows (2.1), see section {number.strip('.')}. [chapter 7](07_pitfalls.ipynb)"
    )
    assert "\\tag{2.1}" in prose(plain / "02_block_math.ipynb")
    assert "*Figure 2.3.*" in prose(plain / "02_block_math.ipynb")


def built_numbers(page: str) -> dict[str, str]:
    """What a page of the built book calls its parts."""
    found = {}
    section = (
        r'<span[^>]* id="([\w-]+)"></span>(?:<span[^>]*></span>)*<h\d><span class="section-number">([\d.]+)\.'
    )
    for label, number in re.findall(section, page):
        found[label] = number
    for label, number in re.findall(r'id="equation-([\w-]+)">\s*<span class="eqno">\(([\d.]+)', page):
        found[label] = number
    for label, number in re.findall(
        r' id="([\w-]+)">(?:(?!<figure|</figure>).)*?Figure ([\d.]+) ', page, re.DOTALL
    ):
        found.setdefault(label, number)
    for label, number in re.findall(
        r' id="((?:ex|exercise)-[\w-]+)">\s*<p[^>]*><span[^>]*>Exercise ([\d.]+)', page
    ):
        found[label] = number
    return found


@chapters
def test_numbers_are_those_of_the_built_book(name):
    """The same counting is done twice, here and by Sphinx."""
    html = BOOK / "_build" / "html"
    page, source = html / f"{name[:-6]}.html", html / "_sources" / name
    if not page.is_file() or source.read_text(encoding="utf-8") != (BOOK / name).read_text(encoding="utf-8"):
        pytest.skip("the book is not built, or from an earlier text: make book")
    compare_with_page(shelf(), page, least={"00_quick_start.ipynb": 3, "results.ipynb": 1}.get(name, 5))


def compare_with_page(book: plain_edition.Book, page: Path, *, least: int) -> None:
    built = built_numbers(page.read_text(encoding="utf-8"))
    ours = {label: target.number for label, target in book.targets.items() if label in built}
    assert len(ours) >= least
    assert ours == {label: built[label] for label in ours}


@pytest.fixture(scope="module")
def small_book(tmp_path_factory, build_book) -> Path:
    """Two short chapters, built: of everything that has a number some, at the published address."""
    book = tmp_path_factory.mktemp("small") / "book"
    book.mkdir()
    for name in ("_config.yml", "references.bib", "references.md", "glossary.md"):
        shutil.copy(BOOK / name, book / name)
    config, marks = book / "_config.yml", ("      # begin address\n", "      # end address\n")
    text = config.read_text(encoding="utf-8")
    buttons = "      repository_url: https://github.com/Owner/name\n"
    buttons += "      launch_buttons: { colab_url: https://colab.research.google.com }\n"
    config.write_text(text.split(marks[0])[0] + buttons + text.split(marks[1])[1], encoding="utf-8")
    pages = ["index", "one", "two"]
    toc = {
        "format": "jb-book",
        "root": "index",
        "parts": [
            {"caption": "Chapters", "numbered": True, "chapters": [{"file": "one"}, {"file": "two"}]},
            {"caption": "Appendix", "chapters": [{"file": "glossary"}, {"file": "references"}]},
        ],
    }
    (book / "_toc.yml").write_text(json.dumps(toc), encoding="utf-8")
    (book / "index.md").write_text("# Title\n", encoding="utf-8")
    for page in pages[1:]:
        nbformat.write(small_chapter(page), book / f"{page}.ipynb")
    build_book(book)
    return book


def small_chapter(page: str) -> nbformat.NotebookNode:
    new = nbformat.v4
    figure = {
        "mystnb": {
            "figure": {"caption": "A line, see {eq}`" + f"eq-{page}`.", "name": f"fig-{page}"},
            "image": {"alt": "A line that rises."},
        }
    }
    texts = f"""(ch-{page})=
# Chapter {page}

(sec-{page}-a)=
## First

$$
y = x
$$ (eq-{page})

:::{{admonition}} A box
:class: dropdown

$$ z = y $$ (eq-{page}-b)
:::

(sec-{page}-deep)=
### Deeper, with {{term}}`logits` {{cite}}`He2016`

(sec-{page}-b)=
## Second

The value is {{glue:text}}`{page}-value:.1f`, see {{numref}}`fig-{page}` and {{ref}}`exercise-{page}-2`.

:::{{exercise-start}} The first
:label: exercise-{page}-1
:::

Why?

:::{{exercise-end}}
:::

:::{{exercise-start}} The second
:label: exercise-{page}-2
:::

And why?

:::{{exercise-end}}
:::

:::{{solution-start}} exercise-{page}-2
:class: dropdown
:::

Because.
"""
    end = ":::{solution-end}\n:::\n\n## Third"
    plot = f"""import matplotlib.pyplot as plt
from myst_nb import glue

glue("{page}-value", 2.345, display=False)
plt.plot([1, 2]);"""
    listed = [
        new.new_markdown_cell(texts),
        new.new_code_cell("1 + 1", metadata={"tags": ["solution"]}),
        new.new_markdown_cell(end),
        new.new_code_cell(plot, metadata=figure),
    ]
    notebook = new.new_notebook(cells=listed)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return notebook


@pytest.mark.slow
def test_a_build_writes_the_plain_edition_beside_its_pages(small_book):
    """Numbers from the very run that made the pages, and buttons that open this edition."""
    html = small_book / "_build" / "html"
    made = html / "notebooks" / "two.ipynb"
    text = prose(made)
    assert "The value is 2.3, see figure 2.1 and exercise 2.2." in text and MARKUP.findall(text) == []
    assert "### 2.1.1. Deeper, with [logits](https://owner.github.io/name/glossary.html#term-logits)" in text
    assert "[in the book](https://owner.github.io/name/two.html)" in text
    page = (html / "two.html").read_text(encoding="utf-8")
    assert 'href="notebooks/two.ipynb"' in page and "_sources/two.ipynb" not in page
    assert 'href="https://colab.research.google.com/github/Owner/name/blob/notebooks/two.ipynb"' in page
    assert 'id="term-logits"' in (html / "glossary.html").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("page", ["one", "two"])
def test_numbers_are_those_of_a_built_page(page, small_book):
    """The same counting is done twice, here and by Sphinx."""
    book = plain_edition.Book(small_book)
    path = small_book / "_build" / "html" / f"{page}.html"
    compare_with_page(book, path, least=8)


def test_works_are_called_as_in_the_book():
    """Letters behind a year must not name another paper than the book's."""
    words = paragraph("as in {cite}`He2016`")
    assert words == "as in ([He et al. 2016a](https://doi.org/10.1109/CVPR.2016.90))"


def test_numbers_come_from_the_run_of_the_book(run):
    """Without them a table of results is a table of names."""
    chapter = plain_edition.Chapter(shelf(), "06_evaluation", run)
    numbers = "It is {glue:text}`06-accuracy` or {glue:text}`06-accuracy:+.1f`."
    assert chapter.markdown(numbers) == "It is 12.3456 or +12.3."
    text = json.dumps(chapter.notebook(), ensure_ascii=False)
    assert "⟨" not in text and "cell 3" not in text
    outputs = [c["outputs"] for c in chapter.notebook(outputs=True)["cells"] if c["cell_type"] == "code"]
    assert [out[0]["text"] for out in outputs][:3] == [["cell 0"], ["cell 1"], ["cell 2"]]


def test_the_run_of_another_text_gives_no_numbers(run, tmp_path):
    """A number of yesterday's code in today's text is wrong."""
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "06_evaluation.ipynb"
    path.write_text(
        path.read_text(encoding="utf-8").replace("import torch", "import torch  # old", 1), encoding="utf-8"
    )
    chapter = plain_edition.Chapter(shelf(), "06_evaluation", tmp_path / "run")
    assert chapter.markdown("{glue:text}`06-accuracy:+.1f`") == "⟨accuracy⟩"


def test_a_cell_prints_what_the_text_calls_by_a_name(plain, capsys):
    """A reader without the book's run must find the number somewhere."""
    for name in NOTEBOOKS:
        shims = [c["source"] for c in cells(plain / name, "code") if "def glue" in c["source"]]
        if not GLUE.search(prose(BOOK / name)):
            continue
        (shim,) = shims
        space: dict = {}
        exec(re.search(r"^def glue.*?(?=\n\S|\Z)", shim, re.DOTALL | re.MULTILINE)[0], space)
        space["glue"]("05-seen-gap", 1 / 3, display=False)
        assert capsys.readouterr().out == "⟨seen gap⟩ 0.3333\n"
        assert not [c for c in cells(plain / name, "code") if "myst_nb" in c["source"]]


@pytest.mark.parametrize(
    "text", ["{unknown}`x`", ":::{unknown}\n:::", "{ref}`sec-99-x`", "{cite}`Nobody1999`", ":::{note}\nopen"]
)
def test_what_it_does_not_know_stops_it(text):
    """Markup that passes unseen is what this edition is there to prevent."""
    with pytest.raises(ValueError, match=r".*(unknown|sec-99-x|Nobody1999|not closed)"):
        paragraph(text)


def test_code_and_formulas_stay_as_they_are():
    """Brackets in code are no link, and a dollar or a brace there is no formula and no role."""
    text = "`a[0](x)` and $f[0](x)$, ``{ref}`x` ``\n\n```python\n{eq}`no`\n```"
    assert paragraph(text) == text


def test_equations_in_a_quote_stand_on_one_line():
    """JupyterLab takes the mark of a quote inside an equation for a part of it."""
    text = paragraph(":::{note}\n$$\na\n= b\n$$\n:::")
    assert text == "> **Note**\n>\n> $$a = b$$"


def test_a_working_copy_keeps_what_a_reader_changed(tmp_path):
    """An evening's edits are worth more than the newest text; all else is brought up to date."""
    folder = tmp_path / "lab"
    plain_edition.write(BOOK, folder, edited=True)
    assert {path.name for path in (folder / "results").iterdir()} == {
        p.name for p in (BOOK / "results").iterdir()
    }
    mine, old = folder / NOTEBOOKS[0], folder / NOTEBOOKS[1]
    mine.write_text("mine", encoding="utf-8")
    assert plain_edition.write(BOOK, folder, edited=True) == (NOTEBOOKS[1:], NOTEBOOKS[:1])
    assert mine.read_text(encoding="utf-8") == "mine"
    mine.unlink()
    state = json.loads((folder / ".written.json").read_text(encoding="utf-8"))
    old.write_text("an earlier edition", encoding="utf-8")
    state[old.name] = plain_edition.digest("an earlier edition")
    (folder / ".written.json").write_text(json.dumps(state), encoding="utf-8")
    assert plain_edition.write(BOOK, folder, edited=True) == (NOTEBOOKS, [])
    assert mine.is_file() and old.read_text(encoding="utf-8") != "an earlier edition"


def test_playing_touches_neither_git_nor_the_tests(tmp_path):
    """Saving a notebook after a run made the repository dirty, and `make test` fail."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (folder,) = re.findall(r"plain_edition\.py (\w+) --working-copy\n.*--notebook-dir=\1\n", makefile)
    if (ROOT / ".git").exists():
        done = subprocess.run(["git", "check-ignore", f"{folder}/a.ipynb"], cwd=ROOT, capture_output=True)
        assert done.returncode == 0
    for place in (folder, "book"):
        (tmp_path / place).mkdir()
        shutil.copy(BOOK / NOTEBOOKS[-1], tmp_path / place)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbmake", "--collect-only", "-q", "."],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert f"book/{NOTEBOOKS[-1]}" in done.stdout and f"{folder}/{NOTEBOOKS[-1]}" not in done.stdout


def needed(names: list[str]) -> set[str]:
    """Names of distributions, and of those that they need."""
    found, rest = set(), [canonicalize_name(name) for name in names]
    while rest:
        name = rest.pop()
        if name in found:
            continue
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        found.add(name)
        wanted = map(Requirement, lines)
        rest += [
            canonicalize_name(r.name) for r in wanted if not r.marker or r.marker.evaluate({"extra": ""})
        ]
    return found


@pytest.fixture(scope="module")
def wheel_alone(tmp_path_factory) -> Path:
    """A folder with the wheel's content, and links to what it and Jupyter's kernel need: nothing else."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    for item in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / item, source)
    shutil.copytree(ROOT / "resnet_tutorial", source / "resnet_tutorial")
    code = "from setuptools import build_meta; print(build_meta.build_wheel('out'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    zipfile.ZipFile(source / "out" / done.stdout.splitlines()[-1]).extractall(site)
    for name in needed(["resnet-tutorial", "ipykernel"]) - {"resnet-tutorial"}:
        distribution = importlib.metadata.distribution(name)
        for top in {path.parts[0] for path in distribution.files or ()} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(distribution.locate_file(top)).resolve())
    assert not {"myst_nb", "sphinx", "jupyterlab"} & {path.name for path in site.iterdir()}
    return site


@pytest.mark.slow
@chapters
def test_a_chapter_runs_alone_on_the_wheel(name, plain, wheel_alone, tmp_path, monkeypatch):
    """In an empty folder, with the package, what the package needs, and Jupyter's kernel: as in Colab."""
    alone, kernel = tmp_path / "alone", tmp_path / "kernels" / "alone"
    alone.mkdir()
    kernel.mkdir(parents=True)
    start = [
        sys.executable,
        "-S",
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
    ]  # -S: nothing installed
    about = {"argv": start, "display_name": "alone", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(about), encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(wheel_alone))
    monkeypatch.delenv("RESNET_TUTORIAL_STRICT", raising=False)  # a reader: the records are not there
    notebook = nbformat.read(plain / name, as_version=4)
    check = nbformat.v4.new_code_cell("import resnet_tutorial; print(resnet_tutorial.__file__)")
    notebook.cells.append(check)
    resources = {"metadata": {"path": str(alone)}}
    NotebookClient(notebook, kernel_name="alone", timeout=600, resources=resources).execute()
    assert str(wheel_alone) in check.outputs[0]["text"]
