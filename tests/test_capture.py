"""Passes replayed as CUDA graphs: when they are and when not; on a GPU, that they are the network's
own."""

import copy
from contextlib import nullcontext

import pytest
import torch
from kdbench_robustkd.method import Detoxification, RobustKDParams

from kdbench._cuda_graphs import ForwardBackward, gradients_of, reached_by
from kdbench.capture import Pass, _Flat, _kept_buffers, _outcome
from kdbench.models import create_model
from kdbench.models.views import Edited, FrozenTeacher
from kdbench.numerics import Numerics, choose_numerics

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SHAPE = (8, 3, 16, 16)


class Graph:
    """What a CUDA graph does, by running the function again."""

    def __init__(self, run):
        self.run, self.replays = run, 0

    def replay(self):
        self.replays += 1
        self.run()


def both(flat, images):
    """A captured pass without a GPU: memory of its own that every replay overwrites."""
    parameters = [p for p in flat.parameters() if p.requires_grad]
    shown, live = images.clone(), {}
    found = tuple(torch.empty_like(t, requires_grad=False) for t in flat(shown))
    output_grads = tuple(torch.zeros_like(t) for t in found)
    gradients = tuple(torch.empty_like(p) for p in parameters)
    reached = reached_by(flat(shown), parameters)

    def forward():
        with torch.enable_grad():
            live["found"] = flat(shown)
        for held, t in zip(found, live["found"], strict=True):
            held.copy_(t.detach())

    def backward():
        for held, g in zip(
            gradients, gradients_of(live["found"], parameters, output_grads), strict=True
        ):
            held.copy_(g)

    return ForwardBackward(
        Graph(forward), Graph(backward), shown, found, output_grads, gradients, parameters, reached
    )


@pytest.fixture
def captured(monkeypatch):
    """A network, its pass and a function that says how often it was replayed since it was compared
    with the network."""
    monkeypatch.setattr(
        "kdbench.capture.record_forward_backward",
        lambda flat, shown, parameters, reached: both(flat, shown),
    )
    monkeypatch.setattr("kdbench.capture._side_stream", nullcontext)
    monkeypatch.setattr("torch.cuda.device", lambda device: nullcontext())
    torch.manual_seed(0)
    model = create_model("wrn16_1", 5).train()
    run = Pass(model, Numerics())
    run._usable = True
    return model, run, lambda: run._graph._forward.replays - 1


def test_on_a_cpu_it_is_the_network_itself():
    model = create_model("wrn16_1", 5).train()
    run = Pass(model, Numerics())
    assert not run._usable
    assert torch.equal(run.logits(torch.ones(SHAPE)), model(torch.ones(SHAPE)))


def test_each_batch_of_the_first_shape_is_replayed(captured):
    _, run, replays = captured
    for _ in range(3):
        run(torch.rand(SHAPE)).logits.sum().backward()
    assert replays() == 3


@pytest.mark.parametrize("order", [("taps", "logits", "taps"), ("logits", "taps", "logits")])
def test_training_is_what_it_is_without_graphs(captured, order):
    model, run, replays = captured
    own = copy.deepcopy(model)
    for used in order:  # what one loss left out must not be taken from the loss before
        images = torch.rand(SHAPE)
        for network, features in ((own, own.features), (model, run)):
            network.zero_grad(set_to_none=True)
            out = features(images)
            (out.logits if used == "logits" else out.taps[1]).square().sum().backward()
        for one, other in zip(own.parameters(), model.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None)
            if one.grad is not None:
                torch.testing.assert_close(other.grad, one.grad)
    assert replays() == 3


def test_the_stem_is_captured_with_the_groups(captured):
    model, run, replays = captured
    own = copy.deepcopy(model)
    for images in (torch.rand(SHAPE), torch.rand(SHAPE)):
        outputs = own.features(images), run(images)
        torch.testing.assert_close(outputs[1].stem, outputs[0].stem)
        torch.testing.assert_close(outputs[1].logits, outputs[0].logits)
        for network, out in zip((own, model), outputs, strict=True):
            network.zero_grad(set_to_none=True)
            out.stem.square().mean().backward()
        torch.testing.assert_close(model.stem.weight.grad, own.stem.weight.grad)
        assert model.fc.weight.grad is None
    assert replays() == 2


