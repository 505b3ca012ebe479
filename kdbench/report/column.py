"""What a column of a table is: its kind, its meaning, and what it is to those who read rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

ValueKind = Literal["text", "word", "digest", "whole", "number"]
Role = Literal["name", "number", "images", "origin", "result", "free"]
#: What a column is to the commands that put rows together or side by side.
ROLES: Mapping[Role, str] = MappingProxyType(
    {
        "name": "rows that differ in it are other cells",
        "number": "rows that differ in it were made with other numbers, so they are refused or "
        "shown apart",
        "images": "the same for all rows of one task; leaderboard and compare say where it is not",
        "origin": "it says by what a row was made; leaderboard, compare and verify say where it "
        "differs",
        "result": "it is measured, or follows from what is; two files that disagree about one cell "
        "are refused, and compare says what changed",
        "free": "rows may differ in it, for the reason that the column gives",
    }
)


@dataclass(frozen=True)
class Column:
    """A column: its kind of values, their meaning, and the schemas that have it."""

    name: str

    kind: ValueKind
    """word: one of ``words``. digest: 64 hexadecimal digits. whole: a whole number."""

    about: str
    """The meaning."""

    unit: str = ""

    since: int = 1
    """The first schema that had it."""

    formerly: tuple[tuple[str, int], ...] = ()
    """Older names, oldest first, each with the last schema that used it."""

    until: int | None = None
    """The last schema in which it had this meaning. None: it still has. Nobody reads a column that
    has ended, even where a later column has its name."""

    late: bool = False
    """It came during its schema, so the first files of this schema lack it."""

    words: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The values of a word, each with its meaning."""

    out_of: str = ""
    """For a count of images: the column with the count of all of them."""

    role: Role | None = None
    """An entry of :data:`ROLES`. A test fails where a column of results.csv has none."""

    may_differ: str = ""
    """Why rows may differ in it. Only for the role ``free``."""

    is_exact: bool = False
    """Written with all its digits, since it was asked for and not measured."""

    def name_in(self, schema: int) -> str:
        """Its name in files of a schema."""
        return next((name for name, last in self.formerly if schema <= last), self.name)

    def explained(self) -> str:
        """The meaning, with that of each of its words."""
        if not self.words:
            return self.about
        return f"{self.about}. " + "; ".join(f"{word}: {text}" for word, text in self.words.items())
