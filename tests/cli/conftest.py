"""Runs that compute nothing."""

from __future__ import annotations

import pytest

from kdbench.bench.run import runner as runner_module
from kdbench.bench.work.executors.local import LocalExecutor
from tests.cli.calls import row


@pytest.fixture(autouse=True)
def _signs_once(signs_once):
    """What a command says does not depend on who drew the pictures."""


@pytest.fixture
def fake_run(monkeypatch):
    """Replaces the runner; ``calls`` collects (spec, settings, out); set ``answer`` to rows or an
    exception."""

    class Fake:
        calls = []
        answer = []

        def __call__(self, prepared, registry, out, reporter, store, executor, **options):
            self.calls.append((prepared.spec, prepared.parts, out))
            if isinstance(self.answer, BaseException):
                raise self.answer
            reporter.run_started(1, 1, 1, str(out))
            reporter.run_finished(self.answer, str(out))
            return self.answer

    fake = Fake()
    fake.calls, fake.answer = [], [row()]
    monkeypatch.setattr(runner_module, "run", fake)
    monkeypatch.setattr(LocalExecutor, "warm_up", lambda self: None)
    # How long a run would take depends on the machine and its load.
    monkeypatch.setattr("kdbench.cli.outlook.long_run", lambda planned, load="": ())
    return fake


@pytest.fixture
def no_stages(monkeypatch):
    """The real runner, real loading; a stage that starts is a failure."""
    monkeypatch.setattr(LocalExecutor, "warm_up", lambda self: None)
    monkeypatch.setattr(LocalExecutor, "start", lambda *_: pytest.fail("a stage started"))
