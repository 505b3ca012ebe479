"""From a request to its results: what ``kdbench run`` and ``kdbench reproduce`` share."""

from __future__ import annotations

import functools
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from kdbench.bench.work.executors.make import EXECUTORS, ExecutorName, JobLimits, make_executor
from kdbench.cli.choice import same_options
from kdbench.cli.here import check_current_folder
from kdbench.cli.networks import say_notes
from kdbench.cli.number import Number
from kdbench.cli.request import divide
from kdbench.errors import ConfigError, UsageError
from kdbench.untrusted.text import command_line, shown, strip_control

if TYPE_CHECKING:
    from kdbench.bench.plan.prepare import Prepared
    from kdbench.bench.request.spec import RunSpec
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.work.job import Executor
    from kdbench.cli.processes import Processes
    from kdbench.loading.answers import Answers
    from kdbench.numerics import Numerics

#: A folder with one of these holds results, and no other request may write there.
_OUTPUTS = ("results.csv", "leaderboard.csv", "run.json")
#: Differences that a message names.
_NAMED = 8
executor_option = click.option(
    "--executor",
    type=click.Choice(EXECUTORS),
    default="local",
    show_default=True,
    help="local: a confined process for each stage. inline: all in this process, for a debugger.",
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Stages computed side by side.",
)
_OPTIONS = (
    executor_option,
    jobs_option,
    click.option(
        "--time-limit",
        type=Number(min=1),
        default=86400.0,
        show_default=True,
        help="Seconds for one stage.",
    ),
    click.option(
        "--stall-limit",
        type=Number(min=0),
        default=600.0,
        show_default=True,
        help="Seconds in which a stage may neither report a step nor use the processor. 0: no "
        "limit.",
    ),
    click.option(
        "--memory-limit", type=Number(min=0.1), help="GiB of resident memory for one stage."
    ),
    click.option(
        "--checkpoint-every",
        type=Number(min=0),
        default=60.0,
        show_default=True,
        help="Seconds between checkpoints of a training, at epochs' ends.",
    ),
    click.option(
        "--cohort",
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        help="Students of one teacher trained side by side from one pass of it, at most.",
    ),
    click.option(
        "--profile",
        is_flag=True,
        help="Write where the time of each stage went, and traces, to OUT/profile.",
    ),
    click.option("--fail-fast", is_flag=True, help="Stop at the first stage that fails."),
    click.option("--quiet", is_flag=True, help="Print only the folder of the results."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON lines."),
)


@dataclass(frozen=True)
class Execution:
    """How a request is carried out and shown: the values of :func:`execution_options`."""

    executor: ExecutorName
    #: Stages side by side.
    jobs: int
    #: Seconds for one stage.
    time_limit: float
    #: Seconds in which a stage may do nothing. 0: no limit.
    stall_limit: float
    #: GiB for one stage. None: no limit.
    memory_limit: float | None
    #: Seconds between two checkpoints.
    checkpoint_every: float
    #: Students that are trained side by side, at most.
    cohort: int
    #: Whether to write where the time went.
    profile: bool
    #: Whether to stop at the first stage that fails.
    fail_fast: bool
    quiet: bool
    as_json: bool

    def check(self) -> None:
        """Raise UsageError where two options exclude each other, or nothing can be run here."""
        check_current_folder()
        if self.quiet and self.as_json:
            raise UsageError("--quiet and --json exclude each other; drop one of them")
        check_executor(self.executor)
        if self.executor == "inline":
            _check_own_store()

    def make_executor(self, processes: Processes) -> Executor:
        """A new executor, which the caller closes.

        Args:
            processes: those of the command.
        """
        memory = None if self.memory_limit is None else self.memory_limit * 1024
        limits = JobLimits(self.time_limit, memory, self.stall_limit or None)
        return make_executor(self.executor, lambda: processes.registry, limits, processes.zygote)


def execution_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of :class:`Execution`. It gets them, checked, as the argument
    ``how``."""

    @functools.wraps(command)
    def with_execution(*arguments: Any, **options: Any) -> Any:
        how = Execution(**{field.name: options.pop(field.name) for field in fields(Execution)})
        how.check()
        return command(*arguments, how=how, **options)

    for option in reversed(_OPTIONS):
        with_execution = option(with_execution)
    return with_execution


def check_executor(executor: ExecutorName) -> None:
    """Raise UsageError where the executor cannot honour an option of the present command."""
    if executor == "local":
        return
    context = click.get_current_context()
    names = [
        f"--{name.replace('_', '-')}"
        for name in ("jobs", "time_limit", "stall_limit", "memory_limit")
        if name in context.params
        and context.get_parameter_source(name) is not ParameterSource.DEFAULT
    ]
    if names:
        raise UsageError(
            "--executor inline computes one stage at a time in this process and cannot limit it; "
            f"drop {' and '.join(names)}, or use --executor local"
        )


def _check_own_store() -> None:
    """Raise UsageError where what is computed without a wall would be kept in the common store."""
    source = click.get_current_context().get_parameter_source("store_dir")
    if source is not ParameterSource.COMMANDLINE:
        raise UsageError(
            "--executor inline confines nothing, and later runs take what it keeps; name a store "
            "of its own with --store FOLDER"
        )


def place(executor: Executor, jobs: int, numerics: Numerics) -> None:
    """Divide this machine among an executor's jobs, and warn where it does not keep them apart."""
    slots = divide(jobs, numerics)
    executor.use(slots.jobs, slots.devices)
    if not executor.apart:
        click.echo(
            "--executor inline: attacker and defender share this process and nothing confines "
            "them; use it to debug, not for results",
            err=True,
        )


def execute(
    spec: RunSpec,
    registry: Answers,
    folder: Path,
    store: Store,
    executor: Executor,
    how: Execution,
    *,
    fresh: bool,
) -> tuple[int, Prepared, list[dict[str, Any]]]:
    """Prepare and run a request: (exit code, what was prepared, the rows).

    Args:
        folder: of the results. It is made.
        fresh: the folder was made for this request. It is removed if the request is refused.
    """
    from kdbench.bench.plan.prepare import prepare
    from kdbench.bench.run.earlier import read_earlier
    from kdbench.bench.run.record import record_of

    check_out(folder, spec)
    earlier = read_earlier(folder)
    try:
        prepared = prepare(spec, registry, store)
    except BaseException:  # the request or one of its files was refused
        if fresh and not any(folder.iterdir()):
            folder.rmdir()
        raise
    if earlier:
        _tell_differences(folder, earlier, record_of(prepared, registry))
    say_notes(prepared.notes)
    registry.close()  # The run needs no more than what was said.
    place(executor, how.jobs, prepared.numerics)
    code, rows = _watch(prepared, registry, folder, store, executor, how)
    return code, prepared, rows


def _tell_differences(folder: Path, earlier: dict[str, Any], now: dict[str, Any]) -> None:
    """Say what has changed since a folder got its results, which this run replaces."""
    from kdbench.bench.run.earlier import differences

    changed = differences(earlier, now)
    if changed:
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        click.echo(
            strip_control(
                f"{folder} holds results of the same request that were made otherwise, and this "
                f"run replaces them: {'; '.join(changed[:_NAMED])}{more}"
            ),
            err=True,
        )


def _watch(
    prepared: Prepared,
    registry: Answers,
    folder: Path,
    store: Store,
    executor: Executor,
    how: Execution,
) -> tuple[int, list[dict[str, Any]]]:
    """Run the request and show its progress: (exit code, rows)."""
    from kdbench.bench.run import runner
    from kdbench.cli.display import make_console
    from kdbench.cli.profile import print_profile
    from kdbench.cli.teacher_remarks import remarks_of_run
    from kdbench.cli.watch import make_display

    display = make_display(how.quiet, how.as_json, live=executor.apart)
    start = time.monotonic()
    # A cluster ends a job by SIGTERM. It is handled like Ctrl-C, so that the run can be resumed.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        rows = runner.run(
            prepared,
            registry,
            folder,
            display,
            store,
            executor,
            fail_fast=how.fail_fast,
            checkpoint_s=how.checkpoint_every,
            cohort=how.cohort,
            profile=how.profile,
        )
    except KeyboardInterrupt:
        display.close()
        so_far = display.complaint or f"What was measured so far is in {folder}"
        click.echo(shown(f"Interrupted. {so_far}. To go on:"), err=True)
        click.echo(f"  {resume_command(sys.argv[1:], folder)}", err=True)
        return 130, []
    finally:
        display.close()
        signal.signal(signal.SIGTERM, before)
    if how.profile and not how.quiet and not how.as_json:
        print_profile(make_console(), folder / "profile", time.monotonic() - start, executor.jobs)
    if display.complaint:
        again = elsewhere_command(sys.argv[1:])
        click.echo(
            shown(f"{display.complaint}. All that was computed is in the store: {again}"), err=True
        )
    for line in remarks_of_run(prepared, store, folder, same_options()):
        click.echo(strip_control(line), err=True)
    left = len(prepared.plan.cells) - len(rows) if how.fail_fast else 0
    if left:
        click.echo(
            f"Stopped at the first failure: {left} of {len(prepared.plan.cells)} cells were not "
            "run.",
            err=True,
        )
    whole = not left and not display.complaint
    return (0 if whole and all(row.get("status") == "ok" for row in rows) else 1), rows


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def resume_command(arguments: list[str], folder: Path) -> str:
    """The same command into the same folder."""
    named = any(part == "--out" or part.startswith("--out=") for part in arguments)
    return command_line(["kdbench", *arguments, *([] if named else ["--out", str(folder)])])


