"""What lies in the folders of a dataset and does not belong to it, as counts with reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from kdbench._counted import plural
from kdbench.data.spelling import spelling
from kdbench.untrusted.text import shown_name


@dataclass(frozen=True)
class LeftOutCount:
    """How many files or folders of one place were left out for one reason."""

    split: str
    """``train`` or ``test``."""
    class_name: str
    """Name of the class (NFC). Empty: they lie beside the class folders."""
    reason: str
    """Why, such as ``suffix .gif`` or ``hidden file``."""
    count: int
    """How many files or folders. A folder counts once, whatever is in it."""

    @property
    def place(self) -> str:
        """``train/cat``, for people."""
        return f"{self.split}/{shown_name(self.class_name) if self.class_name else ''}"


@dataclass(frozen=True)
class LeftOut:
    """Everything that was left out of a dataset."""

    counts: tuple[LeftOutCount, ...] = ()
    """By split, class and reason."""

    @property
    def total(self) -> int:
        """How many files and folders."""
        return sum(entry.count for entry in self.counts)

    def of_split(self, split: str) -> LeftOut:
        """The part of one split."""
        return LeftOut(tuple(entry for entry in self.counts if entry.split == split))

    def of_classes(self, names: Collection[str]) -> LeftOut:
        """The part of some classes, and what lies beside the class folders."""
        kept = {"", *map(spelling, names)}
        return LeftOut(tuple(entry for entry in self.counts if entry.class_name in kept))

    def in_class(self, name: str) -> LeftOut:
        """The part of one class."""
        return LeftOut(tuple(entry for entry in self.counts if entry.class_name == spelling(name)))

    def by_reason(self) -> dict[str, int]:
        """How many for each reason, most first."""
        return _most_first((entry.reason, entry.count) for entry in self.counts)

    def by_place(self) -> dict[str, int]:
        """How many in each class of each split, most first."""
        return _most_first((entry.place, entry.count) for entry in self.counts)

    def line(self) -> str:
        """All of it in one line. Empty: nothing was left out."""
        if not self.total:
            return ""
        reasons = ", ".join(f"{reason} ({count})" for reason, count in self.by_reason().items())
        (first, count), *others = self.by_place().items()
        where = f"most in {first} ({count})" if others else f"all in {first}"
        what = " or ".join(noun if self.total == 1 else plural(noun) for noun in ("file", "folder"))
        return f"left out {self.total} {what}: {reasons}; {where}"


NOTHING = LeftOut()


def _most_first(entries: Iterable[tuple[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for name, count in entries:
        total[name] += count
    return dict(sorted(total.items(), key=lambda entry: (-entry[1], entry[0])))


def left_out(counts: Mapping[tuple[str, str, str], int]) -> LeftOut:
    """The counts by (split, class, reason) as one value."""
    return LeftOut(
        tuple(LeftOutCount(*key, count) for key, count in sorted(counts.items()) if count)
    )
