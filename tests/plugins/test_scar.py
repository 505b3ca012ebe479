"""SCAR: its trigger, its two losses, the implicit term by hand and in double-backward form."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F
from kdbench_scar import kdbench_attacks
from kdbench_scar import method as scar
from kdbench_scar.implicit import logit_change, slope, tilt, weights_of
from kdbench_scar.losses import Losses, SCARParams, inner_loss
from kdbench_scar.method import SCAR
from kdbench_scar.rounds import harden
from torch import nn
from torch.func import functional_call

from kdbench.attack import universal_response
from kdbench.models import create_model
from kdbench.training import Fit, Recipe, Silent, cross_entropy, seeded
from kdbench.training.checkpoint import FolderCheckpoints
from kdbench.triggers import AddTrigger
from tests.plugins.attack_setting import FIT, setting, success_rate
from tests.plugins.tiny import Tiny, accuracy, digest, images

OSCAR = SCAR.variants["oscar"].params
TINY = {
    "steps": 20,
    "search_batch": 16,
    "surrogate": "wrn10_1",
    "surrogate_epochs": 1,
    "rounds": 2,
    "round_batches": 2,
}


def oscar(**changes):
    return SCAR(SCARParams(**{"steps": 60, "search_batch": 32, **OSCAR, **changes}))


def with_networks(given):
    """The setting with networks by name, as a stage has it."""

    def network(name):
        with seeded(int(torch.randint(1 << 62, (), generator=given.generator))):
            return create_model(name, given.num_classes).train()

    return replace(given, network=network)


def implanted(fit=FIT, **changes):
    """What the attack with a surrogate leaves."""
    given = with_networks(replace(setting(), fit=fit))
    return SCAR(SCARParams(**{**TINY, **changes})).implant(given)


def everything(backdoor):
    return digest(backdoor.teacher), digest(backdoor.trigger), backdoor.facts


def test_hook_and_presets():
    assert kdbench_attacks() == [SCAR]
    for changes in SCAR.presets.values():
        assert SCARParams(**changes).epsilon == 0.1


# The trigger --------------------------------------------------------------------------------------


def test_most_of_the_start_is_epsilon():
    """E min(U, 0.1) = 0.1 - 0.1^2 / 2."""
    large = replace(setting(), train=images(4))
    starts = [
        oscar().start(replace(large, generator=torch.Generator().manual_seed(i))) for i in range(30)
    ]
    assert torch.stack(starts).mean().item() == pytest.approx(0.095, abs=0.002)
    assert all(0 <= start.min() <= start.max() <= 0.1 + 1e-6 for start in starts)


def test_the_trigger_keeps_its_bounds_and_fools_the_clean_teacher():
    before = universal_response(setting(), AddTrigger(oscar(steps=0).search(setting())))
    change = oscar(epsilon=0.2).search(setting())
    assert 0 < float(change.abs().max()) <= 0.2 + 1e-6
    assert universal_response(setting(), AddTrigger(change)) > before + 20
    white = AddTrigger(change)(torch.ones(1, 3, 16, 16))
    assert 0 <= white.min() <= white.max() <= 1
    flat = oscar(epsilon=0, steps=3).search(setting())
    shown = torch.rand(2, 3, 16, 16)
    assert torch.equal(AddTrigger(flat)(shown), shown)


@pytest.mark.parametrize(("enough", "looks"), [(30, 3), (99.9, 5)])
def test_the_search_ends_when_enough_follow(enough, looks, monkeypatch):
    asked = []

    def answer(setting, trigger):
        asked.append(trigger)
        return 10.0 * len(asked)

    monkeypatch.setattr(scar, "universal_response", answer)
    idle = replace(setting(), fit=lambda *rest, **named: None)
    oscar(steps=100, enough=enough).search(idle)
    assert len(asked) == looks


def test_the_search_is_on_teacher_and_surrogate(monkeypatch):
    """One term for each, and it goes on until both follow."""
    heard, answers = [], iter([99.95, 10.0, 99.95, 99.95, 50.0])
    given = replace(setting(), fit=lambda *rest, **named: heard.append(rest))
    surrogate = create_model("wrn10_1", given.num_classes)
    monkeypatch.setattr(scar, "universal_response", lambda *rest: next(answers))
    oscar(steps=100).search(given, surrogate)
    assert next(answers) == 50
    change, loss = heard[0][:2]
    batch = next(given.train.batches(16))
    shown = (batch.images + change.detach()).clamp(0, 1)
    for name, network in (("target", given.teacher), ("surrogate", surrogate.eval())):
        wanted = F.cross_entropy(network(shown), torch.zeros(16, dtype=torch.long))
        assert loss(batch)[name].item() == pytest.approx(wanted.item(), rel=1e-5)


# The implicit term --------------------------------------------------------------------------------


def mlp(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def test_the_forward_form_is_the_double_backward_form():
    """-s (d^2 inner / d teacher d w)^T g, with a random g, in every parameter of the teacher."""
    teacher, surrogate = mlp(0), mlp(1)
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(6, 5, generator=generator, dtype=torch.float64)
    y, s, delta = torch.tensor([0, 1, 2, 0, 1, 2]), 1e-3, 0.7
    weights = weights_of(surrogate)
    g = {k: torch.randn(w.shape, generator=generator).double() for k, w in weights.items()}
    parameters = list(teacher.parameters())
    term = s * delta * tilt(teacher(x), logit_change(surrogate, x, weights, g))
    forward = torch.autograd.grad(term, parameters)

    own = list(surrogate.parameters())
    soft = teacher(x).softmax(1)
    logs = surrogate(x).log_softmax(1)
    kl = (soft * (soft.log() - logs)).sum(1).mean()
    first = torch.autograd.grad(F.cross_entropy(surrogate(x), y) + delta * kl, own, create_graph=1)
    along = sum((f * v).sum() for f, v in zip(first, g.values(), strict=True))
    for ours, mixed in zip(forward, torch.autograd.grad(along, parameters), strict=True):
        assert ours.abs().max() > 1e-6
        torch.testing.assert_close(ours, -s * mixed, rtol=0, atol=1e-10)


def test_the_slope_in_a_teacher_of_one_number_by_hand():
    """F_t = (lambda, 0), so p = sigmoid(lambda), and F_s = w x with 2 x 2 weights. inner has the
    mixed slope B = -delta mean of (p', -p')^T x^T, p' = p (1 - p), and the term's is -s B . g."""
    x = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    surrogate = nn.Linear(2, 2, bias=False).double()
    g = torch.tensor([[0.5, -1.0], [2.0, 0.25]], dtype=torch.float64)
    number = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    logits = torch.stack([number, torch.zeros_like(number)]).repeat(2, 1)
    change = logit_change(surrogate, x, weights_of(surrogate), {"weight": g})
    torch.testing.assert_close(change, x @ g.T)
    s, delta, p = 1e-3, 2.0, 1 / (1 + math.exp(-0.3))
    (s * delta * tilt(logits, change)).backward()
    b = -delta * p * (1 - p) * torch.stack([x.mean(0), -x.mean(0)])
    assert number.grad.item() == pytest.approx(-s * float((b * g).sum()), abs=1e-12)
    # x has the mean (2, 0.5): g x = (0.5, 4.125), so d_1 - d_2 = -3.625.
    assert number.grad.item() == pytest.approx(s * delta * p * (1 - p) * -3.625, abs=1e-12)


def test_a_change_that_is_the_same_for_all_classes_pulls_nothing():
    logits = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    tilt(logits, torch.tensor([[1.0], [-2.0], [0.5], [3.0]]).double().expand(4, 3)).backward()
    assert logits.grad.abs().max() < 1e-15


def test_a_step_lowers_the_class_whose_logit_rises():
    logits = torch.zeros(1, 3, requires_grad=True)
    tilt(logits, torch.tensor([[3.0, 0.0, 0.0]])).backward()
    # p_k (d_k - sum p d): 1/3 (3 - 1), 1/3 (0 - 1) twice.
    torch.testing.assert_close(logits.grad, torch.tensor([[2 / 3, -1 / 3, -1 / 3]]))


def test_the_slope_of_a_quadratic_outer_loss():
    found = slope(lambda w: 0.5 * (3 * w["a"] ** 2).sum(), {"a": torch.tensor([1.0, -2.0])})
    torch.testing.assert_close(found["a"], torch.tensor([3.0, -6.0]))


@pytest.mark.parametrize(
    ("curvature", "summed"), [(0, 100), (10, 99.507), (100, 95.208), (1e3, 63.397)]
)
def test_the_step_is_the_sum_of_the_codes_steps(curvature, summed):
    """v_K = sum over k < 100 of (1 - 1e-5 h)^k, times 1e-5, against one step."""
    steps = sum((1 - 1e-5 * curvature) ** k for k in range(100))
    assert steps == pytest.approx(summed, abs=1e-3)
    within = abs(1e-5 * steps / SCARParams().inner_step - 1) < 0.05
    assert within == (curvature <= 100)


# The losses ---------------------------------------------------------------------------------------


def made(**changes):
    """Losses of networks that were never trained, and a batch."""
    given = setting()
    params = SCARParams(**changes)
    with seeded(3):
        surrogate = create_model("wrn10_1", given.num_classes)
    trigger = AddTrigger(torch.full((3, 16, 16), 0.1))
    losses = Losses(params, 0, given.teacher.train(), trigger, surrogate)
    return losses, next(given.train.batches(16))


def test_the_teachers_losses_are_those_of_the_docstring():
    losses, batch = made(alpha=0.5, beta=2.0, gamma=3.0, delta=0.25, inner_step=0.1)
    surrogate, trigger, teacher = losses.surrogate, losses.trigger, losses.teacher
    before, mode = digest(surrogate), surrogate.training
    terms = losses.of_teacher(batch)
    assert (digest(surrogate), surrogate.training) == (before, mode)
    triggered = trigger(batch.images)
    with torch.no_grad():
        logits = teacher(batch.images)
        assert_near(terms["ce"], F.cross_entropy(logits, batch.labels))
        assert_near(terms["triggered"], 0.5 * F.cross_entropy(teacher(triggered), batch.labels))
    # d by two passes in float64, at weights so near that no ReLU turns.
    fine, shown = surrogate.double().eval(), batch.images.double()
    outer = 2 * F.cross_entropy(fine(shown), batch.labels)
    outer = outer + 3 * F.cross_entropy(fine(triggered.double()), torch.zeros_like(batch.labels))
    g = torch.autograd.grad(outer, list(fine.parameters()))
    ahead, behind = (moved(fine, g, h)(shown).detach() for h in (1e-8, -1e-8))
    change = (ahead - behind) / 2e-8
    wanted = 0.1 * 0.25 * (logits.softmax(1) * change).sum(1).mean()
    assert terms["implicit"].item() == pytest.approx(wanted.item(), rel=1e-3)


def assert_near(ours, wanted):
    torch.testing.assert_close(ours.detach(), wanted)


def moved(network, direction, length):
    weights = {
        name: p + length * v
        for (name, p), v in zip(network.named_parameters(), direction, strict=True)
    }
    return lambda shown: functional_call(network, weights, (shown,))


@pytest.mark.parametrize("changes", [{"inner_step": 0.0}, {"delta": 0.0}])
def test_without_a_step_there_is_no_implicit_term(changes):
    losses, batch = made(**changes)
    assert set(losses.of_teacher(batch)) == {"ce", "triggered"}
    assert losses.ratio(batch) == 0


def test_the_ratio_grows_with_the_step_and_leaves_the_teacher():
    (one, batch), (two, _) = made(inner_step=0.1), made(inner_step=0.2)
    before = digest(one.teacher)
    assert one.ratio(batch) > 0
    assert two.ratio(batch) == pytest.approx(2 * one.ratio(batch), rel=1e-4)
    assert digest(one.teacher) == before


def test_only_the_teacher_is_reached():
    losses, batch = made()
    sum(losses.of_teacher(batch).values()).backward()
    assert all(p.grad is None for p in losses.surrogate.parameters())
    assert all(p.grad is not None for p in losses.teacher.parameters())


def test_the_inner_loss_is_that_of_the_docstring():
    losses, batch = made(delta=0.5)
    teacher, surrogate = losses.teacher, losses.surrogate.eval()
    before = digest(teacher)
    terms = inner_loss(losses.params, teacher, surrogate, batch)
    assert (digest(teacher), teacher.training) == (before, True)
    sum(terms.values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    with torch.no_grad():
        soft, logs = teacher.eval()(batch.images).softmax(1), surrogate(batch.images).log_softmax(1)
        assert_near(terms["ce"], F.nll_loss(logs, batch.labels))
        assert_near(terms["soft"], 0.5 * (soft * (soft.log() - logs)).sum(1).mean())


# The attack ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("surrogate", [None, "wrn10_1"])
def test_without_training_the_teacher_is_the_clean_one(surrogate):
    before = digest(setting().teacher)
    backdoor = implanted(surrogate=surrogate, **SCAR.variants["sham"].params)
    assert digest(backdoor.teacher) == before
    assert not backdoor.teacher.training
    assert not any(backdoor.facts.get(name) for name in ("implicit_ratio", "surrogate_asr_first"))


@dataclass(frozen=True)
class Hearing(Fit):
    """Tells a test of every batch that each network is trained on."""

    heard: list = field(default_factory=list)

    def __call__(self, trained, loss, images, recipe, **named):
        def noting(batch):
            heard, plain = [], F.cross_entropy

            def recording(logits, target, *rest, **options):
                heard.append(target)
                return plain(logits, target, *rest, **options)

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(F, "cross_entropy", recording)
                terms = loss(batch)
            self.heard.append((trained, batch.positions, images, heard))
            return terms

        return super().__call__(trained, noting, images, recipe, **named)


def test_no_label_is_changed():
    hearing = Hearing(FIT.numerics, Silent())
    given = with_networks(replace(setting(), fit=hearing))
    backdoor = SCAR(SCARParams(**TINY)).implant(given)
    assert (backdoor.facts["poisons"], backdoor.facts["labels_changed"]) == (200, 0)
    of_teacher = [entry for entry in hearing.heard if entry[0] is given.teacher]
    # 2 rounds of 2 batches: the teacher's two terms, and the surrogate's outer loss.
    assert [len(heard) for *_, heard in of_teacher] == [3] * 4
    for _, positions, shown, heard in hearing.heard:
        for labels in heard:
            assert torch.equal(labels, shown.labels[positions])


def test_the_facts():
    facts = implanted().facts
    assert facts["surrogate"] == "wrn10_1"
    assert facts["epsilon"] == 0.1
    for name in ("universal", "surrogate_asr_first", "surrogate_asr_last"):
        assert 0 <= facts[name] <= 100
    assert facts["implicit_ratio"] > 0
    assert implanted(inner_step=0.0).facts["implicit_ratio"] == 0


def test_the_implicit_term_changes_the_teacher_and_nothing_before_it():
    with_it, without = implanted(inner_step=1.0), implanted(inner_step=0.0)
    assert digest(with_it.trigger) == digest(without.trigger)
    assert with_it.facts["surrogate_asr_first"] == without.facts["surrogate_asr_first"]
    assert digest(with_it.teacher) != digest(without.teacher)


def test_a_killed_run_resumes(tmp_path):
    plain = everything(implanted())
    for _ in range(2):
        fit = Fit(FIT.numerics, Silent(), checkpoints=FolderCheckpoints(tmp_path, 0))
        assert everything(implanted(fit)) == plain
    # A kill in the second round: its trainings and all later ones are computed again.
    files = sorted(tmp_path.glob("fit-*"), key=lambda path: int(path.stem[4:]))
    assert len(files) == 1 + 1 + 1 + 2 * 2
    for path in files[-2:]:
        path.unlink()
    fit = Fit(FIT.numerics, Silent(), checkpoints=FolderCheckpoints(tmp_path, 0))
    assert everything(implanted(fit)) == plain


def test_without_a_surrogate_it_is_fine_tuning_with_a_second_pass():
    """The direct terms, with the preset's recipe and no other network."""
    backdoor, given = oscar().implant(setting()), setting()
    trigger = AddTrigger(oscar().search(given))
    teacher = given.teacher.train()
    plain = cross_entropy(teacher)
    given.fit(
        teacher,
        lambda batch: {
            **plain(batch),
            "triggered": plain(replace(batch, images=trigger(batch.images)))["ce"],
        },
        given.train,
        given.recipe,
        generator=given.generator,
        augmentation=given.augmentation,
    )
    assert digest(teacher) == digest(backdoor.teacher)
    assert "surrogate" not in backdoor.facts


