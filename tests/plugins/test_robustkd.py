"""RobustKD against hand-computed numbers."""

import numpy as np
import pydantic
import pytest
import torch
from kdbench_fkd.method import FKD
from kdbench_robustkd import method
from kdbench_robustkd.method import (
    Detoxification,
    RobustKD,
    RobustKDParams,
    additive,
    budget,
    convex,
    detoxification_loss,
    squashed,
)

from kdbench.data.tensor import TensorImages
from kdbench.models import create_model
from kdbench.models.views import Edited, FrozenTeacher
from kdbench.variance import feature_variance
from tests.plugins.tiny import accuracy, digest, distil, images, setting, tiny, trained

QUICK = {"steps": 30, "lr": 0.02, "batch_size": 32}
X = images(16).read(torch.arange(16))


def cleanse(model, seed=3, bf16=False, **params):
    return RobustKD(RobustKDParams(**(QUICK | params))).cleanse_teacher(
        model, setting(seed=seed, bf16=bf16)
    )


def group_shapes(model):
    with torch.no_grad():
        return [g.shape[1:] for g in model.features(X).groups]


def detox_of(model, params, fill=0.3):
    starts = {i - 1: torch.full((1, *group_shapes(model)[i - 1]), fill) for i in params.layers}
    return Detoxification(starts, params)


def test_zero_mask_gives_the_plain_teacher_and_student():
    state = torch.get_rng_state()
    model = cleanse(trained(0), m_max=0)
    torch.set_rng_state(state)
    plain = trained(0)
    for a, b in zip(model.eval().features(X).taps, plain.features(X).taps, strict=True):
        assert torch.equal(a, b)
    students = [tiny(1), tiny(1)]
    for teacher, student in zip((model, plain), students, strict=True):
        distil(FKD(), FrozenTeacher(teacher, "batch"), student, images())
    assert digest(students[0]) == digest(students[1])


def test_zero_offset_without_training_is_the_untouched_teacher():
    """All the machinery runs: masks at m_max / 2, an edited teacher, but nothing to add and no
    step."""
    edited, plain = cleanse(trained(0), steps=None, epochs=0, p_init="zeros"), trained(0)
    assert edited.editor.mask(2).min() == pytest.approx(0.1)
    a, b = edited.features(X), plain.features(X)
    for ours, theirs in zip(
        (*a.groups, *a.taps, a.logits), (*b.groups, *b.taps, b.logits), strict=True
    ):
        assert torch.equal(ours, theirs)


def test_global_random_state_is_untouched():
    model = trained(0)
    before = torch.get_rng_state()
    cleanse(model, p_init="randn")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("mask_param", ["elementwise_tanh", "elementwise_clamp", "scalar_fixed"])
def test_shapes_bounds_frozen_teacher_and_gradients(mask_param):
    model = trained(0)
    before, shapes = digest(model), group_shapes(model)
    edited = cleanse(model, mask_param=mask_param, lr=0.3)
    assert digest(model) == before == digest(edited.model)
    assert all(p.grad is None for p in model.parameters())
    for i in range(3):
        p, m = edited.editor.offset(i), edited.editor.mask(i)
        assert p.shape[1:] == shapes[i]
        assert p.dtype == torch.float32
        assert m.shape[1:] == ((1, 1, 1) if mask_param == "scalar_fixed" else shapes[i])
        assert m.min() >= 0
        assert m.max() <= 0.2
    assert not any(p.requires_grad for p in edited.editor.parameters())
    # Stage II: nothing of the edited teacher moves.
    teacher = FrozenTeacher(edited, "batch")
    frozen = digest(teacher.model)
    distil(FKD(), teacher, tiny(1), images(32))
    assert digest(teacher.model) == frozen
    assert all(p.grad is None for p in teacher.model.parameters())


def test_offset_shapes_of_pyramid200():
    model = create_model("pyramid200", 10)
    one = TensorImages(
        torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    )
    params = RobustKDParams(epochs=0, p_init="zeros")
    editor = RobustKD(params).cleanse_teacher(model, setting(one)).editor
    for i, shape in enumerate([(1, 384, 32, 32), (1, 704, 16, 16), (1, 1024, 8, 8)]):
        assert editor.offset(i).shape == editor.mask(i).shape == shape


@pytest.mark.parametrize("mask_param", ["elementwise_tanh", "elementwise_clamp"])
def test_both_p_and_m_get_gradients_and_move(mask_param):
    model, params = trained(0), RobustKDParams(mask_param=mask_param)
    edited = Edited(model, detox_of(model, params))
    sum(
        detoxification_loss(edited.features, next(images().batches(32)), params).values()
    ).backward()
    gradients = {name: leaf.grad.abs().sum() for name, leaf in edited.editor.named_parameters()}
    assert sorted(gradients) == ["a0", "a1", "a2", "p0", "p1", "p2"]
    assert all(g > 0 for g in gradients.values())

    start = cleanse(trained(0), steps=None, epochs=0, mask_param=mask_param).editor
    end = cleanse(trained(0), mask_param=mask_param).editor
    for i in range(3):
        assert not torch.equal(end.offset(i), start.offset(i))
        assert torch.allclose(start.mask(i), torch.tensor(0.1))
        assert end.mask(i).std() > 0.01  # each element went its own way, and not by rounding


