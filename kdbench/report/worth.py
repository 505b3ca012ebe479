"""Whether there is a reason to distil at all: what the deployer has of the teacher.

A deployer whose student is as good without a teacher would not distil, and then needs no defense of
distillation. Column ``gain`` has the difference of one seed.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from kdbench._counted import counted
from kdbench.report.columns import Row
from kdbench.report.consistency import ROUNDING
from kdbench.report.paired import GROUP, grouped

#: Points of ACC. Less is no reason, whether or not it could be told from chance: a bound on the
#: mean does not depend on how many images or seeds there are.
WORTH = 1.0
#: Groups that are named one by one.
_NAMED = 8


def no_reason_to_distil(rows: Iterable[Row]) -> list[str]:
    """A sentence for each attack, pair and distiller of which the distilled student (C3) has less
    than :data:`WORTH` points of ACC more than the student alone (C2), in the mean over the seeds.
    The last sentence counts those that are too many to name.
    """
    measured = [row for row in rows if row.get("gain") is not None]
    sentences = []
    for members in grouped(measured, GROUP).values():
        # All defenses of a seed have the same controls.
        seeds = list({row["seed"]: row for row in members}.values())
        alone, distilled = (fmean(row[name] for row in seeds) for name in ("c2_acc", "c3_acc"))
        # A gain of a point is one, in a table with rounded numbers as in the run itself.
        if distilled - alone < WORTH - ROUNDING:
            sentences.append(
                f"no reason to distil here: the student alone has ACC {alone:.1f}, distilled "
                f"{distilled:.1f} ({_where(members[0], len(seeds))}); a deployer would not distil"
            )
    left = len(sentences) - _NAMED
    if left > 0:
        more = "1 more group" if left == 1 else f"{left} more groups"
        sentences[_NAMED:] = [f"no reason to distil in {more} either: see the column gain"]
    return sentences


def _where(row: Row, seeds: int) -> str:
    names = " / ".join(str(row[name]) for name in ("dataset", "attack", "distiller"))
    return f"{names} / {row['teacher']}-{row['student']}, {counted(seeds, 'seed')}"
