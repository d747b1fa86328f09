"""The files around the code: links, the checks before a commit, the changelog, the forms for contributors."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXTS = sorted(path for folder in (".", "benchmarks", ".github") for path in (ROOT / folder).glob("*.md"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to the headings of a text."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_files_lead_somewhere(path):
    """A renamed file leaves a dead link on the first page that a visitor sees."""
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / unquote(name) if name else path
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


def test_checks_before_a_commit_are_local_and_pinned():
    """A hook without a version changes under our feet; one that is cloned needs an address."""
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert {repository["repo"] for repository in repositories} == {"local"}
    hooks = {hook["id"]: hook for repository in repositories for hook in repository["hooks"]}
    assert {"ruff-check", "ruff-format", "nbstripout", "codespell", "check-added-large-files"} <= set(hooks)
    for name, hook in hooks.items():
        assert hook["language"] == "python", name
        for package in hook["additional_dependencies"]:
            assert re.fullmatch(r"[\w-]+==[\d.]+", package), package
    assert "--keep-id" in hooks["nbstripout"]["entry"], "without it every cell would get another id"
    tested = re.search(r"^ruff==\S+", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    for name in ("ruff-check", "ruff-format"):
        assert hooks[name]["additional_dependencies"] == [tested[0]], "two versions format in two ways"


def test_the_changelog_knows_the_version():
    """A release that the changelog does not mention leaves readers to guess what changed."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[([^\]]+)\](?: - (\d{4}-\d\d-\d\d))?$", text, re.MULTILINE)
    assert sections[0] == ("Unreleased", "")
    assert all(date for _, date in sections[1:]), "a released version has a date"
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert PROJECT["version"] in text


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_forms_are_valid(path):
    """GitHub shows no form at all, and no message, when a key is missing."""
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.stem == "config":
        assert set(form) <= {"blank_issues_enabled", "contact_links"}
        return
    assert form["name"] and form["description"]
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids))
    for part in form["body"]:
        assert part["type"] in ("textarea", "input", "checkboxes", "dropdown")
        assert part["attributes"]["label"]


def test_commands_in_the_makefile_are_explained():
    """`make help` is where a newcomer looks."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in set(phony.split()) - {"help"}:
        assert f"make {target}" in shown, target
        assert re.search(rf"^{target}:", text, re.MULTILINE), target


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TRIGGERS = {"push", "pull_request", "schedule", "workflow_dispatch"}  # by others strangers get rights


def risks(text: str) -> list[str]:
    """What in a workflow could run code that nobody read, or lend it a right."""
    content = yaml.safe_load(text)
    found = [f"on {name}" for name in {*content[True]} - TRIGGERS]  # YAML takes "on" for a truth value
    if content["permissions"] != {"contents": "read"}:
        found.append("rights for all jobs")
    for job in content["jobs"].values():
        rights = job.get("permissions", {})
        if not isinstance(rights, dict):  # such as write-all
            found.append("every right")
        for step in job["steps"]:
            uses, runs = step.get("uses", ""), step.get("run", "")
            if uses and not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", uses):
                found.append(f"{uses} may change")
            if uses.startswith("actions/checkout@") and step["with"].get("persist-credentials") is not False:
                found.append("the token stays in what is checked out")
            if "${{" in runs:  # the title of a pull request is a command: in env it is a text
                found.append("a text becomes part of a command")
            built = re.search(r"checkout|setup-|\b(make|pip|python3?|npm)\b|\.ci/", uses + runs)
            if built and "write" in str(rights):
                found.append("code that may write")
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_was_read_and_may_do_no_more_than_they_need(path):
    """A tag of an action that is moved to other code; a token that a test could use to push."""
    text = path.read_text(encoding="utf-8")
    assert risks(text) == []
    assert ": write" not in text or path.name == "pages.yml"


@pytest.mark.parametrize(
    ("old", "new", "risk"),
    [
        ("  workflow_dispatch:", "  pull_request_target:", "on pull_request_target"),
        ("  contents: read", "  contents: write", "rights for all jobs"),
        ("permissions:\n  contents: read", "permissions: write-all", "rights for all jobs"),
        ("  build:\n", "  build:\n    permissions: write-all\n", "every right"),
        ("  build:\n", "  build:\n    permissions: {contents: write}\n", "code that may write"),
        ("@d6db90164ac5ed86f2b6aed7e0febac5b3c0c03e", "@v4", "actions/deploy-pages@v4 may change"),
        ("persist-credentials: false", "fetch-depth: 0", "the token stays in what is checked out"),
        ("make book", 'echo "${{ github.event.head_commit.message }}"', "a text becomes part of a command"),
        ("$TOKEN", "${{ github.token }}", "a text becomes part of a command"),
        ("cd notebooks", "make book", "code that may write"),
    ],
)
def test_a_workflow_that_lends_rights_is_found(old, new, risk):
    """A check that finds nothing anywhere is none."""
    text = (ROOT / ".github" / "workflows" / "pages.yml").read_text(encoding="utf-8")
    assert old in text and risk in risks(text.replace(old, new))


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_what_testing_md_names_is_there():
    """A promise whose test was renamed, or is gone, is held by nothing."""
    text = (ROOT / "TESTING.md").read_text(encoding="utf-8")
    named = re.findall(r"tests/[\w/]+\.py(?:::\w+)?", text)
    assert len(named) > 30
    for path, _, name in (entry.partition("::") for entry in named):
        assert (ROOT / path).is_file(), path
        assert not name or name in functions(ROOT / path), f"{path}::{name}"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"\bmake ([a-z-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert len(text.splitlines()) <= 130
