"""What a person, or a program, sees of a run. ``step`` comes with every optimiser step and does
next to nothing."""

from __future__ import annotations

import json
import math
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from kdbench._files import jsonable
from kdbench.bench.run.events import Quiet
from kdbench.report.columns import conclusive_removed
from kdbench.untrusted.text import strip_control

PLAIN_WIDTH = 120
PROGRESS_EVERY_S = 15.0
#: Rows of the table that ends a run; a terminal holds no more.
MOST_ROWS = 50


def safe(value: Any) -> str:
    """Foreign text for rich: no control characters, no markup."""
    return escape(strip_control(value))


def make_console() -> Console:
    """Standard output; 120 columns where it is not a terminal."""
    terminal = sys.stdout.isatty()
    return Console(
        file=sys.stdout, width=None if terminal else PLAIN_WIDTH, highlight=False, emoji=False
    )


def plain_table(title: str, columns: Iterable[str]) -> Table:
    """A table without frame, one space between columns."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 1, 0, 0),
        header_style="bold",
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def duration(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds) // 60
    return (
        f"{minutes} min {int(seconds) % 60:02d} s"
        if minutes < 120
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def _facts(facts: dict[str, Any]) -> str:
    """The first few facts that fit on a line."""
    parts = []
    for name, value in facts.items():
        if name in ("device", "confinement"):  # the same for every stage; in run.json
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
    setting = f"{row.get('attack')} / {row.get('defense')} / {pair} seed {row.get('seed')}"
    if row.get("status") != "ok":
        return strip_control(f"{setting} | {row.get('status')}: {row.get('reason')}")
    numbers = f"student ACC {_number(row.get('student_acc'))} ASR {_number(row.get('student_asr'))}"
    return strip_control(f"{setting} | {numbers} | {row.get('verdict') or 'no verdict'}")


def result_table(rows: list[dict[str, Any]], width: int = PLAIN_WIDTH) -> Table:
    """The cells of a run; at most 120 columns wide, 80 where ``width`` is below 104."""
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
        setting = [
            safe(row.get("attack")),
            defense,
            f"{safe(teacher)}{joint}{safe(student)}",
            safe(row.get("seed")),
        ]
        ok = row.get("status") == "ok"
        table.add_row(
            *(["\n".join([*setting[:3], f"seed {setting[3]}"])] if narrow else setting),
            "/".join(_number(row.get(name)) for name in ("teacher_acc", "teacher_asr")),
            "/".join(
                _number(row.get(name)) for name in ("student_acc", "student_asr", "student_ra")
            ),
            *(
                _number(row.get(name))
                for name in ("clean_teacher_asr", "undefended_asr", "transferred")
            ),
            _number(conclusive_removed(row)),
            safe((row.get("verdict") or "-") if ok else row.get("status")),
        )
    return table


def _only_inconclusive(row: dict[str, Any]) -> bool:
    """Whether all that its reason says is how little transferred, which the table says too."""
    from kdbench.report.verdict import verdict

    return (
        row.get("verdict") == "inconclusive"
        and row.get("reason") == verdict(row["transferred"], None, 0.0)[1]
    )


def print_results(console: Console, rows: list[dict[str, Any]], out: str) -> None:
    """The table, the reasons of its rows, and where the files are; of many rows the first."""
    from kdbench.report.verdict import TRANSFER_FLOOR

    shown = rows[:MOST_ROWS]
    console.print(result_table(shown, console.width))
    if len(rows) > len(shown):
        left = len(rows) - len(shown)
        console.print(f"  and {left} more rows: see results.csv there", soft_wrap=True)
    unsure = [row for row in rows if _only_inconclusive(row)]
    for row in shown:
        if row.get("reason") and (len(unsure) == 1 or not _only_inconclusive(row)):
            pair = f"{row.get('teacher')}-{row.get('student')}"
            methods = " / ".join(str(row.get(kind)) for kind in ("attack", "defense", "distiller"))
            what = f"{methods} / {pair} / seed {row.get('seed')}"
            console.print(f"  {safe(what)}: {safe(row['reason'])}")
    if len(unsure) > 1:
        few = f"under {TRANSFER_FLOOR:.0f} points of ASR transferred, too few to judge"
        console.print(f"  {len(unsure)} cells are inconclusive: {few}")
    console.print(
        "C1: student of the clean teacher. C3: student of the backdoored teacher, undefended."
    )
    console.print(f"results: {safe(out)}", soft_wrap=True)


class Display(Quiet):
    """Base of the displays: keeps the counts and the titles of what runs, closes cleanly."""

    def __init__(self) -> None:
        self.stages = self.to_run = 0
        self.started = time.monotonic()
        self.titles: dict[int, str] = {}

    def run_started(self, stages: int, to_run: int, cells: int, out: str, note: str = "") -> None:
        self.stages, self.to_run, self.started = stages, to_run, time.monotonic()

    def stage_started(self, number: int, title: str) -> None:
        self.titles[number] = title

    def where(self, number: int, title: str = "") -> str:
        """``[3/17] train clean wrn16_2``."""
        return f"[{number}/{self.stages}] {strip_control(title or self.titles.get(number, ''))}"

    def close(self) -> None:
        """Give the terminal back; called however the run ends."""


def _minor(title: str) -> bool:
    """Stages of a second or so, which are not worth a line when all is well."""
    return title.startswith(("measure: ", "draw "))


class QuietDisplay(Display):
    """The path of the results on standard output; on standard error why a cell has none."""

    def cell_finished(self, row: dict[str, Any]) -> None:
        if row.get("status") != "ok":
            print(cell_line(row), file=sys.stderr, flush=True)

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
        print(out, flush=True)


class _Paced(Display):
    """Lets a step through about every 15 seconds of each stage."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[int, float] = {}

    def stage_started(self, number: int, title: str) -> None:
        super().stage_started(number, title)
        self._next[number] = time.monotonic() + PROGRESS_EVERY_S

    def due(self, number: int) -> bool:
        now = time.monotonic()
        if now < self._next.get(number, math.inf):
            return False
        self._next[number] = now + PROGRESS_EVERY_S
        return True


