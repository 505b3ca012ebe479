"""A stranger's plugin for the tests of the runner: defenses that do nothing, fail in every way, are
slow, or cheat.

It is not installed; tests put it on the path with an entry point of its own (see ``plant`` in the
package).
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from pathlib import Path

import torch
from pydantic import Field

from kdbench.attack import AttackSetting, Backdoor, Trigger
from kdbench.defense import Defense
from kdbench.hookspecs import hookimpl
from kdbench.method import Info, Params


def info(name: str) -> Info:
    return Info(name, "title", "authors", "venue", 2020, "https://example.org")


class Fine(Defense):
    """Hands the student back."""

    def repair_student(self, student, teacher, setting):
        return student


class Raises(Defense):
    info = info("raises")

    def repair_student(self, student, teacher, setting):
        raise RuntimeError("no such luck =1+1")


class Segfaults(Defense):
    info = info("segfaults")

    def repair_student(self, student, teacher, setting):
        ctypes.string_at(0)


class Exits(Defense):
    info = info("exits")

    def repair_student(self, student, teacher, setting):
        os._exit(0)


class Hangs(Defense):
    info = info("hangs")

    def repair_student(self, student, teacher, setting):
        time.sleep(3600)


class Hogs(Defense):
    info = info("hogs")

    def repair_student(self, student, teacher, setting):
        hoard = []
        while True:
            hoard.append(torch.ones(8 << 20))  # 32 MiB
            time.sleep(0.01)


class Diverges(Defense):
    info = info("diverges")

    def repair_student(self, student, teacher, setting):
        recipe = setting.recipe.model_copy(update={"lr": 1e30, "epochs": 3})
        student.train()

        def loss(batch):
            return {
                "ce": torch.nn.functional.cross_entropy(student(batch.images).float(), batch.labels)
            }

        setting.fit(student, loss, setting.clean, recipe, generator=setting.generator)
        return student


class SlowParams(Params):
    seconds: float = Field(5.0, ge=0, description="how long it takes")


class Slow(Defense):
    info = info("slow")
    Params = SlowParams

    def repair_student(self, student, teacher, setting):
        time.sleep(self.params.seconds)
        return student


class CheatsParams(Params):
    target: int = Field(0, description="the target class it looks for")
    marks: tuple[str, ...] = Field(
        (), description="names that the environment must not hold: the run's folder"
    )
    roots: tuple[str, ...] = Field(
        (), description="folders whose files it tries to read: the run's, the store's"
    )
    test_images: int = Field(0, description="the number of test images it looks for")


#: Files of a run. The search reports these patterns and not the names of what it found: a machine
#: may hold hundreds of such files, and the message has room for few.
_RUN_FILES = (
    "trigger.safetensors",
    "trigger*",
    "results.csv",
    "report.html",
    "run.json",
    "task.json",
)


class Cheats(Defense):
    """Looks for the trigger, the target class and the test images wherever a plugin could, in all
    three steps; finding any of them is an error that says where."""

    info = info("cheats")
    Params = CheatsParams

    def cleanse_teacher(self, teacher, setting):
        self.search(setting)
        return teacher

    def objective(self, teacher, student, setting):
        self.search(setting)
        return None

    def repair_student(self, student, teacher, setting):
        self.search(setting)
        return student

    def search(self, setting):
        found = sorted(
            {
                *self._objects(),
                *self._frames(),
                *self._setting(setting),
                *self._environment(),
                *self._files(),
            }
        )
        if found:
            raise RuntimeError(f"FOUND {'; '.join(found)}")

    def _objects(self):
        """Everything alive in the process."""
        for thing in gc.get_objects():
            if issubclass(type(thing), Trigger | AttackSetting | Backdoor):
                yield f"gc: a {type(thing).__name__}"
            elif type(thing) is dict:
                yield from self._mapping("gc", thing)
            elif (
                issubclass(type(thing), torch.Tensor)
                and thing.ndim
                and len(thing) == self.params.test_images
            ):
                yield f"gc: a tensor of {len(thing)} rows"

    def _mapping(self, where, mapping):
        target, test = mapping.get("target_class"), mapping.get("test")
        if isinstance(target, int):
            yield f"{where}: target_class {target}"
        if hasattr(test, "batches") or (isinstance(test, str) and test.endswith(".safetensors")):
            yield f"{where}: the test images"
        if any(
            issubclass(type(value), Trigger | Backdoor | AttackSetting)
            for value in mapping.values()
        ):
            yield f"{where}: an attack's object"

    def _frames(self):
        frame = sys._getframe()
        while frame is not None:
            yield from self._mapping("frame", frame.f_locals)
            for value in list(frame.f_locals.values()):
                if hasattr(value, "__dict__"):
                    yield from self._mapping("frame", vars(value))
            frame = frame.f_back

    def _setting(self, setting):
        for name in dir(setting):
            if "target" in name or "test" in name or "trigger" in name:
                yield f"attribute: {name}"

    def _environment(self):
        for name, value in [*os.environ.items(), *enumerate(sys.argv), *enumerate(sys.path)]:
            if any(mark in str(value) for mark in self.params.marks):
                yield f"environment: {name}"
        here = os.getcwd()
        if any((Path(here) / name).exists() for name in ("results.csv", "run.json")):
            yield "the current folder is the run's"

    def _files(self):
        for entry in Path("/proc/self/fd").glob("*"):
            try:
                name = os.readlink(entry)
            except OSError:
                continue
            if (
                "test" in Path(name).name
                or "trigger" in name
                or name.endswith((".csv", "run.json"))
            ):
                yield f"open file: {name}"
        for folder in [Path.cwd(), *Path.cwd().parents, *map(Path, self.params.roots)]:
            for depth in ("", "*/", "*/*/", "*/*/*/", "*/*/*/*/"):
                for name in _RUN_FILES:
                    if self._any_readable(folder, depth + name):
                        yield f"file: {name}"
        for entry in Path("/proc").glob("[0-9]*"):
            if int(entry.name) == os.getpid():
                continue
            for name in ("cmdline", "environ"):
                try:
                    text = (entry / name).read_bytes().decode(errors="replace")
                except OSError:
                    continue
                if "--target-class" in text or any(mark in text for mark in self.params.marks):
                    yield f"process: {name}"

    def _any_readable(self, folder: Path, pattern: str) -> bool:
        try:
            return any(map(self._readable, folder.glob(pattern)))
        except OSError:  # a folder that went away meanwhile
            return False

    @staticmethod
    def _readable(path: Path) -> bool:
        try:
            path.read_bytes()
        except OSError:
            return False
        return True


FINE = [type(f"Fine{n}", (Fine,), {"info": info(f"fine{n:02d}")}) for n in range(18)]
FAILING = [Raises, Segfaults, Exits, Hangs, Hogs, Diverges]


@hookimpl
def kdbench_defenses():
    return [*FINE, *FAILING, Slow, Cheats]
