"""The variance of single examples' features, as the measurements of a plan hold it: for Fig. 2,
which no row of results has."""

from __future__ import annotations

from kdbench.bench.plan.plan import Plan
from kdbench.bench.store.artefacts import Store


def variances(plan: Plan, store: Store) -> dict[tuple[str, ...], dict[str, list[list[float]]]]:
    """(dataset, teacher, images shown) -> which teacher -> each seed's variances of single
    examples."""
    found: dict[tuple[str, ...], dict[str, dict[int, list[float]]]] = {}
    for cell in plan.cells:
        of = (str(cell.names["dataset"]), str(cell.names["teacher"]))
        attack, seed = str(cell.names["attack"]), int(cell.names["seed"])
        for role, word in (("clean", "clean"), ("teacher", attack)):
            made = store.find(cell.measured[role]) if role in cell.measured else None
            if made is None:
                continue
            for shown, panel in (("clean", "untriggered"), ("triggered", f"triggered by {attack}")):
                teachers = found.setdefault((*of, panel), {})
                teachers.setdefault(word, {})[seed] = made.facts["variance"][shown]
    return {
        panel: {word: [seeds[s] for s in sorted(seeds)] for word, seeds in teachers.items()}
        for panel, teachers in found.items()
    }