def test_gradients_are_copies_and_add_up(captured):
    model, run, _ = captured
    weight = model.fc.weight
    batches = [torch.rand(SHAPE), torch.rand(SHAPE)]
    for images in batches:
        run(images).logits.sum().backward()
    together = weight.grad.clone()
    apart = []
    for images in batches:
        weight.grad = None
        run(images).logits.sum().backward()
        apart.append(weight.grad)
    torch.testing.assert_close(apart[0] + apart[1], together)


def test_a_second_pass_before_the_backward_one_is_the_networks_own(captured):
    _, run, replays = captured
    first = run(torch.rand(SHAPE))
    second = run(torch.rand(SHAPE))
    assert replays() == 1
    (first.logits.sum() + second.logits.sum()).backward()
    run(torch.rand(SHAPE))
    assert replays() == 2


def test_a_pass_that_nobody_goes_back_through_does_not_stay_open(captured):
    _, run, replays = captured
    run(torch.rand(SHAPE))
    run(torch.rand(SHAPE))
    assert replays() == 2


def test_a_batch_may_be_gone_back_through_twice_but_not_once_it_is_overwritten(captured):
    model, run, _ = captured
    out = run(torch.rand(SHAPE))
    (once,) = torch.autograd.grad(out.logits.sum(), [model.fc.weight], retain_graph=True)
    out.logits.sum().backward(retain_graph=True)
    torch.testing.assert_close(model.fc.weight.grad, once)
    run(torch.rand(SHAPE))
    with pytest.raises(RuntimeError, match="overwritten"):
        out.logits.sum().backward()


def change_shape(model):
    return torch.rand(4, *SHAPE[1:])


def change_mode(model):
    model.final_norm.eval()


def add_hook(model):
    model.fc.register_forward_hook(lambda *_: None)


def freeze(model):
    model.fc.weight.requires_grad_(False)


@pytest.mark.parametrize("change", [change_shape, change_mode, add_hook, freeze])
def test_what_the_graph_does_not_fit_is_the_networks_own(captured, change):
    model, run, replays = captured
    run(torch.rand(SHAPE)).logits.sum().backward()
    images = change(model)
    run(torch.rand(SHAPE) if images is None else images)
    assert replays() == 1


@pytest.mark.parametrize("context", ["autocast", "no gradients", "images that learn"])
def test_so_is_a_pass_of_another_kind(captured, context):
    _, run, replays = captured
    run(torch.rand(SHAPE)).logits.sum().backward()
    images = torch.rand(SHAPE, requires_grad=context == "images that learn")
    with (
        torch.set_grad_enabled(context != "no gradients"),
        torch.autocast("cpu", torch.bfloat16, enabled=context == "autocast"),
    ):
        run(images)
    assert replays() == 1


def test_what_is_handed_out_stays_what_it_is(captured):
    _, run, _ = captured
    first = run(torch.rand(SHAPE))
    held = [t.detach().clone() for t in (*first.groups, *first.taps, first.logits)]
    first.logits.sum().backward()
    run(torch.rand(SHAPE))
    for t, was in zip((*first.groups, *first.taps, first.logits), held, strict=True):
        assert torch.equal(t, was)


def compared(spoil):
    """A network's own outcome, and that of a capture that ``spoil`` has broken."""
    torch.manual_seed(0)
    model = create_model("wrn16_1", 5).train()
    flat, images, learning = _Flat(model), torch.rand(SHAPE), list(model.parameters())
    before = copy.deepcopy(model.state_dict())
    with _kept_buffers(model):
        own = _outcome(flat, 1 - images, learning)
        replayed = _outcome(spoil(both(flat, images), model, images), 1 - images, learning)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return own.agrees(replayed)


def stale_images(graph, model, images):
    graph._images = images.clone()
    return graph


def stale_weights(graph, model, images):
    """As casts of weights that were cached before the capture."""
    return both(_Flat(copy.deepcopy(model)), images)


def stale_gradients(graph, model, images):
    graph._backward.run = lambda: [g.copy_(torch.ones_like(g)) for g in graph._gradients]
    return graph


def missing_gradient(graph, model, images):
    graph._reached = [of_one - {0} for of_one in graph._reached]
    return graph


def test_a_faithful_capture_agrees_with_the_network():
    assert compared(lambda graph, model, images: graph)


@pytest.mark.parametrize("spoil", [stale_images, stale_weights, stale_gradients, missing_gradient])
def test_a_capture_that_computes_something_else_does_not(spoil):
    assert not compared(spoil)


