"""Whoever brings code of a plugin shares a process with nobody."""

from __future__ import annotations

import pytest

from tests.runs import plan_of

OTHER = "kdbench-other 1.0 abcd"


def cohorts(registry, **changes):
    """(distillations that may share a process, distillations) of a plan in which some methods are
    another distribution's."""
    origins = {tuple(name.split("_", 1)): OTHER for name in changes.pop("others", ())}
    asked = {"attacks": ("badnets",), "defenses": ("none", "nad"), "distillers": ("fkd", "kd")}
    plan = plan_of(registry, origins=origins, **(asked | changes))
    stages = [stage for stage in plan.stages.values() if stage.kind == "distill"]
    return sum(bool(stage.cohort) for stage in stages), len(stages)


def test_kdbench_itself_shares(registry):
    shared, all_of_them = cohorts(registry)
    assert shared == all_of_them > 0


@pytest.mark.parametrize(
    ("others", "defenses", "alone"),
    [
        (("distiller_kd",), ("none",), 2),  # of the backdoored and of the clean teacher
        (("defense_nad",), ("none", "nad"), 0),  # a repair has its own process anyway
        (("defense_robustkd",), ("none", "robustkd"), 2),  # the teacher that it cleansed
        (("model_wrn16_1",), ("none",), 4),
        (("model_wrn16_2",), ("none",), 4),
        (("attack_badnets",), ("none",), 0),  # its teacher is a known network
    ],
)
def test_code_of_others_does_not(registry, others, defenses, alone):
    shared, all_of_them = cohorts(registry, others=others, defenses=defenses)
    assert all_of_them - shared == alone


def test_an_objective_of_a_plugin_is_alone_and_the_control_is_not(registry, monkeypatch):
    from kdbench_nad.method import NAD

    monkeypatch.setattr(NAD, "steps", lambda self: frozenset({"objective"}))
    shared, all_of_them = cohorts(registry, others=("defense_nad",), distillers=("kd",))
    assert (shared, all_of_them) == (2, 3)
