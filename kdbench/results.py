"""The rows of one run or of several, as Python works with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench._counted import counted
from kdbench.report.columns import COLUMNS, Row
from kdbench.report.read import CELL, UNSTEADY, ResultsFile, read_results
from kdbench.report.tables import written

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from kdbench.page.source import Source

#: The type of a column of :attr:`Results.table`, by the kind of its values.
_TYPES = {"number": "float64", "whole": "Int64"}


class Results:
    """The rows of one results.csv, or of several that belong together.

    :func:`kdbench.run` and :func:`kdbench.load` make it. Two are equal if their rows are equal in
    every column but those that differ between two measurements of one cell, such as ``wall_s``.

    Args:
        rows: as :func:`kdbench.report.read.read_results` gives them.
        paths: the folders or files that hold them.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        paths: Iterable[str | Path] = (),
        lines: Sequence[int] = (),
        split: bool = False,
    ) -> None:
        self._rows = [dict(row) for row in rows]
        self._split = split
        self._lines = list(lines) or list(range(2, len(self._rows) + 2))
        #: The folders of runs, or the files, that hold the rows.
        self.paths = tuple(map(Path, paths))

    @classmethod
    def read(cls, paths: Sequence[str | Path], split: bool = False) -> Results:
        """Read runs, and merge them strictly. See :func:`kdbench.load`."""
        from kdbench.report.merge import merge

        files = [read_results(path) for path in paths]
        if len(files) == 1:
            return cls(files[0].rows, paths, files[0].lines)
        return cls(merge(files, split), paths, split=split)

    @property
    def rows(self) -> list[Row]:
        """The rows as dictionaries: numbers as numbers, None where a column is empty."""
        return [dict(row) for row in self._rows]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a cell, with exactly the columns of results.csv.

        Numbers are ``float64``, whole numbers ``Int64``, texts objects. An empty number is NaN or
        NA, an empty text None.
        """
        import pandas as pd

        table = pd.DataFrame(
            {name: pd.Series([row[name] for row in self._rows], dtype=object) for name in COLUMNS}
        )
        return table.astype(
            {name: _TYPES[c.kind] for name, c in COLUMNS.items() if c.kind in _TYPES}
        )

    @cached_property
    def leaderboard(self) -> pd.DataFrame:
        """One row a setting: means over seeds with intervals, and the rank of the defense.

        The columns are those of leaderboard.csv, see
        :func:`kdbench.report.leaderboard.leaderboard`.
        """
        from kdbench.report.leaderboard import leaderboard

        return leaderboard(self.rows)

    @cached_property
    def overall(self) -> pd.DataFrame:
        """Each defense by its worst attack, see :func:`kdbench.report.leaderboard.overall`."""
        from kdbench.report.leaderboard import overall

        return overall(self.rows)

    @cached_property
    def paired(self) -> pd.DataFrame:
        """Every two defenses compared seed by seed, and each with control C1.

        The columns are those of paired.csv. It is empty where no two seeds are shared.
        """
        import pandas as pd

        from kdbench.report.paired import COLUMNS as PAIRED
        from kdbench.report.paired import against_control, comparisons

        rows = self.rows
        return pd.DataFrame([*comparisons(rows), *against_control(rows)], columns=list(PAIRED))

    @property
    def failures(self) -> pd.DataFrame:
        """The cells that were not measured: their names, ``status`` and ``reason``."""
        table = self.table
        return table.loc[table["status"] != "ok", [*CELL, "status", "reason"]]

    def report(self, path: str | Path = "report.html") -> Path:
        """Write the page that ``kdbench report`` writes: one file that needs no network.

        A file that is there is overwritten, so that a cell of a notebook can be run again.
        Pictures, logs and run.json are taken from the folders of :attr:`paths`.

        Raises:
            ConfigError: the page would be too large, or a folder is no longer there.
            OSError: it cannot be written.
        """
        from kdbench.page.build import write_page

        write_page(self._source(), Path(path))
        return Path(path)

    def plot(self, axes: Axes | None = None) -> Axes:
        """Draw ACC against ASR of every setting, with intervals, on matplotlib axes.

        Args:
            axes: to draw on. None: those of a new figure, which is ``.figure`` of the answer.
        """
        from kdbench.page.plot import plot

        return plot(self.rows, axes)

    def _repr_html_(self) -> str:
        from kdbench.page.build import head_of
        from kdbench.page.source import Source

        return head_of(Source(self.rows))

    def _source(self) -> Source:
        from kdbench.page.source import Source, read_source

        if not self.paths:
            return Source(self.rows)
        return replace(read_source(self.paths, self._split), rows=self.rows)

    def as_file(self) -> ResultsFile:
        """The rows as those of one file, for what compares files."""
        return ResultsFile(
            Path(", ".join(map(str, self.paths)) or "results"), self.rows, self._lines
        )

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Results) and self._steady() == other._steady()

    #: It is compared by its rows, which may be many.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        failed = sum(row["status"] != "ok" for row in self._rows)
        words = f", {failed} of them failed" if failed else ""
        where = f" of {', '.join(map(str, self.paths))}" if self.paths else ""
        return f"<Results: {counted(len(self), 'cell')}{words}{where}>"

    def _steady(self) -> list[list[Any]]:
        names = [name for name in COLUMNS if name not in UNSTEADY]
        return [[written(name, row[name]) for name in names] for row in self._rows]
