"""What is slow or missing on a machine, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kdbench._counted import counted
from kdbench.bench.session.health import Health
from kdbench.report.confinement import wall_warning

#: Below these, something is said.
_CORES, _MEMORY_GIB, _FREE_GIB, _WRITE_MIB_S, _SHARED_MIB = 4, 4.0, 5.0, 50.0, 64.0
#: Seconds of a request that are worth a word.
_LONG_S = 1800.0


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know."""

    text: str
    """What it is, and what to do."""
    stops: bool = False
    """Whether kdbench cannot work here because of it."""


def load_remark(load: float | None, cores: int) -> str:
    """That other work makes times longer. Empty: it does not.

    Args:
        load: processes that want to compute, as the system counts them. None: it does not.
        cores: that a run may use.
    """
    if load is None or load <= cores:
        return ""
    return (
        f"Other work is running (load {load:.1f} on {counted(cores, 'core')}), so all times here "
        "are longer than usual."
    )


def findings(health: Health) -> list[Finding]:
    """What is slow or missing, the worst first."""
    return sorted(
        [*_stops(health), *_slow(health), *_safety(health), *_disk(health), *_broken(health)],
        key=lambda finding: not finding.stops,
    )


def _stops(health: Health) -> Iterator[Finding]:
    if health.storage.trouble:
        yield Finding(health.storage.trouble, stops=True)
    missing = [kind for kind, count in health.plugins.methods.items() if not count]
    if missing:
        yield Finding(
            f"There is no {' and no '.join(missing)}, so nothing can be run; `kdbench plugins` "
            "says why none could be loaded.",
            stops=True,
        )


def _slow(health: Health) -> Iterator[Finding]:
    computing = health.computing
    if not computing.gpus:
        yield Finding(
            "No GPU: deep networks and preset paper take hours or days; preset quick is made for "
            "processors."
        )
        if not computing.bf16:
            yield Finding(
                "The processor does not multiply bfloat16 (AVX512-BF16 or AMX): trainings take "
                "several times as long as the README says."
            )
        if computing.cores < _CORES:
            yield Finding(
                f"Few cores ({computing.cores}): --threads 1 --jobs {computing.cores} is usually "
                "the fastest, since it computes stages side by side."
            )
    if remark := load_remark(computing.load, computing.cores):
        yield Finding(remark)
    if computing.memory_gib is not None and computing.memory_gib < _MEMORY_GIB:
        yield Finding(
            f"Little memory ({computing.memory_gib:.1f} GiB): use --jobs 1, small batches and "
            "small images."
        )
    if all(timed.steps_per_s is None for timed in health.timed):
        yield Finding("No training could be timed here, so nothing is known of its speed.")
    for estimate in health.estimates:
        if estimate.seconds is not None and estimate.seconds > _LONG_S:
            yield Finding(
                f"{estimate.name} takes long here: begin with small networks, and ask "
                "`kdbench run ... --dry-run` before a larger request."
            )


def _safety(health: Health) -> Iterator[Finding]:
    if health.wall is None:
        yield Finding("No plugin's process has said how it is walled in; see `kdbench plugins`.")
    elif warning := wall_warning(health.wall):
        yield Finding(warning)
    shared = health.storage.shared_mib
    if shared is not None and shared < _SHARED_MIB:
        yield Finding(
            f"/dev/shm has only {shared:.0f} MiB free; in a container, start it with a larger one "
            "(for docker: --shm-size 1g)."
        )


def _disk(health: Health) -> Iterator[Finding]:
    free, speed = health.storage.free_gib, health.storage.write_mib_s
    if free is not None and free < _FREE_GIB:
        yield Finding(
            f"Little space for the store ({free:.1f} GiB free): `kdbench store gc` frees some, or "
            "name another disk with --store or $KDBENCH_STORE."
        )
    if speed is not None and speed < _WRITE_MIB_S:
        yield Finding(
            f"The store's disk is slow ({speed:.0f} MiB/s): name another one with --store or "
            "$KDBENCH_STORE."
        )


def _broken(health: Health) -> Iterator[Finding]:
    for name, cause in health.plugins.broken.items():
        yield Finding(f"Plugin {name} is broken: {cause}")
    for name, seconds in health.plugins.slow.items():
        yield Finding(
            f"Plugin {name} takes {seconds:.1f} s to import, in every command that loads plugins; "
            f"-p no:{name} leaves it out."
        )
