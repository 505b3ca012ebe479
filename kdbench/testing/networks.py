"""The checks of a network, with fresh weights and after a few training steps."""

from __future__ import annotations

import importlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdbench._counted import counted
from kdbench.data.base import Batch
from kdbench.errors import KdbenchError
from kdbench.models.base import GROUPS, FeatureModel, FeatureOutput
from kdbench.models.named import check_network
from kdbench.models.soundness import check_groups
from kdbench.models.views import FrozenTeacher
from kdbench.testing import scene
from kdbench.testing.checks import NotApplicableError, check, ensure
from kdbench.testing.subjects import NetworkSubject, loss_of

_Norm = nn.modules.batchnorm._BatchNorm


def _fresh(subject: NetworkSubject) -> FeatureModel:
    """The network under seed 0. No check may change it."""
    return subject.once("fresh", subject.build)


@torch.no_grad()
def _features(model: FeatureModel, images: Tensor, edit: Any = None) -> FeatureOutput:
    with scene.seeded(0):
        return model.features(images, edit)


@check("it is named as the hook names it, and counts the classes that it was built for", "model")
def network_name(subject: NetworkSubject) -> None:
    for classes in (scene.CLASSES, 7):
        model = subject.build(classes=classes)
        ensure(
            model.name == subject.name,
            f"name is {model.name!r}; set it to {subject.name!r}, as the hook has it",
        )
        ensure(
            model.num_classes == classes,
            f"num_classes is {model.num_classes} and was to be {classes}; use the first argument",
        )


@check("its groups, taps and logits have the shapes that it states, at two sizes", "model")
def shapes(subject: NetworkSubject) -> None:
    for side, classes in zip(subject.sides(), (scene.CLASSES, 7), strict=False):
        model = subject.build(side=side, classes=classes)
        out = _features(model, scene.pictures(side, 3))
        for what, letter, maps, channels in (
            ("group_channels", "G", out.groups, model.group_channels),
            ("tap_channels", "T", out.taps, model.tap_channels),
        ):
            found = tuple(t.shape[1] if t.dim() == 4 else 0 for t in maps)
            wrong = [f"{letter}{i + 1} is {_shape(t)}" for i, t in enumerate(maps) if t.dim() != 4]
            ensure(not wrong, f"{', '.join(wrong)}; return maps (N, C, H, W)")
            ensure(
                len(maps) == GROUPS and found == tuple(channels),
                f"{what} is {tuple(channels)}, and the maps have {found} channels at {side}x{side}",
            )
        ensure(
            out.logits.shape == (3, classes),
            f"logits of 3 images and {counted(classes, 'class')} are {_shape(out.logits)}; "
            "return (N, num_classes)",
        )
        for name, tensor in _named(out):
            ensure(
                tensor.dtype == torch.float32, f"{name} is {tensor.dtype}; compute it in float32"
            )
            ensure(
                bool(torch.isfinite(tensor).all()),
                f"{name} is not finite with fresh weights; scale them down",
            )


@check("its pooled features are one vector for each image, from which gradients come back", "model")
def pooled(subject: NetworkSubject) -> None:
    model, images = subject.build(), subject.images()
    out = model.features(images)
    vectors = model.pooled(out)
    ensure(
        vectors.dim() == 2 and len(vectors) == len(images),
        f"pooled gives {_shape(vectors)} for {counted(len(images), 'image')}; return (N, C)",
    )
    ensure(bool(torch.isfinite(vectors).all()), "pooled gives a vector that is not finite")
    ensure(vectors.requires_grad, "pooled cuts the gradient; return what the pass has computed")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _named(out: FeatureOutput) -> Iterator[tuple[str, Tensor]]:
    for letter, maps in (("G", out.groups), ("T", out.taps)):
        yield from ((f"{letter}{i}", tensor) for i, tensor in enumerate(maps, 1))
    yield "the logits", out.logits
    if out.stem is not None:
        yield "the stem", out.stem


