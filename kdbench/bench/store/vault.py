"""Where a store keeps things: a folder in its root whose name nobody can guess.

On some kernels the process of a stage can ask whether a file exists, of any path. The key of a
stage follows from public numbers, so a plugin could compute it and ask for its artefact. The name
of the vault keeps the path secret. A process that may not list the root does not learn it.

An older store kept everything in its root. It is taken over when the store is first used.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from pathlib import Path

import filelock

from kdbench.errors import ConfigError

_VAULT = re.compile(r"vault\.[0-9a-f]{32}")
#: What an older store kept in its root.
_OLDER = ("objects", "work", "locks", "damaged", "teachers", "timings.jsonl")
_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_ELSEWHERE = "name another folder with --store"


def open_vault(root: Path) -> Path | None:
    """The vault of a store. None where nothing was kept yet.

    Raises:
        ConfigError: it cannot be trusted, or there are several.
    """
    names = _names(root)
    if not _older(root, names):
        return _find(root, names)
    try:
        return make_vault(root)
    except OSError:  # nobody may write there
        return _find(root, names) or root


def make_vault(root: Path) -> Path:
    """The vault of a store, made if there is none, with all that an older store kept.

    Raises:
        OSError: the root cannot be made or written to.
        ConfigError: as :func:`open_vault`.
    """
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Two processes that start at once make one vault.
    with filelock.FileLock(root / "vault.lock"):
        names = _names(root)
        older = _older(root, names)
        for path in older:
            # Its other folders were made with the user's usual rights.
            check_private(path, alone=path.name == "objects")
        vault = _find(root, names)
        if vault is None:
            vault = root / f"vault.{secrets.token_hex(16)}"
            vault.mkdir(mode=0o700)
        for path in older:
            _move(path, vault / path.name)
    return vault


def check_private(path: Path, alone: bool = True) -> None:
    """Raise ConfigError unless a folder or file of the store belongs to this user.

    Args:
        alone: nobody else may have the right to write it.
    """
    facts = path.lstat()
    if stat.S_ISLNK(facts.st_mode):
        why = f"{path} is a link"
    elif facts.st_uid not in (os.geteuid(), 0):
        why = f"{path} belongs to another user"
    elif alone and facts.st_mode & _OTHERS_MAY_WRITE:
        why = f"other users may write {path}"
    else:
        return
    raise ConfigError(
        f"{why}, so results may be changed by others; if you trust them as they are, use `chown` "
        f"and `chmod go-w`, or {_ELSEWHERE}"
    )


def root_warning(root: Path) -> str:
    """What a user should know of the root of a store. Empty if all is well."""
    try:
        facts = root.stat()
    except OSError:
        return ""
    if facts.st_uid not in (os.geteuid(), 0):
        return f"The store {root} belongs to another user, who can take away its results."
    if facts.st_mode & _OTHERS_MAY_WRITE:
        return (
            f"Other users can write the store {root} and take away its results; use "
            f"`chmod go-w {root}`."
        )
    return ""


def _names(root: Path) -> list[str]:
    """What lies in the root. A plan asks for thousands of artefacts before there is a store."""
    try:
        return os.listdir(root)
    # Anything else is said: a name that is too long, a loop of links, a disk that fails.
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def _find(root: Path, names: list[str]) -> Path | None:
    vaults = sorted(filter(_VAULT.fullmatch, names))
    if len(vaults) > 1:
        raise ConfigError(
            f"{root} holds {len(vaults)} vaults ({', '.join(vaults)}), and only one can be used; "
            "move the others elsewhere"
        )
    if not vaults:
        return None
    check_private(root / vaults[0])
    return root / vaults[0]


def _older(root: Path, names: list[str]) -> list[Path]:
    """What lies in the root as in an older store."""
    return [root / name for name in _OLDER if name in names]


def _move(source: Path, target: Path) -> None:
    """Move a file or a folder. What is there already stays, as does its counterpart."""
    if not os.path.lexists(target):
        os.rename(source, target)
    elif source.is_dir() and target.is_dir() and not source.is_symlink():
        for path in list(source.iterdir()):
            _move(path, target / path.name)
        with contextlib.suppress(OSError):
            source.rmdir()
