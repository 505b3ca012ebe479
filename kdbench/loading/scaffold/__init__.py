"""Writes the package of a new plugin from templates.

As it is written it installs, runs and passes the conformance kit.
"""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from string import Template

from kdbench.errors import ConfigError, UsageError
from kdbench.method import METHOD_KINDS

#: Template -> the file made of it. ``$`` words are replaced in both names and in the text.
_FILES = {
    "common/pyproject.toml": "pyproject.toml",
    "common/README.md": "README.md",
    "common/init.py": "src/kdbench_$name/__init__.py",
    "$kind/method.py": "src/kdbench_$name/method.py",
    "common/test_contract.py": "tests/test_contract.py",
    "$kind/test_method.py": "tests/test_method.py",
}


def distribution(name: str) -> str:
    """Name of the package of a plugin."""
    return f"kdbench-{name.replace('_', '-')}"


def write_plugin(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the package ``kdbench-NAME`` into a new ``folder``, and return its files.

    Raises:
        UsageError: there is no such kind, the name is not allowed, or the folder exists.
    """
    if kind not in METHOD_KINDS:
        raise UsageError(f"unknown kind {kind!r}; known: {', '.join(sorted(METHOD_KINDS))}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise UsageError(
            f"{name!r} is no name for a plugin; use a-z and, after the first, 0-9 and _"
        )
    words = {
        "kind": kind,
        "name": name,
        "package": f"kdbench_{name}",
        "distribution": distribution(name),
        "Class": "".join(part.capitalize() for part in name.split("_")),
    }
    if folder.exists():
        raise ConfigError(f"{folder} exists already; name another folder with --out, or remove it")
    written = []
    try:
        for source, target in _FILES.items():
            template = (
                resources.files("kdbench.loading.scaffold")
                / f"{Template(source).substitute(words)}.template"
            )
            text = template.read_text("utf-8")
            path = folder / Template(target).substitute(words)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(Template(text).substitute(words), encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror or error}); name another folder with "
            "--out"
        ) from error
    return written
