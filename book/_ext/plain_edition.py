"""Write the chapters once more, as notebooks that show everywhere without an extension.

    python book/_ext/plain_edition.py FOLDER

The chapters are written in MyST, which only the book's build renders. JupyterLab, Colab, VS Code and GitHub
show the plain edition: references are words with the book's numbers, boxes are quotes or fold, captions stand
under their figures, and solutions are folded. It is made, never edited: by each build of the book into
``_build/html/notebooks``, and by ``make lab``.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import re
import shutil
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pybtex.database import parse_file

BOOK = Path(__file__).resolve().parents[1]
BRANCH = "notebooks"  # of the public repository, where Colab finds the plain edition
BOXES = ("admonition", "dropdown", "note", "tip", "hint", "important", "warning", "seealso")
FOLDED = {"setup", "hide-input", "hide-cell", "remove-input", "remove-cell", "solution"}
OPENING = re.compile(r"(?P<indent>\s*)(?P<fence>`{3,}|:{3,}|~{3,})(?:\{(?P<name>[\w:-]+)\} *(?P<title>.*))?")
EQUATION = re.compile(r"\$\$(?P<body>.*?)\$\$(?: \((?P<label>[\w:-]+)\))?[ \t]*$", re.DOTALL | re.MULTILINE)
LABEL = re.compile(r"\((?P<label>[\w:-]+)\)=\s*")
HEADING = re.compile(r"(?P<marks>#{1,6}) (?P<title>.+)")
ROLE = r"\{(?P<role>[\w:-]+)\}`(?P<content>[^`]+)`"
KEPT = re.compile(ROLE + r"|(?P<ticks>`+)(?!`).+?(?<!`)(?P=ticks)(?!`)|\$[^$\n]+\$", re.DOTALL)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\[\]]+)\]\((?P<target>[^()\s]+)\)")
GLUE = '''def glue(name, value, display=False):
    """Do nothing: the numbers in the text are those of the book's own run."""'''
GLUE_PRINTS = '''def glue(name, value, display=False):
    """Print what stands in the text as a name in brackets."""
    if isinstance(value, int | float | str):
        shown = round(value, 4) if isinstance(value, float) else value
        print(f"⟨{name.lstrip('0123456789-').replace('-', ' ')}⟩ {shown}")'''
BRACKETS = "a name in ⟨brackets⟩ stands for a number, which the cell that computes it prints"


@dataclass(frozen=True)
class Block:
    """A part of a text: a directive with its name, "math", "code", or "" for everything else."""

    name: str
    text: str
    title: str = ""
    options: tuple[tuple[str, str], ...] = ()

    def option(self, name: str) -> str:
        return dict(self.options).get(name, "")


@dataclass(frozen=True)
class Target:
    """What a label names: its kind, its number in the book ("" without one) and its title."""

    kind: str  # "chapter", "section", "figure", "table", "exercise" or "equation"
    number: str
    title: str = ""

    def __str__(self) -> str:
        if self.kind == "equation":
            return f"({self.number})"
        return f"{self.kind} {self.number}" if self.number else self.title


def split(source: str) -> list[Block]:
    """Split a text into its blocks."""
    lines, found, plain = source.split("\n"), [], []
    while lines:
        opening = OPENING.match(lines[0])
        if opening is None:
            plain.append(lines.pop(0))
            continue
        end = re.compile(rf"\s*{re.escape(opening['fence'])}+\s*")
        length = next((n for n, line in enumerate(lines[1:], 1) if end.fullmatch(line)), None)
        if length is None:
            raise ValueError(f"{lines[0]!r} is not closed")
        whole, body, lines = lines[: length + 1], lines[1:length], lines[length + 1 :]
        found += without_equations("\n".join(plain))
        plain = []
        options = []
        while opening["name"] and body and (option := re.fullmatch(r":([\w-]+): *(.*)", body[0])):
            options.append((option[1], option[2]))
            body.pop(0)
        if opening["name"]:
            text = "\n".join(body).strip("\n")
            found.append(Block(opening["name"], text, opening["title"].strip(), tuple(options)))
        else:
            found.append(Block("code", "\n".join(whole)))
    return found + without_equations("\n".join(plain))


def without_equations(text: str) -> list[Block]:
    found, start = [], 0
    for match in EQUATION.finditer(text):
        found += [Block("", text[start : match.start()].strip("\n"))]
        found += [Block("math", match["body"].strip(), options=(("label", match["label"] or ""),))]
        start = match.end()
    return [block for block in [*found, Block("", text[start:].strip("\n"))] if block.text]


