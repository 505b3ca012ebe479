"""The option ``--junit``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from kdbench.errors import ConfigError


def junit_option(tests: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option.

    Args:
        tests: what the tests are, and which of them fail.
    """
    return click.option(
        "--junit",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help=f"Write a JUnit file for CI. Its tests: {tests}.",
    )


def check_junit(path: Path | None, reads: Iterable[Path] = ()) -> None:
    """Raise ConfigError where the file cannot be made, or is one that is read.

    Args:
        reads: the tables of the command.
    """
    if path is None:
        return
    if not path.name or path.is_dir():
        raise ConfigError(f"--junit {path} is a folder; name a file, e.g. cells.xml")
    if not path.parent.is_dir():
        raise ConfigError(f"--junit {path}: there is no folder {path.parent}; make it first")
    if path.resolve() in {table.resolve() for table in reads}:
        raise ConfigError(f"--junit would overwrite {path}, which is compared; name another file")


def not_written(path: Path, error: OSError) -> str:
    """What to say where the file cannot be written."""
    return f"--junit {path} cannot be written ({error.strerror or error}); name another file"
