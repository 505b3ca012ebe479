"""What is said before a run starts: how long it will take, and, where that is long, what would be
shorter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kdbench.cli.tell import tell

if TYPE_CHECKING:
    from kdbench.bench.plan.prepare import Prepared
    from kdbench.bench.run.forecast import Forecast
    from kdbench.bench.session.planned import Planned
    from kdbench.bench.session.processes import Processes
    from kdbench.bench.store.artefacts import Store
    from kdbench.cli.watch import Display

#: Seconds of a run that are worth a question before it starts.
LONG_S = 3600.0
#: A small pair of kdbench's own networks.
_SMALL = "wrn16_2", "wrn16_1"
#: How much less arithmetic another pair has at least, before it is named.
_WORTH = 2.0


def look_ahead(
    prepared: Prepared, store: Store, jobs: int, processes: Processes, display: Display
) -> None:
    """Tell a display what the stages will take, and a person of a run that is long."""
    from kdbench.bench.session.health import machine_load
    from kdbench.bench.session.planned import Planned
    from kdbench.bench.session.remedies import load_remark
    from kdbench.bench.work.executors.slots import cores, share_machine

    calibrate = processes.calibrate(prepared.numerics, announce=_announce)
    # How the machine is divided was told before.
    planned = Planned.of(prepared, store, jobs, lambda line: None, calibrate, explain=False)
    slots = share_machine(jobs, prepared.numerics)
    display.expect(
        {
            f.stage.number: None if f.cost is None else f.cost.seconds
            for f in planned.forecasts
            if f.state == "run"
        },
        slots.pace,
    )
    for line in long_run(planned, load_remark(machine_load(), cores())):
        tell(line)


def _announce() -> None:
    tell("nothing like this was computed here yet: trying for a moment how fast this machine is")


def long_run(planned: Planned, load: str = "") -> Iterator[str]:
    """What to say of a run that takes more than an hour, line by line.

    Args:
        load: what other work does to the estimate.
    """
    from kdbench.cli.display import duration

    summary = planned.summary
    if summary["seconds"] <= LONG_S:
        return
    about = "more than" if summary["without_estimate"] else "about"
    ways = list(shorter(planned))
    yield (
        f"This run will take {about} {duration(summary['seconds'])} on this machine."
        + (" Shorter would be:" if ways else "")
    )
    yield from (f"- {way}" for way in ways)
    if load and summary["tried"]:
        yield load
    yield "Ctrl-C is safe: what is computed is kept, and the same command goes on from there."


def shorter(planned: Planned) -> Iterator[str]:
    """What would make a run shorter. Each is true of this request on this machine."""
    from kdbench.bench.work.executors.slots import share_machine
    from kdbench.cli.display import duration

    spec, summary = planned.prepared.spec, planned.summary
    run = [f for f in planned.forecasts if f.state == "run" and f.cost is not None]
    pace = share_machine(summary["jobs"], planned.prepared.numerics).pace
    if len(spec.seeds) > 1:
        first = [f for f in run if f.stage.seed == spec.seeds[0]]
        yield f"one seed instead of {len(spec.seeds)}: about {duration(_seconds(first) / pace)}"
    names = ("attacks", "defenses", "distillers", "pairs", "datasets")
    several = [f"{len(values)} {name}" for name in names if len(values := getattr(spec, name)) > 1]
    if several:
        yield f"fewer of its {' and '.join(several)}"
    if set(spec.presets) != {"quick"}:
        yield "--preset quick: shorter trainings, and weaker claims (see `kdbench list presets`)"
    if (jobs := _more_jobs(summary["jobs"], planned)) is not None:
        yield f"--jobs {jobs}: so many stages side by side"
    if not spec.teacher_from and (times := _arithmetic(run)) >= _WORTH:
        yield f"a smaller pair, such as {'-'.join(_SMALL)}: {times:.0f} times less arithmetic"


def _seconds(forecasts: list[Forecast]) -> float:
    return sum(f.cost.seconds for f in forecasts if f.cost is not None)


def _more_jobs(jobs: int, planned: Planned) -> int | None:
    """The number of jobs that uses all of this machine. None: it is used already."""
    import torch

    from kdbench.bench.work.executors.slots import cores, share_machine

    numerics = planned.prepared.numerics
    if numerics.device.type == "cpu":
        most = share_machine(cores(), numerics).pace
    else:
        most = 1 if numerics.device.index is not None else torch.cuda.device_count()
    return most if most > jobs and planned.summary["to_run"] > 1 else None


def _arithmetic(run: list[Forecast]) -> float:
    """How many times the arithmetic of the small pair the largest student and teacher have."""
    from kdbench.bench.kinds import Kind
    from kdbench.bench.run.work import work

    ratios = [1.0]
    for f in run:
        if f.stage.kind is Kind.DISTILL and f.stage.shape is not None:
            teacher, student = _SMALL
            own = work("recipe", f.stage.networks, *f.stage.shape)
            small = work("recipe", (student, teacher), *f.stage.shape)
            if own is not None and small is not None:
                ratios.append(own / small)
    return max(ratios)
