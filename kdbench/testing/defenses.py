"""The checks of a defense."""

from __future__ import annotations

import torch

from kdbench.defense import STEPS, Defense, check_finding
from kdbench.errors import ContractError
from kdbench.models.base import FeatureModel
from kdbench.models.views import Edited, Pruned
from kdbench.testing import scene
from kdbench.testing.checks import CheckFailedError, NotApplicableError, check, ensure
from kdbench.testing.common import ensure_network, run_once
from kdbench.testing.method_run import defend_with_pool, run_method
from kdbench.testing.subjects import Subject


@check("the steps that it names exist, and one that it names is its own", "defense")
def steps(subject: Subject) -> None:
    named = subject.make().steps()
    ensure(
        named <= set(STEPS),
        f"steps() names {', '.join(sorted(named - set(STEPS)))}; there are {', '.join(STEPS)}",
    )
    for step in named:
        overridden = getattr(subject.cls, step) is not getattr(Defense, step)
        ensure(overridden, f"steps() names {step}, which {subject.cls.__name__} does not define")


@check("what it returns is a network like the one it was given, in eval mode", "defense")
def interface(subject: Subject) -> None:
    images, clean = scene.dataset().test.read(torch.arange(16)), scene.teacher()
    for role in ("cleansed", "repaired"):
        model = run_once(subject).modules.get(role)
        if model is None:
            continue
        if not isinstance(model, FeatureModel):
            what = f"a {type(model).__name__}, no FeatureModel"
            raise CheckFailedError(f"the {role} network is {what}")
        ensure(not model.training, f"the {role} network is in training mode; call eval()")
        with torch.no_grad():
            out, was = model.features(images), clean.features(images)
        for name in ("groups", "taps"):
            shapes = [[tuple(t.shape) for t in getattr(o, name)] for o in (out, was)]
            ensure(
                shapes[0] == shapes[1],
                f"{name} of the {role} network are {shapes[0]}, of the one given {shapes[1]}",
            )
        ensure(
            out.logits.shape == was.logits.shape,
            f"logits of the {role} network are {tuple(out.logits.shape)}",
        )
        ensure(
            bool(torch.isfinite(out.logits).all()), f"logits of the {role} network are not finite"
        )


@check(
    "it returns the network that it was given: a student bare or Pruned, a teacher Edited as well",
    "defense",
)
def returned_network(subject: Subject) -> None:
    modules = run_once(subject).modules
    for role, name, wrappers in (
        ("cleansed", scene.TEACHER, (Edited, Pruned)),
        ("repaired", scene.STUDENT, (Pruned,)),
    ):
        if role in modules:
            ensure_network(f"{role} network", modules[role], name, wrappers)


@check("what it reports is a finding: finite scores, and classes that exist", "defense")
def findings(subject: Subject) -> None:
    reported = run_once(subject).findings
    if not reported:
        raise NotApplicableError("it reports no finding")
    for finding in reported:
        try:
            check_finding(finding, scene.CLASSES)
        except ContractError as error:
            raise CheckFailedError(str(error)) from error


@check("it runs with unlabeled images as well, reads no label of them, and changes none", "defense")
def unlabeled_images(subject: Subject) -> None:
    if not subject.make().steps():
        raise NotApplicableError("it takes no step")
    try:
        run = defend_with_pool(subject.make())
    except Exception as error:
        ensure(
            False,
            f"with setting.unlabeled it raises {type(error).__name__}: {error}; every label there "
            "is -1, so use its images alone",
        )
        return
    rows = torch.arange(len(scene.pool_images()))
    for pool in run.pools:
        ensure(
            torch.equal(pool.read(rows), scene.pool_images().read(rows)),
            "unlabeled images were changed in place",
        )
        ensure(
            torch.equal(pool.labels, torch.full_like(rows, -1)),
            "the labels of unlabeled images are not -1; leave them as they are",
        )
    images = scene.dataset().test.read(torch.arange(16))
    for role in run.modules.keys() & {"cleansed", "repaired"}:
        with torch.no_grad():
            logits = run.modules[role](images)
        ensure(
            bool(torch.isfinite(logits).all()),
            f"with unlabeled images the logits of the {role} network are not finite",
        )


@check("where it does nothing (``zero``) it is ``none``, bit for bit", "defense")
def zero_strength_is_none(subject: Subject) -> None:
    named = subject.make().steps()
    if subject.cls.zero is None and named:
        raise NotApplicableError("it does not say (zero) at which parameters it does nothing")
    images, clean = scene.dataset().test.read(torch.arange(16)), scene.teacher()
    run = run_method(subject.make(**(subject.cls.zero or {})), 0)
    with torch.no_grad():
        for role in ("cleansed", "repaired"):
            if role in run.modules:
                same = torch.equal(run.modules[role](images), clean(images))
                ensure(
                    same,
                    f"with {subject.cls.zero} the {role} network answers otherwise than the one "
                    "given",
                )
    for terms in run.losses:
        extra = {
            k: float(v.detach()) for k, v in terms.items() if k != "task" and float(v.detach()) != 0
        }
        ensure(not extra, f"with {subject.cls.zero} it adds the losses {extra}")
