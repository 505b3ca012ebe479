"""``python without_walls.py ARGUMENTS``: the command line of kdbench, with agents that leave layers
of the wall out for the jobs of some defenses. For all others they are as ever."""

from __future__ import annotations

import os
import sys

from kdbench.bench.work.remote import agent
from kdbench.cli import main
from kdbench.untrusted.processes.environment import temporary_environment

#: Variant of the defense -> layers that its job is without, see View.
WITHOUT = {
    # As in many containers.
    "contained": ("namespaces",),
    # What closes sockets. Landlock stands, and keeps files apart.
    "connected": ("namespaces", "seccomp"),
    "bare": ("namespaces", "landlock", "seccomp"),
}


class Agent(agent.Agent):
    """An agent that looks for whom it works."""

    def start(self, records):
        text = str(records)
        act = next((name for name in WITHOUT if f"'act': '{name}'" in text), "")
        self._local.without = WITHOUT.get(act, ())
        if act == "bare":
            self._local._environment = with_all
        else:
            vars(self._local).pop("_environment", None)
        return super().start(records)


def with_all(running, temporary):
    """The environment of the agent itself."""
    return {**os.environ, **temporary_environment(temporary)}


if __name__ == "__main__":
    agent.Agent = Agent
    sys.exit(main())
