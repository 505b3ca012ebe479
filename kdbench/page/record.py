"""What a page takes of a run.json. It may be of another shape, of an older version or broken, so
everything is looked at before it is used."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any

from kdbench.page.source import Run
from kdbench.untrusted.text import command_line

#: Halves of characters that stand for no byte of a name.
_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")


def texts(value: object) -> list[str]:
    """The texts of a list, or a text alone, each without what no file can be called."""
    values = value if isinstance(value, list) else [value]
    return [_HALVES.sub("\ufffd", item) for item in values if isinstance(item, str)]


def table(value: object) -> Mapping[str, Any]:
    """A table, or an empty one."""
    return value if isinstance(value, dict) else {}


def tables(value: object) -> list[Mapping[str, Any]]:
    """The tables of a list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def number(value: object) -> float | None:
    """A number, or None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None  # type: ignore[arg-type]


def command_of(run: Run) -> str:
    """The command that made a run. Empty: the record does not say."""
    words = texts(run.record.get("command"))
    if not words:
        return ""
    # Records that people wrote hold whole lines.
    if words[0].startswith("kdbench "):
        return "\n".join(words)
    return command_line(["kdbench", *words])


def day_of(run: Run) -> str:
    """When a run began. Empty: the record does not say."""
    if (started := number(run.record.get("started"))) is not None:
        try:
            time = datetime.datetime.fromtimestamp(started, datetime.UTC)
        except (ValueError, OSError, OverflowError):
            return ""
        return time.strftime("%Y-%m-%d %H:%M UTC")
    return " ".join(texts(run.record.get("date")))


def described(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each dataset of a run, with its images in words."""
    for dataset in tables(record.get("datasets")):
        counts = [
            f"{value:,.0f} {what}"
            for name, what in (("train", "training"), ("test", "test images"))
            if (value := number(dataset.get(name))) is not None
        ]
        side, classes = number(dataset.get("image_size")), number(dataset.get("num_classes"))
        if classes is not None:
            counts.append(f"{classes:.0f} classes")
        if side is not None:
            counts.append(f"{side:.0f}x{side:.0f} pixels")
        note = texts(dataset.get("note"))
        yield " ".join(texts(dataset.get("name"))), ", ".join([*counts, *filter(None, note)])
