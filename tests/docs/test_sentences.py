"""The pages are written in plain sentences, and none is too long to read at once."""

from __future__ import annotations

import math

import pytest

from tests.docs.prose import sentences, words
from tests.docs.shown import GUIDES, PAGES, ROOT

#: The pages of results; the notebook stays as it was written.
FINDINGS = [
    page for page in sorted((ROOT / "benchmarks").rglob("*.md")) if "notebook" not in page.parts
]


@pytest.mark.parametrize("page", [*PAGES, *FINDINGS], ids=lambda page: page.name)
def test_sentences_are_short(page):
    said = sentences(page.read_text())
    lengths = [words(sentence) for sentence in said]
    assert sum(lengths) <= 20 * len(said)
    too_long = [sentence for sentence in said if words(sentence) > 30]
    assert len(too_long) <= math.ceil(len(said) / 20), too_long


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_sentence_is_a_chain(page):
    assert [sentence for sentence in sentences(page.read_text()) if sentence.count(";") > 1] == []


def test_pages_are_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
    for page in GUIDES:
        assert len(page.read_text().splitlines()) < 200, page.name


def test_what_a_sentence_is():
    page = """# A heading. Not counted

One sentence, e.g. this (see Eq. 7) with `a.b c`. [Two](x.md)
goes on.

    code. It is none.

| a table. | It is none. |

- An item. Its second.
- Another item

```python
code. No.
```
kdbench is a word. kdbench again.
"""
    assert sentences(page) == [
        "One sentence, e.g this (see Eq 7) with CODE.",
        "Two goes on.",
        "An item.",
        "Its second.",
        "Another item",
        "kdbench is a word.",
        "kdbench again.",
    ]
    assert words("One, e.g. two % - of CODE, 97.7 %.") == 6
