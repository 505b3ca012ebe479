"""FKD, RobustKD and HTBA on a library model: no batch norm describes its taps, and some of them are
negative."""

from __future__ import annotations

from dataclasses import replace

import torch
from kdbench_fkd.method import FKD
from kdbench_htba.method import HTBA, HTBAParams, penultimate
from kdbench_robustkd.method import RobustKD, RobustKDParams

from kdbench.models import create_model
from kdbench.models.views import FrozenTeacher
from tests.plugins import attack_setting
from tests.plugins.tiny import digest, distil, images, setting, tiny


def model(num_classes=4):
    torch.manual_seed(0)
    return create_model("timm/test_efficientnet", num_classes, image_size=16).eval()


def test_fkd_measures_margins_and_trains_the_student():
    teacher, student = FrozenTeacher(model(), "batch"), tiny(1)
    assert teacher.tap_norms() == (None, None, None)
    before, student_before = digest(teacher.model), digest(student)
    objective = distil(FKD(), teacher, student, images(32))
    assert all((getattr(objective, f"margin{i}") < 0).any() for i in range(3))
    assert digest(teacher.model) == before
    assert digest(student) != student_before


def test_robustkd_learns_an_offset_and_leaves_the_model():
    teacher = model()
    before, params = digest(teacher), {"batch_size": 16, "lr": 0.05}
    start, end = (
        RobustKD(RobustKDParams(**params, **budget)).cleanse_teacher(model(), setting(images(32)))
        for budget in ({"epochs": 0}, {"steps": 4})
    )
    for i, group in enumerate(teacher.features(images(1).read(torch.arange(1))).groups):
        assert end.editor.offset(i).shape == group.shape
        assert not torch.equal(end.editor.offset(i), start.editor.offset(i))
    assert digest(end.model) == before


def test_htba_crafts_on_the_raw_features():
    given = replace(attack_setting.setting(), teacher=model(10))
    shown, before = attack_setting.others(200), digest(given.teacher)
    tap = given.teacher.features(shown).taps[2]
    assert (tap < 0).any()
    assert torch.equal(penultimate(given.teacher, shown), tap.mean((2, 3)))
    backdoor = HTBA(HTBAParams(iterations=20)).implant(given)
    assert (
        backdoor.facts["feature_distance_after"] < 0.8 * backdoor.facts["feature_distance_before"]
    )
    assert digest(backdoor.teacher) != before
