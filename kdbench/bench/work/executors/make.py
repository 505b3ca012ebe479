"""The executors by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

from kdbench.bench.work.executors.local import JobLimits, LocalExecutor
from kdbench.bench.work.job import Executor
from kdbench.errors import UsageError

if TYPE_CHECKING:
    from kdbench.loading.registry import Registry
    from kdbench.untrusted.processes.client import Zygote

__all__ = ["EXECUTORS", "ExecutorName", "JobLimits", "cluster_address", "make_executor"]

#: local: a confined process for each job. inline: this process, for a debugger.
ExecutorName = Literal["local", "inline"]
EXECUTORS: tuple[ExecutorName, ...] = get_args(ExecutorName)

_ON = re.compile(r"local|ray(?::(?P<address>[^\s:/]+:[0-9]{1,5}))?")


def cluster_address(on: str) -> str | None:
    """``HOST:PORT`` of ``--on ray:HOST:PORT``; None where it names none.

    Raises:
        UsageError: ``on`` is neither ``local``, nor ``ray``, nor ``ray:HOST:PORT``.
    """
    if (found := _ON.fullmatch(on)) is None:
        raise UsageError(f"--on: local, ray or ray:HOST:PORT; got {on!r}")
    return found["address"]


def make_executor(
    name: ExecutorName,
    registry: Callable[[], Registry],
    limits: JobLimits | None = None,
    zygote: Zygote | None = None,
) -> Executor:
    """A new executor of one job at a time. The caller closes it.

    Args:
        registry: loads the plugins. Called only if jobs are computed in this process.
        limits: of each job's process. None: no limits.
        zygote: forks the processes of jobs. None: the executor starts one.
    """
    if name == "local":
        return LocalExecutor(limits=limits or JobLimits(), zygote=zygote)
    from kdbench.bench.work.executors.inline import InlineExecutor

    return InlineExecutor(registry())
