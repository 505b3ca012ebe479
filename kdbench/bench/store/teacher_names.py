"""What an imported teacher may be called: only what is safe as the name of a file.

Imports no torch, so that a wrong name is refused quickly.
"""

from __future__ import annotations

import re

from kdbench.errors import ConfigError


def is_teacher_name(name: str) -> bool:
    """Whether an imported teacher may have this name. A file's name is at most 255 long."""
    return re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,229}", name) is not None


def check_teacher_name(name: str, option: str = "--name") -> None:
    """Raise ConfigError for a name that no teacher may have.

    Args:
        option: where the name can be stated, for the message.
    """
    if not is_teacher_name(name):
        raise ConfigError(
            f"{name!r} is no name for a teacher; choose one of a-z, 0-9, '_', '.' and '-' (not "
            f"first), 230 at most, with {option}"
        )