def test_losses_fall_and_accuracy_stays():
    model, params = trained(0), RobustKDParams(steps=60, lr=0.02, batch_size=32)
    data, held_out = images(), images(seed=11)
    before = accuracy(model, held_out)
    batch = next(data.batches(96))
    identity = Edited(model, Detoxification({}, params))
    start = detoxification_loss(identity.features, batch, params)
    edited = RobustKD(params).cleanse_teacher(model, setting())
    end = detoxification_loss(edited.features, batch, params)
    assert end["variance"] < 0.95 * start["variance"]
    assert sum(end.values()) < sum(start.values())
    assert accuracy(edited, held_out) >= before - 0.02


def test_convex_shrinks_batch_variance():
    g, m = torch.randn(8, 4, 5, 5), torch.full((1, 1, 1, 1), 0.3)
    edited = convex(g, g.mean(0, keepdim=True), m)
    ratio = feature_variance(edited, "batch") / feature_variance(g, "batch")
    assert ratio.item() == pytest.approx(0.49, abs=1e-5)


def test_equations_by_hand():
    g, p, m = (
        torch.full((1, 1, 1, 1), 2.0),
        torch.full((1, 1, 1, 1), 10.0),
        torch.full((1, 1, 1, 1), 0.1),
    )
    assert additive(g, p, m).item() == pytest.approx(3.0)
    assert additive(g, p, m, -1).item() == pytest.approx(1.0)
    assert convex(g, p, m).item() == pytest.approx(2.8)
    assert squashed(torch.tensor([0.0, -50.0, 50.0]), 0.2).tolist() == pytest.approx(
        [0.1, 0.0, 0.2]
    )


def test_batch_variance_ignores_a_constant_map():
    g = torch.randn(8, 4, 5, 5, dtype=torch.float64).float()
    edited = additive(g, torch.randn(1, 4, 5, 5), torch.full((1, 1, 1, 1), 0.2))
    torch.testing.assert_close(feature_variance(edited, "batch"), feature_variance(g, "batch"))


def test_an_offset_on_the_last_group_alone_keeps_its_batch_variance():
    model = trained(0)
    plain = model.features(X).groups[2]
    moved = cleanse(model, layers=(3,), lr=0.1).features(X).groups[2]
    assert (moved - plain).abs().max() > 0.1
    assert feature_variance(moved, "global") < 0.98 * feature_variance(plain, "global")
    torch.testing.assert_close(
        feature_variance(moved, "batch"), feature_variance(plain, "batch"), rtol=1e-5, atol=0
    )


def test_only_the_product_acts():
    g, p, m = torch.randn(2, 3, 4, 4), torch.randn(1, 3, 4, 4), torch.rand(1, 3, 4, 4)
    assert torch.equal(additive(g, p, m), additive(g, 2 * p, m / 2))


class Shift(torch.nn.Module):
    """Adds to each channel of every group a constant of its own."""

    def forward(self, i, g):
        return g + torch.linspace(-1, 1, g.shape[1]).view(1, -1, 1, 1)


@pytest.mark.parametrize(
    ("name", "mode", "same"),
    [
        ("wrn16_1", "batch", True),
        ("wrn16_1", "running", False),
        ("pyramid110", "batch", True),
        ("pyramid110", "running", False),
        # its taps and its next blocks see the group as it is, before any batch norm
        ("resnet20", "batch", False),
    ],
)
def test_batch_statistics_cancel_channel_constants(name, mode, same):
    torch.manual_seed(0)
    model = create_model(name, 4)
    # A pyramid begins with blocks that add nothing. Channels without variance show rounding only.
    for module in model.modules():
        if isinstance(last := getattr(module, "last_norm", None), torch.nn.BatchNorm2d):
            torch.nn.init.ones_(last.weight)
    plain = FrozenTeacher(model, mode).features(X).taps
    moved = FrozenTeacher(Edited(model, Shift()), mode).features(X).taps
    assert [torch.allclose(a, b, rtol=0, atol=1e-4) for a, b in zip(plain, moved, strict=True)] == [
        same
    ] * 3


@pytest.mark.parametrize(
    ("mode", "axes"),
    [("global", (0, 1, 2, 3)), ("per_example", (1, 2, 3)), ("batch", 0), ("spatial", (2, 3))],
)
def test_variance_modes_against_numpy(mode, axes):
    x = np.arange(16.0).reshape(2, 2, 2, 2) ** 1.5
    got = feature_variance(torch.from_numpy(x), mode)
    assert got.item() == pytest.approx(x.var(axis=axes, ddof=1).mean(), rel=1e-5)
    assert got.dtype == torch.float32


def test_variance_by_hand():
    x = torch.arange(16.0).view(2, 2, 2, 2)
    wanted = {"global": 68 / 3, "per_example": 6.0, "batch": 32.0, "spatial": 5 / 3}
    assert {k: feature_variance(x, k).item() for k in wanted} == pytest.approx(wanted)
    assert feature_variance(torch.ones(2, 2, 1, 1), "spatial").item() == 0


