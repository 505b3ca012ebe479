"""Variables and standard streams of a command."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.fuzz.case import HERE
from tests.fuzz.values import numbers, words

_HARMLESS: tuple[tuple[str, str | None], ...] = (
    ("COLUMNS", "40"),
    ("COLUMNS", "1"),
    ("TERM", "dumb"),
    ("TERM", "xterm-256color"),
    ("TERM", "nothing"),
    ("TERM", None),
    ("NO_COLOR", "1"),
    ("FORCE_COLOR", "1"),
    ("HOME", None),
    ("HOME", f"{HERE}/nowhere"),
    ("TMPDIR", f"{HERE}/nowhere"),
    ("TMPDIR", None),
    ("LC_ALL", "tr_TR.UTF-8"),
    ("LC_ALL", "nonsense"),
    ("LC_ALL", None),
    ("TZ", "Pacific/Kiritimati"),
    ("TZ", "nonsense"),
    ("LANG", "C"),
    ("OMP_NUM_THREADS", "1"),
    ("KDBENCH_CACHE", f"{HERE}/café"),
    ("KDBENCH_STORE", f"{HERE}/two words"),
    ("USER", None),
    ("PATH", None),
    ("PYTHONPATH", f"{HERE}/nowhere"),
)
_HOSTILE: tuple[tuple[str, str], ...] = (
    ("KDBENCH_STORE", "/dev/null"),
    ("KDBENCH_STORE", "/dev/null/x"),
    ("KDBENCH_STORE", "/proc/nothing"),
    ("KDBENCH_STORE", ""),
    ("KDBENCH_CACHE", "/dev/null"),
    ("KDBENCH_CACHE", ""),
    ("KDBENCH_LOAD_PLUGINS", ""),
    ("KDBENCH_LOAD_PLUGINS", "nothing"),
    ("KDBENCH_LOAD_PLUGINS", "badnets, none,fkd"),
    ("OMP_NUM_THREADS", "nonsense"),
    ("COLUMNS", "0"),
    ("COLUMNS", "-5"),
    ("COLUMNS", "99999999"),
    ("LINES", "0"),
)
_NAMES = ("COLUMNS", "TERM", "TZ", "KDBENCH_LOAD_PLUGINS", "OMP_NUM_THREADS", "LC_ALL", "LANG")


@st.composite
def surroundings(draw: st.DrawFn, hostile: bool) -> dict[str, Any]:
    """The fields of a case that say where it runs. Most are left as they are."""
    values: dict[str, Any] = {}
    hostile = hostile and draw(st.integers(0, 2)) == 0
    if draw(st.integers(0, 2)) == 0:
        known = _HARMLESS + _HOSTILE if hostile else _HARMLESS
        variables = st.sampled_from(known)
        if hostile:
            texts = st.one_of(numbers(), words())
            variables = variables | st.tuples(st.sampled_from(_NAMES), texts)
        values["environment"] = tuple(
            dict(draw(st.lists(variables, min_size=1, max_size=2))).items()
        )
    outputs = ["file"] * 8 + ["terminal"] * 2
    if hostile:
        outputs += ["full", "broken", "closed"]
    values["output"] = draw(st.sampled_from(outputs))
    values["standard_input"] = draw(st.sampled_from(["empty"] * 5 + ["closed"]))
    values["encoding"] = draw(st.sampled_from(["utf-8"] * 6 + ["ascii", "latin-1", "cp1252"]))
    return values
