"""Neural Cleanse against hand-computed numbers."""

import copy
import math
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from kdbench_nc.inversion import Budget, Found, Search, invert, squash, unsquash
from kdbench_nc.method import NC, NCParams, suspicion
from torch import Tensor, nn

from kdbench.data.tensor import TensorImages
from kdbench.training import Fit, Recipe, Silent
from kdbench.training.checkpoint import FolderCheckpoints
from tests.plugins.planted import backdoored, corner_asr
from tests.plugins.tiny import accuracy, digest, images, setting, tiny, trained

SHORT = {"steps": 8, "restarts": 1, "patience": 2, "success": 0.6}


@cache
def _trained():
    return trained(1)


def network():
    return copy.deepcopy(_trained())


def method(**params):
    return NC(NCParams(**(SHORT | params)))


def gray(count=64, noise=0):
    g = torch.Generator().manual_seed(0)
    pixels = 128 + torch.randint(-noise, noise + 1, (count, 3, 8, 8), generator=g)
    return TensorImages(pixels.to(torch.uint8), torch.arange(count) % 4)


def search(classes=(0,), family="patch", **budget):
    budget = Budget(**({"steps": 10} | budget))
    return Search(torch.tensor(classes), (3, 8, 8), family, budget, range(len(classes)))


def inverted(model, data, classes, family="patch", seed=0, loop=None, **budget):
    return invert(
        model.eval().requires_grad_(False),
        data,
        classes,
        family,
        Budget(**budget),
        fit=loop or Fit(setting().numerics, Silent()),
        generator=torch.Generator().manual_seed(seed),
    )


class OnePixel(nn.Module):
    """Takes everything for class 0, unless one pixel is bright: then for class 2."""

    def forward(self, x: Tensor) -> Tensor:
        logits = torch.zeros(len(x), 4)
        logits[:, 0] = 5
        bright = x[:, :, 3, 5].mean(1)
        return logits + F.one_hot(torch.tensor(2), 4) * (40 * (bright - 0.7) + 5)[:, None]