@check("its stem, if it gives one, is a map of the channels that it states, by each image", "model")
def stem(subject: NetworkSubject) -> None:
    model, images = subject.trained(), subject.images()
    out, stated = model.features(images), model.stem_channels
    if stated is None and out.stem is None:
        raise NotApplicableError("it gives no stem (stem_channels)")
    found = None if out.stem is None else out.stem.shape[1] if out.stem.dim() == 4 else 0
    if out.stem is None or found != stated:
        given = "no stem" if out.stem is None else f"a stem of {_shape(out.stem)}"
        ensure(
            False,
            f"stem_channels is {stated}, and features gives {given}; state the channels of the map "
            "(N, C, H, W) that stem_and_first_group returns",
        )
        return
    ensure(
        len(out.stem) == len(images) and _places(out.stem) >= _places(out.groups[0]),
        f"the stem is {_shape(out.stem)}, and G1 {_shape(out.groups[0])}; give the map that goes "
        "into the first group",
    )
    ensure(out.stem.requires_grad, "its stem cuts the gradient; return what the pass has computed")
    alone = [_features(model, images[i : i + 1]).stem for i in range(len(images))]
    together = torch.cat([one for one in alone if one is not None])
    ensure(
        _same(out.stem.detach(), together),
        "an image gets another stem alone than in a batch; compute it from each image alone",
    )


def _places(maps: Tensor) -> int:
    return maps.shape[2:].numel()


@check("its taps are what the next ReLU is about to see, negative values among them", "model")
def taps_before_relu(subject: NetworkSubject) -> None:
    out = _features(_fresh(subject), subject.images())
    cut = [f"T{i}" for i, tap in enumerate(out.taps, 1) if float(tap.min()) >= 0]
    ensure(
        not cut,
        f"{', '.join(cut)} has no negative value; give the tensor before the ReLU, and use no ReLU "
        "that works in place",
    )


@check("it normalises the images itself, by pixel_mean and pixel_std", "model")
def normalises(subject: NetworkSubject) -> None:
    model, images = subject.build(), subject.images()
    model.set_normalization((0.2, 0.3, 0.4), (0.2, 0.3, 0.5))
    out = _features(model, images)
    normalised = (images - model.pixel_mean) / model.pixel_std
    model.set_normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    plain = _features(model, normalised)
    ensure(
        _same(out.logits, plain.logits)
        and all(_same(a, b) for a, b in zip(out.taps, plain.taps, strict=True)),
        "other images come out than (x - pixel_mean) / pixel_std gives; let features of "
        "FeatureModel do it, and do not set pixel_mean and pixel_std",
    )


@check("what an edit returns takes the place of a group, for all that follows", "model")
def edits(subject: NetworkSubject) -> None:
    model, images = _fresh(subject), subject.images()
    for i in range(GROUPS):

        def edit(j: int, g: Tensor, at: int = i) -> Tensor:
            return g.flip(0) * 1.5 if j == at else g

        out = _features(model, images, edit)
        plain = _features(model, images)
        with torch.no_grad(), scene.seeded(0):
            wanted = {f"G{i + 1}": plain.groups[i].flip(0) * 1.5}
            for j in range(i, GROUPS):
                wanted[f"T{j + 1}"] = model.tap(j, out.groups[j])
                if j < GROUPS - 1:
                    wanted[f"G{j + 2}"] = model.next_group(j, out.groups[j], out.taps[j])
            wanted["the logits"] = model.head(out.groups[-1])
        found = dict(_named(out))
        wrong = [name for name, tensor in wanted.items() if not _same(found[name], tensor)]
        ensure(
            not wrong,
            f"after an edit of G{i + 1} {wrong and wrong[0]} does not follow from it; compute each "
            "step from the arguments of tap, next_group and classify alone",
        )


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two ways of computing the same sums agree."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=1e-3, atol=1e-4)


@check("its three groups make sense: each has weights, and no information passes one by", "model")
def sound_groups(subject: NetworkSubject) -> None:
    side = subject.sides()[0]
    with scene.seeded(0):
        notes = check_groups(subject.build(), side)
    ensure(not notes, "; ".join(notes))