class Numbers:
    """Numbers of a chapter, or of all other pages, in the order of the text, as the built book counts."""

    def __init__(self, chapter: int | None) -> None:
        self.chapter, self.counts = chapter, Counter[str]()
        self.sections = [chapter] if chapter else []

    def heading(self, level: int) -> Target:
        if not self.chapter:
            return Target("section", "")
        if level > 1:
            kept = self.sections[:level]
            self.sections = [*kept[: level - 1], kept[level - 1] + 1 if len(kept) == level else 1]
        return Target("chapter" if level == 1 else "section", ".".join(map(str, self.sections)))

    def next(self, kind: str, title: str = "") -> Target:
        self.counts[kind] += 1
        number = str(self.counts[kind])
        return Target(kind, f"{self.chapter}.{number}" if self.chapter else number, title)


class Book:
    """What the pages need of each other: names, numbers, works and the address of the built book."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = yaml.safe_load((folder / "_config.yml").read_text(encoding="utf-8"))
        theme = config.get("sphinx", {}).get("config", {}).get("html_theme_options", {})
        address = re.fullmatch(r"https://github\.com/([\w.-]+)/([\w.-]+)", theme.get("repository_url", ""))
        self.site = f"https://{address[1].lower()}.github.io/{address[2]}/" if address else ""
        self.chapters = in_order(yaml.safe_load((folder / "_toc.yml").read_text(encoding="utf-8")))
        self.targets: dict[str, Target] = {}
        self.unnumbered = Numbers(None)  # pages that are no chapters are counted through
        self.titles: dict[str, str] = {}
        for page in self.chapters:
            try:
                self._survey(page)
            except ValueError as error:
                raise ValueError(f"{page}: {error}") from None
        self.works = self._works()

    def notebooks(self) -> list[str]:
        return [page for page in self.chapters if (self.folder / f"{page}.ipynb").is_file()]

    def read(self, page: str) -> dict[str, Any]:
        return json.loads((self.folder / f"{page}.ipynb").read_text(encoding="utf-8"))

    def _survey(self, page: str) -> None:
        path = self.folder / f"{page}.md"
        if path.is_file():
            cells = [{"cell_type": "markdown", "metadata": {}, "source": path.read_text(encoding="utf-8")}]
        else:
            cells = self.read(page)["cells"]
        chapter, labels = self.chapters[page], []
        numbers = Numbers(chapter) if chapter else self.unnumbered
        for cell in cells:
            if cell["cell_type"] == "code":
                if named := shown_figure(cell):
                    self.targets[named["name"]] = numbers.next("figure")
                continue
            open_blocks = split("".join(cell["source"]))
            while open_blocks:
                block = open_blocks.pop(0)
                if block.name in BOXES:
                    open_blocks = split(block.text) + open_blocks
                elif block.name == "math":
                    if block.option("label"):
                        self.targets[block.option("label")] = numbers.next("equation")
                elif block.name == "exercise-start":
                    self.targets[block.option("label")] = numbers.next("exercise", block.title)
                elif block.option("name"):
                    kind = "table" if "table" in block.name else "figure"
                    self.targets[block.option("name")] = numbers.next(kind)
                for line in block.text.split("\n") if not block.name else ():
                    if label := LABEL.fullmatch(line):
                        labels.append(label["label"])
                    elif heading := HEADING.fullmatch(line):
                        at = numbers.heading(len(heading["marks"]))
                        at = Target(at.kind, at.number, heading["title"])
                        self.titles.setdefault(page, heading["title"])
                        self.targets |= dict.fromkeys(labels, at)
                        labels = []

    def _works(self) -> dict[str, tuple[str, str]]:
        """Label and address of each work by its key, the labels as on the pages of the book."""
        from book_pages import BookStyle

        path, style = self.folder / "references.bib", BookStyle()
        entries = style.sort(parse_file(path).entries.values()) if path.is_file() else []
        found = {}
        for entry, label in zip(entries, style.format_labels(entries), strict=True):
            fields = entry.fields
            address = fields.get("url", "")
            if "eprint" in fields:
                address = f"https://arxiv.org/abs/{fields['eprint']}"
            if "doi" in fields:
                address = f"https://doi.org/{fields['doi']}"
            found[entry.key] = label, address
        return found


def in_order(toc: dict[str, Any]) -> dict[str, int | None]:
    """Pages in the order of the book, each with its number as a chapter."""
    pages, number = {toc["root"]: None}, 0
    for part in toc.get("parts", [toc]):
        for chapter in part.get("chapters", []):
            number += bool(part.get("numbered"))
            pages[chapter["file"]] = number if part.get("numbered") else None
            pages |= {section["file"]: None for section in chapter.get("sections", [])}
    return pages


def shown_figure(cell: dict[str, Any]) -> dict[str, str]:
    """Name and caption of the figure that a cell shows, if it does."""
    hidden = {"remove-output", "remove-cell"} & set(cell["metadata"].get("tags", []))
    return {} if hidden else cell["metadata"].get("mystnb", {}).get("figure", {})


class Chapter:
    """One notebook on its way into the plain edition."""

    def __init__(self, book: Book, page: str, executed: Path | None = None) -> None:
        self.book, self.page = book, page
        self.numbers = Numbers(book.chapters[page])
        self.solution = ""  # of which exercise, between its start and its end
        self.source = book.read(page)
        self.glues = any("import glue" in text(cell) for cell in code_cells(self.source))
        self.run: list[dict[str, Any]] = []  # code cells of the book's own run
        self.values: dict[str, str] | None = None  # what they glued
        path = Path(executed or "", f"{page}.ipynb")
        if executed and path.is_file():
            self.run = code_cells(json.loads(path.read_text(encoding="utf-8")))
            if [text(cell) for cell in self.run] == [text(cell) for cell in code_cells(self.source)]:
                glued = path.with_suffix(".glue.json")
                values = json.loads(glued.read_text(encoding="utf-8")) if glued.is_file() else {}
                self.values = {key: value["data"].get("text/plain", "") for key, value in values.items()}

    def notebook(self, *, outputs: bool = False) -> dict[str, Any]:
        """Return the plain notebook, with the outputs of the book's own run if asked for."""
        runs = iter(self.run if outputs and self.values is not None else [])
        cells: list[dict[str, Any]] = []
        for cell in self.source["cells"]:
            if cell["cell_type"] == "markdown":
                plain = self.markdown(text(cell))
                cells += [markdown_cell(cell["id"], plain)] if plain else []
            else:
                cells += self.code(cell, next(runs, None))
        note = [f"this chapter [in the book]({self.book.site}{self.page}.html)"] if self.book.site else []
        note += [BRACKETS] if self.values is None and self.glues else []
        if note:
            said = "; ".join(note)
            cells.insert(1, markdown_cell("plain-edition", f"> {said[0].upper()}{said[1:]}."))
        return self.source | {"cells": cells}

    def code(self, cell: dict[str, Any], run: dict[str, Any] | None) -> list[dict[str, Any]]:
        """Return a code cell, folded if the book folds it, and the caption of its figure."""
        tags = set(cell["metadata"].get("tags", []))
        info, figure = cell["metadata"].get("mystnb", {}), shown_figure(cell)
        number = self.target(figure["name"]).number if figure else ""
        made = {key: copy.deepcopy(value) for key, value in cell.items() if key != "metadata"}
        made["outputs"], made["execution_count"] = [], None
        made["metadata"] = {"tags": sorted(tags)} if tags else {}
        source = self.with_glue(cell)
        if self.solution or tags & FOLDED:
            title = info.get("code_prompt_show", f"Code for figure {number}" if figure else "Code")
            title = "Setup" if "setup" in tags else title
            title = "Numbers for the text" if "remove-cell" in tags else title
            title = f"Solution of exercise {self.solution}" if self.solution else title
            source = f"# @title {title}\n{source}"  # what is seen of a folded cell
            hides = bool(self.solution or "hide-cell" in tags)
            made["metadata"] |= {"cellView": "form", "jupyter": {"source_hidden": True}}
            made["metadata"]["jupyter"] |= {"outputs_hidden": True} if hides else {}
        made["source"] = source.splitlines(keepends=True)
        if run is not None:
            kept = [out for out in run["outputs"] if "scrapbook" not in out.get("metadata", {})]
            made["outputs"], made["execution_count"] = kept, run["execution_count"]
        if not figure:
            return [made]
        caption = self.caption(number, figure["caption"], info.get("image", {}).get("alt", ""))
        return [made, markdown_cell(f"{cell['id']}-caption"[:64], caption)]

    def caption(self, number: str, caption: str, alt: str = "") -> str:
        said = f"*Figure {number}.* {self.inline(caption.strip())}"
        said += "\n\n" + folded("The picture in words", alt.strip()) if alt else ""
        return folded(f"Figure {number}", said) if self.solution else said

    def with_glue(self, cell: dict[str, Any]) -> str:
        """Return the code of a cell; a ``glue`` that needs nothing installed stands in the setup cell."""
        source = text(cell)
        if "setup" in cell["metadata"].get("tags", []) and self.glues:
            return f"{source}\n\n\n{GLUE if self.values is not None else GLUE_PRINTS}"
        if "import glue" not in source:
            return source
        lines = source.split("\n")
        for node in ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE)).body:
            if isinstance(node, ast.Try | ast.ImportFrom) and "import glue" in ast.unparse(node):
                lines[node.lineno - 1 : node.end_lineno] = []
        return re.sub(r"\n{3,}", "\n\n", "\n".join(lines), count=1)

    def markdown(self, source: str) -> str:
        """Return the plain text of a cell; "" if nothing of it is left."""
        done, inside, started = [], [], False

        def close() -> None:
            nonlocal inside, started
            title = f"Solution of exercise {self.solution}"
            if inside:
                done.append(folded(title if started else f"{title}, continued", "\n\n".join(inside)))
            elif started:
                done.append(f"**{title}:** in the folded cell below.")
            inside, started = [], False

        for block in split(source):
            if block.name == "solution-start":
                self.solution, started = self.target(block.title).number, True
            elif block.name == "solution-end":
                close()
                self.solution = ""
            else:
                shown = self.block(block)
                (inside if self.solution else done).extend([shown] if shown else [])
        if self.solution:
            close()
        return "\n\n".join(done)

    def block(self, block: Block, *, flat: bool = False) -> str:
        """Return the plain text of a block; in a quote an equation must be ``flat``, on one line."""
        if block.name == "":
            lines = [line for line in block.text.split("\n") if not LABEL.fullmatch(line)]
            return self.inline("\n".join(map(self.numbered, lines)).strip("\n"))
        if block.name == "code":
            return block.text
        if block.name == "math":
            label = block.option("label")
            tag = f" \\tag{{{self.target(label).number}}}" if label else ""
            return f"$${' '.join((block.text + tag).split())}$$" if flat else f"$$\n{block.text}{tag}\n$$"
        if block.name in BOXES:
            folds = block.name == "dropdown" or "dropdown" in block.option("class").split()
            title = self.inline(block.title or block.name.capitalize())
            body = "\n\n".join(self.block(part, flat=not folds) for part in split(block.text))
            if folds:
                return folded(title, body)
            return "\n".join(f"> {line}".rstrip() for line in f"**{title}**\n\n{body}".split("\n"))
        if block.name == "exercise-start":
            exercise = self.target(block.option("label"))
            return f"### Exercise {exercise.number}: {self.inline(exercise.title)}"
        if block.name == "exercise-end":
            return ""
        if block.name == "glue:figure":
            return self.caption(self.target(block.option("name")).number, block.text)
        raise ValueError(f"{self.page}: the plain edition knows no {{{block.name}}}")

    def numbered(self, line: str) -> str:
        heading = HEADING.fullmatch(line)
        if not heading:
            return line
        number = self.numbers.heading(len(heading["marks"])).number
        return f"{heading['marks']} {number}. {heading['title']}" if number else line

    def inline(self, source: str) -> str:
        """Return a text with its roles and links in plain words; code and formulas stay as they are."""
        kept: list[str] = []

        def keep(match: re.Match[str]) -> str:
            before = source[: match.start()].rstrip(" \n*>")
            begins = not before or before[-1] in ".?!|" or bool(re.search(r"(?:^|\n)\s*[-\d]+$", before))
            kept.append(self.role(match, begins=begins) if match["role"] else match[0])
            return f"\0{len(kept) - 1}\0"

        held = LINK.sub(self.link, KEPT.sub(keep, source))
        return re.sub(r"\0(\d+)\0", lambda match: kept[int(match[1])], held)

    def role(self, match: re.Match[str], *, begins: bool) -> str:
        role, content = match["role"], " ".join(match["content"].split())
        words, target = content, content
        if given := re.fullmatch(r"(.*?) ?<([^<>]+)>", content):
            words, target = given[1], given[2]
        if role == "term":
            anchor = re.sub(r"[^a-zA-Z0-9]+", "-", target)
            return self.to_site("glossary", words, f"term-{anchor}")
        if role.startswith("cite"):
            keys = [key.strip() for key in content.split(",")]
            if unknown := ", ".join(key for key in keys if key not in self.book.works):
                raise ValueError(f"{self.page}: the bibliography has no {unknown}")
            works = [self.book.works[key] for key in keys]
            linked = [f"[{label}]({address})" if address else label for label, address in works]
            return "; ".join(linked) if role == "cite:t" else f"({'; '.join(linked)})"
        if role.startswith("glue"):
            return self.value(content)
        if role == "doc":
            known = self.book.chapters.get(target)
            words = words if given else f"chapter {known}" if known else self.book.titles.get(target, target)
            return self.to_page(target, words)
        if role in ("ref", "numref", "eq"):
            found = self.target(target)
            said = words.replace("%s", found.number) if given else str(found)
            return f"{said[0].upper()}{said[1:]}" if begins else said
        raise ValueError(f"{self.page}: the plain edition knows no {{{role}}}")

    def value(self, content: str) -> str:
        """Return what a chapter glued, or the name of it in brackets."""
        key, _, spec = content.partition(":")
        if self.values is None or key not in self.values:
            return f"⟨{key.lstrip('0123456789-').replace('-', ' ')}⟩"
        value = ast.literal_eval(self.values[key])
        return format(value, spec) if spec else str(value)

    def target(self, label: str) -> Target:
        if label not in self.book.targets:
            raise ValueError(f"{self.page}: nothing is called {label!r}")
        return self.book.targets[label]

    def link(self, match: re.Match[str]) -> str:
        target, _, anchor = match["target"].partition("#")
        if "://" in match["target"]:
            return match[0]
        page = target.removesuffix(".ipynb").removesuffix(".md")
        return self.to_page(page, match["text"], anchor) if target else match["text"]

    def to_page(self, page: str, words: str, anchor: str = "") -> str:
        if page in self.book.notebooks():
            return f"[{words}]({page}.ipynb)"
        return self.to_site(page, words, anchor)

    def to_site(self, page: str, words: str, anchor: str) -> str:
        anchor = f"#{anchor}" if anchor else ""
        return f"[{words}]({self.book.site}{page}.html{anchor})" if self.book.site else words


