"""Whole runs inside the test's process: quick, and with methods and data that no worker could import."""

from __future__ import annotations

from kdbench.bench import prepare, runner
from kdbench.bench.events import Quiet
from kdbench.bench.executors.inline import InlineExecutor
from kdbench.bench.plan import Setting, build_plan
from kdbench.bench.spec import RunSpec, resolve, resolve_all
from kdbench.bench.store import Store


def go(spec: RunSpec, registry, out, store=None, reporter=None, executor=None, **options):
    """Rows of a run; its store is beside ``out`` unless given."""
    store = store or Store(out.parent / f"{out.name}-store")
    ready = prepare.prepare(spec, registry, store)
    return runner.run(ready, registry, out, reporter or Quiet(), store, executor or InlineExecutor(registry), **options)


def plan_of(registry, software=None, origins=None, **asked):
    """The plan of a request, no data loaded."""
    spec = RunSpec(**({"attacks": ("badnets",), "defenses": ("none",), "pairs": (("wrn16_2", "wrn16_1"),)} | asked))
    settings = []
    for resolved in resolve_all(spec, registry):
        if origins:
            resolved.origins.update(origins)
        settings.append(Setting(resolved, resolved.dataset, "train", "test", 10, 800, "cpu fp32", "code", software or {}))
    return build_plan(settings)


__all__ = ["go", "plan_of", "resolve"]
