"""Puts a page together: the same runs give the same bytes, and the page asks nobody for
anything."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import kdbench
from kdbench._files import write_atomically
from kdbench.errors import ConfigError
from kdbench.page import numbers
from kdbench.page.bars import bars_of
from kdbench.page.cells import cells_of
from kdbench.page.cost import cost_of
from kdbench.page.failures import failures_of
from kdbench.page.finding import finding_of
from kdbench.page.head import facts_of, few
from kdbench.page.marks import MARKS, outcomes
from kdbench.page.matrix import matrix_of
from kdbench.page.origin import origins_of
from kdbench.page.ranking import p_text, rankings_of
from kdbench.page.scatter import scatter_of
from kdbench.page.source import Source
from kdbench.page.svg import SHAPES
from kdbench.page.tasks import Task, tasks_of
from kdbench.page.triggers import strengths_of
from kdbench.report.paired import side_label
from kdbench.untrusted.text import strip_control

_TEMPLATES = Path(__file__).parent / "templates"
#: Settings that are drawn.
_MOST_DRAWN = 400
#: Letters of a text. A stranger's table may hold any number.
_MOST_TEXT = 2000
#: Lines of a text.
_MOST_LINES = 500
#: What differs in another page.
_IN_A_PAGE = ":scope{padding:.6rem 1rem}"
#: Bytes of a page.
_MOST_BYTES = 5_000_000


def write_page(source: Source, path: Path) -> None:
    """Write the page of some runs.

    Raises:
        ConfigError: it would be larger than 5 MB.
        OSError: it cannot be written.
    """
    page = page_of(source)
    if len(page) > _MOST_BYTES:
        raise ConfigError(
            f"the page would have {len(page) / 1e6:.1f} MB, more than a browser likes to open; "
            "name fewer runs"
        )
    write_atomically(path, lambda target: target.write_text(page, encoding="utf-8"))


def page_of(source: Source) -> str:
    """The page of some runs, as HTML."""
    return _environment().get_template("page.html").render(**_parts(source), whole=True)


def head_of(source: Source) -> str:
    """The finding, the verdicts and the drawing of some runs, without a script, to be put into
    another page. Its style is for itself only."""
    style = re.sub(r":root|\b(body|main)(?=\{)", ":scope", _asset("page.css"))
    parts = _parts(source) | {"style": Markup(style + _IN_A_PAGE), "whole": False}
    return _environment().get_template("notebook.html").render(**parts)


def _parts(source: Source) -> dict[str, Any]:
    """What the templates get."""
    tasks = tasks_of(source.rows)
    drawn = _drawn(tasks)
    script = _asset("page.js")
    return {
        "version": kdbench.__version__,
        "style": Markup(_asset("page.css")),
        "script": Markup(script),
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "source": source,
        "runs": few([run.name for run in source.runs]),
        "finding": finding_of(source.rows, source.missing),
        "facts": facts_of(source),
        "marks": MARKS,
        "outcomes": outcomes(source.rows),
        "tasks": tasks,
        "matrices": [matrix_of(task) for task in drawn],
        "scatters": list(filter(None, (scatter_of([task]) for task in drawn))),
        "bars": [(task, bars_of(task)) for task in drawn],
        "left": _settings(tasks) - _settings(drawn),
        "rankings": rankings_of(source.rows, tasks),
        "strengths": strengths_of(source),
        "cells": cells_of(source.rows, tasks),
        "failures": failures_of(source),
        "cost": cost_of(source),
        "origins": origins_of(source),
    }


def _drawn(tasks: Sequence[Task]) -> list[Task]:
    """The first tasks with their first settings, as many as a page can draw."""
    drawn, left = [], _MOST_DRAWN
    for task in tasks:
        if left > 0:
            drawn.append(replace(task, settings=task.settings[:left]))
            left -= len(task.settings)
    return drawn


def _settings(tasks: Sequence[Task]) -> int:
    return sum(len(task.settings) for task in tasks)


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
    environment.globals["shapes"] = SHAPES
    environment.globals["side"] = side_label
    environment.globals["p_text"] = p_text
    environment.filters["text"] = _text
    environment.filters["dotted"] = _dotted
    return environment


def _harmless(value: Any) -> Any:
    """A value as it gets into the page. What a browser could obey is escaped after this."""
    if type(value) is not str:
        return value
    return strip_control(value if len(value) <= _MOST_TEXT else f"{value[:_MOST_TEXT]}…")


def _text(lines: Sequence[str]) -> Markup:
    """Lines of text, each of them harmless."""
    shown = [strip_control(line[:_MOST_TEXT]) for line in lines[:_MOST_LINES]]
    return Markup("\n").join([*shown, *(["…"] if len(lines) > _MOST_LINES else [])])


def _dotted(name: str) -> Markup:
    """A name that may go on in a new line behind each dot."""
    return Markup(".<wbr>").join(map(_harmless, name.split(".")))


@cache
def _asset(name: str) -> str:
    """A file of the page without its comments, which are for whoever works on it."""
    lines = (_TEMPLATES / name).read_text(encoding="utf-8").splitlines()
    kept = (line.strip() for line in lines)
    text = "\n".join(line for line in kept if line and not line.startswith(("//", "/*")))
    # No text of the style sheet or the script holds one of these signs with a blank beside it.
    blanks = r"\s*([{};,])\s*|(?<=:)\s+" if name.endswith(".css") else r" *([!=<>?:|&,+({*-]+) *"
    return re.sub(blanks, r"\1", text)
