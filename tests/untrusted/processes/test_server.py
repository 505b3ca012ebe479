"""The process that forks others."""

from __future__ import annotations

import errno
import os

from kdbench.untrusted.processes import server


def test_it_outlives_a_fork_that_the_kernel_refuses(monkeypatch):
    """Otherwise its end would end every other child."""

    def refuse():
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(os, "fork", refuse)
    assert server._fork() is None
