"""Counted things: one is singular, wherever it is printed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

import kdbench
from kdbench._counted import counted, plural
from kdbench.bench.plan.machine import STAGE_CODE, arithmetic, in_words
from kdbench.numerics import Numerics

ROOT = Path(kdbench.__file__).parent
#: What kdbench counts.
NOUNS = """
artefact cell change check class column core dataset day device entry field file folder image
label line member network number picture plugin process remark result row run seed stage step
student task teacher tensor thread value worker
"""
_PLURAL = re.compile(
    rf"^ (?:(?:more|other|printed|test|training) )?(?:{'|'.join(map(plural, NOUNS.split()))})\b"
)
#: A page has functions of its own. What a stage runs is part of every key, its messages too. An
#: archive is told of where it has more than a limit.
_OTHERS = ("page/", "report/", "untrusted/archive/", *STAGE_CODE)
#: What stands before such a noun and is no count: a split, a side, some lines, a range.
_NO_COUNTS = {"seen.split", "split", "what", "size", "few(lines)", "self.train.a_class"}


@pytest.mark.parametrize(
    ("count", "noun", "words"),
    [
        (1, "stage", "1 stage"),
        (0, "stage", "0 stages"),
        (2, "class", "2 classes"),
        (1, "class", "1 class"),
        (3, "entry", "3 entries"),
        (2, "day", "2 days"),
        (2, "training image", "2 training images"),
    ],
)
def test_one_is_singular(count, noun, words):
    assert counted(count, noun) == words


def test_one_thread_is_singular_for_people_only():
    one, card = Numerics(threads=1), Numerics(torch.device("cuda"))
    assert in_words(one) == "fp32+channels_last, 1 thread"
    assert in_words(card) == "fp32+channels_last"
    # It is in the keys of every store.
    assert arithmetic(one) == "cpu fp32+channels_last, 1 threads"


def _plurals(path):
    """The f-strings of a file in which a value is followed by a noun in the plural."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            for value, text in zip(node.values, node.values[1:], strict=False):
                if (
                    isinstance(value, ast.FormattedValue)
                    and isinstance(text, ast.Constant)
                    and _PLURAL.search(text.value)
                    # A limit that stands in the code is never one.
                    and not (words := ast.unparse(value.value)).isupper()
                    and words not in _NO_COUNTS
                ):
                    yield f"{path.name}:{node.lineno} {words}{text.value[:40]!r}"


def test_nothing_is_counted_in_the_plural_only():
    found = [
        line
        for path in sorted(ROOT.rglob("*.py"))
        if not path.relative_to(ROOT).as_posix().startswith(_OTHERS)
        for line in _plurals(path)
    ]
    assert found == [], "use kdbench._counted.counted"
