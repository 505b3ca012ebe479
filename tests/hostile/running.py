"""Runs of the command line with a hostile plugin, and what a user has that no plugin may touch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from tests import forked
from tests.sizes import SOAK

HERE = Path(__file__).parent
#: A cell of seconds. What is measured is of no interest, so that one epoch of everything will do.
CELL = (
    *("run", "--attack", "badnets", "--pair", "wrn10_1-wrn10_1", "--target-class", "7"),
    *("--train-size", "200", "--test-size", "100", "--clean-fraction", "0.5"),
    *("--threads", "1", "--no-controls", "--time-limit", "120"),
    *[
        word
        for kind in ("clean", "poison", "distill", "repair")
        for word in ("--set", f"{kind}.epochs=1")
    ],
    *("--set", "min_teacher_acc=0"),
)
#: Columns that differ between two runs of the same.
TIMES = ("wall_s", "peak_mem_mb")
#: A run that takes longer hangs. On an idle core a run of many acts takes half a minute, on a busy
#: machine a multiple of that.
PATIENCE_S = 1800


@dataclass(frozen=True)
class Ended:
    """A run that is over."""

    code: int | None
    """Its exit code. None: it had to be killed."""
    text: str
    """What it printed."""
    out: Path
    """Folder of its results."""
    ground: Ground
    """Where it took place."""

    @property
    def tail(self) -> str:
        """The end of what it printed."""
        return self.text[-3000:]

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The rows, without times."""
        assert (self.out / "results.csv").exists(), self.tail
        table = pd.read_csv(self.out / "results.csv").drop(columns=list(TIMES))
        return table.astype(object).where(table.notna(), None).to_dict("records")

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows by defense."""
        return {row["defense"]: row for row in self.cells}

    @property
    def record(self) -> dict[str, Any]:
        return json.loads((self.out / "run.json").read_text())

    @property
    def everything(self) -> str:
        """What it printed, and every text that it wrote."""
        texts = [path.read_text(errors="replace") for path in self.out.rglob("*.[ctj]*")]
        return "\n".join([self.text, *texts])


def ended_well(run: Ended) -> bool:
    """Whether it ended by itself, and not by a defect of its own."""
    return run.code in (0, 1)


@dataclass
class Ground:
    """Where runs take place: a store, results, and a folder of the user beside them."""

    folder: Path
    runs: int = 0
    hints: dict[str, Any] = field(default_factory=dict)
    """What the author of the plugin knows in advance."""

    def __post_init__(self) -> None:
        self.user.mkdir(parents=True)
        (self.user / "deeper").mkdir()
        for name in ("notes.txt", "deeper/more.txt", "private.key"):
            (self.user / name).write_text(f"the user's own words in {name}")
        (self.user / "private.key").chmod(0o600)
        # The same for every run, so that a stage that runs again has the same key.
        self.hints |= {name: str(self.folder / name) for name in ("user", "store")}
        self.hints["results"] = str(self.folder / "out1")
        self.untouched = snapshot(self.user)

    @property
    def user(self) -> Path:
        return self.folder / "user"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def plugin(self, name: str) -> Path:
        """A plugin file that knows the hints."""
        text = (HERE / "site" / "hostile_plugins" / f"{name}.py").read_text()
        assert text.count("\nHINTS = {}\n") == 1, f"{name}.py takes no hints"
        path = self.folder / f"{name}.py"
        path.write_text(text.replace("\nHINTS = {}\n", f"\nHINTS = {self.hints!r}\n"))
        return path

    def run(
        self, plugins: list[str], defenses: list[str], *options: str, limit: float = PATIENCE_S
    ) -> Ended:
        """Run a cell for each defense."""
        self.runs += 1
        out = self.folder / f"out{self.runs}"
        arguments = [*CELL, "--out", str(out), *options]
        arguments += [f"--plugin-file={self.plugin(name)}" for name in plugins]
        arguments += [f"--defense={name}" for name in defenses]
        return self.call(arguments, out, limit)

    def call(self, arguments: list[str], out: Path, limit: float = PATIENCE_S) -> Ended:
        """Run a command line as a user would, in a folder of its own."""
        env = {**os.environ, "PYTHONPATH": str(HERE / "site"), "KDBENCH_STORE": str(self.store)}
        printed = self.folder / f"printed{self.runs}.txt"
        with printed.open("wb") as file:
            child = forked.start(
                arguments,
                stdout=file.fileno(),
                stderr=file.fileno(),
                env=env,
                cwd=self.folder,
                start_new_session=True,
            )
            code: int | None = None
            try:
                code = child.wait(limit)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        return Ended(code, printed.read_text(errors="replace"), out, self)


@dataclass
class Acts:
    """What plugins play: in the suite all in one run, in ``make soak`` each in a run of its own.

    A defense is named after its plugin and its act.
    """

    ground: Ground
    defenses: list[str]
    beside: list[str]
    """Defenses of others. They come after those of the plugins."""
    options: tuple[str, ...] = ()
    _ended: dict[str, Ended] = field(default_factory=dict)

    def of(self, name: str) -> Ended:
        """The run in which a defense played."""
        key = name if SOAK else ""
        if key not in self._ended:
            ground = self._apart(name) if SOAK else self.ground
            self._ended[key] = self.play(ground, [name] if SOAK else self.defenses)
        return self._ended[key]

    def play(self, ground: Ground, defenses: list[str]) -> Ended:
        plugins = list(dict.fromkeys(name.partition(".")[0] for name in defenses))
        return ground.run(plugins, [*defenses, *self.beside], *self.options)

    def _apart(self, name: str) -> Ground:
        """A ground of its own, with the same store and hints."""
        ground = copied(Ground(self.ground.folder / name), self.ground.store)
        ground.hints = self.ground.hints | ground.hints
        return ground


def snapshot(folder: Path) -> dict[str, Any]:
    """Everything that can be changed of the files in a folder, and of the folder."""
    seen = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        state = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        names = os.listxattr(path) if hasattr(os, "listxattr") else []
        owner = (state.st_uid, state.st_gid)
        seen[str(path)] = (state.st_mode, owner, state.st_mtime_ns, state.st_size, content, names)
    return seen


def copied(ground: Ground, store: Path) -> Ground:
    """The ground, with a copy of a store that another run filled."""
    shutil.copytree(store, ground.store)
    return ground
