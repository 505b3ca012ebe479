"""Plays cases on a :mod:`tests.fuzz.server`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.fuzz.case import HERE, Case, faults
from tests.fuzz.server import Ending, Order

#: Seconds after which a command counts as hanging. It takes less than one on an idle machine.
HANGS_S = 180.0
_REPOSITORY = Path(__file__).parents[2]


class Client:
    """A server, and a folder below which each case has one."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.fuzz.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=_REPOSITORY,
        )
        self._line()

    def _line(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the server ended"
        return line

    def close(self) -> None:
        """End the server."""
        self._server.communicate()

    def order(self, order: Order) -> Ending:
        """Run one command."""
        assert self._server.stdin is not None
        print(json.dumps(asdict(order)), file=self._server.stdin, flush=True)
        return Ending(**json.loads(self._line()))

    def play(self, case: Case) -> tuple[Path, list[tuple[tuple[str, ...], Ending]]]:
        """Play a case in a new folder: (the folder, how each command ended)."""
        folder = Path(tempfile.mkdtemp(dir=self.base)) / "here"
        for name in ("here", "home", "tmp"):
            folder.with_name(name).mkdir()
        case.write(folder)
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder.with_name("home")),
            "TMPDIR": str(folder.with_name("tmp")),
            "KDBENCH_STORE": str(folder.with_name("store")),
            "KDBENCH_CACHE": str(folder.with_name("cache")),
            "LC_ALL": "C.UTF-8",
            # Nothing of the network is reached.
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        }
        for name, value in case.environment:
            environment.pop(name, None)
            if value is not None:
                environment[name] = value.replace(HERE, str(folder))
        endings = []
        for arguments in case.steps:
            words = [word.replace(HERE, str(folder)) for word in arguments]
            order = Order(
                words,
                environment,
                str(folder),
                case.output,
                case.standard_input,
                case.encoding,
                HANGS_S,
            )
            endings.append((arguments, self.order(order)))
            if endings[-1][1].code != 0:
                break
        return folder, endings

    def judge(self, case: Case) -> str:
        """Play a case: what may not be and how to see it again, or nothing."""
        folder, endings = self.play(case)
        problems = [
            problem for arguments, ending in endings for problem in faults(case, arguments, ending)
        ]
        if not problems:
            subprocess.run(["rm", "-rf", folder.parent], check=False)
            return ""
        last = endings[-1][1]
        report = "\n".join(
            [
                "; ".join(problems),
                f"-- in an empty folder (kept: {folder}):",
                case.script(),
                f"-- exit code {last.code}; the end of its standard error:",
                last.err[-1500:],
                *(
                    ["-- standard output:", last.out[-500:]]
                    if last.code == 0 or not last.err
                    else []
                ),
            ]
        )
        # Now, since hypothesis says nothing of it where it cannot make the case smaller in time.
        print(report)
        return report
