"""A digest of code follows what it computes: not its words, not its layout, not Python's
version."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from kdbench.bench.plan.machine import STAGE_CODE, code_files
from kdbench.loading import source
from kdbench.loading.source import meaning, source_digest
from tests.test_layout import ROOT

SAMPLE = '''
"""A file."""
from __future__ import annotations

LIMIT = 0.5


class Step:
    """What it is."""

    size: int = 3
    """How many."""

    def go(self, x, *rest, scale=2, **more):
        """What it does."""
        if x > LIMIT:
            raise ValueError(f"{x!r:>{scale}} is too" "" f" much {x:} {{x}} " "\\u00e9")
        return [-x * scale**2, None, 1e-3, 2j, b"a", ..., True]
'''
#: The digest of SAMPLE, whatever Python computes it.
PINNED = "23d8a557b2f74a305d7bf7affb3012440f22222c4de7ff6a3275a4d1e0c690bf"


def changed(old: str, new: str) -> bool:
    assert old in SAMPLE
    text = SAMPLE.replace(old, new, 1)
    return meaning(text.encode()) != meaning(SAMPLE.encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A file."""', ""),
        ('"""A file."""', '"""Another text."""'),
        ('    """What it is."""\n', ""),
        ('"""How many."""', '"""How many there are."""'),
        ('"""What it does."""', '"""Says what it does."""'),
        ("LIMIT = 0.5", "LIMIT = 0.50  # why"),
        ("LIMIT = 0.5", "\n\nLIMIT = (\n    0.5\n)"),
        ("(self, x, *rest, scale=2, **more)", "(\n        self, x, *rest, scale=2, **more,\n    )"),
        ('b"a"', "b'a'"),
    ],
)
def test_words_and_layout_leave_it(old, new):
    assert not changed(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x > LIMIT", "x >= LIMIT"),
        ("x > LIMIT", "LIMIT > x"),
        ("-x * scale", "x * scale"),
        ("-x * scale", "-x / scale"),
        ("LIMIT = 0.5", "LIMIT = 0.50001"),
        ("scale=2", "scale=3"),
        ("scale=2", "scale=2.0"),
        ("size: int = 3", "size: int = 4"),
        ("None,", "False,"),
        ("True]", "1]"),
        ('b"a"', '"a"'),
        ("return [", "yield ["),
        ('"""How many."""', "size += 1"),
        ("{x!r", "{x!s"),
        # the texts of messages count: one simple rule
        ("much", "little"),
    ],
)
def test_what_is_computed_changes_it(old, new):
    assert changed(old, new)


def test_names_of_files_count_and_what_is_no_python_counts_as_it_is():
    assert source_digest({"a.py": b"x = 1"}) == source_digest({"a.py": b"x = 1  # one"})
    assert source_digest({"a.py": b"x = 1"}) != source_digest({"b.py": b"x = 1"})
    assert source_digest({"a.py": b"x = 1", "b.py": b""}) != source_digest({"a.py": b"x = 1"})
    assert meaning(b"print 'old'") == b"print 'old'"


def test_it_is_the_same_in_every_python():
    """The number holds in whatever Python runs the tests; the others that are here are asked."""
    assert source_digest({"sample.py": SAMPLE.encode()}) == PINNED


def pythons() -> list[str]:
    """Other versions of Python on this machine that kdbench could run under."""
    named = [shutil.which(f"python3.{minor}") for minor in range(11, 20)]
    kept = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3.[0-9][0-9]"))
    candidates = [name for name in named if name] + [str(path) for path in kept]
    works = {}
    for name in candidates:
        done = subprocess.run([name, "-VV"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and not done.stdout.startswith("Python 3.10"):
            works[done.stdout] = name
    return list(works.values())


_OUTSIDE = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("source", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.source_digest({name: Path(name).read_bytes() for name in sys.argv[2:]}))
"""


def test_kdbench_itself_is_the_same_in_the_other_pythons():
    others = pythons()
    if not others:
        pytest.skip("no other Python here")
    files = [str(file) for name in STAGE_CODE for file in code_files(ROOT / name)]
    files += map(str, sorted((ROOT.parent / "plugins").rglob("*.py")))
    here = source_digest({name: Path(name).read_bytes() for name in files})
    for python in others:
        command = [python, "-I", "-c", _OUTSIDE, source.__file__, *files]
        there = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (there.stdout.strip(), there.stderr) == (here, ""), python
