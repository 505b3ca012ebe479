"""What the option ``--out`` of tables and pages may write over."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click
from click.core import ParameterSource

from kdbench.errors import ConfigError


def check_outputs(paths: Iterable[Path], reads: Iterable[Path]) -> None:
    """Look whether the files of ``--out`` may be written, before any of them is.

    A file that was named is written over. One of the default name is not: nobody said that it may
    go, and it may be of another run.

    Args:
        paths: the files to write.
        reads: the files that the command reads.

    Raises:
        ConfigError: one of the files is read, or is already there and was not named.
    """
    context = click.get_current_context()
    named = context.get_parameter_source("out") is not ParameterSource.DEFAULT
    read = {path.resolve() for path in reads}
    for path in paths:
        if path.resolve() in read:
            raise ConfigError(
                f"--out would overwrite {path}, which is one of the runs; name another file"
            )
        if not named and os.path.lexists(path):
            raise ConfigError(
                f"{path} is already there; name another file with --out, or write over it with "
                f"--out {context.params['out']}"
            )