def folded(title: str, body: str) -> str:
    return f"<details>\n<summary><b>{title}</b></summary>\n\n{body}\n\n</details>"


def text(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def markdown_cell(name: str, source: str) -> dict[str, Any]:
    return {
        "cell_type": "markdown",
        "id": name,
        "metadata": {},
        "source": source.splitlines(keepends=True),
    }


def write(
    book: Path, out: Path, *, executed: Path | None = None, outputs: bool = False, edited: bool = False
) -> tuple[list[str], list[str]]:
    """Write the plain edition of a book.

    Args:
        book: Its folder.
        out: Where the notebooks go.
        executed: The folder of the build with the notebooks that it ran: numbers in the text are those if
            the code is the same.
        outputs: Whether the notebooks hold the outputs of that run.
        edited: Whether to leave notebooks that were changed since they were written here, and to put a copy
            of the recorded results beside them.

    Returns:
        Names of the notebooks that were written, and of those that were left.
    """
    state = out / ".written.json"
    hashes = json.loads(state.read_text(encoding="utf-8")) if edited and state.is_file() else {}
    shelf, written, left = Book(book), [], []
    out.mkdir(parents=True, exist_ok=True)
    for page in shelf.notebooks():
        plain = Chapter(shelf, page, executed).notebook(outputs=outputs)
        made = json.dumps(plain, indent=1, ensure_ascii=False)
        path = out / f"{page}.ipynb"
        if edited and path.is_file() and digest(path.read_text(encoding="utf-8")) != hashes.get(path.name):
            left.append(path.name)
            continue
        path.write_text(f"{made}\n", encoding="utf-8", newline="\n")
        hashes[path.name] = digest(f"{made}\n")
        written.append(path.name)
    if edited:
        shutil.copytree(book / "results", out / "results", dirs_exist_ok=True)
        state.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
    return written, left


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder for the notebooks")
    parser.add_argument("--outputs", action="store_true", help="with the outputs of the last build")
    parser.add_argument(
        "--working-copy", action="store_true", help="leave edited notebooks there; put results/ beside them"
    )
    arguments = parser.parse_args(argv)
    executed = BOOK / "_build" / "jupyter_execute"
    try:
        written, left = write(
            BOOK, arguments.out, executed=executed, outputs=arguments.outputs, edited=arguments.working_copy
        )
    except (OSError, ValueError) as error:
        print(f"plain_edition: {error}", file=sys.stderr)
        return 2
    print(f"{len(written)} notebooks are in {arguments.out.resolve()}")
    if left:
        print(f"Yours were left as they are (rename or delete one to get it anew): {', '.join(left)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
