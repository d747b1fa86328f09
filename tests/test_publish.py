"""The repository's address: one value, in the configuration and in every notebook, or nowhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tools" / "publish_config.py"
ADDRESS = "https://github.com/owner/some-name"


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of what the script may change."""
    (tmp_path / "book").mkdir()
    for name in ("_config.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    for path in [ROOT / "book" / "index.md", *(ROOT / "book").glob("*.ipynb")]:
        shutil.copy(path, tmp_path / "book")
    publish(tmp_path, "")
    return tmp_path


def publish(root: Path, address: str, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPT), address, "--root", str(root), *options]
    return subprocess.run(command, capture_output=True, text=True)


def theme(root: Path) -> dict:
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    return config["sphinx"]["config"]["html_theme_options"]


def addresses(root: Path) -> dict[str, str]:
    """The address in the setup cell of each notebook, as Python reads it."""
    found = {}
    for path in sorted((root / "book").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        (setup,) = [cell for cell in cells if "setup" in cell["metadata"].get("tags", [])]
        (line,) = [line for line in setup["source"] if line.startswith("REPOSITORY = ")]
        namespace: dict[str, str] = {}
        exec(line, namespace)
        found[path.name] = namespace["REPOSITORY"]
    return found


def contents(root: Path) -> dict[str, bytes]:
    files = [root / "_config.yml", root / "README.md", root / "book" / "index.md"]
    return {path.name: path.read_bytes() for path in [*files, *(root / "book").glob("*.ipynb")]}


def test_configuration_and_setup_cells_hold_the_same_address():
    """An address in one place only gives a Colab button that opens a notebook that cannot install itself."""
    known = theme(ROOT).get("repository_url", "")
    place = f"{known}@{theme(ROOT)['repository_branch']}" if known else ""
    assert set(addresses(ROOT).values()) == {place}
    assert ("launch_buttons" in theme(ROOT)) == bool(known)
    first_page = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    assert ("not by a button yet" in first_page) == (not known)
    assert ("/blob/notebooks/" in (ROOT / "README.md").read_text(encoding="utf-8")) == bool(known)


def test_publishing_writes_the_address_everywhere(project):
    """A notebook left out is the one that somebody opens in Colab."""
    done = publish(project, ADDRESS + ".git", "--branch", "trunk")
    assert done.returncode == 0, done.stderr
    assert theme(project)["repository_url"] == ADDRESS
    assert theme(project)["path_to_docs"] == "book" and theme(project)["repository_branch"] == "trunk"
    assert set(addresses(project).values()) == {f"{ADDRESS}@trunk"}
    assert len(addresses(project)) >= 6
    first_page = (project / "book" / "index.md").read_text(encoding="utf-8")
    assert "from the branch `trunk`" in first_page and "no public address" not in first_page
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert f"[Background]({ADDRESS}/blob/notebooks/01_background.ipynb)" in readme


def test_another_address_takes_the_place_of_the_first(project):
    """A fork that publishes must not send its readers to the book that it was made from."""
    publish(project, ADDRESS)
    publish(project, "https://github.com/fork/book", "--branch", "main")
    assert not [name for name, text in contents(project).items() if ADDRESS.encode() in text]


def test_nothing_but_the_address_changes(project):
    """Writing the notebooks anew would show up as a change of every line."""
    before = contents(project)
    publish(project, ADDRESS)
    for name, text in contents(project).items():
        old, new = before[name].splitlines(), text.splitlines()
        links = sum(b"](book/0" in line for line in old)
        changed = {"_config.yml": 8, "README.md": links, "index.md": 3}.get(name, 1)
        assert sum(line not in old for line in new) == changed, name
    assert "0 files changed" in publish(project, ADDRESS).stdout
    assert publish(project, "").returncode == 0
    assert contents(project) == before


def test_the_line_with_the_address_fits_the_page(project):
    """A published book must still pass the lint of 88 columns."""
    publish(project, "https://github.com/a-rather-long-owner/residual-networks-in-practice")
    for path in (project / "book").glob("*.ipynb"):
        (line,) = re.findall(r'^ *"(REPOSITORY = .*)\\n",?$', path.read_text(encoding="utf-8"), re.M)
        assert len(json.loads(f'"{line}"')) <= 88


@pytest.mark.parametrize(
    "address",
    [
        "owner/name",
        "http://github.com/owner/name",
        "https://github.com/owner",
        "https://example.org/owner/name",
        "https://github.com/owner/name\nx: 1",
        'https://github.com/owner/"name',
    ],
)
def test_an_address_that_cannot_work_is_refused(project, address):
    """Jupyter Book stops at a host that it does not know, and Colab opens GitHub only."""
    before = contents(project)
    done = publish(project, address)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "https://github.com/owner/name" in done.stderr
    assert contents(project) == before


def test_a_notebook_without_a_setup_cell_stops_before_anything_is_written(project):
    """Half of the files with the address and half without is worse than none."""
    last = sorted((project / "book").glob("*.ipynb"))[-1]
    last.write_text(last.read_text(encoding="utf-8").replace("REPOSITORY = ", "ADDRESS = "), encoding="utf-8")
    before = contents(project)
    done = publish(project, ADDRESS)
    assert done.returncode == 2 and last.name in done.stderr
    assert contents(project) == before


@pytest.mark.slow
@pytest.mark.parametrize("address", ["", ADDRESS], ids=["unpublished", "published"])
def test_pages_show_buttons_only_with_an_address(project, build_book, address):
    """A button without an address leads to an error page; with one it must open this very notebook."""
    publish(project, address)
    book = project / "book"
    for path in book.glob("*.ipynb"):
        if not path.name.startswith("04_"):
            path.unlink()
    (notebook,) = book.glob("*.ipynb")
    shorten(notebook)
    config = yaml.safe_load((project / "_config.yml").read_text(encoding="utf-8"))
    config["execute"]["execute_notebooks"] = "off"
    (book / "_config.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (book / "references.bib").write_text("", encoding="utf-8")
    (book / "_toc.yml").write_text(f"format: jb-book\nroot: {notebook.stem}\n", encoding="utf-8")
    build_book(book)

    page = (book / "_build" / "html" / f"{notebook.stem}.html").read_text(encoding="utf-8")
    links = set(re.findall(r'href="(https://[^"]+)"', page)) - {
        "https://creativecommons.org/licenses/by/4.0/"
    }
    if not address:
        assert links == set() and "og:image" not in page
        return
    path = f"book/{notebook.name}"
    assert f"https://colab.research.google.com/github/owner/some-name/blob/notebooks/{notebook.name}" in links
    assert not [link for link in links if "mybinder" in link]  # it would unpack a PyTorch for CUDA of 6 GB
    assert f"{ADDRESS}/edit/main/{path}" in links
    assert any(link.startswith(f"{ADDRESS}/issues/new") for link in links)
    (picture,) = re.findall(r'<meta property="og:image" content="([^"]+)"', page)
    site = "https://owner.github.io/some-name/"
    assert picture.startswith(site) and (book / "_build" / "html" / picture.removeprefix(site)).is_file()


def shorten(notebook: Path) -> None:
    """Keep the title and the setup cell, so that no reference leads out of the page."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    title = {"cell_type": "markdown", "id": "title", "metadata": {}, "source": ["# Title"]}
    content["cells"] = [title, content["cells"][1]]
    notebook.write_text(json.dumps(content), encoding="utf-8")
