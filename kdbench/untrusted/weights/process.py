"""Starting, asking and ending the process that reads a foreign file.

The file may have taken over that process, so its answers are checked like the file itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from kdbench.errors import IntegrityError, KdbenchError
from kdbench.untrusted.processes.search import program
from kdbench.untrusted.text import strip_control
from kdbench.untrusted.weights.kinds import FILE_KINDS

if TYPE_CHECKING:
    from kdbench.untrusted.weights.weights import Expected

_STARTING_S = 180.0
"""Seconds to start Python and import torch from a slow disk. No foreign byte takes part in it."""
_LINE = 1 << 16
"""The most bytes of an answer."""


class Reader:
    """One process that reads one file in three steps: :meth:`start`, :meth:`inspect`, :meth:`read`.

    Args:
        file: what to read.
        folder: an empty folder, the process's working folder and the only one that it may write.
        memory: the most private memory, in bytes.
        seconds: wall-clock time for the file; the start of the process does not count.
    """

    def __init__(self, file: Path, folder: Path, memory: int, seconds: float) -> None:
        self.memory, self.seconds, self.left = memory, seconds, seconds
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in __exit__
        self._answers = b""
        code = program("kdbench.untrusted.weights.child")
        kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        # Each further thread takes memory, and makes reading a file no faster.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        # -I and a new environment: no variable and no user folder reaches the process, and no token
        # of the user's either. A session of its own lets _kill end whatever the process starts.
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-B", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                cwd=folder,
                env={"CUDA_VISIBLE_DEVICES": "", **threads, **kept},
                start_new_session=True,
            )
        except OSError as error:
            raise KdbenchError(
                f"cannot start a Python process to read the file: {error}"
            ) from error
        # They cannot be None, since both are pipes; this is for the type checker.
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._questions, self._stream = self._process.stdin, self._process.stdout
        self._send({"file": str(file), "memory": memory, "seconds": int(seconds) + 1})

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._kill()
        for stream in (self._questions, self._stream, self._errors):
            with contextlib.suppress(OSError):
                stream.close()

    def start(self) -> str:
        """Wait until the process is confined, and return how: ``landlock N`` or ``none``."""
        how = self._ask("confined", _STARTING_S)
        if not isinstance(how, str) or not re.fullmatch(r"none|landlock [1-7]", how):
            raise self._broken("answered nonsense")
        return how

    def inspect(self) -> str:
        """Let it check the file's outer structure, and return its kind, one of ``FILE_KINDS``."""
        kind = self._timed("kind")
        if not isinstance(kind, str) or kind not in FILE_KINDS:
            raise IntegrityError("the process that read it answered nonsense; do not use that file")
        return kind

    def read(self, expected: Expected) -> dict[str, Any]:
        """Let it write the weights. Returns what it did to them, for ``Foreign.origin``."""
        from kdbench.untrusted.weights.weights import BODY, CONVERTED, PREFIXES, WRAPPERS

        self._ask("ready", _STARTING_S)
        self._send([[name, shape, dtype] for name, (shape, dtype) in expected.items()])
        facts = self._timed("done")
        allowed = {"wrappers": WRAPPERS, "prefixes": (*PREFIXES, BODY), "converted": CONVERTED}
        try:
            # Only words from our own lists go on from here, never the process's own text.
            words = {
                name: [known[known.index(item)] for item in facts[name]]
                for name, known in allowed.items()
            }
            absent = min(int(facts["absent"]), len(expected))
        except (TypeError, ValueError, KeyError):
            raise IntegrityError(
                "the process that read it answered nonsense; do not use that file"
            ) from None
        return {
            "converted": words["converted"],
            "unwrapped": words["wrappers"],
            "prefixes": words["prefixes"],
            "absent_counters": absent,
        }

    def _timed(self, name: str) -> Any:
        """The answer ``name``, within the time that is left for the file."""
        begun = time.monotonic()
        try:
            return self._ask(name, self.left, about_the_file=True)
        finally:
            self.left -= time.monotonic() - begun

    def _ask(self, name: str, seconds: float, *, about_the_file: bool = False) -> Any:
        answer = self._answer(time.monotonic() + seconds)
        if answer is None:
            if not about_the_file:
                raise self._broken(f"was not there after {seconds:.0f} s")
            self._kill()
            raise IntegrityError(
                f"reading it took longer than {self.seconds:.0f} s; if it is that large, allow "
                "more time"
            )
        if "refused" in answer:
            raise IntegrityError(strip_control(answer["refused"])[:600])
        if "memory" in answer:
            raise self._too_large()
        if name in answer:
            return answer[name]
        if not about_the_file:
            raise self._broken("ended")
        raise self._died()

    def _answer(self, deadline: float) -> dict[str, Any] | None:
        """The next line as a table.

        Empty at the end and for a line that is no table; None after the deadline.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._stream, selectors.EVENT_READ)
            while b"\n" not in self._answers:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    return None
                # Not readline, which would wait for the end of a line without any limit.
                part = os.read(self._stream.fileno(), _LINE)
                self._answers += part
                if not part or len(self._answers) > _LINE:
                    return {}
        line, _, self._answers = self._answers.partition(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            return {}
        return answer if isinstance(answer, dict) else {}

    def _send(self, what: Any) -> None:
        # The process may have ended. Its last answer, or the end itself, then says why.
        with contextlib.suppress(BrokenPipeError):
            self._questions.write(json.dumps(what).encode() + b"\n")
            self._questions.flush()

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def _too_large(self) -> IntegrityError:
        return IntegrityError(
            f"reading it takes more than {self.memory / 2**30:.3g} GiB of memory; if it is that "
            "large, allow more"
        )

    def _died(self) -> IntegrityError:
        """The error for a process that ended without an answer."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        if "MemoryError" in self._said():
            return self._too_large()
        how = (
            f"was ended by signal {-code}"
            if code is not None and code < 0
            else f"failed ({self._said() or code})"
        )
        return IntegrityError(
            f"the process that read it {how}; do not use that file, or save a state_dict() anew"
        )

    def _broken(self, how: str) -> KdbenchError:
        self._kill()
        return KdbenchError(
            f"the confined Python process {how} before it saw the file: "
            f"{self._said() or 'it said nothing'}"
        )

    def _said(self) -> str:
        """The last line on its standard error, at most 200 characters."""
        size = os.fstat(self._errors.fileno()).st_size
        text = (
            os.pread(self._errors.fileno(), 2000, max(0, size - 2000))
            .decode("utf-8", "replace")
            .strip()
        )
        return strip_control(text.rpartition("\n")[2])[:200]