class Correlation(nn.Module):
    """Takes an image for class 1 if it looks more than a tenth like a fixed pattern of 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(5)
        self.pattern = torch.randint(0, 2, (3, 8, 8), generator=g).float()

    def forward(self, x: Tensor) -> Tensor:
        # On a gray image that is blended with the pattern at opacity a, this is a.
        like = 2 * ((x - 0.5) * (2 * self.pattern - 1)).mean((1, 2, 3))
        return torch.stack([torch.zeros(len(x)), 400 * (like - 0.1)], 1)


def test_the_squashed_range_by_hand():
    assert squash(torch.tensor(1.0)).item() == pytest.approx(0.8807971, abs=1e-6)
    values = torch.tensor([0.01, 0.3, 0.9])
    torch.testing.assert_close(squash(unsquash(values)), values)


def test_a_planted_pixel_is_found():
    (found,) = inverted(OnePixel(), gray(noise=20), [2], steps=300, batch_size=32)
    assert found.success >= 0.99
    assert found.size < 1.5
    assert found.mask.sum().item() == pytest.approx(found.size, rel=1e-4)
    assert found.mask[0, 3, 5] >= 0.9 * found.mask.sum()
    assert (OnePixel()(found.on(gray().read(torch.arange(64)))).argmax(1) == 2).all()


def test_a_planted_blend_is_found():
    model = Correlation()
    (found,) = inverted(
        model, gray(), [1], "blend", steps=200, batch_size=64, threshold=0.95, cost=1.0
    )
    assert found.success >= 0.95
    assert found.size == pytest.approx(0.1, rel=0.2)
    assert found.mask.mean().item() == pytest.approx(found.size, rel=1e-4)
    assert ((found.pattern > 0.5) == (model.pattern > 0.5)).float().mean() > 0.9


def test_a_class_that_nothing_reaches_has_no_trigger():
    """Class 3 of the planted network is reached by no image."""
    (found,) = inverted(OnePixel(), gray(), [3], steps=20)
    assert found.size == math.inf
    assert found.success == 0


def test_masks_of_zero_and_one():
    x = torch.rand(2, 3, 8, 8)
    p = torch.rand(3, 8, 8)
    assert torch.equal(Found(torch.zeros(1, 8, 8), p, 1, 0).on(x), x)
    assert torch.equal(Found(torch.ones(1, 8, 8), p, 1, 64).on(x), p.expand_as(x))


def step(s, success):
    s.hits, s.seen = torch.tensor([float(success)]), torch.ones(1)
    s.end_step()


def test_the_cost_by_hand():
    s = search()
    for _ in range(4):
        step(s, 1)
    assert s.cost.item() == 0
    step(s, 0)
    for _ in range(5):
        assert s.cost.item() == 0, "it starts after five in a row"
        step(s, 1)
    assert s.cost.item() == pytest.approx(1e-3)
    assert s.raised.item() == 0
    for _ in range(5):
        step(s, 1)
    assert s.cost.item() == pytest.approx(2e-3)
    for _ in range(5):
        step(s, 0)
    assert s.cost.item() == pytest.approx(7.0711e-4, rel=1e-4)
    assert (s.raised.item(), s.lowered.item()) == (1, 1)


def test_only_triggers_with_enough_success_are_kept():
    s = search()
    step(s, 0.98)
    assert s.found(0).size == math.inf
    step(s, 0.99)
    first = s.found(0)
    assert first.size == pytest.approx(s.size().item())
    assert first.success == pytest.approx(0.99)
    with torch.no_grad():
        s.raw_mask += 1
    step(s, 1)
    assert s.found(0).size == first.size, "a larger one is not kept"
    with torch.no_grad():
        s.raw_mask -= 2
    step(s, 1)
    assert s.found(0).size < first.size


def test_a_class_stops_without_progress():
    s = search(stop=3, patience=1)
    for success in (1, 1, 0, 1):
        step(s, success)
    assert (s.raised.item(), s.lowered.item(), s.stale.item()) == (1, 1, 3)
    assert not s.running()
    with torch.no_grad():
        s.raw_mask -= 2
    kept = s.found(0).size
    step(s, 1)
    assert s.found(0).size == kept, "what comes after the stop is not kept"


def test_the_loss_by_hand():
    """Two classes, of which each has one image in the batch that does not count."""
    model, data = tiny(1), images(4)
    s = Search(torch.tensor([0, 2]), (3, 16, 16), "patch", Budget(steps=1), (1, 2))
    s.cost = torch.tensor([0.5, 0.25])
    batch = next(data.batches(4))
    terms = s.loss(model, batch)
    expected, hits = 0.0, []
    for j, k in enumerate((0, 2)):
        found = Found(s.mask()[j], squash(s.raw_pattern)[j], 0, 0)
        others = batch.labels != k
        logits = model(found.on(batch.images[others]))
        expected += F.cross_entropy(logits, torch.full((3,), k)).item()
        hits.append((logits.argmax(1) == k).sum().item())
    assert terms["ce"].item() == pytest.approx(expected, rel=1e-4)
    sizes = [squash(s.raw_mask)[j].sum().item() for j in (0, 1)]
    assert terms["size"].item() == pytest.approx(0.5 * sizes[0] + 0.25 * sizes[1], rel=1e-5)
    assert s.hits.tolist() == hits
    assert s.seen.tolist() == [3, 3]


def test_the_result_of_a_class_does_not_depend_on_the_others(monkeypatch):
    monkeypatch.setattr("kdbench_nc.inversion.AT_ONCE", 64)  # two searches at once
    asked = {"steps": 6, "batch_size": 32, "threshold": 0.5, "patience": 1, "restarts": 2}
    together = inverted(network(), images(), range(4), **asked)
    for k in (0, 3):
        (alone,) = inverted(network(), images(), [k], **asked)
        assert alone.size == pytest.approx(together[k].size, rel=1e-3)
        torch.testing.assert_close(alone.mask, together[k].mask, atol=1e-3, rtol=1e-3)


def test_the_smallest_trigger_of_several_searches_is_taken(monkeypatch):
    sizes, found = [], Search.found
    monkeypatch.setattr(Search, "found", lambda self, j: sizes.append(found(self, j)) or sizes[-1])
    asked = {"steps": 10, "threshold": 0.5, "patience": 1, "restarts": 3}
    best = inverted(network(), images(), [0, 3], **asked)
    assert len({one.size for one in sizes}) == 6, "each starts elsewhere"
    assert [one.size for one in best] == [min(s.size for s in sizes[i : i + 3]) for i in (0, 3)]


def test_suspicion_by_hand():
    assert suspicion([*range(40, 49), 8])[9] == pytest.approx(9.578, abs=1e-3)
    index = suspicion([*range(10, 100, 10), 5])
    assert index[9] == pytest.approx(1.079, abs=1e-3)
    assert suspicion([7.0] * 5) == [0.0] * 5
    # Two classes without a trigger count in no median, and are as little suspicious as the least.
    index = suspicion([math.inf, *range(40, 49), 8, math.inf])
    assert index[10] == pytest.approx(9.578, abs=1e-3)
    assert index[0] == index[11] == min(index) < 0
    assert suspicion([math.inf] * 3) == [0.0] * 3
    assert suspicion([math.inf, 4.0]) == [0.0, 0.0]


@pytest.mark.parametrize(
    ("params", "sizes", "expected"),
    [
        ({}, [*range(40, 49), 8], [9]),
        ({"classes": 3}, [9.0, math.inf, 2.0], [2, 0]),
        ({"classes": 0}, [9.0, 2.0], []),
        ({}, [math.inf, math.inf], []),
        ({"flag": "index"}, [*range(40, 49), 8], [9]),
        ({"flag": "index"}, [*range(10, 100, 10), 5], []),
        ({"flag": "index", "classes": 9}, [41, 42, 43, 44, 45, 1, 46, 2, 47], [5, 7]),
        ({"flag": "index"}, [7.0] * 5, []),
    ],
)
def test_who_is_flagged(params, sizes, expected):
    generator = torch.Generator().manual_seed(0)
    assert method(**params).targets(sizes, suspicion(sizes), generator) == expected


def test_the_control_draws_among_the_classes_that_have_a_trigger():
    sizes = [5.0, math.inf, 3.0, 4.0]
    first = set()
    for seed in range(30):
        generator = torch.Generator().manual_seed(seed)
        first |= {*method(flag="random").targets(sizes, suspicion(sizes), generator)}
    assert first == {0, 2, 3}
    seeded = torch.Generator().manual_seed(1)
    assert sorted(method(flag="random", classes=9).targets(sizes, [0.0] * 4, seeded)) == [0, 2, 3]


def with_triggers(monkeypatch, sizes, success=1.0):
    found = [Found(torch.zeros(1, 16, 16), torch.zeros(3, 16, 16), success, u) for u in sizes]
    monkeypatch.setattr(NC, "triggers", lambda *_: found)
    return found


def test_where_nothing_is_flagged_the_network_is_returned_as_it_was(monkeypatch):
    with_triggers(monkeypatch, [5.0, 5.1, 4.9, 5.0])
    model, reported = network(), []
    before = digest(model)
    given = replace(setting(), report=reported.append)
    assert method(flag="index").repair(model, given) is model
    assert digest(model) == before
    assert reported[0].flagged == ()
    assert reported[0].score == max(reported[0].per_class)


def test_that_share_of_a_batch_gets_the_trigger(monkeypatch):
    marks = [Found(torch.ones(1, 16, 16), torch.full((3, 16, 16), v), 1, 1) for v in (0.0, 1.0)]
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(x)
            return torch.zeros(len(x), 4, requires_grad=True)

    batch = next(images().batches(96))
    before = batch.images.clone()
    torch.manual_seed(0)
    terms = method(share=0.25).unlearning(Watching(), marks)(batch)
    assert torch.equal(batch.images, before), "the batch itself is not changed"
    (x,) = seen
    black, white = ((x == v).flatten(1).all(1) for v in (0, 1))
    assert int(black.sum() + white.sum()) == 24
    assert min(int(black.sum()), int(white.sum())) > 4
    rest = ~(black | white)
    assert torch.equal(x[rest], before[rest])
    assert terms["ce"].item() == pytest.approx(math.log(4), rel=1e-5)


def test_a_planted_backdoor_is_found_and_unlearned():
    model, reported = copy.deepcopy(backdoored()), []
    assert corner_asr(model) > 0.9
    given = replace(setting(epochs=6, lr=0.02), report=reported.append)
    torch.manual_seed(0)
    NC(NCParams(steps=80, restarts=1, search_batch=32)).repair(model, given)
    assert reported[0].flagged == (2,)
    assert reported[0].per_class[2] == max(reported[0].per_class)
    assert corner_asr(model) < 0.45
    assert accuracy(model, images(seed=9)) > 0.9


def test_the_search_changes_nothing_of_the_network():
    model = network()
    before = digest(model)
    method().triggers(model, setting())
    assert digest(model) == before
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert digest(method(classes=0).repair(model, setting())) == before


def test_a_killed_run_resumes(tmp_path):
    def run(loop):
        torch.manual_seed(0)
        reported = []
        given = replace(setting(), fit=loop, report=reported.append)
        return digest(method().repair(network(), given)), reported

    numerics = setting().numerics
    plain = run(Fit(numerics, Silent()))
    for _ in range(2):
        again = run(Fit(numerics, Silent(), checkpoints=FolderCheckpoints(tmp_path, 0)))
        assert plain == again
    assert plain[1][0].flagged


def test_the_authors_numbers():
    p = NCParams(**NC.presets["paper"])
    assert p.budget() == Budget(steps=1000, restarts=2)
    assert (p.images, p.threshold, p.share) == (1000, 2.0, 0.2)
    assert NCParams(family="blend").budget().cost == 1.0
    assert NCParams(family="blend", cost=0.1).budget().cost == 0.1
    base = Recipe(epochs=2, min_steps=50, batch_size=64, lr=0.1, schedule="onecycle")
    assert p.recipe(base) == Recipe(
        epochs=100, batch_size=256, lr=0.01, nesterov=False, schedule="cosine", weight_decay=5e-4
    )
