"""Passes replayed as CUDA graphs: when they are and when not; on a GPU, that they are the network's own."""

import copy

import pytest
import torch
from kdbench_robustkd.method import Detoxification, RobustKDParams

from kdbench.capture import Pass, _Flat, _kept_buffers
from kdbench.models import create_model
from kdbench.models.views import Edited, FrozenTeacher
from kdbench.numerics import Numerics, choose_numerics

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPE = (8, 3, 16, 16)


class OneNode(torch.autograd.Function):
    """What a capture with its backward pass is to autograd."""

    @staticmethod
    def forward(ctx, parameter, *found):
        return tuple(t.detach() for t in found)

    @staticmethod
    def backward(ctx, *grads):
        return torch.zeros(()), *(None for _ in grads)


@pytest.fixture
def counted(monkeypatch):
    """A pass whose "graph" is the network itself, and how often it was replayed."""
    replays = []

    def capture(self, images):
        flat = _Flat(self._model)
        parameter = torch.zeros((), requires_grad=True)
        return lambda batch: (replays.append(1), OneNode.apply(parameter, *flat(batch)))[1]

    monkeypatch.setattr(Pass, "_capture", capture)
    model = create_model("wrn16_1", 5).train()
    run = Pass(model, Numerics())
    run._usable = True
    return model, run, replays


def test_on_a_cpu_it_is_the_network_itself():
    model = create_model("wrn16_1", 5).train()
    run = Pass(model, Numerics())
    assert not run._usable
    assert torch.equal(run.logits(torch.ones(SHAPE)), model(torch.ones(SHAPE)))


def test_each_batch_of_the_first_shape_is_replayed(counted):
    _, run, replays = counted
    for _ in range(3):
        run(torch.rand(SHAPE)).logits.sum().backward()
    assert len(replays) == 3


def test_a_second_pass_before_the_backward_one_is_the_networks_own(counted):
    _, run, replays = counted
    first = run(torch.rand(SHAPE))
    second = run(torch.rand(SHAPE))
    assert len(replays) == 1
    (first.logits.sum() + second.logits.sum()).backward()
    run(torch.rand(SHAPE))
    assert len(replays) == 2


def test_a_loss_without_the_logits_closes_the_pass_too(counted):
    _, run, replays = counted
    for _ in range(2):
        run(torch.rand(SHAPE)).groups[0].sum().backward()
    assert len(replays) == 2


@pytest.mark.parametrize("change", ["shape", "mode", "autocast", "no gradients", "images that learn"])
def test_what_the_graph_does_not_fit_is_the_networks_own(counted, change):
    model, run, replays = counted
    run(torch.rand(SHAPE)).logits.sum().backward()
    model.train(change != "mode")
    images = torch.rand((4 if change == "shape" else 8, *SHAPE[1:]), requires_grad=change == "images that learn")
    with torch.set_grad_enabled(change != "no gradients"), torch.autocast("cpu", torch.bfloat16, enabled=change == "autocast"):
        run(images)
    assert len(replays) == 1


def test_what_is_handed_out_is_a_copy(counted):
    _, run, _ = counted
    held = run(torch.rand(SHAPE))
    assert {t.grad_fn.name() for t in (*held.groups, *held.taps, held.logits)} == {"CloneBackward0"}


def test_capturing_leaves_buffers_where_they_were():
    model = create_model("wrn16_1", 5).train()
    before = copy.deepcopy(model.state_dict())
    with _kept_buffers(model):
        model(torch.rand(SHAPE))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_edited_network_can_be_captured_if_its_editor_says_so():
    class Half(torch.nn.Module):
        def forward(self, i, g):
            return g / 2

    edited = Edited(create_model("wrn16_1", 5), Half())
    assert not edited.capturable
    edited.editor.capturable = True
    assert edited.capturable
    assert not create_model("timm/resnet10t", 5, image_size=32).capturable


def detoxified():
    """A frozen network whose features are edited by what learns."""
    model = create_model("wrn16_2", 10).eval().requires_grad_(False)
    starts = {i: torch.rand(1, c, side, side) for i, (c, side) in enumerate(zip((32, 64, 128), (32, 16, 8), strict=True))}
    return Edited(model, Detoxification(starts, RobustKDParams())).eval()


@needs_gpu
@pytest.mark.parametrize("name", ["wrn16_2", "resnet20", "pyramid110", "detoxified"])
@pytest.mark.parametrize("arithmetic", ["bf16", "fp32"])
def test_on_a_gpu_training_is_what_it_is_without_graphs(name, arithmetic):
    numerics = choose_numerics("cuda", arithmetic)
    torch.manual_seed(0)
    own = numerics.place(detoxified() if name == "detoxified" else create_model(name, 10).train())
    graphed = copy.deepcopy(own)
    run = Pass(graphed, numerics)
    learned = [[p for p in model.parameters() if p.requires_grad] for model in (own, graphed)]
    for _ in range(4):
        images = torch.rand((32, 3, 32, 32), device="cuda").contiguous(memory_format=torch.channels_last)
        slopes = []
        for parameters, features in zip(learned, (own.features, run), strict=True):
            with numerics.autocast():
                out = features(images)
                loss = out.logits.square().mean() + sum(t.float().square().mean() for t in out.taps)
            for p in parameters:
                p.grad = None
            loss.backward()
            slopes.append(torch.cat([p.grad.flatten() for p in parameters]))
        assert run._replay is not None
        assert (slopes[0] - slopes[1]).norm() < (0.03 if arithmetic == "bf16" else 1e-4) * slopes[0].norm()
        with torch.no_grad():
            for one, other in zip(*learned, strict=True):
                one -= 0.01 * one.grad
                other.copy_(one)
    for one, other in zip(own.buffers(), graphed.buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=1e-3)


@needs_gpu
def test_on_a_gpu_a_frozen_teachers_pass_is_its_own():
    numerics = choose_numerics("cuda", "auto")
    teacher = FrozenTeacher(numerics.place(create_model("wrn28_4", 10)), "batch")
    run = Pass(teacher.model, numerics)
    with torch.no_grad(), numerics.autocast():
        held = [(images, run(images)) for images in torch.rand((3, 32, 3, 32, 32), device="cuda")]
        for images, found in held:
            expected = teacher.features(images)
            for one, other in zip((*expected.taps, expected.logits), (*found.taps, found.logits), strict=True):
                torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
