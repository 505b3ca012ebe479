"""Numbers as a page shows them."""

from __future__ import annotations

#: What stands where there is no number.
MISSING = "–"


def text(value: float | None, digits: int = 1) -> str:
    """A number with so many decimals. What rounds to nothing has no sign."""
    if value is None:
        return MISSING
    shown = f"{value:.{digits}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown.replace("-", "−")


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    shown = text(value)
    return shown if value is None or value <= 0 or float(f"{value:.1f}") == 0 else f"+{shown}"


def between(interval: tuple[float | None, float | None] | None, digits: int = 1) -> str:
    """An interval in words. Empty where there is none."""
    if interval is None or interval[0] is None or interval[1] is None:
        return ""
    return f"{text(interval[0], digits)} to {text(interval[1], digits)}"


def duration(seconds: float) -> str:
    """``4.1 s``, ``75 s``, ``3 min 20 s`` or ``2 h 05 min``."""
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
