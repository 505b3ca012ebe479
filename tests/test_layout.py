"""The layout keeps its promises: imports go one way, files at the top are the contract, reading
tables takes no torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import kdbench

ROOT = Path(kdbench.__file__).parent
MODULES = {
    ".".join(("kdbench", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted(ROOT.rglob("*.py"))
}

#: Packages whose inside a plugin may import, beside the files at the top.
OPEN_PACKAGES = ("data", "models", "testing", "training")

#: What a unit (a file at the top, or a package) may import of the others, in the order of this list
#: only.
FLOORS = (
    ("untrusted.files", "untrusted.documents", "untrusted.recognised"),
    ("errors", "_counted", "_files", "_intervals", "_libraries", "_progress", "method"),
    ("untrusted.text", "untrusted.header", "untrusted.box", "untrusted.wall", "untrusted.archive"),
    ("untrusted.processes",),
    ("attention", "matching", "variance", "numerics", "data", "models", "_cuda_graphs"),
    ("training", "capture", "untrusted.weights"),
    ("attack", "defense", "distiller", "metrics"),
    ("triggers", "search_steps", "universal_bound", "crafting", "repair", "reporter", "hookspecs"),
    ("trigger_search", "loading"),
    ("report",),
    ("page",),
    ("testing",),
    ("bench",),
    ("paper",),
    ("results",),
    ("cli",),
    ("_calls",),
    ("api",),
)

#: Files at the top that are for whoever calls kdbench, and no part of the contract of plugins.
FOR_CALLERS = ("api", "results")

#: The same inside bench: a request becomes a plan, a plan is computed, what is computed is kept and
#: becomes rows.
BENCH = ("keys", "kinds", "request", "store", "plan", "work", "run", "session")


def imported(path: Path) -> Iterator[str]:
    """Every module of kdbench that a file imports, inside functions too; names that are no module
    count as their module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def ours(path: Path) -> list[str]:
    return sorted(
        {name for name in imported(path) if name.partition(".")[0] == "kdbench"} - {"kdbench"}
    )


def place(module: str, order: tuple[str, ...]) -> int | None:
    """Where a module stands in an order of prefixes, the longest that fits; None where none
    does."""
    fitting = [name for name in order if module == name or module.startswith(f"{name}.")]
    return order.index(max(fitting, key=len)) if fitting else None


def floor(module: str) -> int:
    names = tuple(name for names in FLOORS for name in names)
    at = place(module.removeprefix("kdbench."), names)
    assert at is not None, f"{module} stands on no floor; put it into FLOORS"
    return next(number for number, row in enumerate(FLOORS) if names[at] in row)


@pytest.mark.parametrize(
    "module",
    [name for name in MODULES if name not in ("kdbench", "kdbench.__main__", "kdbench.untrusted")],
)
def test_imports_go_one_way(module):
    upward = [name for name in ours(MODULES[module]) if floor(name) > floor(module)]
    assert not upward, f"{module} imports {', '.join(upward)}, which stand above it"
    inside = module.removeprefix("kdbench.bench.")
    if (at := place(inside, BENCH)) is not None:
        for name in ours(MODULES[module]):
            other = place(name.removeprefix("kdbench.bench."), BENCH)
            assert other is None or other <= at, f"{module} imports {name}, which comes later"


def test_there_is_no_circle():
    # raises CycleError
    TopologicalSorter({name: set(ours(path)) - {name} for name, path in MODULES.items()}).prepare()


def test_plugins_import_the_contract_only():
    """A file at the top without an underscore, or the inside of an open package."""
    for path in sorted((ROOT.parent / "plugins").rglob("*.py")):
        for name in ours(path):
            first = name.split(".")[1]
            top = (
                name.count(".") == 1
                and (ROOT / f"{first}.py").exists()
                and not first.startswith("_")
                and first not in FOR_CALLERS
            )
            assert top or first in OPEN_PACKAGES, (
                f"{path.name} imports {name}, which is no part of the contract"
            )


#: Lines of code that a file of a plugin may have.
MOST_CODE = 200
#: Files that were longer before the rule, with what they had. They may get shorter, not longer.
LONGER = {"kdbench_htba/method.py": 250, "kdbench_robustkd/method.py": 285}


def code_lines(text: str) -> int:
    """The lines of a file that hold code: not blank, no comment, and no docstring."""
    inside: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                inside.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and number not in inside
        for number, line in enumerate(text.splitlines(), 1)
    )


def test_lines_of_code_are_counted():
    text = '''"""A page

of two."""

# why
x = 1  # one


def f():
    """Four."""
    return """
x"""
'''
    # x = 1, def f, and the two lines of a text that is no docstring
    assert code_lines(text) == 4


def test_a_file_of_a_method_is_small():
    plugins = ROOT.parent / "plugins"
    lines = {
        path.relative_to(plugins).as_posix(): code_lines(path.read_text(encoding="utf-8"))
        for path in sorted(plugins.rglob("*.py"))
    }
    assert lines
    most = dict.fromkeys(lines, MOST_CODE) | LONGER
    long = {name: count for name, count in lines.items() if count > most[name]}
    assert not long, f"more than {MOST_CODE} lines of code: {long}; split them by subject"
    short = [name for name in LONGER if lines[name] <= MOST_CODE]
    assert not short, f"{short} need no exception any more; take them out of LONGER"


def test_methods_import_no_machine():
    for package in OPEN_PACKAGES[:2] + OPEN_PACKAGES[3:]:
        for path in sorted((ROOT / package).rglob("*.py")):
            assert not [
                name
                for name in ours(path)
                if name.startswith(("kdbench.bench", "kdbench.cli", "kdbench.report"))
            ]


READS_TABLES = ("leaderboard", "compare", "cite", "report", "new_plugin", "store")


@pytest.mark.parametrize(
    "code",
    [
        "import kdbench.cli; kdbench.cli.main(['--help'], standalone_mode=False)",
        *(
            f"import kdbench.report.{path.stem}"
            for path in sorted((ROOT / "report").glob("*.py"))
            if path.stem not in ("__init__", "pictures")
        ),
        *(f"import kdbench.cli.{name}" for name in READS_TABLES),
    ],
)
def test_reading_tables_takes_no_torch(code):
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; sys.exit('torch' in sys.modules)"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_commands_that_read_tables_take_no_torch(tmp_path):
    """The whole commands, not only their imports: a table is read, ranked and compared."""
    results = next((ROOT.parent / "benchmarks" / "results").rglob("results.csv"))
    for arguments in (
        ["leaderboard", str(results), "--out", str(tmp_path / "l.csv")],
        ["compare", str(results), str(results)],
    ):
        code = f"import kdbench.cli; kdbench.cli.main({arguments!r}, standalone_mode=False)"
        code += "; import sys; sys.exit('torch' in sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
