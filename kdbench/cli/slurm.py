"""``kdbench slurm``: a script for people who have Slurm. It submits nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from kdbench.errors import UsageError
from kdbench.untrusted.text import command_line

_TIME = re.compile(r"(\d+-)?\d{1,3}(:\d{2}){0,2}")

#: Options that the script gives itself, or that it would have to give each task otherwise.
_OWN = ("--on", "--out", "--jobs", "--executor", "--dry-run")

_HEAD = """#!/bin/bash
#SBATCH --job-name=kdbench
#SBATCH --time={time}
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
"""

_ARRAY = """#SBATCH --array=0-{last}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cpus}
{gpus}#SBATCH --output=kdbench-%A-%a.log
# {nodes} tasks of one command over one store. Each computes stages that no other one has taken, and
# the last one to end has the whole table. Two minutes before its end a task gets SIGTERM and keeps
# its checkpoints. Submit the script again, and it goes on.
set -eu
exec {command} --jobs {jobs} --out "kdbench-$SLURM_ARRAY_JOB_ID-$SLURM_ARRAY_TASK_ID"
"""

_RAY = """#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --cpus-per-task={cpus}
{gpus}#SBATCH --output=kdbench-%j.log
# One run on all nodes. Ray starts on each of them and ends with the run. Only the first node opens
# the store. Submit the script again, and it goes on.
set -eu
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
# Two jobs on one node must not meet.
port=$((20000 + SLURM_JOB_ID % 20000))
exec srun --kill-on-bad-exit=1 ray symmetric-run --address "$head:$port" --min-nodes {nodes} \\
    --num-cpus {cpus} {cards}-- \\
    {command} --on "ray:$head:$port" --out "kdbench-$SLURM_JOB_ID"
"""


@click.command("slurm", context_settings={"ignore_unknown_options": True})
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True, help="Nodes.")
@click.option(
    "--cpus", type=click.IntRange(min=1), default=4, show_default=True, help="Cores of each node."
)
@click.option(
    "--gpus", type=click.IntRange(min=0), default=0, show_default=True, help="GPUs of each node."
)
@click.option(
    "--time", default="08:00:00", show_default=True, help="Limit, as Slurm writes it: 08:00:00."
)
@click.option(
    "--ray",
    "on_ray",
    is_flag=True,
    help="One run on a Ray cluster of all nodes. Else a job array: the same command on each node, "
    "over one store in a shared folder whose file system has working locks.",
)
@click.argument("arguments", metavar="-- run ...", nargs=-1, type=click.UNPROCESSED)
def slurm_command(
    nodes: int, cpus: int, gpus: int, time: str, on_ray: bool, arguments: tuple[str, ...]
) -> None:
    """Print a script for sbatch that runs a command of kdbench. It submits nothing.

    After -- stands what stands after kdbench: run, and its options.
    """
    _check(arguments)
    if not _TIME.fullmatch(time):
        raise UsageError(f"--time {time!r}: Slurm writes it as 08:00:00 or 2-00:00:00")
    click.echo(
        script(arguments, nodes=nodes, cpus=cpus, gpus=gpus, time=time, on_ray=on_ray), nl=False
    )


def _check(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] not in ("run", "reproduce"):
        raise UsageError("nothing to run; end with -- run and its options, as after kdbench")
    named = {part.partition("=")[0] for part in arguments}
    if own := [name for name in _OWN if name in named]:
        raise UsageError(f"the script says {' and '.join(own)} itself; leave it out")
    if "--threads" not in named and "--spec" not in named:
        raise UsageError(
            "how many threads a stage has changes its last bits, so the script has to say it: add "
            "--threads 1"
        )
    if "--store" not in named:
        raise UsageError(
            "the next job may begin on another node, and goes on from the store; add --store "
            "FOLDER, in a folder that all nodes see"
        )


def script(
    arguments: Sequence[str], *, nodes: int, cpus: int, gpus: int, time: str, on_ray: bool
) -> str:
    """The text of a script for sbatch.

    Args:
        arguments: what stands after ``kdbench``.
        nodes: how many.
        cpus: cores of each.
        gpus: of each; stages on a card of its own each.
        time: limit, as Slurm writes it.
        on_ray: one run on all nodes. Else the same run on each, over one store.
    """
    template = _HEAD + (_RAY if on_ray else _ARRAY)
    return template.format(
        time=time,
        nodes=nodes,
        last=nodes - 1,
        cpus=cpus,
        jobs=gpus or cpus,
        gpus=f"#SBATCH --gpus-per-node={gpus}\n" if gpus else "",
        cards=f"--num-gpus {gpus} " if gpus else "",
        command=command_line(["kdbench", *arguments]),
    )
