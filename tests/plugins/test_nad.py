"""NAD against hand-computed numbers."""

import pytest
import torch
from kdbench_nad.method import NAD, NADParams

from kdbench import repair
from kdbench.attention import attention, attention_distance, attention_terms
from kdbench.models.views import FrozenTeacher
from kdbench.training import Recipe
from tests.plugins.tiny import accuracy, digest, fit, images, setting, tiny, trained


def test_attention_by_hand():
    g = torch.tensor([[3.0, 0.0], [0.0, 2.0]]).view(1, 2, 1, 2)  # A = (9, 4)
    expected = torch.tensor([9.0, 4.0]) / 97**0.5
    torch.testing.assert_close(attention(g).flatten(), expected)
    torch.testing.assert_close(attention(-g, p=1).flatten(), torch.tensor([3.0, 2.0]) / 13**0.5)
    assert attention(torch.zeros(1, 2, 3, 3)).abs().sum() == 0


def test_attention_norm_and_scale():
    g = torch.randn(4, 8, 6, 6)
    torch.testing.assert_close(attention(g).flatten(1).norm(dim=1), torch.ones(4))
    torch.testing.assert_close(attention(5 * g), attention(g), atol=1e-6, rtol=1e-5)
    assert attention(g.bfloat16()).dtype == torch.float32


def test_distance():
    a, b = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    a[0, 0, 0, 0], b[0, 0, 5, 5] = 1, 1
    assert attention_distance(a, b).item() == pytest.approx(2 / 64, rel=1e-5)
    g = torch.randn(2, 3, 4, 4)
    assert attention_distance(g, g).item() == 0


@pytest.mark.parametrize("side", [16, 32, 64])
def test_the_weights_are_those_of_32x32_at_every_size(side):
    """Two disjoint places cost 2 / 1024, 2 / 256 and 2 / 64 at 32x32, and the same at other
    sizes. A weight of 0 is no term."""
    sides = (side, side // 2, side // 4)
    mine, wanted = (tuple(torch.zeros(2, 3, s, s) for s in sides) for _ in "ab")
    for a, b in zip(mine, wanted, strict=True):
        a[:, :, 0, 0] = b[:, :, 3, 3] = 1
    terms = attention_terms(mine, wanted, NADParams().beta)
    expected = {"attention1": 500 * 2 / 1024, "attention2": 1000 * 2 / 256}
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        expected | {"attention3": 1000 * 2 / 64}, rel=1e-5
    )
    assert set(attention_terms(mine, wanted, (0, 1, 0))) == {"attention2"}


def test_beta_zero_is_fine_tuning():
    model = trained(1)
    s = setting(seed=3)
    plain = tiny(1)
    plain.load_state_dict(model.state_dict())
    plain.train()
    fit(plain, s.clean, s.recipe, seed=3, augmentation=s.augmentation)
    repaired = NAD(NADParams(beta=(0, 0, 0))).repair_student(model, None, s)
    assert digest(repaired) == digest(plain)
    assert not repaired.training


def test_attention_acts_and_its_teacher_stays_frozen(monkeypatch):
    frozen = []

    class Recording(FrozenTeacher):
        def __init__(self, model):
            super().__init__(model)
            frozen.append((self, digest(self.model)))

    monkeypatch.setattr(repair, "FrozenTeacher", Recording)
    results = [
        digest(NAD(NADParams(beta=b)).repair_student(trained(1), None, setting(seed=3)))
        for b in ((0, 0, 0), (500, 1000, 1000), (500, 1000, 1000))
    ]
    assert results[0] != results[1] == results[2]
    assert len(frozen) == 2
    for guide, before in frozen:
        assert guide.batch_norm == "running"
        assert digest(guide.model) == before


def test_repair_keeps_accuracy():
    model = trained(1)
    # 12 steps at 0.02 with beta = 1000 are still in the transient
    before = accuracy(model, images(seed=9))
    assert (
        accuracy(NAD().repair_student(model, None, setting(lr=0.005)), images(seed=9))
        >= before - 0.05
    )


def test_when():
    for when in ("after", "before"):
        nad, model = NAD(NADParams(when=when)), tiny(1)
        before = digest(model)
        (step,) = nad.steps()
        if when == "before":
            assert step == "cleanse_teacher"
            assert digest(nad.cleanse_teacher(model, setting())) != before
        else:
            assert step == "repair_student"
            assert digest(nad.repair_student(model, None, setting())) != before


def recipes(params, base):
    return params.teacher_recipe(base), params.recipe(base)


def test_recipes():
    base = Recipe(epochs=3, lr=0.01, schedule="onecycle")
    assert recipes(NADParams(), base) == (base, base)


def test_paper_preset_is_the_authors_recipe():
    base = Recipe(epochs=100, min_steps=1000, batch_size=256, lr=0.01, schedule="onecycle")
    first, second = recipes(NADParams(**NAD.presets["paper"]), base)
    common = {"batch_size": 64, "lr": 0.1, "weight_decay": 1e-4, "schedule": "steps"}
    assert first == Recipe(epochs=10, milestones=(0.2,), **common)
    assert second == Recipe(epochs=20, milestones=(0.1,), **common)
    for recipe, steps in ((first, 10), (second, 20)):  # one step an epoch: the rate drops after two
        assert [round(recipe.rate(i, steps), 6) for i in (0, 1, 2, steps - 1)] == [
            0.1,
            0.1,
            0.01,
            0.01,
        ]


def test_epochs_given_beat_the_presets_minimum_of_steps():
    base = Recipe(epochs=2, min_steps=500, batch_size=50, lr=0.01)
    assert base.passes(100) == 250
    first, second = recipes(NADParams(teacher_epochs=3), base)
    assert first == base.model_copy(update={"epochs": 3, "min_steps": 0})
    assert first.passes(100) == 3
    assert second == base
    first, second = recipes(NADParams(epochs=4, batch_size=20), base)
    assert first == base.model_copy(update={"batch_size": 20})
    assert second.passes(100) == 4
    assert recipes(NADParams(epochs=0), base)[1].passes(100) == 0


def test_zero_epochs_is_identity():
    model = tiny(1)
    before = digest(model)
    assert (
        digest(NAD(NADParams(teacher_epochs=0, epochs=0)).repair_student(model, None, setting()))
        == before
    )
