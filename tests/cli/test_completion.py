"""The shell completes commands, options and words, by what click has for it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.docs.shown import DOCS


def completed(
    words, number, instruction="bash_complete", code="from kdbench.cli import main; main()"
):
    variables = {"COMP_WORDS": words, "COMP_CWORD": str(number)}
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.argv = ['kdbench']; {code}"],
        env={**os.environ, **variables, "_KDBENCH_COMPLETE": instruction},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("words", "number", "expected"),
    [
        ("kdbench ru", 1, ["run"]),
        ("kdbench run --fail", 2, ["--fail-fast"]),
        ("kdbench list at", 2, ["attacks"]),
        ("kdbench compare --fail-if ", 3, ["worse"]),
        ("kdbench store g", 2, ["gc"]),
    ],
)
def test_words_are_completed(words, number, expected):
    assert completed(words, number) == expected


def test_completing_takes_no_torch():
    code = (
        "from kdbench.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit: pass\n"
        "print('plain,' + str('torch' in sys.modules))"
    )
    names = completed("kdbench ", 1, code=f"exec({code!r})")
    assert names[-1] == "False"
    assert {"run", "cite", "report", "list"} <= {*names}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_page_names_the_line_of_each_shell(shell):
    line = f"_KDBENCH_COMPLETE={shell}_source kdbench"
    assert line in (DOCS / "first-run.md").read_text()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['kdbench']; from kdbench.cli import main; main()",
        ],
        env={**os.environ, "_KDBENCH_COMPLETE": f"{shell}_source"},
        capture_output=True,
        text=True,
        check=False,
    )
    # Without a bash that is new enough click says so, and prints the script all the same.
    assert "_KDBENCH_COMPLETE" in done.stdout
