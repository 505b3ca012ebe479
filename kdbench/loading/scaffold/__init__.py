"""A package for a plugin of one's own, written from templates. Its unedited output installs, runs
and passes the kit."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from string import Template

from kdbench.errors import ConfigError, UsageError
from kdbench.method import METHOD_KINDS

#: Template -> where it goes. ``$`` words in both are replaced.
_FILES = {
    "common/pyproject.toml": "pyproject.toml",
    "common/README.md": "README.md",
    "common/init.py": "src/kdbench_$name/__init__.py",
    "$kind/method.py": "src/kdbench_$name/method.py",
    "common/test_contract.py": "tests/test_contract.py",
    "$kind/test_method.py": "tests/test_method.py",
}


def distribution(name: str) -> str:
    """What the package of a plugin is called."""
    return f"kdbench-{name.replace('_', '-')}"


def write_plugin(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the package ``kdbench-NAME`` into ``folder``, which is made; returns the files.

    Raises:
        UsageError: no such kind, no name, or the folder is there already.
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
