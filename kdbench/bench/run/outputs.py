"""The folder of a run's results: what cannot be written there costs no result.

Whatever was computed is in the store, and the same request writes it again, into another folder.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdbench._files import write_record
from kdbench.errors import ConfigError
from kdbench.untrusted.text import strip_control

RECORD, REPORT = "run.json", "report.html"


class Outputs:
    """Writes the files of a run, and remembers what could not be written.

    Args:
        folder: where they go. It is made.

    Raises:
        ConfigError: nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: Name of each file that could not be written -> why.
        self.lost: dict[str, str] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(folder, error) from error

    def begin(self, record: dict[str, Any]) -> None:
        """Write the record before anything is computed.

        Raises:
            ConfigError: the folder takes no file of this size, so it would not take the results.
        """
        try:
            write_record(record, self.folder / RECORD)
        except OSError as error:
            raise _unusable(self.folder, error) from error

    def write(self, name: str, write: Callable[[Path], object]) -> Path | None:
        """Let ``write`` make one of the files. What it was lost for once counts no more then.

        Returns:
            The file, or None where it could not be written.
        """
        path = self.folder / name
        try:
            write(path)
        except OSError as error:
            self.lost[name] = error.strerror or str(error)
            return None
        self.lost.pop(name, None)
        return path

    def record(self, record: dict[str, Any]) -> None:
        """Write the record again."""
        self.write(RECORD, lambda path: write_record(record, path))

    def report(self) -> None:
        """Write the page of the rows and of what lies beside them.

        It is made of the files alone, so `kdbench report` makes the same page of them. Whatever
        goes wrong with it, the results are there.
        """
        from kdbench.page.build import write_page
        from kdbench.page.source import read_source

        try:
            source = read_source([self.folder])
            self.write(REPORT, lambda path: write_page(source, path))
        except Exception as error:  # a page is worth no result
            self.lost[REPORT] = strip_control(error)

    def complaint(self) -> str:
        """What could not be written, where and why. Empty: everything was."""
        if not self.lost:
            return ""
        names = ", ".join([*self.lost][:4]) + (", ..." if len(self.lost) > 4 else "")
        reasons = ", ".join(dict.fromkeys(self.lost.values()))
        return f"{names} could not be written to {self.folder} ({reasons})"


def _unusable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"--out {folder} cannot be written to ({error.strerror or error}); name another folder"
    )
