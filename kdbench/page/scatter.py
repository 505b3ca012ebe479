"""ACC against ASR of students: one mark a setting, with room for its name.

The page and matplotlib draw what is computed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kdbench.page.marks import MARKS, UNDEFENDED
from kdbench.page.numbers import text
from kdbench.page.svg import LEAST_RANGE, SHAPES, Scale, fitted, ticks
from kdbench.page.tasks import Setting, Task
from kdbench.untrusted.text import strip_control


@dataclass(frozen=True)
class Frame:
    """The sizes of a drawing, in its own pixels."""

    left: float
    right: float
    top: float
    bottom: float
    letter: float
    """The width of a letter."""
    line: float
    """The height of a line of letters."""


#: Of the drawing in a page, which is 720 wide and 400 high.
PAGE = Frame(52, 700, 16, 352, 7.1, 15)
#: Free room between the ends of an axis and the frame, so that a mark at 100 % is whole.
_ROOM = 10
#: Marks of a drawing. More hide each other.
MOST_MARKS = 150
#: Where a label may stand beside its mark: x and y of its middle in lines, and its anchor.
_PLACES = (
    (0.7, 0.0, "start"),
    (-0.7, 0.0, "end"),
    (0.0, -1.0, "middle"),
    (0.0, 1.05, "middle"),
    (0.6, -0.8, "start"),
    (-0.6, -0.8, "end"),
    (0.6, 0.8, "start"),
    (-0.6, 0.8, "end"),
)
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Label:
    """A text beside a mark."""

    x: int
    y: int
    anchor: str
    text: str


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


def scatter_of(
    tasks: Sequence[Task], frame: Frame = PAGE, most: int = MOST_MARKS
) -> Scatter | None:
    """The drawing of some tasks. None: nothing of them was measured.

    Args:
        most: settings that are drawn.
    """
    attacks = list(dict.fromkeys(attack for task in tasks for attack in task.attacks))
    points = [point for task in tasks for point in _points(task, attacks)]
    if not points:
        return None
    settings = [point for point in points if point.setting is not None]
    points = [point for point in points if point.setting is None] + settings[:most]
    x_range = fitted(_values(points, "student_asr", [point.asr for point in points]))
    y_range = fitted(_values(points, "student_acc", [point.acc for point in points]))
    x = Scale(*x_range, frame.left + _ROOM, frame.right - _ROOM)
    y = Scale(*y_range, frame.bottom - _ROOM, frame.top + _ROOM)
    title, short = (tasks[0].title, tasks[0].short) if len(tasks) == 1 else ("", "")
    return Scatter(
        title,
        short,
        frame,
        x,
        y,
        list(_dots(points, x, y, frame)),
        [(x.at(tick), f"{tick:g}") for tick in ticks(*x_range)],
        [(y.at(tick), f"{tick:g}") for tick in ticks(*y_range)],
        [(attack, _shape(place)) for place, attack in enumerate(attacks)],
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


def _points(task: Task, attacks: Sequence[str]) -> Iterator[_Point]:
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
                yield _Point(asr, acc, attacks.index(attack), name.upper(), None)
    for setting in task.settings:
        asr, acc = setting.mean("student_asr"), setting.mean("student_acc")
        if asr is not None and acc is not None:
            yield _Point(asr, acc, attacks.index(setting.attack), setting.defense, setting)


def _dots(points: Sequence[_Point], x: Scale, y: Scale, frame: Frame) -> Iterator[Dot]:
    taken: list[_Box] = [_around(x.at(point.asr), y.at(point.acc)) for point in points]
    for point in points:
        across, up = (
            (point.setting.interval(name) if point.setting is not None else None)
            for name in ("student_asr", "student_acc")
        )
        at = x.at(point.asr), y.at(point.acc)
        yield Dot(
            *at,
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
            _label(at, point.name, taken, frame),
        )


def _about(point: _Point) -> str:
    numbers = f"ASR {text(point.asr)}, ACC {text(point.acc)}"
    setting = point.setting
    if setting is None:
        return f"{point.name}: {numbers}"
    return f"{setting.attack}, {setting.defense}: {numbers}, {setting.words}"


def _shape(place: int) -> int:
    return place % len(SHAPES)


def _around(x: float, y: float) -> _Box:
    return x - 6, y - 6, x + 6, y + 6


def _label(at: tuple[float, float], name: str, taken: list[_Box], frame: Frame) -> Label | None:
    """The label at the first place where it covers nothing. None: there is no such place."""
    words = strip_control(name)
    words = words if len(words) <= 24 else f"{words[:23]}…"
    width = len(words) * frame.letter
    for across, down, anchor in _PLACES:
        x, y = at[0] + across * frame.line, at[1] + down * frame.line
        left = x - {"start": 0.0, "end": width, "middle": width / 2}[anchor]
        box = left, y - frame.line / 2, left + width, y + frame.line / 2
        inside = left >= frame.left and box[2] <= frame.right
        inside = inside and box[1] >= frame.top and box[3] <= frame.bottom
        if inside and not any(_meet(box, other) for other in taken):
            taken.append(box)
            return Label(round(x), round(y + frame.line / 4), anchor, words)
    return None


def _meet(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
