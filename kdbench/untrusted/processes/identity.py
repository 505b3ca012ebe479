"""Which code a process runs: kdbench and the libraries that compute, each with its place."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

import kdbench

#: The libraries that compute or decode.
_LIBRARIES = ("torch", "numpy", "torchvision", "timm")


def identity() -> dict[str, str]:
    """Name -> version and place, as this process has or would import it. Imports nothing."""
    folder = os.path.dirname(os.path.realpath(kdbench.__file__))
    code = hashlib.sha256()
    for file in _python_files(folder):
        code.update(f"{os.path.relpath(file, folder)}\0".encode(errors="surrogateescape"))
        with open(file, "rb") as opened:
            code.update(opened.read())
    python = f"{sys.version.split()[0]} at {sys.base_prefix}"
    own = {"kdbench": f"{kdbench.__version__} at {folder}", "code": code.hexdigest()[:12]}
    return {"Python": python, **own, **{name: _library(name) for name in _LIBRARIES}}


def difference(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """In words, what a process has otherwise than the command that started it. Empty: nothing.

    Args:
        here: of the command.
        there: of the process.
    """
    others = [name for name in here if here[name] != there.get(name)]
    parts = [f"{name} {here[name]} here, {there.get(name, 'none')} there" for name in others]
    if not parts:
        return ""
    if others == ["code"]:
        return "the code of kdbench was changed while the command began; call it again"
    return (
        f"the processes of this command would run other code than the command: {'; '.join(parts)}. "
        "Leave one of each where Python searches (PYTHONPATH, .pth files, the user's "
        "site-packages), or use a fresh environment"
    )


def _python_files(folder: str) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (os.path.join(parent, name) for name in sorted(names) if name.endswith(".py"))


def _library(name: str) -> str:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # half imported, or shadowed by what is no module
        spec = None
    if spec is None or spec.origin is None:
        return "none"
    try:
        number = version(name)
    except PackageNotFoundError:
        number = "of no version"
    return f"{number} at {os.path.realpath(spec.origin)}"
