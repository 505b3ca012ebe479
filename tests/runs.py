"""Whole runs inside the test's process: quick, and with methods and data that no worker could
import."""

from __future__ import annotations

from kdbench.bench.plan import prepare
from kdbench.bench.plan.build import build_plan
from kdbench.bench.plan.plan import Part
from kdbench.bench.request.spec import RunSpec, resolve, resolve_all
from kdbench.bench.run import runner
from kdbench.bench.run.events import Quiet
from kdbench.bench.store.artefacts import Store
from kdbench.bench.work.executors.inline import InlineExecutor

#: What ``--set`` says for a teacher of a few steps: whether it has learned its task is not asked.
ANY_TEACHER = {"min_teacher_acc": "0"}


def go(spec: RunSpec, registry, out, store=None, reporter=None, executor=None, **options):
    """Rows of a run; its store is beside ``out`` unless given."""
    store = store or Store(out.parent / f"{out.name}-store")
    ready = prepare.prepare(spec, registry, store)
    return runner.run(
        ready,
        registry,
        out,
        reporter or Quiet(),
        store,
        executor or InlineExecutor(registry),
        **options,
    )


def part_of(resolved, **changes):
    """A part of a plan whose dataset is not loaded."""
    return Part(
        resolved=resolved,
        dataset_name=resolved.dataset,
        **{
            "train_digest": "train",
            "test_digest": "test",
            "num_classes": 10,
            "train_size": 800,
            "numerics": "cpu fp32",
            "code": "code",
            **changes,
        },
    )


def plan_of(registry, software=None, origins=None, **asked):
    """The plan of a request, no data loaded."""
    spec = RunSpec(
        **(
            {"attacks": ("badnets",), "defenses": ("none",), "pairs": (("wrn16_2", "wrn16_1"),)}
            | asked
        )
    )
    parts = []
    for resolved in resolve_all(spec, registry):
        if origins:
            resolved.origins.update(origins)
        parts.append(part_of(resolved, software=software or {}))
    return build_plan(parts)


__all__ = ["ANY_TEACHER", "go", "part_of", "plan_of", "resolve"]
