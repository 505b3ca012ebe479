"""Whether a job still does something."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

#: Share of one processor below which a job counts as idle. A process that waits uses far less.
_IDLE = 0.01
#: Seconds between two looks after which the coordinator itself was stopped, by Ctrl-Z or a cluster.
#: Its jobs were stopped with it, so that time does not count.
_GAP_S = 30.0


@dataclass
class Watchdog:
    """Sees that a job neither reports a step nor uses the processor.

    It looks at one stretch of time after the other. So a job that stops in the middle of a stretch
    is seen at the end of the next one.
    """

    #: Seconds of processor time that the job's processes have used. None: nobody knows.
    used_s: Callable[[], float | None]
    #: When the stretch began, of the monotonic clock.
    since: float = field(default_factory=time.monotonic)
    _looked: float = field(default_factory=time.monotonic)
    _used_s: float = 0.0
    _stepped: bool = False

    def stepped(self) -> None:
        """The job reported a step."""
        self._stepped = True

    def stalled(self, limit_s: float, now: float) -> bool:
        """Whether the job did nothing for a whole stretch of ``limit_s`` seconds."""
        gap = now - self._looked
        self._looked = now
        if gap > _GAP_S:
            self.since += gap
        if now - self.since < limit_s:
            return False
        used = self.used_s()
        # The time of processes that ended is lost, so it may be less than before.
        busy = used is None or abs(used - self._used_s) > _IDLE * (now - self.since)
        if busy or self._stepped:
            self.since, self._used_s, self._stepped = now, used or 0.0, False
            return False
        return True
