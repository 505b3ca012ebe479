"""How long a run will still take: what its stages were expected to take, mended by what they
took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdbench.bench.kinds import Kind
from kdbench.cli.display import duration

#: Expected seconds of finished stages, before they say how fast the machine really is.
_ENOUGH_S = 5.0
#: How many times as long, or as short, as expected the rest may take.
_MOST = 4.0
#: Stages whose one training is all that they do, so that its steps say how long they still take.
_ONE_TRAINING = (Kind.CLEAN, Kind.ALONE, Kind.DISTILL)


def time_left(spent: float, done: int, total: int) -> float | None:
    """Seconds that the steps of a training will still take. None: nobody knows.

    Args:
        spent: seconds for ``done`` steps.
    """
    return None if done <= 0 else spent * (total - done) / done


def left_in_words(seconds: float, sure: bool = True) -> str:
    """``about 4 s left``.

    Args:
        sure: False: it may be much more.
    """
    whole = max(1, round(seconds))
    words = f"{whole} s" if whole < 120 else duration(whole)
    return f"{'about' if sure else 'over'} {words} left"


@dataclass
class Expected:
    """What the stages of a run will take."""

    #: Number of a stage that has to run -> seconds. None: nobody knows.
    costs: Mapping[int, float | None] = field(default_factory=dict)
    #: How many times as fast as one after the other they run.
    pace: int = 1
    _ended: set[int] = field(default_factory=set)
    _expected: float = 0.0
    _took: float = 0.0

    def end(self, number: int, seconds: float | None = None) -> None:
        """A stage has ended.

        Args:
            seconds: that it took. None: that says nothing of this machine.
        """
        cost = self.costs.get(number)
        if number not in self._ended and cost is not None and seconds is not None:
            self._expected += cost
            self._took += seconds
        self._ended.add(number)

    @property
    def _factor(self) -> float:
        if self._expected < _ENOUGH_S:
            return 1.0
        return min(max(self._took / self._expected, 1 / _MOST), _MOST)

    def of_stage(self, number: int, kind: Kind, spent: float, steps: float | None) -> float | None:
        """Seconds that a stage will still take.

        Args:
            spent: seconds since it began.
            steps: seconds that the training in which it is will still take.
        """
        if steps is not None and kind in _ONE_TRAINING:
            return steps
        cost = self.costs.get(number)
        if cost is None:
            return steps
        return max(cost * self._factor - spent, steps or 0.0)

    def words(self, active: Mapping[int, float | None] | None = None) -> str:
        """``about 3 min 20 s left``, or ``over 3 min 20 s left`` where a stage is not known. Empty:
        nothing is known, or nothing is left.

        Args:
            active: number of a stage that runs -> seconds that it will still take.
        """
        active = active or {}
        waiting = [n for n in self.costs if n not in self._ended and n not in active]
        seconds = [
            *active.values(),
            *(None if (cost := self.costs[n]) is None else cost * self._factor for n in waiting),
        ]
        known = [value for value in seconds if value is not None]
        if not known or not self.costs:
            return ""
        # Stages side by side take as long as the longest of them at least.
        longest = max(known)
        rest = max(sum(known) / self.pace, longest)
        return left_in_words(rest, sure=len(known) == len(seconds))
