"""What a person, or a program, sees of a run while it goes on.

``step`` is called very often, so it does next to nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live

from kdbench._counted import counted
from kdbench._files import jsonable
from kdbench._progress import Step
from kdbench.bench.kinds import Kind
from kdbench.bench.run.events import AsEvents, Paced, Quiet
from kdbench.cli.display import cell_line, duration, facts_line, make_console, print_results, safe
from kdbench.cli.lines import fitted
from kdbench.cli.remaining import Expected, left_in_words, time_left
from kdbench.untrusted.text import shown, strip_control

if TYPE_CHECKING:
    from kdbench.data.description import Description


class Display(Quiet):
    """Base of the displays. It keeps the counts of stages and the titles of those that run."""

    def __init__(self) -> None:
        self.stages = self.to_run = 0
        self.started = time.monotonic()
        self.titles: dict[int, str] = {}
        #: What of the results could not be written. Empty: nothing.
        self.complaint = ""
        #: What the stages will take.
        self.expected = Expected()

    def expect(self, costs: Mapping[int, float | None], pace: int) -> None:
        """What the stages that have to run will take, said before the run starts.

        Args:
            costs: number of a stage -> seconds. None: nobody knows.
            pace: how many times as fast as one after the other they run.
        """
        self.expected = Expected(costs, pace)

    def not_written(self, complaint: str) -> None:
        self.complaint = complaint

    def run_started(self, stages: int, to_run: int, cells: int, out: str, note: str = "") -> None:
        self.stages, self.to_run, self.started = stages, to_run, time.monotonic()

    def stage_started(self, number: int, kind: Kind, title: str) -> None:
        self.titles[number] = title

    def stage_finished(
        self, number: int, kind: Kind, title: str, seconds: float, facts: dict[str, Any]
    ) -> None:
        self.expected.end(number, seconds if kind.training != "none" else None)

    def stage_failed(self, number: int, kind: Kind, title: str, reason: str) -> None:
        self.expected.end(number)

    def stage_taken(self, number: int, kind: Kind, title: str) -> None:
        self.expected.end(number)

    def where(self, number: int, title: str = "") -> str:
        """``[3/17] train clean wrn16_2``."""
        return f"[{number}/{self.stages}] {strip_control(title or self.titles.get(number, ''))}"

    def close(self) -> None:
        """Give the terminal back. It is called however the run ends."""


class QuietDisplay(Display):
    """The path of the results on standard output, and failed cells on standard error."""

    def cell_finished(self, row: dict[str, Any]) -> None:
        if row.get("status") != "ok":
            print(cell_line(row), file=sys.stderr, flush=True)

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
        if not self.complaint:
            print(out, flush=True)


def _print_timed(line: str) -> None:
    """A line of a log that somebody reads in the morning."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)


class PlainDisplay(Paced, Display):
    """One line per event with the time of day, and in a long stage one line about every 15
    seconds. The table that ends a run, and what it was trained on, have no time."""

    def run_started(self, stages: int, to_run: int, cells: int, out: str, note: str = "") -> None:
        super().run_started(stages, to_run, cells, out)
        counts = f"{counted(stages, 'stage')}, {to_run} of them to run, {counted(cells, 'cell')}"
        _print_timed(f"{counts} -> {shown(out)}")
        if left := self.expected.words():
            _print_timed(left.removesuffix(" left") + " on this machine")
        if note:
            print(f"note: {strip_control(note)}", flush=True)

    def dataset(self, description: Description) -> None:
        for line in description.lines():
            print(strip_control(line), flush=True)

    def step(self, number: int, step: Step) -> None:
        if self.due(number):
            loss = "" if step.loss is None else f" | loss {step.loss:.4g}"
            epoch, steps = f"epoch {step.epoch}/{step.epochs}", f"step {step.done}/{step.total}"
            _print_timed(f"{self.where(number)} | {epoch} | {steps}{loss}")

    def stage_finished(
        self, number: int, kind: Kind, title: str, seconds: float, facts: dict[str, Any]
    ) -> None:
        super().stage_finished(number, kind, title, seconds, facts)
        if kind.training != "none":  # a second or so is not worth a line
            left = self.expected.words()
            parts = [
                self.where(number, title),
                duration(seconds),
                facts_line(facts),
                left and f"run: {left}",
            ]
            _print_timed(" | ".join(part for part in parts if part))

    def stage_failed(self, number: int, kind: Kind, title: str, reason: str) -> None:
        super().stage_failed(number, kind, title, reason)
        _print_timed(f"{self.where(number, title)} | FAILED: {strip_control(reason)}")

    def stage_waits(self, number: int, kind: Kind, title: str, why: str) -> None:
        if kind.training != "none":
            _print_timed(f"{self.where(number, title)} | waits: {why}")

    def stage_taken(self, number: int, kind: Kind, title: str) -> None:
        super().stage_taken(number, kind, title)
        if kind.training != "none":
            _print_timed(f"{self.where(number, title)} | computed by another run")

    def cell_finished(self, row: dict[str, Any]) -> None:
        _print_timed(cell_line(row))

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
        print_results(make_console(), rows, "" if self.complaint else out)