class PlainDisplay(_Paced):
    """One line per event, and inside a long stage one line about every 15 seconds."""

    def run_started(self, stages: int, to_run: int, cells: int, out: str, note: str = "") -> None:
        super().run_started(stages, to_run, cells, out)
        print(
            f"{stages} stages, {to_run} of them to run, {cells} cells -> {strip_control(out)}",
            flush=True,
        )
        if note:
            print(f"note: {strip_control(note)}", flush=True)

    def step(
        self,
        number: int,
        *,
        epoch: int,
        epochs: int,
        done: int,
        total: int,
        loss: float | None,
        images: int,
    ) -> None:
        if self.due(number):
            shown = f" | loss {loss:.4g}" if loss is not None else ""
            print(
                f"{self.where(number)} | epoch {epoch}/{epochs} | step {done}/{total}{shown}",
                flush=True,
            )

    def stage_finished(
        self, number: int, title: str, seconds: float, facts: dict[str, Any]
    ) -> None:
        if not _minor(title):
            parts = [self.where(number, title), duration(seconds), _facts(facts)]
            print(" | ".join(part for part in parts if part), flush=True)

    def stage_failed(self, number: int, title: str, reason: str) -> None:
        print(f"{self.where(number, title)} | FAILED: {strip_control(reason)}", flush=True)

    def cell_finished(self, row: dict[str, Any]) -> None:
        print(cell_line(row), flush=True)

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
        print_results(make_console(), rows, out)


@dataclass
class _Active:
    """A stage that runs: where it is, and since when its present training goes on."""

    since: float
    epoch: int = 0
    epochs: int = 0
    first: int = 0
    done: int = 0
    total: int = 0
    loss: float | None = None