def test_unused_terms_are_not_computed(monkeypatch):
    model, batch = tiny(0), next(images().batches(8))
    params = RobustKDParams(losses="ce")
    edited = Edited(model, detox_of(model, params))
    monkeypatch.setattr(method, "feature_variance", lambda *a: pytest.fail("variance computed"))
    assert set(detoxification_loss(edited.features, batch, params)) == {"ce"}
    monkeypatch.undo()
    monkeypatch.setattr(method.F, "cross_entropy", lambda *a: pytest.fail("cross-entropy computed"))
    assert set(detoxification_loss(edited.features, batch, RobustKDParams(losses="var"))) == {
        "variance"
    }


def test_variance_weight_and_layers():
    model, batch = tiny(0), next(images().batches(8))
    edited = Edited(model, detox_of(model, RobustKDParams()))
    groups = edited.features(batch.images).groups
    got = detoxification_loss(
        edited.features, batch, RobustKDParams(var_layers="all", variance_weight=3)
    )["variance"]
    torch.testing.assert_close(got, 3 * sum(feature_variance(g) for g in groups))
    got = detoxification_loss(edited.features, batch, RobustKDParams())["variance"]
    torch.testing.assert_close(got, feature_variance(groups[-1]))


def test_layers_and_detoxified_taps():
    model = tiny(0)
    edited = Edited(model, detox_of(model, RobustKDParams(layers=(3,))))
    a, b = edited.features(X), model.features(X)
    assert torch.equal(a.groups[0], b.groups[0])
    assert torch.equal(a.groups[1], b.groups[1])
    torch.testing.assert_close(a.groups[2], b.groups[2] + 0.03)  # p = .3, m = .2 / 2
    torch.testing.assert_close(a.taps[2], model.tap(2, b.groups[2] + 0.03))
    assert not torch.allclose(a.taps[2], b.taps[2])
    assert not torch.allclose(a.logits, b.logits)


def test_p_starts_at_the_mean_feature():
    model = trained(0)
    with torch.no_grad():
        wanted = model.features(images().read(torch.arange(96))).groups
    edited = cleanse(model, p_trainable=False, mask_param="scalar_fixed")
    for i in range(3):
        torch.testing.assert_close(
            edited.editor.offset(i), wanted[i].mean(0, keepdim=True), atol=1e-5, rtol=1e-4
        )
    assert not list(edited.editor.parameters())


@pytest.mark.parametrize("equation", ["additive", "convex"])
@pytest.mark.parametrize("p_init", ["mean", "randn", "zeros"])
def test_same_seed_same_result(equation, p_init):
    a, b = (cleanse(trained(0), p_init=p_init, equation=equation, steps=5) for _ in range(2))
    assert digest(a) == digest(b)


def test_budget():
    assert budget(RobustKDParams(epochs=40), 1000) == (40, 1000)
    assert budget(RobustKDParams(steps=300), 100_000) == (1, 300 * 64)
    epochs, count = budget(RobustKDParams(steps=300), 1000)  # 15 batches a pass
    assert epochs * (count // 64) == 300
    assert budget(RobustKDParams(steps=10), 20) == (10, 20)


def test_runs_under_bfloat16_and_presets_are_valid():
    edited = cleanse(trained(0), bf16=True, init_images=10)
    assert edited.editor.offset(0).dtype == torch.float32
    for preset in RobustKD.presets.values():
        RobustKDParams(**preset)
    for bad in ({"layers": ()}, {"layers": (1, 1)}, {"layers": (4,)}):
        with pytest.raises(pydantic.ValidationError):
            RobustKDParams(**bad)


def test_shuffled_offset_keeps_every_channels_values_and_not_their_places():
    learned, shuffled = cleanse(trained(0)), cleanse(trained(0), offset="shuffled")
    for i in range(3):
        for a, b in zip(
            *[(d.editor.offset(i), d.editor.mask(i)) for d in (learned, shuffled)], strict=True
        ):
            assert torch.equal(a.flatten(2).sort().values, b.flatten(2).sort().values)
        q = [d.editor.offset(i) * d.editor.mask(i) for d in (learned, shuffled)]
        assert not torch.equal(*q)
        torch.testing.assert_close(q[0].norm(), q[1].norm())  # p and m move together


def test_learning_on_batch_statistics_moves_no_buffer_and_finds_another_offset():
    model = trained(0)
    before = digest(model)
    edited = cleanse(model, bn_learning="batch")
    assert digest(edited.model) == before
    assert not any(module.training for module in edited.modules())
    assert not torch.equal(edited.editor.offset(2), cleanse(trained(0)).editor.offset(2))


def test_handed_on_with_stored_statistics():
    edited = cleanse(trained(0), bn_handed_on="running")
    assert FrozenTeacher(edited, "batch").batch_norm == "running"
    assert torch.equal(
        FrozenTeacher(edited, "batch").features(X).taps[2], edited.features(X).taps[2]
    )
    assert FrozenTeacher(cleanse(trained(0)), "batch").batch_norm == "batch"
