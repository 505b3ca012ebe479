"""The current folder, which somebody may have removed under the shell."""

from __future__ import annotations

import os

from kdbench.errors import UsageError


def check_current_folder() -> None:
    """Raise UsageError where the current folder is gone.

    No relative path can then be written, and a library that torch loads ends the process.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise UsageError(
            f"the current folder cannot be used ({error.strerror or error}); it may have been "
            "removed: change to another folder, or into it again"
        ) from error