@dataclass
class _Active:
    """A stage that runs."""

    kind: Kind
    #: When it began.
    begun: float
    #: When its present training began, or was taken up.
    since: float
    #: The first reported step of that training.
    first: Step | None = None
    latest: Step | None = None
    #: The last loss that was read.
    loss: float | None = None

    def take(self, step: Step) -> None:
        # A stage may train more than once, or go on from a checkpoint.
        if self.latest is None or step.done < self.latest.done or step.total != self.latest.total:
            self.since, self.first, self.loss = time.monotonic(), step, None
        self.latest = step
        self.loss = self.loss if step.loss is None else step.loss

    def steps_left(self, now: float) -> float | None:
        """Seconds that its present training will still take. None: nobody knows yet."""
        if self.first is None or self.latest is None:
            return None
        spent, done = max(now - self.since, 1e-9), self.latest.done - self.first.done
        return time_left(spent, done, self.latest.total - self.first.done)

    def words(self) -> tuple[str, str]:
        """(its epoch, its loss) in words. Empty: it has not trained yet."""
        if self.latest is None or not self.latest.total:
            return "", ""
        loss = "-" if self.loss is None else f"{self.loss:.4g}"
        return f"epoch {self.latest.epoch}/{self.latest.epochs}", f"loss {loss}"


class LiveDisplay(Display):
    """A few lines that are redrawn four times a second by a thread of rich."""

    def __init__(self, console: Console | None = None) -> None:
        super().__init__()
        self.console = console or make_console()
        self.live: Live | None = None
        self.finished = 0
        self.active: dict[int, _Active] = {}
        #: Number of a stage that waits -> why.
        self.waiting: dict[int, str] = {}
        self.events: deque[str] = deque(maxlen=5)

    def step(self, number: int, step: Step) -> None:
        if number in self.active:
            self.active[number].take(step)

    def run_started(self, stages: int, to_run: int, cells: int, out: str, note: str = "") -> None:
        super().run_started(stages, to_run, cells, out)
        if note:
            self.console.print(f"note: {safe(note)}")
        self.live = Live(
            console=self.console, get_renderable=self.render, refresh_per_second=4, transient=True
        )
        self.live.start()

    def dataset(self, description: Description) -> None:
        for line in description.lines():
            self.console.print(safe(line))

    def render(self) -> Group:
        """The picture of this moment. Each stage has one line, whose end is the time left."""
        now, width = time.monotonic(), self.console.width
        kept = self.stages - self.to_run
        active = sorted(self.active.items())
        left = {
            number: self.expected.of_stage(number, at.kind, now - at.begun, at.steps_left(now))
            for number, at in active
        }
        there = f"{kept} in the store" if kept else ""
        elapsed = f"{duration(now - self.started)} elapsed"
        done = f"{kept + self.finished}/{counted(self.stages, 'stage')} done"
        head = f"kdbench {done}"
        parts = [there, elapsed, self.expected.words(left)]
        lines = [
            fitted(width, head, parts, [there, elapsed]).replace("kdbench", "[bold]kdbench[/]", 1)
        ]
        for number, at in active:
            epoch, loss = at.words()
            rest = left[number]
            # A measurement takes a second or so.
            timed = rest is not None and at.kind.training != "none"
            words = left_in_words(rest or 0.0) if timed else ""
            line = fitted(width, f"now: {self.where(number)}", [epoch, loss, words], [loss, epoch])
            lines.append(safe(line))
        for number, why in sorted(self.waiting.items()):
            lines.append(safe(f"waits: {self.where(number)} | {why}"))
        return Group(*lines, *(f"[dim]{safe(event)}[/]" for event in list(self.events)))

    def stage_started(self, number: int, kind: Kind, title: str) -> None:
        super().stage_started(number, kind, title)
        self.waiting.pop(number, None)
        now = time.monotonic()
        self.active[number] = _Active(kind, now, now)

    def stage_waits(self, number: int, kind: Kind, title: str, why: str) -> None:
        self.titles[number] = title
        self.waiting[number] = why

    def stage_finished(
        self, number: int, kind: Kind, title: str, seconds: float, facts: dict[str, Any]
    ) -> None:
        super().stage_finished(number, kind, title, seconds, facts)
        self._ended(number)
        if kind.training != "none":  # a second or so is not worth a line
            parts = [duration(seconds), words := facts_line(facts)]
            self.events.append(
                fitted(self.console.width, self.where(number, title), parts, [words])
            )

    def stage_failed(self, number: int, kind: Kind, title: str, reason: str) -> None:
        super().stage_failed(number, kind, title, reason)
        self._ended(number)
        self.events.append(f"{self.where(number, title)} | FAILED: {reason}")

    def stage_taken(self, number: int, kind: Kind, title: str) -> None:
        super().stage_taken(number, kind, title)
        self._ended(number)
        if kind.training != "none":
            line = fitted(
                self.console.width, self.where(number, title), ["computed by another run"]
            )
            self.events.append(line)

    def _ended(self, number: int) -> None:
        self.finished += 1
        self.active.pop(number, None)
        self.waiting.pop(number, None)

    def cell_finished(self, row: dict[str, Any]) -> None:
        self.events.append(cell_line(row))

    def run_finished(self, rows: list[dict[str, Any]], out: str) -> None:
        self.close()
        print_results(self.console, rows, "" if self.complaint else out)

    def close(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None


class JsonDisplay(AsEvents, Display):
    """JSON lines on standard output, each with ``event``. In a stage there is one about every 15
    seconds."""

    def event(self, event: str, **values: Any) -> None:
        if event == "run_finished" and self.complaint:
            values["not_written"] = self.complaint
        print(json.dumps(jsonable({"event": event, **values}), allow_nan=False), flush=True)


def make_display(quiet: bool, as_json: bool, live: bool = True) -> Display:
    """The display that fits the options and standard output.

    Args:
        live: whether it may redraw lines. That would disturb a debugger in the same terminal.
    """
    if as_json:
        return JsonDisplay()
    if quiet:
        return QuietDisplay()
    console = make_console()
    live = live and console.is_terminal and not console.is_dumb_terminal
    return LiveDisplay(console) if live else PlainDisplay()
