"""What hostile plugins share. It is on the path of their runs, as any library of theirs would be.

An attempt must not depend on one way of talking to the coordinator. So a plugin tries every open
descriptor, every folder above and below the current one, and every place that encodes an outcome.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydantic
from pydantic import Field

from kdbench.defense import Defense
from kdbench.method import Info, Params, Variant

Act = Callable[[Any, Any], Any]


class ActParams(Params):
    """Which act is played."""

    act: str = Field("nothing", description="name of the act")


def info(name: str) -> Info:
    return Info(name, "title", "authors", "venue", 2020, "https://example.org")


def defense(
    defense_name: str,
    repairing: dict[str, Act],
    cleansing: dict[str, Act] | None = None,
    training: dict[str, Act] | None = None,
) -> type[Defense]:
    """A defense with an act for each variant, and each act in its steps.

    An act gets a network and the setting: the student, or the teacher if it cleanses. What it
    returns is handed on. None stands for the network as it came, or for no loss.
    """
    by_step = {
        "repair_student": repairing,
        "cleanse_teacher": cleansing or {},
        "objective": training or {},
    }

    class Hostile(Defense):
        info = info(defense_name)
        Params = ActParams
        variants = {
            name: Variant(f"plays {name}", {"act": name})
            for acts in by_step.values()
            for name in acts
        }

        def steps(self):
            return frozenset(step for step, acts in by_step.items() if self.params.act in acts)

        def play(self, step, network, setting):
            changed = by_step[step][self.params.act](network, setting)
            return network if changed is None else changed

        def repair_student(self, student, teacher, setting):
            return self.play("repair_student", student, setting)

        def cleanse_teacher(self, teacher, setting):
            return self.play("cleanse_teacher", teacher, setting)

        def objective(self, teacher, student, setting):
            return by_step["objective"][self.params.act](student, setting)

    return Hostile


def named(acts: list[Act]) -> dict[str, Act]:
    return {act.__name__: act for act in acts}


def reached(**ways: Callable[[], Any]) -> None:
    """Try each way. One that gets through is an error that says which.

    A way gets through if it answers something true. An OSError means that the system refused it.
    """
    through = []
    for name, way in ways.items():
        with contextlib.suppress(OSError):
            if way():
                through.append(name)
    if through:
        raise RuntimeError(f"REACHED {' '.join(through)}")


# -- talking ---------------------------------------------------------------------------------------


def descriptors() -> list[int]:
    """Every pipe and socket that is open beside standard input, output and error."""
    numbers = []
    for number in range(3, 1024):
        with contextlib.suppress(OSError):
            mode = os.fstat(number).st_mode
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                numbers.append(number)
    return numbers


def say(data: bytes) -> None:
    """Write bytes to whoever listens."""
    for number in descriptors():
        with contextlib.suppress(OSError):
            os.write(number, data)


def flood(data: bytes, seconds: float) -> None:
    """Write the same bytes again and again to whoever listens."""
    numbers = descriptors()
    for number in numbers:
        os.set_blocking(number, False)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for number in numbers:
            with contextlib.suppress(OSError):
                os.write(number, data)
        time.sleep(0.001)
    for number in numbers:
        os.set_blocking(number, True)


#: In a forged outcome this text stands for :data:`DEEP`. Only a text can hold that: whoever encodes
#: lists in lists runs out of stack.
HOLE = "HOLE"
DEEP = "[" * 970 + "]" * 970


def forge(change: Callable[[dict[str, Any]], None], also: Callable[[], None] = lambda: None):
    """Change the outcome of this job where it is written down, whoever writes it and how.

    Args:
        also: is called once, just before. By then the results lie in their folder.
    """
    encode, dump = json.JSONEncoder.encode, pydantic.BaseModel.model_dump
    waiting = [also]

    def changed(value: Any) -> Any:
        if isinstance(value, dict) and {"status", "facts"} <= value.keys():
            if waiting:
                waiting.pop()()
            change(value)
            return value
        for inner in value.values() if isinstance(value, dict) else ():
            changed(inner)
        for inner in value if isinstance(value, list | tuple) else ():
            changed(inner)
        return value

    def as_text(encoder: json.JSONEncoder, value: Any) -> str:
        return encode(encoder, changed(value)).replace(f'"{HOLE}"', DEEP)

    json.JSONEncoder.encode = as_text
    pydantic.BaseModel.model_dump_json = lambda model, **_: as_text(json.JSONEncoder(), dump(model))
    pydantic.BaseModel.model_dump = lambda model, **options: changed(dump(model, **options))


def leave(change: Callable[[dict[str, Any]], None] = lambda outcome: None) -> None:
    """End the process now. Its outcome lies in a file, as some coordinator may look for it."""
    outcome = {
        "status": "ok",
        "reason": "",
        "seconds": 1.0,
        "peak_mb": 1.0,
        "facts": {},
        "files": [],
        "log": "",
    }
    change(outcome)
    for folder in folders():
        with contextlib.suppress(OSError):
            (folder / "outcome.json").write_text(json.dumps([outcome]))
    os._exit(0)


# -- files -----------------------------------------------------------------------------------------


def folders() -> list[Path]:
    """The current folder, that of temporary files, the two above each, and all below these that can
    be listed."""
    above = []
    for here in (Path.cwd(), Path(tempfile.gettempdir())):
        above += [here, *[parent for parent in here.parents if len(parent.parts) > 3][:2]]
    below = []
    for folder in above:
        with contextlib.suppress(OSError):
            below += [entry for entry in folder.iterdir() if entry.is_dir()]
    return list(dict.fromkeys([*above, *below]))


def results(name: str = "model.safetensors") -> list[Path]:
    """Where the file of a result may lie."""
    return [folder / name for folder in folders() if folder.name == "out"]


def replace(path: Path, make: Callable[[Path], None]) -> None:
    """Put something else in the place of a file or folder, if it can be done."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        make(path)


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


# -- memory ----------------------------------------------------------------------------------------


def frames() -> Iterator[dict[str, Any]]:
    """The variables of every frame of every thread."""
    for frame in [sys._getframe(), *sys._current_frames().values()]:
        while frame is not None:
            yield frame.f_locals
            frame = frame.f_back


def alive(cls: type) -> Iterator[Any]:
    """Every object of a class in this process."""
    for thing in gc.get_objects():
        with contextlib.suppress(Exception):
            if isinstance(thing, cls):
                yield thing


# -- the system ------------------------------------------------------------------------------------

_LIBC = ctypes.CDLL(None, use_errno=True)


def libc(name: str, *arguments: Any, answer: Any = ctypes.c_long) -> Any:
    """Call a function of the C library. An error is raised as OSError."""
    function = getattr(_LIBC, name)
    function.restype = answer
    value = function(*arguments)
    if value is None or value == -1 or value == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), name)
    return value
