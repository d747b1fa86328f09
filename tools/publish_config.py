"""Write the repository's public address wherever the book needs it.

    python tools/publish_config.py https://github.com/owner/name
    python tools/publish_config.py ""     # takes it out again

In `_config.yml` the address brings the buttons of every page: Colab, edit, issue. In the notebooks' setup
cells it is, with the branch, where a reader without the package gets it from. The first page says whether
Colab can open the chapters, and the README's table leads to their plain edition, on the branch `notebooks`
that the workflow makes which publishes the book. Commit what this changes. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUTTONS = """\
      repository_url: {address}
      repository_branch: {branch}
      path_to_docs: book
      use_repository_button: true
      use_edit_page_button: true
      use_issues_button: true
      launch_buttons:
        colab_url: https://colab.research.google.com
"""
# The line of the setup cell, as it stands in the file of the notebook: with the quotes escaped.
SETTING = re.compile(r'"REPOSITORY = \\"(?P<address>[^"\\]*)\\"[^"]*\\n"')
MARKS = {
    "_config.yml": ("      # begin address\n", "      # end address\n"),
    "index.md": ("% begin address\n", "% end address\n"),
}
IN_COLAB = """
**In Google Colab:** choose *Colab* under the rocket at the top of a chapter. It opens the plain notebook; the
first cell installs the package from the branch `{branch}` and keeps the PyTorch that is already there. Colab
gives a GPU under *Runtime → Change runtime type*.

"""
NOT_IN_COLAB = """
**In Google Colab:** not by a button yet, since the book has no public address. Until then upload a chapter's
plain notebook, and install the package there from a copy of the repository with `pip install .` first.

"""
CHAPTER = re.compile(r"\]\((?:book|https://github\.com/[\w./-]+/blob/notebooks)/(?P<name>\d\d_\w+\.ipynb)\)")
EMPTY = 'REPOSITORY = ""  # the book\'s public address; empty until it is published\n'


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address", help='https://github.com/owner/name, or "" for none')
    parser.add_argument("--branch", default="main", help="the branch that the buttons open (default: main)")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    try:
        changed = publish(arguments.root, arguments.address, branch=arguments.branch)
    except (OSError, ValueError) as error:
        print(f"publish_config: {error}", file=sys.stderr)
        return 2
    print(f"{len(changed)} files changed" + "".join(f"\n  {path}" for path in changed))
    return 0


def publish(root: Path, address: str, *, branch: str = "main") -> list[Path]:
    """Write the address into the configuration and the notebooks of the project at ``root``.

    Returns:
        The files that changed, relative to ``root``.

    Raises:
        ValueError: the address or branch cannot be used, or a file lacks the place to write it.
    """
    address = address.removesuffix("/").removesuffix(".git")
    if address and not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", address):
        raise ValueError(
            f"{address!r} is not the address of a repository: give https://github.com/owner/name, which is "
            "what Colab can open"
        )
    if not re.fullmatch(r"[\w./-]+", branch):
        raise ValueError(f"{branch!r} is not the name of a branch")
    buttons = BUTTONS.format(address=address, branch=branch) if address else ""
    sentence = IN_COLAB.format(branch=branch) if address else NOT_IN_COLAB
    texts = {root / "_config.yml": buttons, root / "book" / "index.md": sentence}
    new = {path: between_marks(path, text) for path, text in texts.items()}
    readme, folder = root / "README.md", f"{address}/blob/notebooks" if address else "book"
    new[readme] = CHAPTER.sub(rf"]({folder}/\g<name>)", readme.read_text(encoding="utf-8"))
    for notebook in sorted((root / "book").glob("*.ipynb")):
        place = f"{address}@{branch}" if address else ""
        new[notebook] = with_address(notebook.read_text(encoding="utf-8"), place, notebook.name)
    # Only now, when every file has been understood, is any of them written.
    changed = [path for path, text in new.items() if text != path.read_text(encoding="utf-8")]
    for path in changed:
        path.write_text(new[path], encoding="utf-8", newline="\n")
    return [path.relative_to(root) for path in changed]


def between_marks(path: Path, said: str) -> str:
    """Return the text of a file with ``said`` between its two marks."""
    text, (begin, end) = path.read_text(encoding="utf-8"), MARKS[path.name]
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{path.name} must have the lines {begin.strip()!r} and {end.strip()!r} once each")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}{said}{end}{after}"


def with_address(notebook: str, address: str, name: str) -> str:
    """Return the text of a notebook with the address in its setup cell, and nothing else changed."""
    setups = [cell for cell in json.loads(notebook)["cells"] if "setup" in cell["metadata"].get("tags", [])]
    line = json.dumps(f'REPOSITORY = "{address}"\n' if address else EMPTY)
    text, places = SETTING.subn(lambda _: line, notebook)
    if len(setups) != 1 or places != 1:
        raise ValueError(
            f"{name} has {len(setups)} setup cells and {places} lines that set REPOSITORY: one each is needed"
        )
    return text


if __name__ == "__main__":
    sys.exit(main())
