"""The book's own extension of Sphinx: labels of works, and what the search finds."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("pybtex")
sys.path.insert(0, str(Path(__file__).parents[1] / "book" / "_ext"))
from book_pages import AuthorYear, JoinedWords
from pybtex.database import parse_string


def test_labels_say_who_and_when_and_tell_works_of_one_year_apart():
    """Labels such as [HZRS16a] say nothing to a reader, and two papers by He et al. are of 2016."""
    people = "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing"
    works = "".join(f"@misc{{k{n}, author={{{people}}}, year=2016, title={{T{n}}}}}" for n in (1, 2))
    works += "@misc{d, author={Dumoulin, Vincent and Visin, Francesco}, year=2016}@misc{k, year=2009}"
    entries = list(parse_string(works, "bibtex").entries.values())
    labels = list(AuthorYear().format_labels(entries))
    assert labels == ["He et al. 2016a", "He et al. 2016b", "Dumoulin and Visin 2016", "k 2009"]


def test_the_search_finds_a_word_with_and_without_its_hyphen():
    """ "Overfitting" and "over-fitting" found different pages."""
    words = JoinedWords({}).split("Over-fitting is not under-fitting.")
    assert {"Overfitting", "underfitting", "Over", "fitting"} <= set(words)
