"""Write the repository's public address wherever the book needs it.

    python tools/publish_config.py https://github.com/owner/name
    python tools/publish_config.py ""     # takes it out again

In `_config.yml` the address brings the buttons of every page: Colab, Binder, edit, issue. In the notebooks'
setup cells it is where a reader without the package gets it from. Commit what this changes, since Colab opens
the notebooks of the repository. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BEGIN, END = "      # begin address\n", "      # end address\n"
BUTTONS = """\
      repository_url: {address}
      repository_branch: {branch}
      path_to_docs: book
      use_repository_button: true
      use_edit_page_button: true
      use_issues_button: true
      launch_buttons:
        notebook_interface: jupyterlab
        binderhub_url: https://mybinder.org
        colab_url: https://colab.research.google.com
"""
# The line of the setup cell, as it stands in the file of the notebook: with the quotes escaped.
SETTING = re.compile(r'"REPOSITORY = \\"(?P<address>[^"\\]*)\\"[^"]*\\n"')
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
            "what Colab and Binder can open"
        )
    if not re.fullmatch(r"[\w./-]+", branch):
        raise ValueError(f"{branch!r} is not the name of a branch")
    config = root / "_config.yml"
    new = {config: with_buttons(config.read_text(encoding="utf-8"), address, branch)}
    for notebook in sorted((root / "book").glob("*.ipynb")):
        new[notebook] = with_address(notebook.read_text(encoding="utf-8"), address, notebook.name)
    # Only now, when every file has been understood, is any of them written.
    changed = [path for path, text in new.items() if text != path.read_text(encoding="utf-8")]
    for path in changed:
        path.write_text(new[path], encoding="utf-8", newline="\n")
    return [path.relative_to(root) for path in changed]


def with_buttons(config: str, address: str, branch: str) -> str:
    """Return the text of ``_config.yml`` with the buttons of an address, or without any."""
    if config.count(BEGIN) != 1 or config.count(END) != 1:
        raise ValueError(f"_config.yml must have the lines {BEGIN.strip()!r} and {END.strip()!r} once each")
    before, rest = config.split(BEGIN)
    _, after = rest.split(END)
    buttons = BUTTONS.format(address=address, branch=branch) if address else ""
    return f"{before}{BEGIN}{buttons}{END}{after}"


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