@check("in evaluation it is deterministic, and a pass changes nothing in it", "model")
def eval_mode(subject: NetworkSubject) -> None:
    model, images = subject.build(), subject.images()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad(), scene.seeded(0):
        first, second = model.features(images), model.features(images)
    for (name, a), (_, b) in zip(_named(first), _named(second), strict=True):
        ensure(
            torch.equal(a, b),
            f"two passes gave different values in {name}; draw at random while self.training only",
        )
    _ensure_state(model, before, "a pass in evaluation mode changed {}; change it in training only")


def _ensure_state(model: nn.Module, before: dict[str, Tensor], message: str) -> None:
    changed = [name for name, t in model.state_dict().items() if not torch.equal(t, before[name])]
    ensure(not changed, message.format(", ".join(changed[:3])))


@check("in evaluation an image's result does not depend on the rest of its batch", "model")
def by_image(subject: NetworkSubject) -> None:
    model, images = subject.trained(), subject.images()
    whole = _features(model, images).logits
    alone = torch.cat([_features(model, images[i : i + 1]).logits for i in range(len(images))])
    ensure(
        _same(whole, alone),
        "an image gets other logits alone than in a batch; take no mean over dimension 0, and keep "
        "running statistics in batch norms",
    )


@check("the loss of the logits gives every parameter a finite gradient", "model")
def all_gradients(subject: NetworkSubject) -> None:
    model = subject.build().train()
    with scene.seeded(0):
        loss_of(model, subject.images()).backward()
    learning = {n: p for n, p in model.named_parameters() if p.requires_grad}
    ensure(learning, "it has no parameter that learns")
    without = [name for name, p in learning.items() if p.grad is None]
    ensure(
        not without,
        f"no gradient reaches {', '.join(without[:5])}; use them for the logits, or remove them",
    )
    wrong = [n for n, p in learning.items() if not bool(torch.isfinite(p.grad).all())]  # type: ignore[arg-type]
    ensure(not wrong, f"the gradient of {', '.join(wrong[:5])} is not finite")


@check("a state_dict holds all that it has learned", "model")
def state_dict(subject: NetworkSubject) -> None:
    trained, other = subject.trained(), subject.build(seed=1)
    other.load_state_dict(trained.state_dict())
    images = subject.images()
    ensure(
        torch.equal(_features(trained, images).logits, _features(other, images).logits),
        "with the state_dict of another network of its kind it gives other logits; keep weights as "
        "parameters, statistics as buffers, and layers in an nn.ModuleList",
    )


@check("training changes its parameters and buffers, and nothing else in it", "model")
def after_training(subject: NetworkSubject) -> None:
    side = subject.sides()[0]
    try:
        check_network(subject.trained(), subject.name, scene.CLASSES, side, sources=subject.sources)
    except KdbenchError as error:
        ensure(False, f"after a training it cannot stand in a table: {error}")


@check("each tap has a batch norm of its own width, or None", "model")
def tap_norms(subject: NetworkSubject) -> None:
    model = _fresh(subject)
    norms = model.tap_norms()
    ensure(len(norms) == GROUPS, f"tap_norms() gives {counted(len(norms), 'entry')}; give {GROUPS}")
    parts = {id(module) for module in model.modules()}
    for i, norm in enumerate(norms):
        if norm is None:
            continue
        ensure(
            isinstance(norm, nn.BatchNorm2d) and id(norm) in parts,
            f"tap_norms() gives a {type(norm).__name__} for T{i + 1}; give a BatchNorm2d of the "
            "network, or None",
        )
        ensure(
            norm.num_features == model.tap_channels[i],
            f"the norm of T{i + 1} has {norm.num_features} channels, and the tap "
            f"{model.tap_channels[i]}",
        )


