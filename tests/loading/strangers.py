"""Packages of other people, installed in a folder as pip would: a module and its metadata."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests import forked

HOOK = "from kdbench.hookspecs import hookimpl\n@hookimpl\n"
#: A whole plugin: an attack called NAME, which is BadNets.
GOOD = (
    "from kdbench.method import Info\nfrom kdbench_badnets.method import BadNets\n"
    "class Foo(BadNets):\n    info = Info('NAME', 't', 'a', 'v', 2020, 'http://x')\n"
    f"{HOOK}def kdbench_attacks():\n    return [Foo]\n"
)
#: Options of a run that takes seconds.
SMALL = (
    *("--pair", "wrn10_1-wrn10_1", "--train-size", "100", "--test-size", "60"),
    *("--set", "clean.epochs=1", "--set", "distill.epochs=1"),
    *("--set", "min_teacher_acc=0"),
)
#: What can be wrong: name of the entry point -> (source of its module, what its cause must say).
BROKEN = {
    "missing": (
        "import nothing_of_that_name",
        "ModuleNotFoundError: No module named 'nothing_of_that_name'",
    ),
    "exits": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "syntax": ("def (", "SyntaxError"),
    "raises": ("raise ValueError('[bold]\\x1b[2Jboom')", "ValueError"),
    "recurses": ("def f(): f()\nf()", "RecursionError"),
    "misspelt": (
        f"{HOOK}def kdbench_atacks():\n    return []",
        "unknown hook 'kdbench_atacks'; did you mean 'kdbench_attacks'?",
    ),
    "unmarked": ("def kdbench_attacks():\n    return []", "implements no hook"),
    "future": (
        f"kdbench_api = '>=2'\n{GOOD.replace('NAME', 'future')}",
        "works with kdbench_api >=2, this kdbench has 1.4",
    ),
    "range": (
        f"kdbench_api = 'two'\n{GOOD.replace('NAME', 'range')}",
        "kdbench_api is 'two', no range of versions",
    ),
    "hook_raises": (f"{HOOK}def kdbench_attacks():\n    return 1 / 0", "ZeroDivisionError"),
    "notaclass": (
        f"{HOOK}def kdbench_attacks():\n    return [42]",
        "must return subclasses of kdbench.attack.Attack, got 42",
    ),
    "arguments": (f"{HOOK}def kdbench_attacks(more):\n    return []", "PluginValidationError"),
    "abstract": (
        "from kdbench.attack import Attack\nfrom kdbench.method import Info\n"
        "class Foo(Attack):\n    info = Info('abstract', 't', 'a', 'v', 2020, 'http://x')\n    def "
        "implnt(self, s): ...\n"
        f"{HOOK}def kdbench_attacks():\n    return [Foo]",
        "does not define implant",
    ),
    "path": (GOOD.replace("NAME", "../foo"), "uses the name '../foo'"),
    "twice": (
        f"{GOOD.replace('NAME', 'twice').replace('[Foo]', '[Foo, Foo]')}",
        "defines the attack 'twice' twice",
    ),
    "badnets": (
        GOOD.replace("NAME", "badnets2"),
        "the entry point 'badnets' is also defined by kdbench;",
    ),
    "shadow": (GOOD.replace("NAME", "lba"), "the attack 'lba' is also defined by lba of kdbench;"),
}


def install(
    folder: Path, name: str, source: str, *, distribution: str = "", version: str = "0.3"
) -> None:
    """A distribution ``kdbench-NAME`` (or another) with one entry point, as pip leaves it in
    ``folder``."""
    distribution = distribution or f"kdbench-{name}"
    module = f"{distribution.replace('-', '_')}_{name}"
    (folder / f"{module}.py").write_text(source)
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )
    (info / "entry_points.txt").write_text(f"[kdbench]\n{name} = {module}\n")


def pip_install(folder: Path, packages: Iterable[Path]) -> None:
    """The real thing, into a folder of its own and from nothing but these sources."""
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--target",
        folder,
    ]
    subprocess.run([*pip, *packages], check=True, capture_output=True)


def kdbench(folder: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """The command line in a process that has these packages installed."""
    return forked.run(
        [*map(str, arguments)], env=_environment(folder) | environment, cwd=Path.cwd()
    )


def own_tests(folder: Path, packages: Iterable[Path]) -> subprocess.CompletedProcess:
    """The packages' own tests, in a process that has them installed.

    They run in a fixed order, so that a failure of the suite is of what was changed.
    """
    tests = [package / "tests" for package in packages]
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return subprocess.run(
        [*pytest, "--import-mode=importlib", *tests],
        env=_environment(folder),
        capture_output=True,
        text=True,
        timeout=1800,
        cwd=folder,
    )


def _environment(folder: Path) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}
