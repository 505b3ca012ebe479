"""Carries a request out and shows how it goes on: what ``kdbench run`` and ``kdbench reproduce``
share."""

from __future__ import annotations

import functools
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from kdbench import __version__
from kdbench._counted import counted
from kdbench.bench.session import execution as session
from kdbench.bench.session.numbers import LEAST
from kdbench.bench.work.executors.make import EXECUTORS, ExecutorName
from kdbench.cli.choice import same_options
from kdbench.cli.here import check_current_folder
from kdbench.cli.number import Number
from kdbench.cli.tell import tell
from kdbench.errors import UsageError
from kdbench.untrusted.text import command_line, shown

if TYPE_CHECKING:
    from kdbench.bench.plan.prepare import Prepared
    from kdbench.bench.request.spec import RunSpec
    from kdbench.bench.session.processes import Processes
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.work.job import Executor
    from kdbench.loading.answers import Answers

executor_option = click.option(
    "--executor",
    type=click.Choice(EXECUTORS),
    default="local",
    show_default=True,
    help="local: a confined process for each stage. inline: all in this process, for a debugger.",
)
jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=int(LEAST["jobs"])),
    help="Stages computed side by side.  [default: 1; on a cluster as many as fit]",
)
on_option = click.option(
    "--on",
    metavar="WHERE",
    default="local",
    show_default=True,
    help="local: this machine. ray: the Ray cluster that RAY_ADDRESS names, or that of this "
    "machine. ray:HOST:PORT: the one with this head.",
)
_OPTIONS = (
    executor_option,
    on_option,
    jobs_option,
    click.option(
        "--mixed",
        is_flag=True,
        help="Let machines of a cluster take part whose processor or card is another one.",
    ),
    click.option(
        "--sockets-open",
        is_flag=True,
        help="Let machines of a cluster take part whose wall does not keep jobs from its sockets.",
    ),
    click.option(
        "--time-limit",
        type=Number(min=LEAST["time_limit"]),
        default=86400.0,
        show_default=True,
        help="Seconds for one stage.",
    ),
    click.option(
        "--stall-limit",
        type=Number(min=LEAST["stall_limit"]),
        default=600.0,
        show_default=True,
        help="Seconds in which a stage may neither report a step nor use the processor. 0: no "
        "limit.",
    ),
    click.option(
        "--memory-limit",
        type=Number(min=LEAST["memory_limit"]),
        help="GiB of resident memory for one stage.",
    ),
    click.option(
        "--checkpoint-every",
        type=Number(min=LEAST["checkpoint_every"]),
        default=60.0,
        show_default=True,
        help="Seconds between checkpoints of a training, at epochs' ends.",
    ),
    click.option(
        "--cohort",
        type=click.IntRange(min=int(LEAST["cohort"])),
        default=4,
        show_default=True,
        help="Students of one teacher trained side by side from one pass of it, at most.",
    ),
    click.option(
        "--profile",
        is_flag=True,
        help="Write where the time of each stage went, and traces, to OUT/profile.",
    ),
    click.option(
        "--reporter",
        multiple=True,
        metavar="PLUGIN",
        help="Let the reporter of this plugin hear how the run goes on; repeatable.",
    ),
    click.option("--fail-fast", is_flag=True, help="Stop at the first stage that fails."),
    click.option("--quiet", is_flag=True, help="Print only the folder of the results."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON lines."),
)


@dataclass(frozen=True)
class Execution(session.Execution):
    """How a request is carried out and shown: the values of :func:`execution_options`."""

    quiet: bool = False
    as_json: bool = False

    def check(self) -> None:
        """Raise UsageError where two options exclude each other, or nothing can be run here."""
        check_current_folder()
        if self.quiet and self.as_json:
            raise UsageError("--quiet and --json exclude each other; drop one of them")
        check_executor(self.executor)
        source = click.get_current_context().get_parameter_source("store_dir")
        session.check_own_store(self.executor, source is ParameterSource.COMMANDLINE)

    def begin(self) -> None:
        """Say at once that something happens, before anything takes time."""
        if not self.quiet and not self.as_json:
            tell(f"kdbench {__version__}: reading plugins and data ...")


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
    context = click.get_current_context()
    session.check_executor(
        executor,
        [
            name
            for name in context.params
            if context.get_parameter_source(name) is not ParameterSource.DEFAULT
        ],
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
    processes: Processes,
) -> tuple[int, Prepared, list[dict[str, Any]]]:
    """Prepare and run a request: (exit code, what was prepared, the rows).

    Args:
        processes: of the command. One of them tries how fast this machine is, where nobody knows.
        folder: of the results. It is made.
        fresh: the folder was made for this request. It is removed if the request is refused.
    """
    prepared = session.prepare_run(spec, registry, folder, store, how, tell, fresh=fresh)
    session.place(executor, how.jobs, prepared.numerics, tell)
    code, rows = _watch(prepared, registry, folder, store, executor, how, processes)
    return code, prepared, rows


def _watch(
    prepared: Prepared,
    registry: Answers,
    folder: Path,
    store: Store,
    executor: Executor,
    how: Execution,
    processes: Processes,
) -> tuple[int, list[dict[str, Any]]]:
    """Run the request and show its progress: (exit code, rows)."""
    from kdbench.cli.display import make_console
    from kdbench.cli.outlook import look_ahead
    from kdbench.cli.profile import print_profile
    from kdbench.cli.teacher_remarks import remarks_of_run
    from kdbench.cli.watch import make_display

    display = make_display(how.quiet, how.as_json, live=executor.apart)
    start = time.monotonic()
    # A cluster ends a job by SIGTERM. It is handled like Ctrl-C, so that the run can be resumed.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        if executor.here and not how.quiet and not how.as_json:
            look_ahead(prepared, store, executor.jobs, processes, display)
        ended = session.carry_out(prepared, registry, folder, store, executor, how, display, tell)
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
    if ended.complaint:
        again = elsewhere_command(sys.argv[1:])
        click.echo(
            shown(f"{ended.complaint}. All that was computed is in the store: {again}"), err=True
        )
    for line in remarks_of_run(prepared, store, folder, same_options()):
        tell(line)
    if ended.left:
        tell(
            f"Stopped at the first failure. Not run: {ended.left} of "
            f"{counted(len(prepared.plan.cells), 'cell')}."
        )
    return (0 if ended.whole else 1), ended.rows


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
