"""A Ray cluster: its machines, how many agents they have room for, and how an agent begins."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kdbench._counted import counted
from kdbench.bench.work.executors.slots import Slots
from kdbench.bench.work.remote.tokens import choose_mode, in_mode
from kdbench.errors import KdbenchError, UsageError
from kdbench.untrusted.text import strip_control

if TYPE_CHECKING:
    from kdbench.bench.work.executors.local import JobLimits
    from kdbench.numerics import Numerics

#: Seconds for the head of a cluster to take a connection.
_KNOCK_S = 5.0
#: Seconds that agents have to end by themselves.
_ENDING_S = 5.0

_OPEN = (
    "this cluster lets everybody in: whoever reaches its ports can run programs as you. "
    "docs/cluster.md says how to give it a token"
)


def import_ray() -> Any:
    """The package.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            f"--on ray needs the package ray ({error}); install it on every machine of the "
            "cluster: pip install 'kdbench[ray]'"
        ) from error
    return ray


class Cluster:
    """A connection to a cluster.

    Args:
        address: ``HOST:PORT`` of its head. None: RAY_ADDRESS, or the cluster of this machine.
        limits: of each job.
        checkpoint_s: seconds between two looks for checkpoints.
    """

    def __init__(self, address: str | None, limits: JobLimits, checkpoint_s: float) -> None:
        self._address = address or os.environ.get("RAY_ADDRESS") or "auto"
        self._limits, self._checkpoint_s = limits, checkpoint_s
        self._run = secrets.token_hex(8)
        self._threads, self._cards = 1, 0.0
        self.device, self.connected = "cpu", False
        self._knocked = False
        #: Of RAY_AUTH_MODE.
        self._mode: str | None = None

    def knock(self) -> str:
        """Look whether the head answers, and lets us in. Ray itself would try for minutes.

        Returns:
            What whoever asks should know of the cluster. Empty: nothing.

        Raises:
            UsageError: nobody listens there, the token that it asks for is not here, or Ray is not
                installed.
        """
        if not self._knocked:
            import_ray()
            self._look_for_head()
            self._mode, self._knocked = choose_mode(self._address), True
        return _OPEN if self._mode == "disabled" else ""

    def _look_for_head(self) -> None:
        host, _, port = self._address.rpartition(":")
        if host and port.isdigit():
            try:
                socket.create_connection((host, int(port)), _KNOCK_S).close()
            except OSError as error:
                raise self._nobody(error) from error

    def connect(self) -> None:
        """Connect, once.

        Raises:
            UsageError: there is no such cluster.
        """
        if self.connected:
            return
        self.knock()
        ray, before = import_ray(), signal.getsignal(signal.SIGTERM)
        try:
            with _without_listener(), in_mode(self._mode):
                ray.init(
                    address=self._address,
                    namespace="kdbench",
                    log_to_driver=False,
                    logging_level="ERROR",
                    configure_logging=False,
                    job_config=_job_config(),
                )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise self._nobody(error) from error
        finally:
            # Ray's own handler would end a run without a word of how to go on.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, before)
        self.connected = True

    def _nobody(self, error: BaseException) -> UsageError:
        where = "here" if self._address == "auto" else f"at {self._address}"
        return UsageError(
            f"--on ray: no cluster answered {where}: {first_line(error)}; start one with "
            "`ray start --head`, or name its head with --on ray:HOST:6379"
        )

    def share(self, jobs: int | None, numerics: Numerics) -> Slots:
        """How many jobs run side by side.

        Args:
            jobs: None: as many as there is room for; on GPUs one a card.
            numerics: of the run.

        Raises:
            UsageError: the cluster can never run so many.
        """
        self.connect()
        self.device, self._threads = str(numerics.device), numerics.threads
        nodes = list(self.nodes())
        cores = max((node["Resources"].get("CPU", 0) for node in nodes), default=0)
        if cores < self._threads:
            raise UsageError(
                f"--threads {self._threads}: no machine of the cluster offers so many cores; the "
                f"largest offers {cores:g}"
            )
        wanted = jobs or 0
        if numerics.device.type == "cuda":
            cards = int(sum(node["Resources"].get("GPU", 0) for node in nodes))
            if not cards:
                raise UsageError(
                    "--device cuda: no machine of the cluster offers a GPU; start its machines "
                    "with `ray start --num-gpus N`, or use --device cpu"
                )
            wanted = jobs or cards
            self._cards = min(1.0, cards / wanted)
        fit = sum(map(self.room, nodes))
        if wanted > fit:
            each = f"{counted(self._threads, 'core')} each"
            raise UsageError(
                f"--jobs {wanted}: the cluster has room for {counted(fit, 'stage')} side by side, "
                f"{each}; leave --jobs out to take them all"
            )
        return Slots(wanted or fit, wanted or fit)

    def nodes(self) -> Iterator[dict[str, Any]]:
        """The machines that live, as Ray describes them.

        Raises:
            KdbenchError: the cluster is gone.
        """
        ray = import_ray()
        try:
            yield from (node for node in ray.nodes() if node["Alive"])
        except (ray.exceptions.RayError, OSError) as error:
            raise gone(error) from error

    def room(self, node: Mapping[str, Any]) -> int:
        """How many agents a machine has room for, if nobody else uses it."""
        room = int(node["Resources"].get("CPU", 0) // self._threads)
        if self._cards:
            room = min(room, int(node["Resources"].get("GPU", 0) / self._cards + 1e-6))
        return room

    def agent(self, node: str) -> Any:
        """A new agent on a machine. It waits until there is room."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from kdbench.bench.work.remote.agent import Agent

        options: dict[str, Any] = {
            "num_cpus": self._threads,
            "num_gpus": self._cards,
            # Ray would begin again from nothing, and say nothing.
            "max_restarts": 0,
            "max_task_retries": 0,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False),
        }
        if self._limits.memory_mb is not None:
            options["memory"] = int(self._limits.memory_mb) << 20
        begin = import_ray().remote(Agent).options(**options)
        return begin.remote(self._run, node, asdict(self._limits), self._checkpoint_s)

    def kill(self, agent: Any) -> None:
        """End an agent, and with it its job."""
        with contextlib.suppress(Exception):  # it may be gone, and the cluster, too
            import_ray().kill(agent)

    def close(self, agents: list[Any]) -> None:
        """End all agents, and disconnect."""
        if not self.connected:
            return
        ray, self.connected = import_ray(), False
        with contextlib.suppress(Exception):  # the cluster may be gone
            ending = [agent.close.remote() for agent in agents]
            if ending:
                ray.wait(ending, num_returns=len(ending), timeout=_ENDING_S)
        for agent in agents:
            self.kill(agent)
        with contextlib.suppress(Exception):
            ray.shutdown()


def _job_config() -> Any:
    """What Ray tells agents of this command: no folder of it.

    Ray would have them search the current folder and that of the script first, where results and
    the store may lie. Agents would import from there, and walled jobs may read what their agent
    searches.
    """
    config = import_ray().job_config.JobConfig()
    serialize = config._serialize

    def without_folders() -> Any:
        config._py_driver_sys_path = []
        return serialize()

    config._serialize = without_folders
    return config


@contextlib.contextmanager
def _without_listener() -> Iterator[None]:
    """Keep Ray from printing the logs of processes that died.

    They would go to standard output, among tables and lines of JSON. Ray has no option for it.
    """
    from ray._private import worker

    name = "listen_error_messages"
    listen = getattr(worker, name, None)
    if listen is not None:
        setattr(worker, name, lambda *_: None)
    try:
        yield
    finally:
        if listen is not None:
            setattr(worker, name, listen)


def first_line(error: BaseException) -> str:
    """What an error says first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return strip_control(lines[0][:200]) if lines else type(error).__name__


def gone(error: BaseException) -> KdbenchError:
    """The error of a run whose cluster ended."""
    return KdbenchError(
        f"the cluster is gone: {first_line(error)}. What was computed is in the store; the same "
        "command goes on, on a cluster or with --on local"
    )
