"""Tables, numbers and lines of text as the commands print them."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kdbench._counted import counted
from kdbench.bench.run.outputs import REPORT
from kdbench.cli.table import PlainTable
from kdbench.cli.tell import named_width
from kdbench.page.numbers import duration as duration
from kdbench.report.columns import conclusive_removed
from kdbench.report.words import shown_verdict
from kdbench.untrusted.text import shown, strip_control

#: Columns of a table in a file or a pipe, where nobody names others.
PLAIN_WIDTH = 120
#: Rows of the table that ends a run; a terminal holds no more.
MOST_ROWS = 50


def safe(value: Any) -> str:
    """Foreign text for rich: no control characters, no markup."""
    return escape(strip_control(value))


def safe_path(path: Any) -> str:
    """The name of a file for rich, which can be told from every other name."""
    return escape(shown(path))


def make_console() -> Console:
    """Standard output. It has as many columns as $COLUMNS says, else as the terminal, else 120."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(file=sys.stdout, width=named_width() or width, highlight=False, emoji=False)


def plain_table(title: str, columns: Iterable[str]) -> PlainTable:
    """A table without frame, one space between columns, whose words stay whole."""
    table = PlainTable(title)
    for column in columns:
        table.add_column(column)
    return table


def facts_line(facts: dict[str, Any]) -> str:
    """The first few facts that fit on a line."""
    parts = []
    for name, value in facts.items():
        if name in ("device", "confinement"):  # the same for every stage, and in run.json
            continue
        if isinstance(value, float):
            parts.append(f"{name} {value:.4g}")
        elif isinstance(value, int | str) and len(str(value)) <= 24:
            parts.append(f"{name} {value}")
    return strip_control(" ".join(parts[:4]))


def _number(value: Any) -> str:
    return "-" if value is None or not math.isfinite(value) else f"{value:.1f}"


def cell_line(row: dict[str, Any]) -> str:
    """One finished cell in words."""
    pair = f"{row.get('teacher')}-{row.get('student')}"
    cell = f"{row.get('attack')} / {row.get('defense')} / {pair} seed {row.get('seed')}"
    if row.get("status") != "ok":
        return strip_control(f"{cell} | {row.get('status')}: {row.get('reason')}")
    numbers = f"student ACC {_number(row.get('student_acc'))} ASR {_number(row.get('student_asr'))}"
    return strip_control(f"{cell} | {numbers} | {shown_verdict(row) or 'no verdict'}")


def result_table(rows: list[dict[str, Any]], width: int = PLAIN_WIDTH) -> Table:
    """The cells of a run, in 120 columns at most, or in 80 where ``width`` is below 104."""
    table = plain_table("results (%)", [])
    narrow = width < 104
    if narrow:
        table.add_column("setting", overflow="fold", max_width=14)
    else:
        for header in ("attack", "defense", "pair"):
            table.add_column(header, overflow="fold", max_width=21 if header == "pair" else 14)
        table.add_column("seed", justify="right", no_wrap=True)
    for header in (
        "teacher\nACC/ASR",
        "student\nACC/ASR/RA",
        "C1\nASR",
        "C3\nASR",
        "trans-\nferred",
        "removed",
    ):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    many = len({row.get("distiller") for row in rows}) > 1
    for row in rows:
        teacher, student = row.get("teacher"), row.get("student")
        joint = "-\n" if narrow or len(f"{teacher}{student}") > 18 else "-"
        defense = safe(row.get("defense")) + (f"\n{safe(row.get('distiller'))}" if many else "")
        names = [
            safe(row.get("attack")),
            defense,
            f"{safe(teacher)}{joint}{safe(student)}",
            safe(row.get("seed")),
        ]
        ok = row.get("status") == "ok"
        table.add_row(
            *(["\n".join([*names[:3], f"seed {names[3]}"])] if narrow else names),
            "/".join(_number(row.get(name)) for name in ("teacher_acc", "teacher_asr")),
            "/".join(
                _number(row.get(name)) for name in ("student_acc", "student_asr", "student_ra")
            ),
            *(_number(row.get(name)) for name in ("c1_asr", "c3_asr", "transferred")),
            _number(conclusive_removed(row)),
            safe((shown_verdict(row) or "-") if ok else row.get("status")),
        )
    return table


def print_line(console: Console, line: str) -> None:
    """A sentence: broken between words in a terminal, and in one line elsewhere."""
    console.print(line, soft_wrap=not console.is_terminal)


def print_results(console: Console, rows: list[dict[str, Any]], out: str) -> None:
    """The table, the reasons of its rows, the remarks on them, and where the files are; of many
    rows the first.

    Args:
        out: empty: not every file could be written.
    """
    from kdbench.report.preset_remarks import remark_lines
    from kdbench.report.verdict import MEANING, TRANSFER_FLOOR
    from kdbench.report.words import SHOWN
    from kdbench.report.worth import no_reason_to_distil

    shown = rows[:MOST_ROWS]
    console.print(result_table(shown, console.width))
    if len(rows) > len(shown):
        left = len(rows) - len(shown)
        console.print(f"  and {counted(left, 'more row')}: see results.csv there", soft_wrap=True)
    unsure = sum(row.get("reason_code") == "few_transferred" for row in rows)
    for row in shown:
        if row.get("reason") and (unsure == 1 or row.get("reason_code") != "few_transferred"):
            pair = f"{row.get('teacher')}-{row.get('student')}"
            methods = " / ".join(str(row.get(kind)) for kind in ("attack", "defense", "distiller"))
            what = f"{methods} / {pair} / seed {row.get('seed')}"
            console.print(f"  {safe(what)}: {safe(row['reason'])}")
    if unsure > 1:
        few = f"under {TRANSFER_FLOOR:.0f} points of ASR transferred, too few to judge"
        console.print(f"  {counted(unsure, 'cell')} are inconclusive: {few}")
    for sentence in no_reason_to_distil(rows):
        console.print(f"  {safe(sentence)}")
    for line in remark_lines(shown):
        console.print(f"  {safe(line)}")
    console.print(
        "C1: student of the clean teacher. C3: student of the backdoored teacher, undefended."
    )
    verdicts = set(map(shown_verdict, shown))
    for word, meaning in (MEANING | SHOWN).items():
        if word in verdicts:
            print_line(console, f"Verdict {word}: {meaning}.")
    if out:
        console.print(f"results: {safe_path(out)}", soft_wrap=True)
        if (page := Path(out, REPORT)).is_file():
            console.print(f"report: {safe_path(page)}", soft_wrap=True)