class LiveDisplay(Display):
    """A few lines that are redrawn four times a second by a thread of rich."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console or make_console()
        self.live: Live | None = None
        self.finished = 0
        self.active: dict[int, _Active] = {}
        self.events: deque[str] = deque(maxlen=5)

    def step(
        self,
        number: int,
        *,
        epoch: int,
        epochs: int,
        done: int,
        total: int,
        loss: float | None,
        images: int,
    ) -> None:
        at = self.active.get(number)
        # a stage may train more than once, or go on from a checkpoint
        if at is None or done < at.done or total != at.total:
            at = self.active[number] = _Active(time.monotonic(), first=done)
        at.epoch, at.epochs, at.done, at.total = epoch, epochs, done, total
        at.loss = at.loss if loss is None else loss

    def run_started(self, stages: int, to_run: int, cells: int, out: str, note: str = "") -> None:
        super().run_started(stages, to_run, cells, out)
        if note:
            self.console.print(f"note: {safe(note)}")
        self.live = Live(
            console=self.console, get_renderable=self.render, refresh_per_second=4, transient=True
        )
        self.live.start()

    def render(self) -> Group:
        """The picture of this moment."""
        now = time.monotonic()
        cached = self.stages - self.to_run
        lines = [
            f"[bold]kdbench[/] {self.finished}/{self.to_run} stages done, {cached} in the store | "
            f"{duration(now - self.started)} elapsed"
        ]
        for number, at in sorted(self.active.items()):
            line = f"now: {safe(self.where(number))}"
            if at.total:
                spent, steps = max(now - at.since, 1e-9), at.done - at.first
                left = (
                    f" | about {duration(spent * (at.total - at.done) / steps)} left"
                    if steps
                    else ""
                )
                loss = "-" if at.loss is None else f"{at.loss:.4g}"
                line += f" | epoch {at.epoch}/{at.epochs} | loss {loss}{left}"
            lines.append(line)
        return Group(*lines, *(f"[dim]{safe(event)}[/]" for event in list(self.events)))

    def stage_started(self, number: int, title: str) -> None:
        super().stage_started(number, title)
        self.active[number] = _Active(time.monotonic())

    def stage_finished(
        self, number: int, title: str, seconds: float, facts: dict[str, Any]
    ) -> None:
        self._ended(number)
        if not _minor(title):
            parts = (self.where(number, title), duration(seconds), _facts(facts))
            self.events.append(" | ".join(part for part in parts if part))

    def stage_failed(self, number: int, title: str, reason: str) -> None:
        self._ended(number)
        self.events.append(f"{self.where(number, title)} | FAILED: {reason}")

    def _ended(self, number: int) -> None:
        self.finished += 1
        self.active.pop(number, None)

    def cell_finished(self, row: dict[str, Any]) -> None:
        self.events.append(cell_line(row))

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
        self.close()
        print_results(self.console, rows, out)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


class JsonDisplay(_Paced):
    """JSON lines on standard output, each with ``event``; progress inside a stage about every 15
    seconds."""

    def _print(self, event: str, **values: Any) -> None:
        print(json.dumps(jsonable({"event": event, **values}), allow_nan=False), flush=True)

    def run_started(self, stages: int, to_run: int, cells: int, out: str, note: str = "") -> None:
        super().run_started(stages, to_run, cells, out)
        self._print("run_started", stages=stages, to_run=to_run, cells=cells, out=out, note=note)

    def step(
        self,
        number: int,
        *,
        epoch: int,
        epochs: int,
        done: int,
        total: int,
        loss: float | None,
        images: int,
    ) -> None:
        if self.due(number):
            self._print(
                "step", number=number, epoch=epoch, epochs=epochs, done=done, total=total, loss=loss
            )

    def stage_started(self, number: int, title: str) -> None:
        super().stage_started(number, title)
        self._print("stage_started", number=number, title=title)

    def stage_finished(
        self, number: int, title: str, seconds: float, facts: dict[str, Any]
    ) -> None:
        self._print(
            "stage_finished", number=number, title=title, seconds=round(seconds, 3), facts=facts
        )

    def stage_failed(self, number: int, title: str, reason: str) -> None:
        self._print("stage_failed", number=number, title=title, reason=reason)

    def cell_finished(self, row: dict[str, Any]) -> None:
        self._print("cell_finished", row=row)

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
        self._print(
            "run_finished",
            cells=len(rows),
            ok=sum(row.get("status") == "ok" for row in rows),
            out=out,
        )


def make_display(quiet: bool, as_json: bool) -> Display:
    """The display that fits the options and standard output."""
    if as_json:
        return JsonDisplay()
    if quiet:
        return QuietDisplay()
    console = make_console()
    return (
        LiveDisplay(console)
        if console.is_terminal and not console.is_dumb_terminal
        else PlainDisplay()
    )
