"""What kdbench finds on a machine: what ``kdbench doctor`` shows."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdbench.errors import ConfigError, KdbenchError

if TYPE_CHECKING:
    from kdbench.bench.plan.plan import Stage
    from kdbench.bench.request.spec import RunSpec
    from kdbench.bench.run.calibration import Calibration, Trial
    from kdbench.bench.session.processes import Processes
    from kdbench.bench.store.artefacts import Store
    from kdbench.loading.candidates import Plugin
    from kdbench.numerics import Numerics

#: Bytes that are written to see how fast the disk of the store is.
_WRITTEN = 32 << 20
_SHARED = Path("/dev/shm")
#: A plugin that takes longer to import slows every command, and people are told.
SLOW_S = 2.0
#: Seconds of timed steps.
_BENCHMARK_S = 6.0
#: Why nothing was timed.
_NOTHING = "no training could be tried here"
#: Networks that are timed in any case, with the size of their images and of a batch: a small one,
#: and one of a usual size.
_TIMED = (("wrn10_1", 16, 16), ("wrn16_2", 32, 64))


@dataclass(frozen=True)
class Computing:
    """What computes."""

    processor: str
    """Its name."""
    cores: int
    """That this process may use."""
    load: float | None
    """How many processes want a core, of the last minute. None: the system does not say."""
    memory_gib: float | None
    """Of the machine, or less where a container has less."""
    instructions: str
    """The widest that torch uses on the processor."""
    bf16: bool
    """Whether the processor multiplies bfloat16."""
    gpus: tuple[str, ...]
    """Names of the cards that torch sees."""
    numerics: str
    """Device and arithmetic that a run takes by itself."""


@dataclass(frozen=True)
class Storage:
    """Where results are kept."""

    root: str
    """Of the store."""
    free_gib: float | None
    """On its disk."""
    write_mib_s: float | None
    """How fast it writes. None: it cannot be written."""
    trouble: str
    """Why it cannot be used. Empty: it can."""
    shared_mib: float | None
    """Free in /dev/shm. None: there is none."""


@dataclass(frozen=True)
class Plugins:
    """What can be run."""

    loaded: int
    """How many plugins were imported."""
    methods: Mapping[str, int]
    """Kind of method -> how many there are."""
    broken: Mapping[str, str]
    """Plugin -> why it could not be loaded."""
    slow: Mapping[str, float]
    """Plugin that takes long -> seconds of its import."""


@dataclass(frozen=True)
class Timed:
    """A network that was trained for a moment, or was to be."""

    network: str
    image_size: int
    batch_size: int
    """Images a step."""
    steps_per_s: float | None
    """Of plain training. None: it was not timed."""
    why: str = ""
    """Why it was not timed."""


@dataclass(frozen=True)
class Estimate:
    """What a request will take on this machine, with an empty store."""

    name: str
    """What is asked for."""
    seconds: float | None
    """Of the stages that can be estimated. None: nothing can."""
    jobs: int
    """Stages side by side."""
    unknown: int
    """Stages that cannot be estimated."""
    why: str = ""
    """Why nothing can be estimated."""


@dataclass(frozen=True)
class Health:
    """What was found."""

    versions: Mapping[str, str]
    """Of kdbench, Python, torch and the system."""
    computing: Computing
    wall: str | None
    """The layers of the wall around plugins, as in a row's ``confinement``. None: no plugin's
    process has said it."""
    storage: Storage
    plugins: Plugins
    timed: tuple[Timed, ...]
    """Every network that was to be timed."""
    estimates: tuple[Estimate, ...]


def examine(
    processes: Processes, store: Store, requests: Mapping[str, tuple[RunSpec, int]]
) -> Health:
    """Look at this machine. It takes about ten seconds.

    Args:
        processes: of a command that computes.
        store: where results would be kept. A file is written there, and removed.
        requests: name -> (a request whose time is estimated, stages side by side).
    """
    from kdbench.bench.plan.machine import in_words, software
    from kdbench.numerics import choose_numerics

    known = processes.catalogue
    numerics = choose_numerics("auto", "auto")
    timed, estimates = _speed(processes, requests)
    return Health(
        versions={
            "kdbench": software()["kdbench"],
            "python": platform.python_version(),
            "torch": software()["torch"],
            "system": platform.platform(terse=True),
        },
        computing=_computing(f"{numerics.device}, {in_words(numerics)}"),
        wall=known.confinement,
        storage=_storage(store),
        plugins=_plugins(known.plugins, {k: len(v) for k, v in known.methods.items()}),
        timed=timed,
        estimates=estimates,
    )


# -- its parts -------------------------------------------------------------------------------------


def machine_load() -> float | None:
    """Processes that want to compute, in the mean of the last minute. None: nobody counts them."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _computing(numerics: str) -> Computing:
    import torch

    from kdbench.bench.work.executors.slots import cores
    from kdbench.numerics import choose_numerics

    cards = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Computing(
        processor=_processor(),
        cores=cores(),
        load=machine_load(),
        memory_gib=_memory_gib(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        bf16=choose_numerics("cpu", "auto").bf16,
        gpus=tuple(torch.cuda.get_device_name(number) for number in range(cards)),
        numerics=numerics,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _memory_gib() -> float | None:
    try:
        sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (ValueError, OSError, AttributeError):
        return None
    with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text("ascii")))
    return min(sizes) / 2**30


