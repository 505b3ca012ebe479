"""Methods of features on a library model: no batch norm describes its taps, and some of them are
negative."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from kdbench_ab.method import AB
from kdbench_cc.method import CC
from kdbench_fitnet.method import FitNet
from kdbench_fkd.method import FKD
from kdbench_fsp.method import FSP, FSPParams
from kdbench_htba.method import HTBA, HTBAParams, penultimate
from kdbench_reviewkd.method import ReviewKD, ReviewKDParams
from kdbench_rkd.method import RKD
from kdbench_robustkd.method import RobustKD, RobustKDParams
from kdbench_sp.method import SP

from kdbench.data.base import Batch
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


@pytest.mark.parametrize(
    "distiller",
    [
        SP(),
        FitNet(),
        RKD(),
        CC(),
        ReviewKD(ReviewKDParams(warmup=0)),
        AB(),
        FSP(FSPParams(connector=True)),
    ],
    ids=lambda distiller: distiller.info.name,
)
@pytest.mark.parametrize("name", ["timm/test_vit", "timm/test_resnet"])
def test_a_library_model_teaches_and_learns(distiller, name):
    """Its pooled features are the mean of its last group, and a network of tokens has maps."""
    torch.manual_seed(0)
    library, small = create_model(name, 4, image_size=32), tiny(1)
    shown = torch.rand(16, 3, 32, 32)
    batch = Batch(shown, torch.arange(16) % 4, torch.arange(16))
    for teacher, student in ((library, small), (small, library)):
        frozen = FrozenTeacher(teacher)
        objective = distiller.objective(frozen, student.train()).train()
        terms = objective(batch, frozen.features(shown), student.features(shown))
        terms.pop("ce")
        torch.stack(list(terms.values())).sum().backward()
        assert all(torch.isfinite(value) and value > 0 for value in terms.values())
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in student.parameters())
        student.zero_grad()


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
