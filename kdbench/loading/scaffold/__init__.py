"""Writes the package of a new plugin from templates.

As it is written it installs, runs and passes the conformance kit.
"""

from __future__ import annotations

import re
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

from kdbench.errors import ConfigError, UsageError
from kdbench.method import METHOD_KINDS

#: What a package may bring -> what holds it: the name of its module, and of the test beside it.
KINDS = {**dict.fromkeys(METHOD_KINDS, "method"), "dataset": "dataset", "network": "network"}
#: Template -> the file made of it. ``$`` words are replaced in both names and in the text. A kind
#: may have a template of its own in the place of a common one.
_FILES = {
    "pyproject.toml": "pyproject.toml",
    "README.md": "README.md",
    "init.py": "src/kdbench_$name/__init__.py",
    "$module.py": "src/kdbench_$name/$module.py",
    "test_contract.py": "tests/test_contract.py",
    "test_$module.py": "tests/test_$module.py",
}
#: What ``kdbench list`` calls them, where it is another word.
_LISTED = {"network": "models"}
#: Where ``known_failures`` belongs. A method has it in its class.
_SOURCES = {"dataset": "DatasetSource", "network": "ModelSource"}


def distribution(name: str) -> str:
    """Name of the package of a plugin."""
    return f"kdbench-{name.replace('_', '-')}"


def listed(kind: str) -> str:
    """The word that ``kdbench list`` takes for a kind."""
    return _LISTED.get(kind, f"{kind}s")


def write_plugin(kind: str, name: str, folder: Path) -> list[Path]:
    """Write the package ``kdbench-NAME`` into a new ``folder``, and return its files.

    Raises:
        UsageError: there is no such kind, the name is not allowed, or the folder exists.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown kind {kind!r}; known: {', '.join(sorted(KINDS))}")
    _check_name(name)
    words = {
        "kind": kind,
        "module": KINDS[kind],
        "name": name,
        "package": f"kdbench_{name}",
        "distribution": distribution(name),
        "listed": listed(kind),
        "where": f" of the {_SOURCES[kind]} in `__init__.py`" if kind in _SOURCES else "",
    }
    if folder.exists():
        raise ConfigError(f"{folder} exists already; name another folder with --out, or remove it")
    written = []
    try:
        texts = {
            target: _template(kind, Template(source).substitute(words)).read_text("utf-8")
            for source, target in _FILES.items()
        }
        words["Class"] = _class_name(kind, name, "\n".join(texts.values()))
        for target, text in texts.items():
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


def _check_name(name: str) -> None:
    """Raise UsageError where a plugin cannot have the name. It says which one is near."""
    allowed = r"[a-z][a-z0-9_]*"
    if re.fullmatch(allowed, name):
        return
    near = re.sub(r"[-. ]+", "_", name.strip()).lower()
    meant = f"; did you mean {near!r}?" if re.fullmatch(allowed, near) else ""
    also = f" The package is then {distribution(near)}" if meant and near != name.lower() else ""
    raise UsageError(
        f"{name!r} is no name for a plugin; use a-z and, after the first, 0-9 and _{meant}{also}"
    )


def _class_name(kind: str, name: str, text: str) -> str:
    """The name of the class, another one than those that the templates use already."""
    cls = "".join(part.capitalize() for part in name.split("_"))
    return cls if not re.search(rf"(?<!\$){cls}\b", text) else f"{cls}{kind.capitalize()}"


def _template(kind: str, name: str) -> Traversable:
    root = resources.files("kdbench.loading.scaffold")
    own = root / kind / f"{name}.template"
    return own if own.is_file() else root / "common" / f"{name}.template"