def _storage(store: Store) -> Storage:
    trouble, speed = "", None
    try:
        store.check_writable()
        speed = _write_mib_s(store)
    except (ConfigError, OSError) as error:
        trouble = str(error)
    return Storage(
        root=str(store.root),
        free_gib=_free(store.root, 30),
        write_mib_s=speed,
        trouble=trouble,
        shared_mib=_free(_SHARED, 20) if _SHARED.is_dir() else None,
    )


def _free(path: Path, unit: int) -> float | None:
    """Free space of the disk of a path, or of the first folder above it that exists."""
    for folder in (path, *path.parents):
        try:
            return shutil.disk_usage(folder).free / (1 << unit)
        except OSError:
            continue
    return None


def _write_mib_s(store: Store) -> float:
    """How fast the store's disk takes a file, up to the moment when it is safe."""
    content = os.urandom(_WRITTEN)
    with store.scratch() as folder:
        since = time.monotonic()
        with (folder / "speed").open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        return len(content) / 2**20 / max(time.monotonic() - since, 1e-6)


def _plugins(plugins: Sequence[Plugin], methods: Mapping[str, int]) -> Plugins:
    return Plugins(
        loaded=sum(plugin.status == "ok" for plugin in plugins),
        methods=methods,
        broken={plugin.name: plugin.cause for plugin in plugins if plugin.status == "broken"},
        slow={plugin.name: plugin.seconds for plugin in plugins if plugin.seconds > SLOW_S},
    )


def _speed(
    processes: Processes, requests: Mapping[str, tuple[RunSpec, int]]
) -> tuple[tuple[Timed, ...], tuple[Estimate, ...]]:
    """(how fast this machine trains, what the requests take)."""
    from kdbench.bench.plan.build import build_plan
    from kdbench.bench.plan.outline import outline
    from kdbench.bench.run.calibration import Trial
    from kdbench.numerics import choose_numerics

    plans: dict[str, list[Stage]] = {}
    refused: dict[str, str] = {}
    for name, (spec, _) in requests.items():
        try:
            plan = build_plan(outline(spec, processes.catalogue).parts)
            plans[name] = list(plan.stages.values())
        except KdbenchError as error:  # a method is missing, or its plugin is broken
            refused[name] = str(error)
    stages = [stage for plan in plans.values() for stage in plan]
    numerics = choose_numerics("auto", "auto", 1)
    trials = [Trial(name, 10, side, batch) for name, side, batch in _TIMED]
    calibrate = processes.calibrate(numerics, trials=trials, budget_s=_BENCHMARK_S)
    calibration = None if calibrate is None else calibrate(stages)
    if calibration is None:
        timed = [_timed(trial, None, _NOTHING) for trial in trials]
        refused |= dict.fromkeys(plans, _NOTHING)
    else:
        timed = [_timed(pace.trial, 1 / pace.seconds) for pace in calibration.paces]
        timed += [_timed(untimed.trial, None, untimed.why) for untimed in calibration.untimed]
    estimates = tuple(
        Estimate(name, None, jobs, 0, refused[name])
        if calibration is None or name in refused
        else _estimate(name, plans[name], calibration, jobs, numerics)
        for name, (_, jobs) in requests.items()
    )
    return tuple(timed), estimates


def _timed(trial: Trial, steps_per_s: float | None, why: str = "") -> Timed:
    return Timed(trial.network, trial.image_size, trial.batch_size, steps_per_s, why)


def _estimate(
    name: str, stages: Sequence[Stage], calibration: Calibration, jobs: int, numerics: Numerics
) -> Estimate:
    from kdbench.bench.work.executors.slots import share_machine

    seconds = [calibration.seconds(stage) for stage in stages]
    known = [value for value in seconds if value is not None]
    slots = share_machine(jobs, numerics)
    return Estimate(name, sum(known) / slots.pace, slots.jobs, len(seconds) - len(known))