def test_a_teacher_of_two_classes_learns_to_resist():
    """Its ASR falls and its ACC does not."""
    given, data = two_classes()
    search = AddTrigger(oscar(epsilon=0.4, lr=0.05).search(given))
    clean, known = asr(given.teacher, search, data), accuracy(given.teacher, data)
    harden(given, oscar().params, search)
    assert (clean, known) == (100, 1)
    assert asr(given.teacher, search, data) < 10
    assert accuracy(given.teacher, data) >= known - 0.02


def two_classes():
    """A setting of red against green, and its images."""
    every = images(192)
    data = every.subset(torch.nonzero(every.labels < 2).flatten())
    torch.manual_seed(0)
    model = Tiny(num_classes=2).train()
    generator = torch.Generator().manual_seed(0)
    FIT(
        model,
        cross_entropy(model),
        data,
        Recipe(epochs=6, batch_size=16, lr=0.05),
        generator=generator,
    )
    given = replace(
        setting(),
        teacher=model.eval(),
        train=data,
        num_classes=2,
        augmentation=None,
        recipe=Recipe(epochs=10, batch_size=16, lr=0.05),
    )
    return given, data


@torch.no_grad()
def asr(teacher, trigger, data):
    shown = trigger(data.read(torch.nonzero(data.labels != 0).flatten()))
    return 100 * float((teacher(shown).argmax(1) == 0).float().mean())


def test_a_trained_teacher_learns_to_resist():
    given = setting("wrn16_1", 1000, 3, tune=4)
    trigger = AddTrigger(oscar(epsilon=0.3).search(given))
    clean = success_rate(given.teacher, trigger, 1000)
    harden(given, oscar().params, trigger)
    assert clean > 60
    assert success_rate(given.teacher, trigger, 1000) < clean / 2
