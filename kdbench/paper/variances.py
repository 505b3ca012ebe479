"""The variance of single examples' features in the measurements of a plan, for Fig. 2. No row of
results has it."""

from __future__ import annotations

from kdbench.bench.plan.plan import Plan
from kdbench.bench.store.artefacts import Store


def variances(plan: Plan, store: Store) -> dict[tuple[str, ...], dict[str, list[list[float]]]]:
    """(dataset, teacher, preset, shown images) -> what the teacher is -> each seed's variances of
    single examples."""
    panels: dict[tuple[str, ...], dict[str, dict[int, list[float]]]] = {}
    for cell in plan.cells:
        names = tuple(str(cell.names[name]) for name in ("dataset", "teacher", "preset"))
        attack, seed = str(cell.names["attack"]), int(cell.names["seed"])
        for role, word in (("clean", "clean"), ("teacher", attack)):
            measurement = store.find(cell.measured[role]) if role in cell.measured else None
            if measurement is None:
                continue
            for shown, panel in (("clean", "untriggered"), ("triggered", f"triggered by {attack}")):
                teachers = panels.setdefault((*names, panel), {})
                teachers.setdefault(word, {})[seed] = measurement.facts["variance"][shown]
    return {
        panel: {word: [seeds[s] for s in sorted(seeds)] for word, seeds in teachers.items()}
        for panel, teachers in panels.items()
    }
