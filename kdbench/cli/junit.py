"""The option ``--junit``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


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


def not_written(path: Path, error: OSError) -> str:
    """What to say where the file cannot be written."""
    return f"--junit {path} cannot be written ({error.strerror or error}); name another file"
