"""Every test that a page names beside a claim is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.shown import DOCS, ROOT

#: The pages that say what holds, and the fewest tests that each of them names.
PAGES = {
    ROOT / "SECURITY.md": 5,
    DOCS / "threat-model.md": 40,
    DOCS / "architecture.md": 5,
    DOCS / "report.md": 15,
    DOCS / "api.md": 8,
}
_NAMED = re.compile(r"\btests/[\w/.-]+?\.py(?:::\w+)?")
#: A test without its file, for which nobody could look.
_SHORT = re.compile(r"(?<!\.py)::\w+|\btest_\w+(?![\w.]*\.py)")


@cache
def _tests(path: Path) -> frozenset[str]:
    """The functions of a file at its top, which is where tests stand."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def named(page: str) -> list[str]:
    """The tests and files of tests that a page names."""
    return sorted(set(_NAMED.findall(page)))


def missing(page: str) -> list[str]:
    """Those of them that do not exist, and names that say no file."""
    wrong = _SHORT.findall(_NAMED.sub("", page))
    for name in named(page):
        file, _, test = name.partition("::")
        path = ROOT / file
        if not path.is_file() or (test and test not in _tests(path)):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_claim_names_exists(page):
    text = page.read_text()
    assert missing(text) == []
    assert len(named(text)) >= PAGES[page]


@pytest.mark.parametrize(
    "wrong",
    [
        "`tests/docs/test_nowhere.py`",
        "`tests/docs/test_claims.py::test_nothing`",
        "`tests/docs/test_claims.py::missing_too`",
        "`test_every_test_that_a_claim_names_exists`",
        "`::test_a_wrong_name_is_missed`",
    ],
)
def test_a_wrong_name_is_missed(wrong):
    right = "`tests/docs/test_claims.py::test_a_wrong_name_is_missed`, `tests/sizes.py`"
    assert missing(f"It holds ([tests](../tests/test_layout.py), {right}).") == []
    assert missing(f"It holds ({right}, {wrong}).") != []
