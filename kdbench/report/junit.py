"""Cells as tests, in the XML that the pages of CI services read.

``kdbench run``: a test is a cell, and it passes if the cell was measured. What was found does not
fail it: a defense that stops nothing is a finding. ``kdbench compare``: a test is a cell that both
files hold, or a setting over its seeds. It fails if it is worse in the second file. A cell that one
file lacks is skipped.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

from kdbench._files import write_atomically
from kdbench.report.columns import Row
from kdbench.report.compared import Change, Comparison
from kdbench.report.read import CELL
from kdbench.untrusted.text import strip_control

#: XML has no way to write these.
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: How a test ended, other than well, and the element that says so.
Ending = Literal["error", "failure", "skipped"]


@dataclass(frozen=True)
class Case:
    """One test."""

    #: What it belongs to: the task of a cell.
    group: str
    name: str
    #: None: it passed.
    ending: Ending | None = None
    #: Why it did not.
    reason: str = ""
    #: None: not known.
    seconds: float | None = None


def cells_as_tests(rows: Iterable[Row]) -> list[Case]:
    """The cells of a run. Those that were not measured are errors, each with its reason."""
    return [
        Case(_task(row), _cell(row), seconds=row["wall_s"])
        if row["status"] == "ok"
        else Case(_task(row), _cell(row), "error", f"{row['status']}: {row['reason']}")
        for row in rows
    ]


def comparison_as_tests(comparison: Comparison, rows: Iterable[Row]) -> list[Case]:
    """The cells that two files share, and the settings of which they share two seeds.

    Args:
        rows: of the first file.
    """
    lacking = {(_task(cell), _cell(cell)) for cell in comparison.only_in_a}
    shared = [row for row in rows if (_task(row), _cell(row)) not in lacking]
    times = Counter((_task(row), _mean(row)) for row in shared)
    worse: dict[tuple[str, str], list[Change]] = defaultdict(list)
    for change in comparison.worse:
        name = _cell(change.cell) if "seed" in change.cell else _mean(change.cell)
        worse[_task(change.cell), name].append(change)
    names = [(_task(row), _cell(row)) for row in shared]
    names += [name for name, count in times.items() if count > 1]
    tests = [_compared(name, worse.get(name, [])) for name in names]
    for letter, cells in (("A", comparison.only_in_a), ("B", comparison.only_in_b)):
        tests += [Case(_task(c), _cell(c), "skipped", f"only in {letter}") for c in cells]
    return tests


def write_junit(name: str, tests: Iterable[Case], path: str | Path) -> None:
    """Write tests as one suite. The same tests give the same bytes.

    Raises:
        OSError: it cannot be written.
    """
    tests = list(tests)
    counts = {
        f"{ending}s" if ending != "skipped" else ending: str(sum(t.ending == ending for t in tests))
        for ending in ("failure", "error", "skipped")
    }
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(
        suites, "testsuite", {"name": _text(name), "tests": str(len(tests)), **counts}
    )
    for test in tests:
        suite.append(_element(test))
    ElementTree.indent(suites)
    data = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    write_atomically(path, lambda target: target.write_bytes(data + b"\n"))


def _element(test: Case) -> ElementTree.Element:
    values = {"classname": _text(test.group), "name": _text(test.name)}
    if test.seconds is not None:
        values["time"] = f"{test.seconds:.3f}"
    element = ElementTree.Element("testcase", values)
    if test.ending is not None:
        ElementTree.SubElement(element, test.ending, {"message": _text(test.reason)})
    return element


def _task(row: Row) -> str:
    return " / ".join(str(row[name]) for name in CELL[:-1] if name != "defense")


def _defense(row: Row) -> str:
    return f"{row['defense']} [{row['changed']}]" if row.get("changed") else str(row["defense"])


def _cell(row: Row) -> str:
    return f"{_defense(row)} seed {row['seed']}"


def _mean(row: Row) -> str:
    return f"{_defense(row)} mean over seeds"


def _compared(name: tuple[str, str], worse: list[Change]) -> Case:
    reason = "; ".join(map(why_worse, worse))
    return Case(*name, "failure", reason) if worse else Case(*name)


def why_worse(change: Change) -> str:
    """What is worse in the second file, in words."""
    if change.difference is None:
        return f"{change.column}: {change.a} in A, {change.b} in B"
    return (
        f"{change.column} rose from {change.a:.1f} to {change.b:.1f} %, by "
        f"{change.low:.1f} to {change.high:.1f} points (p {change.p_holm:.2g}, Holm)"
    )


def _text(text: str) -> str:
    return _FORBIDDEN.sub("", strip_control(text))
