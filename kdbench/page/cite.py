"""BibTeX of kdbench and of the methods that a run used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import kdbench
from kdbench.page.record import number, texts
from kdbench.untrusted.text import strip_control

#: What TeX would obey in a text, or set as another sign.
_SPECIAL = re.compile("[\\\\{}%$&#_^~<>|\u2212]")
_SPELLED = {
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "\u2212": "$-$",
}


def kdbench_entry() -> str:
    """The entry of kdbench itself, with what CITATION.cff says. That file is in no installed
    package, so a test compares the two."""
    return _entry(
        "software",
        "kdbench",
        {
            "title": "kdbench: backdoor attacks, distillers and defenses in knowledge distillation "
            "on one field",
            "author": "{The kdbench developers}",
            "year": "2026",
            "version": kdbench.__version__,
            "license": "MIT",
        },
    )


def paper_entry(name: str, paper: Mapping[str, Any]) -> str:
    """The entry of a method's paper. Empty: the method has none.

    Args:
        name: of the method.
        paper: title, authors, venue, year and link, see :class:`kdbench.method.Info`.
    """
    values = {field: tex(" ".join(texts(paper.get(field)))) for field in ("title", "venue", "link")}
    authors = " ".join(texts(paper.get("authors")))
    year = number(paper.get("year"))
    if not values["title"] or values["venue"].strip() in ("", "-") or year is None:
        return ""
    return _entry(
        "misc",
        re.sub(r"\W", "", name),
        {
            "title": f"{{{values['title']}}}",
            "author": _authors(authors),
            "howpublished": values["venue"],
            "year": f"{year:.0f}",
            "url": values["link"],
        },
    )


def _authors(names: str) -> str:
    """``Chen et al.`` and ``Li, Ma`` as BibTeX wants them."""
    known, _, more = names.partition(" et al")
    parts = [tex(part.strip()) for part in known.split(",") if part.strip()]
    return " and ".join([*parts, *(["others"] if more else [])])


def tex(text: str) -> str:
    """A text that TeX sets as it is."""
    return _SPECIAL.sub(lambda match: _SPELLED.get(match[0], f"\\{match[0]}"), strip_control(text))


def _entry(kind: str, key: str, fields: Mapping[str, str]) -> str:
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])