def elsewhere_command(arguments: list[str]) -> str:
    """The same command into another folder."""
    kept, parts = [], iter(arguments)
    for part in parts:
        if part == "--out":
            next(parts, None)
        elif not part.startswith("--out="):
            kept.append(part)
    return command_line(["kdbench", *kept, "--out", "ANOTHER_FOLDER"])


def _is_of(recorded: object, spec: RunSpec) -> bool:
    """Whether a record is of this request. A field that an older kdbench did not know is open."""
    if not isinstance(recorded, dict):
        return False
    stated = spec.model_dump(mode="json", exclude_defaults=True)
    asked = spec.model_dump(mode="json").items()
    return recorded == {name: value for name, value in asked if name in recorded or name in stated}


def check_out(folder: Path, spec: RunSpec) -> None:
    """Make the folder and write to it once, before hours are spent. A folder with results of the
    same request is taken up.

    Raises:
        ConfigError: it cannot be written to, or holds the results of another request.
    """
    from kdbench._files import read_record

    outputs = [name for name in _OUTPUTS if (folder / name).exists()]
    if outputs:
        try:
            request = read_record(folder / "run.json")["config"]["request"]
        except (OSError, ValueError, KeyError, TypeError):
            request = None
        if not _is_of(request, spec):
            raise ConfigError(
                f"--out {folder} already holds results of another request ({', '.join(outputs)}); "
                "name another folder"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"--out {folder} cannot be written to ({error.strerror or error}); name another folder"
        ) from error
