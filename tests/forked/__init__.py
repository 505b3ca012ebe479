"""Commands of kdbench for tests, forked from a process that has torch imported already.

To start Python and import torch takes seconds of a processor, for the command and once more for the
process that forks its jobs. A test that calls the command line is about what it does then. So
:func:`start` takes what ``subprocess.Popen`` takes, and forks a process that has the same
environment, folder, arguments and streams, and its own address space. The zygotes of tests and of
such commands are forked in the same way.

``make soak`` starts each of them anew, and so does KDBENCH_COLD=1.
"""

from tests.forked.client import run, start

__all__ = ["run", "start"]
