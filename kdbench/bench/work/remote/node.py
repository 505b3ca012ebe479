"""What a machine of a cluster must have in common with the one that plans: code, libraries,
plugins and arithmetic."""

from __future__ import annotations

import platform
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from kdbench.untrusted.processes.client import Zygote, wait
from kdbench.untrusted.processes.identity import identity
from kdbench.untrusted.processes.order import View, WallReport

#: Trials of the canary that lead to a process of the cluster.
_SOCKETS = ("unix socket", "abstract socket", "tcp", "mptcp")
#: Seconds for a wall to be built.
_WALL_S = 60.0


@dataclass(frozen=True)
class NodeFacts:
    """Of one machine."""

    #: Its name in the network.
    host: str
    #: Python, kdbench, its code, and the libraries that compute -> version.
    code: Mapping[str, str]
    #: Plugin -> digest of its source.
    plugins: Mapping[str, str]
    #: The instructions that torch uses, and whether the processor multiplies bfloat16.
    processor: str
    #: Name of the card, or of none.
    card: str
    #: The wall around its jobs, as in a row's ``confinement``, and what its canary reached.
    wall: str
    reached: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The facts as JSON can hold them."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> NodeFacts:
        """The facts that :meth:`as_json` described."""
        return cls(**{**values, "reached": tuple(values["reached"])})


def facts_here(device: str, wall: WallReport | None = None) -> NodeFacts:
    """Of this machine.

    Args:
        device: ``cpu``, or ``cuda`` to name the card, too.
        wall: around its jobs. None: nobody looked.
    """
    import torch

    from kdbench.numerics import choose_numerics

    # Where the code lies may differ, and what it is may not.
    code = {name: what.partition(" at ")[0] for name, what in identity().items()}
    multiplies = " bf16" if choose_numerics("cpu", "auto").bf16 else ""
    card = ""
    if device.startswith("cuda") and torch.cuda.is_available():
        card = torch.cuda.get_device_name(0)
    return NodeFacts(
        host=platform.node() or "a machine without a name",
        code=code,
        plugins=_plugins(),
        processor=f"{torch.backends.cpu.get_cpu_capability()}{multiplies}",
        card=card,
        wall="none" if wall is None else wall.text,
        reached=() if wall is None else wall.reached,
    )


def nothing(channel: socket.socket, order: Mapping[str, Any], links: Mapping[str, int]) -> None:
    """Body of a process that is started to see its wall."""


def wall_here(zygote: Zygote, devices: bool) -> WallReport | None:
    """The wall around the jobs of this machine. None: it could not be built.

    Args:
        zygote: forks the jobs.
        devices: whether they compute on a GPU.
    """
    walled = zygote.start(f"{__name__}:nothing", {}, View(devices=devices))
    until = time.monotonic() + _WALL_S
    while walled.report is None and walled.exit is None and time.monotonic() < until:
        wait([walled], 1.0)
        walled.look()
    walled.close()
    return walled.report


def wall_gap(facts: NodeFacts) -> str:
    """Why no defense may run on a machine, in words. Empty: it may.

    A job must not reach sockets that were there before it: by those of a cluster it could start
    processes that have no wall.
    """
    open_ones = [name for name in facts.reached if name in _SOCKETS]
    if facts.wall == "none":
        return "it has no wall around plugins"
    return f"its wall leaves open: {', '.join(open_ones)}" if open_ones else ""


def _plugins() -> dict[str, str]:
    """Those that are installed here. Nothing of them is imported."""
    from kdbench.loading.candidates import candidates, digest_of

    found = {}
    for plugin in candidates().wanted:
        if not plugin.is_file:
            try:
                found[plugin.name] = digest_of(plugin)
            except OSError as error:
                found[plugin.name] = f"cannot be read: {error.strerror}"
    return found


def differences(
    here: NodeFacts, there: NodeFacts, plugins: Mapping[str, str], *, mixed: bool
) -> list[str]:
    """Why a machine cannot take part, in words. Empty: it can.

    Args:
        here: of the machine that plans.
        there: of the other one.
        plugins: those that the run may use -> digest.
        mixed: whether another processor or card is allowed.
    """
    found = [
        f"{name} {here.code[name]} here, {there.code.get(name, 'none')} there"
        for name in here.code
        if here.code[name] != there.code.get(name)
    ]
    for name, digest in plugins.items():
        other = there.plugins.get(name)
        if other is None:
            found.append(f"it lacks the plugin {name}")
        elif other != digest:
            found.append(f"its plugin {name} has other code")
    if not mixed:
        for what, mine, its in (
            ("computes with", here.processor, there.processor),
            ("has the card", here.card, there.card),
        ):
            if mine != its:
                found.append(f"it {what} {its or 'none'}, and this machine {mine or 'none'}")
    return found