@check("a training pass runs each batch norm once, and a frozen one moves no statistics", "model")
def statistics(subject: NetworkSubject) -> None:
    model, images = subject.build().train(), subject.images()
    norms = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _Norm) and module.track_running_stats
    }
    if not norms:
        raise NotApplicableError("it has no batch norm with running statistics")
    _features(model, images)
    for name, norm in norms.items():
        count = int(norm.num_batches_tracked)  # type: ignore[arg-type]  # it tracks them
        ensure(
            count == 1,
            f"{name} ran {count} times in one pass; next_group and classify get the tap, so that "
            "its norm runs once",
        )
    frozen = FrozenTeacher(model, "batch")
    before = {name: tensor.clone() for name, tensor in frozen.model.state_dict().items()}
    with scene.seeded(0):
        frozen.features(images)
    _ensure_state(frozen.model, before, "a pass of a frozen teacher changed {}; use nn.BatchNorm2d")


@check("fresh weights come from torch's global random state alone", "model")
def torch_state(subject: NetworkSubject) -> None:
    states = []
    for other in (0, 1):
        with scene.seeded(0):
            np.random.seed(other)
            random.seed(other)
            model = subject.unseeded(scene.CLASSES, subject.sides()[0])
            states.append(model.state_dict())
    wrong = [name for name, tensor in states[0].items() if not torch.equal(tensor, states[1][name])]
    ensure(not wrong, f"{', '.join(wrong[:3])} is drawn from numpy or random; draw it with torch")


@check("it can be distilled: one step of FKD with it as the teacher, and as the student", "model")
def distils(subject: NetworkSubject) -> None:
    # By its name, since a plugin is not there for who looks at types only.
    fkd = importlib.import_module("kdbench_fkd.method").FKD
    for role in ("teacher", "student"):
        partner = scene.network(scene.STUDENT, 7)
        models = {"teacher": partner, "student": partner, role: subject.build()}
        with scene.seeded(0):
            losses = _one_step(fkd(), FrozenTeacher(models["teacher"]), models["student"], subject)
        for name, value in losses.items():
            ensure(bool(torch.isfinite(value)), f"as the {role} the loss {name} is {float(value)}")
        moved = {n: p for n, p in models["student"].named_parameters() if p.requires_grad}
        still = [name for name, p in moved.items() if p.grad is None]
        ensure(not still, f"as the {role}: no gradient reaches {', '.join(still[:5])}")


def _one_step(
    method: Any, frozen: FrozenTeacher, student: FeatureModel, subject: NetworkSubject
) -> dict[str, Tensor]:
    images = subject.images()
    rows = torch.arange(len(images))
    batch = Batch(images, rows % scene.CLASSES, rows)
    student.train()
    objective = scene.NUMERICS.place(method.objective(frozen, student)).train()
    losses = objective(batch, frozen.features(images), student.features(images))
    torch.stack(list(losses.values())).sum().backward()
    torch.optim.SGD(student.parameters(), lr=0.01).step()
    return {name: value.detach() for name, value in losses.items()}


class _Recorded(TorchDispatchMode):
    """Every operation inside, and those that a CUDA graph cannot repeat."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []
        self.wrong: dict[str, str] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        self.names.append(name)
        tags = func.tags
        if torch.Tag.nondeterministic_seeded in tags:
            self.wrong[name] = "draws at random"
        elif torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags:
            self.wrong[name] = "decides by values, and waits for the device"
        return func(*args, **(kwargs or {}))


@contextmanager
def _recorded() -> Iterator[_Recorded]:
    with _Recorded() as mode:
        yield mode


@check("where it says that it can be captured, every pass does the same operations", "model")
def capturable(subject: NetworkSubject) -> None:
    model = subject.build()
    if not model.capturable:
        raise NotApplicableError("it does not say so (capturable)")
    images = subject.images()
    for training in (True, False):
        model.train(training)
        passes = []
        for batch in (images, torch.zeros_like(images), torch.ones_like(images)):
            with scene.seeded(0), _recorded() as mode:
                model.features(batch)
            for name, why in mode.wrong.items():
                ensure(False, f"{name} {why}; do without it, or set capturable = False")
            passes.append(mode.names)
        ensure(
            passes[0] == passes[1] == passes[2],
            "passes did different operations; do the same for every batch, or set capturable = "
            "False",
        )
