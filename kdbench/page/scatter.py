"""ACC against ASR of students: one mark a setting, with room for its name.

The page and matplotlib draw what is computed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdbench.page.labels import Frame, Label, Named, labels_of
from kdbench.page.marks import MARKS, UNDEFENDED
from kdbench.page.numbers import text
from kdbench.page.svg import LEAST_RANGE, SHAPES, Scale, fitted, ticks
from kdbench.page.tasks import Setting, Task
from kdbench.untrusted.text import strip_control

#: Of the drawing in a page, which is 480 wide and 340 high: its letters can be read where it is
#: as wide as a phone.
PAGE = Frame(50, 470, 10, 296, 7.1, 15)
#: Free room between the ends of an axis and the frame, so that a mark at 100 % is whole.
_ROOM = 10
#: Marks of a drawing. More hide each other.
MOST_MARKS = 150


@dataclass(frozen=True)
class Dot:
    """A mark with its interval cross."""

    x: float
    y: float
    asr: float
    acc: float
    asr_interval: tuple[float, float] | None
    acc_interval: tuple[float, float] | None
    shape: int
    """The number of its outline, see :data:`kdbench.page.svg.SHAPES`."""
    style: str
    setting: int | None
    """The number of its setting. None: a control."""
    about: str
    """The same in words."""
    across: tuple[float, float] | None
    """Both ends of the interval of ASR."""
    up: tuple[float, float] | None
    """Both ends of the interval of ACC."""
    label: Label | None

    @property
    def leader(self) -> str:
        """A line to a label that is not beside the mark, as a path. Empty: it is."""
        label = self.label
        if label is None or not label.is_far:
            return ""
        return f"M{self.x} {self.y}L{label.x} {label.y - 4}"

    @property
    def cross(self) -> str:
        """Both intervals as a path."""
        across = "" if self.across is None else f"M{self.across[0]} {self.y}H{self.across[1]}"
        return across + ("" if self.up is None else f"M{self.x} {self.up[0]}V{self.up[1]}")


@dataclass(frozen=True)
class Scatter:
    """The drawing of one task, or of several on the same axes."""

    title: str
    """Of the task. Empty here and in ``short``: there are several."""
    short: str
    frame: Frame
    x: Scale
    """Where an ASR is."""
    y: Scale
    """Where an ACC is."""
    dots: Sequence[Dot]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    shapes: Sequence[tuple[str, int]]
    """(attack, number of its outline)."""
    key: Sequence[str]
    """The names of which the marks have the numbers, from 1. Empty: the marks have the names."""
    left_out: int
    """Settings that are not drawn, since there are too many."""

    @property
    def grid(self) -> str:
        """The lines of the ticks in a page, as a path."""
        across = "".join(f"M{PAGE.left} {y}H{PAGE.right}" for y, _ in self.y_ticks)
        return across + "".join(f"M{x} {PAGE.top}V{PAGE.bottom}" for x, _ in self.x_ticks)

    @property
    def crosses(self) -> dict[str, str]:
        """The crosses of each style, as one path."""
        paths: dict[str, str] = {}
        for dot in self.dots:
            if dot.cross:
                paths[dot.style] = paths.get(dot.style, "") + dot.cross
        return paths


@dataclass(frozen=True)
class _Point:
    """What a mark stands for."""

    asr: float
    acc: float
    attack: int
    """The place of its attack."""
    name: str
    setting: Setting | None
    """None: a control."""

    @property
    def in_key(self) -> bool:
        """Whether its name may stand in the key: all but ``C1`` and ``C3`` themselves."""
        return self.setting is not None or "," in self.name


def scatter_of(
    tasks: Sequence[Task], frame: Frame = PAGE, most: int = MOST_MARKS
) -> Scatter | None:
    """The drawing of some tasks. None: nothing of them was measured.

    Args:
        most: settings that are drawn.
    """
    attacks = list(dict.fromkeys(attack for task in tasks for attack in task.attacks))
    points = [
        point
        for task in tasks
        for point in _points(task, attacks, task.short if len(tasks) > 1 else "")
    ]
    if not points:
        return None
    settings = [point for point in points if point.setting is not None]
    points = [point for point in points if point.setting is None] + settings[:most]
    x_range = fitted(_values(points, "student_asr", [point.asr for point in points]))
    y_range = fitted(_values(points, "student_acc", [point.acc for point in points]))
    x = Scale(*x_range, frame.left + _ROOM, frame.right - _ROOM)
    y = Scale(*y_range, frame.bottom - _ROOM, frame.top + _ROOM)
    labels, key = labels_of(
        [Named(x.at(point.asr), y.at(point.acc), point.name, point.in_key) for point in points],
        frame,
    )
    title, short = (tasks[0].title, tasks[0].short) if len(tasks) == 1 else ("", "")
    return Scatter(
        title,
        short,
        frame,
        x,
        y,
        [_dot(point, label, x, y) for point, label in zip(points, labels, strict=True)],
        [(x.at(tick), f"{tick:g}") for tick in ticks(*x_range)],
        [(y.at(tick), f"{tick:g}") for tick in ticks(*y_range)],
        [(attack, _shape(place)) for place, attack in enumerate(attacks)],
        key,
        max(0, len(settings) - most),
    )


def _values(points: Sequence[_Point], name: str, means: list[float]) -> list[float]:
    """What an axis must show: the means, and the intervals where these are not much wider."""
    low, high = min(means), max(means)
    room = max(high - low, LEAST_RANGE) / 2
    intervals = [point.setting.interval(name) for point in points if point.setting is not None]
    ends = [end for interval in intervals if interval is not None for end in interval]
    within = [min(max(end, low - room, 0.0), high + room, 100.0) for end in ends]
    return [*means, *within]


def _points(task: Task, attacks: Sequence[str], where: str) -> Iterator[_Point]:
    """The marks of a task.

    Args:
        where: what tells the task from the others of the drawing. Empty: it is the only one.
    """
    undefended = {s.attack for s in task.settings if s.defense == UNDEFENDED}
    for attack in task.attacks:
        rows = [row for s in task.settings if s.attack == attack for row in s.measured]
        # All defenses of a seed have the same controls.
        seeds = {row["seed"]: row for row in rows if row.get("c1_asr") is not None}.values()
        for name in ("c1", "c3"):
            # C3 is the same student as the setting without a defense.
            values = [
                (row[f"{name}_asr"], row[f"{name}_acc"])
                for row in seeds
                if row.get(f"{name}_asr") is not None and row.get(f"{name}_acc") is not None
            ]
            if values and not (name == "c3" and attack in undefended):
                asr, acc = (sum(each) / len(values) for each in zip(*values, strict=True))
                yield _Point(asr, acc, attacks.index(attack), _name(name.upper(), where), None)
    for setting in task.settings:
        asr, acc = setting.mean("student_asr"), setting.mean("student_acc")
        if asr is not None and acc is not None:
            attack = setting.attack if len(attacks) > len(SHAPES) else ""
            name = _name(attack, setting.defense, where)
            yield _Point(asr, acc, attacks.index(setting.attack), name, setting)


def _name(*parts: str) -> str:
    """What tells a mark from the others of its shape."""
    return strip_control(", ".join(filter(None, parts)))


def _dot(point: _Point, label: Label | None, x: Scale, y: Scale) -> Dot:
    across, up = (
        (point.setting.interval(name) if point.setting is not None else None)
        for name in ("student_asr", "student_acc")
    )
    return Dot(
        x.at(point.asr),
        y.at(point.acc),
        point.asr,
        point.acc,
        across,
        up,
        _shape(point.attack),
        "control" if point.setting is None else MARKS[point.setting.outcome].style,
        None if point.setting is None else point.setting.number,
        _about(point),
        None if across is None else (x.at(across[0]), x.at(across[1])),
        None if up is None else (y.at(up[0]), y.at(up[1])),
        label,
    )


def _about(point: _Point) -> str:
    numbers = f"ASR {text(point.asr)}, ACC {text(point.acc)}"
    setting = point.setting
    if setting is None:
        return f"{point.name}: {numbers}"
    return f"{setting.attack}, {setting.defense}: {numbers}, {setting.words}"


def _shape(place: int) -> int:
    return place % len(SHAPES)
