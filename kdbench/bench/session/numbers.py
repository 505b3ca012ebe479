"""Bounds of the numbers that somebody may give, whoever asks for them."""

from __future__ import annotations

from kdbench.errors import UsageError

#: The least value of each number.
LEAST: dict[str, float] = {
    "jobs": 1,
    "time_limit": 1,
    "stall_limit": 0,
    "memory_limit": 0.1,
    "checkpoint_every": 0,
    "cohort": 1,
}


def check_least(name: str, value: object, least: float) -> None:
    """Raise UsageError where a value is no number, or is less than the least."""
    option = f"--{name.replace('_', '-')}"
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UsageError(f"{option}: a number is needed; got {value!r}")
    if not value >= least:  # NaN is no such number either
        raise UsageError(f"{option}: at least {least} is needed; got {value!r}")
