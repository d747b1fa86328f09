"""Chapter 7: every check that it teaches refuses the broken variant and accepts the right one.

The cells are executed as they stand in the notebook, each pitfall alone with the imports and the helpers, so
that a cell which needs another one's variables fails here.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

BOOK = Path(__file__).parent.parent / "book"
CELLS = json.loads((BOOK / "07_pitfalls.ipynb").read_text(encoding="utf-8"))["cells"]
TEXT = "\n".join("".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "markdown")
NUMBERS = sorted(
    int(tag.removeprefix("pitfall-"))
    for cell in CELLS
    for tag in cell["metadata"].get("tags", [])
    if tag.startswith("pitfall-")
)
# Broken variants that stop with an error. All others run, and the check has to say False.
ERRORS = {
    1: [RuntimeError],
    4: [RuntimeError],
    22: [AttributeError, UserWarning, TypeError, NameError],
}


def code(tag: str) -> str:
    """The source of the cells that have a tag."""
    found = ["".join(cell["source"]) for cell in CELLS if tag in cell["metadata"].get("tags", [])]
    assert found, f"no cell is tagged {tag}"
    return "\n".join(found)


@pytest.fixture(scope="module")
def common() -> dict:
    """What all pitfalls may use: imports, the sample, the helpers."""
    namespace: dict = {}
    with plt.style.context("default"), contextlib.redirect_stdout(io.StringIO()):
        exec(code("imports"), namespace)
        exec(code("helpers"), namespace)
    return namespace


def run(number: int, common: dict) -> tuple[object, object, list, str]:
    """Execute the cells of a pitfall: its check, the right variant, the broken ones, and what it prints."""
    given: list[tuple] = []

    def verdict(check, *, right, broken):
        given.append((check, right, broken if isinstance(broken, list) else [broken]))

    namespace, printed = common | {"verdict": verdict}, io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code(f"pitfall-{number:02}"), namespace)
    assert len(given) == 1, "a pitfall has one check"
    check, right, broken = given[0]
    assert check is namespace[f"check_{number:02}"]
    return check, right, broken, printed.getvalue()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_check_tells_the_variants_apart(number, common):
    """A check that passes on the broken variant teaches readers to trust a test that cannot fail."""
    check, right, broken, _ = run(number, common)
    assert check(right)
    errors = ERRORS.get(number, [None] * len(broken))
    for variant, error in zip(broken, errors, strict=True):
        if error is None:
            assert not check(variant)
        else:
            with pytest.raises(error):
                check(variant)


def test_a_layer_behind_1000_logits_stops_only_with_the_wrong_width(common):
    """The text says which of the two broken heads stops with an error; the check must name both before."""
    check, _, broken, printed = run(12, common)
    assert [variant.__name__ for variant in broken] == ["wrapped_512", "wrapped_1000"]
    said = {line.split()[0]: line for line in re.sub(r"\n  ", " ", printed).splitlines()}
    assert "RuntimeError" in said["wrapped_512"]
    assert all(said[name].endswith("logits (2, 10)") for name in ("wrapped_1000", "replaced"))
    assert not any(check(variant) for variant in broken)


def test_the_chapter_stops_where_a_check_cannot_tell(common):
    """`verdict` is what makes the built page fail; it must refuse a check that is blind or too strict."""
    verdict = common["verdict"]
    for check in (lambda variant: True, lambda variant: False):
        with pytest.raises(AssertionError), contextlib.redirect_stdout(io.StringIO()):
            verdict(check, right=1, broken=0)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        verdict(lambda variant: 1 / variant == 1, right=1, broken=[0, 2])
    assert "ZeroDivisionError: division by zero" in said.getvalue()


def test_every_pitfall_has_its_parts():
    """A pitfall without a cell, a fix or a test is a complaint, not a lesson."""
    headings = re.findall(r"^### Pitfall (\d+): \S.*$", TEXT, flags=re.MULTILINE)
    assert [int(number) for number in headings] == sorted(set(NUMBERS)) == list(range(1, len(headings) + 1))
    assert len(headings) == 22 and "twenty-two" in TEXT
    assert "twenty-two" in (BOOK.parent / "README.md").read_text(encoding="utf-8")
    assert max(Counter(NUMBERS).values()) == 1, "one cell a pitfall"
    assert {TEXT.count(f"**{part}.** ") for part in ("Fix", "Test", "Seen")} == {len(headings)}
    for seen in re.findall(r"^\*\*Seen\.\*\* (.+)$", TEXT, flags=re.MULTILINE):
        assert "](https://" in seen or "Ours" in seen, f"neither a source nor ours: {seen}"


def test_the_checklist_has_every_pitfall():
    """What readers take away must not leave one out."""
    table = TEXT.split("| ask | test | pitfall |")[1].split("\n\n")[0]
    rows = [row.split("|")[-2] for row in table.splitlines() if row.startswith("|")]
    listed = [int(match[1]) for row in rows for match in re.finditer(r"`(\d+) <pitfall-\1>`", row)]
    assert sorted(listed) == list(range(1, max(NUMBERS) + 1))
