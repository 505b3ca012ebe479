"""Puts a page together: the same runs give the same bytes, and the page asks nobody for
anything."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import kdbench
from kdbench._files import write_atomically
from kdbench.page import numbers
from kdbench.page.cells import cells_of
from kdbench.page.finding import finding_of
from kdbench.page.marks import MARKS, outcomes
from kdbench.page.matrix import matrix_of
from kdbench.page.source import Source
from kdbench.page.tasks import tasks_of
from kdbench.untrusted.text import strip_control

_TEMPLATES = Path(__file__).parent / "templates"
#: Bytes of a page. What is larger, nobody can open.
MOST_BYTES = 5_000_000


def write_page(source: Source, path: Path) -> None:
    """Write the page of some runs.

    Raises:
        OSError: it cannot be written.
    """
    page = page_of(source)
    write_atomically(path, lambda target: target.write_text(page, encoding="utf-8"))


def page_of(source: Source) -> str:
    """The page of some runs, as HTML."""
    return _environment().get_template("page.html").render(**_parts(source))


def _parts(source: Source) -> dict[str, Any]:
    """What the templates get."""
    tasks = tasks_of(source.rows)
    script = _asset("page.js")
    return {
        "version": kdbench.__version__,
        "style": Markup(_asset("page.css")),
        "script": Markup(script),
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "source": source,
        "finding": finding_of(source.rows),
        "marks": MARKS,
        "outcomes": outcomes(source.rows),
        "tasks": tasks,
        "matrices": [matrix_of(task) for task in tasks],
        "cells": cells_of(source.rows, tasks),
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(_TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_harmless,
    )
    environment.globals["n"] = numbers
    environment.filters["lines"] = _lines
    return environment


def _harmless(value: Any) -> Any:
    """A value as it gets into the page. What a browser could obey is escaped after this."""
    return strip_control(value) if type(value) is str else value


def _lines(text: str) -> Markup:
    """A text of several lines, harmless line by line."""
    return Markup("\n").join(strip_control(line) for line in text.splitlines())


@cache
def _asset(name: str) -> str:
    """A file of the page without its comments, which are for whoever works on it."""
    lines = (_TEMPLATES / name).read_text(encoding="utf-8").splitlines()
    kept = (line.strip() for line in lines)
    return "\n".join(line for line in kept if line and not line.startswith(("//", "/*")))