def test_what_overflows_is_no_difference():
    model = create_model("wrn16_1", 5).eval().requires_grad_(False)
    model.fc.weight.fill_(float("inf"))
    own = _outcome(_Flat(model), torch.rand(SHAPE), [])
    # the features are finite, and others
    assert own.agrees(_outcome(_Flat(model), torch.rand(SHAPE) / 100, [])) is False
    assert own.agrees(own)


def test_a_pass_is_compared_before_it_is_used(captured, monkeypatch):
    _, run, _ = captured
    stale = copy.deepcopy(run._model)
    monkeypatch.setattr(
        "kdbench.capture.record_forward_backward",
        lambda flat, shown, parameters, reached: both(_Flat(stale), shown),
    )
    with pytest.warns(RuntimeWarning, match="gives other features or gradients"):
        run(torch.rand(SHAPE))
    assert run._graph is None
    run(torch.rand(SHAPE))
    assert all(
        torch.equal(p, was)
        for p, was in zip(run._model.parameters(), stale.parameters(), strict=True)
    )
    assert run._model.final_norm.num_batches_tracked == 2  # of the two passes, and of no comparison


def test_where_nothing_can_be_captured_it_is_the_network_itself_and_says_so(monkeypatch):
    def fail(self, images):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Pass, "_capture", fail)
    model = create_model("wrn16_1", 5).eval()
    run = Pass(model, Numerics())
    run._usable = True
    images = torch.rand(SHAPE)
    with pytest.warns(
        RuntimeWarning, match="WideResNet is computed without CUDA graphs, .*: CUDA out of memory"
    ):
        first = run.logits(images)
    assert torch.equal(first, model(images))
    assert torch.equal(run.logits(images), first)  # without another try


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


def detoxified(*layers):
    """A frozen network whose features are edited by what learns."""
    model = create_model("wrn16_2", 10).eval().requires_grad_(False)
    starts = {
        i: torch.rand(1, c, side, side)
        for i, (c, side) in enumerate(zip((32, 64, 128), (32, 16, 8), strict=True))
    }
    starts = {i: start for i, start in starts.items() if i + 1 in layers}
    return Edited(model, Detoxification(starts, RobustKDParams(layers=layers))).eval()


def test_features_before_the_first_edit_have_no_gradients(captured):
    edited = detoxified(3)
    own, run = copy.deepcopy(edited), Pass(edited, Numerics())
    run._usable = True
    for used in ("logits", "groups"):
        images = torch.rand(4, 3, 32, 32)
        for network, features in ((own, own.features), (edited, run)):
            network.zero_grad(set_to_none=True)
            out = features(images)
            (out.logits if used == "logits" else sum(t.sum() for t in out.groups)).sum().backward()
        for one, other in zip(own.parameters(), edited.parameters(), strict=True):
            assert (one.grad is None) == (other.grad is None)
            if one.grad is not None:
                torch.testing.assert_close(other.grad, one.grad)
    assert run._graph._forward.replays == 3


@needs_gpu
@pytest.mark.parametrize(
    "name", ["wrn16_2", "resnet20", "pyramid110", "detoxified", "detoxified at last"]
)
@pytest.mark.parametrize("arithmetic", ["bf16", "fp32"])
def test_on_a_gpu_training_is_what_it_is_without_graphs(name, arithmetic):
    numerics = choose_numerics("cuda", arithmetic)
    torch.manual_seed(0)
    layers = {"detoxified": (1, 2, 3), "detoxified at last": (3,)}.get(name)
    own = numerics.place(create_model(name, 10).train() if layers is None else detoxified(*layers))
    graphed = copy.deepcopy(own)
    run = Pass(graphed, numerics)
    learned = [[p for p in model.parameters() if p.requires_grad] for model in (own, graphed)]
    # what one loss left out must not be taken from the loss before
    for used in ("all", "all", "logits", "all"):
        images = torch.rand((32, 3, 32, 32), device="cuda").contiguous(
            memory_format=torch.channels_last
        )
        gradients = []
        for parameters, features in zip(learned, (own.features, run), strict=True):
            with numerics.autocast():
                out = features(images)
                loss = out.logits.square().mean()
                if used == "all":
                    loss = loss + sum(t.float().square().mean() for t in out.taps)
            for p in parameters:
                p.grad = None
            loss.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in parameters]))
        assert run._graph is not None
        assert not run._graph.open
        most = 0.03 if arithmetic == "bf16" else 1e-4
        assert (gradients[0] - gradients[1]).norm() < most * gradients[0].norm()
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
            for one, other in zip(
                (*expected.taps, expected.logits), (*found.taps, found.logits), strict=True
            ):
                torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
