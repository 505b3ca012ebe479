"""One call of the command line with the files that it meets, and what must hold of its end."""

from __future__ import annotations

import base64
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.server import Ending

#: Exit codes that an input of a user may cause.
CODES = (0, 1, 2, 4, 130)
#: Stands in an argument for the absolute path of the folder of the case.
HERE = "@HERE@"
#: A file up to this size is written out in the script of a case.
_SHORT = 1500
_LETTERS = re.compile("[A-Za-z]{2}")


@dataclass(frozen=True)
class File:
    """A file of a case, or something else that has a name in a folder."""

    path: str
    """Below the folder of the case. A lone surrogate stands for a byte that is not UTF-8."""
    content: bytes = b""
    kind: str = "file"
    """``file``, ``folder``, ``pipe``, or ``link`` to the path that is the content."""
    mode: int | None = None
    """Permissions."""

    def write(self, folder: Path) -> None:
        path = folder / self.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.kind == "file":
            path.write_bytes(self.content)
        elif self.kind == "folder":
            path.mkdir(exist_ok=True)
        elif self.kind == "pipe":
            os.mkfifo(path)
        else:
            path.symlink_to(os.fsdecode(self.content or b"nowhere"))
        if self.mode is not None:
            path.chmod(self.mode)

    def script(self) -> Iterator[str]:
        """Lines of bash that write it."""
        path = quoted(self.path)
        if self.kind == "folder":
            yield f"mkdir -p {path}"
        else:
            if os.path.dirname(self.path):
                yield f"mkdir -p {quoted(os.path.dirname(self.path))}"
            if self.kind == "pipe":
                yield f"mkfifo {path}"
            elif self.kind == "link":
                yield f"ln -s {quoted(os.fsdecode(self.content))} {path}"
            elif len(self.content) <= _SHORT:
                text = base64.b64encode(self.content).decode()
                plain = self.content.isascii() and b"\0" not in self.content
                yield (
                    f"printf %s {quoted(self.content.decode())} > {path}"
                    if plain
                    else f"echo {text} | base64 -d > {path}"
                )
            else:
                yield f"# {path}: {len(self.content)} bytes, see the folder of the case"
        if self.mode is not None:
            yield f"chmod {self.mode:o} {path}"


@dataclass(frozen=True)
class Case:
    """Commands that are called one after the other in one folder."""

    steps: tuple[tuple[str, ...], ...]
    """Arguments of each command."""
    files: tuple[File, ...] = ()
    """What is there before the first command."""
    environment: tuple[tuple[str, str | None], ...] = ()
    """Variables that differ from the usual ones. None: it is not set."""
    output: str = "file"
    """Where standard output goes: ``file``, ``terminal``, ``full``, ``broken`` or ``closed``."""
    standard_input: str = "empty"
    """``empty`` or ``closed``."""
    encoding: str = "utf-8"
    """Encoding of the standard streams."""
    sound: bool = False
    """Nothing is wrong with it, so each command must exit with 0."""
    read_back: bool = False
    """What the first command wrote is sound, so those after it must exit with 0."""

    def write(self, folder: Path) -> None:
        """Make the folder of the case."""
        for file in self.files:
            file.write(folder)

    def script(self) -> str:
        """Lines of bash that do it by hand."""
        # A folder is made once.
        lines = list(dict.fromkeys(line for file in self.files for line in file.script()))
        environment = " ".join(
            f"-u {name}" if value is None else f"{name}={quoted(value)}"
            for name, value in sorted(self.environment, key=lambda item: item[1] is not None)
        )
        if self.encoding != "utf-8":
            environment = f"{environment} PYTHONIOENCODING={self.encoding}".strip()
        ends = {"full": " > /dev/full", "broken": " | true", "closed": " >&-"}.get(self.output, "")
        ends += " <&-" if self.standard_input == "closed" else " < /dev/null"
        for arguments in self.steps:
            words = " ".join(quoted(word.replace(HERE, ".")) for word in arguments)
            lines.append(f"{'env ' if environment else ''}{environment} kdbench {words}{ends}")
        if self.output == "terminal":
            lines.append("# in a terminal")
        return "\n".join(line.strip() for line in lines)


def quoted(text: str) -> str:
    """A word of bash, with escapes for what no terminal shows."""
    if text.isascii() and text.isprintable():
        return shlex.quote(text)
    escaped = "".join(
        c
        if c.isascii() and c.isprintable() and c not in "'\\"
        else "".join(f"\\x{byte:02x}" for byte in os.fsencode(c))
        for c in text
    )
    return f"$'{escaped}'"


def faults(case: Case, arguments: Sequence[str], ending: Ending) -> list[str]:
    """What may not be, whatever the input is."""
    sound = case.sound or (case.read_back and tuple(arguments) != case.steps[0])
    text = ending.out + ending.err
    problems = []
    if ending.code is None:
        problems.append("it hangs")
    elif ending.code not in CODES:
        problems.append(f"it exits with {ending.code}")
    elif sound and ending.code != 0:
        problems.append(f"nothing is wrong with it, and it exits with {ending.code}")
    # The command that shows what is wrong with plugins shows the tracebacks that they raised.
    if "Traceback (most recent call last)" in (ending.err if "plugins" in arguments else text):
        problems.append("it shows a traceback")
    if "defect of kdbench" in text:
        problems.append("it says that kdbench has a defect")
    if "Exception ignored" in text:
        problems.append("it shows an exception that was ignored")
    # Whoever closed standard output does not wait for what stands in it.
    is_closed = case.output in ("broken", "closed")
    if ending.code not in (0, None) and not is_closed and not _LETTERS.search(text):
        problems.append("it does not say why it failed")
    if ending.outside:
        problems.append(f"it left {', '.join(ending.outside[:3])}")
    if ending.left:
        problems.append(f"it left {ending.left} processes")
    if not all(c.isprintable() or c == "\n" for c in ending.err):
        problems.append("its standard error has what a terminal could obey")
    return problems
