"""SCAR: a trigger that fools every network, and a teacher that resists it and whose student obeys.

Z. Chen et al., SCAR, NeurIPS 2025 (arXiv:2509.23871). With F the clean teacher, S a surrogate
student that is distilled from it, f the attacked teacher, which begins as F, and t the target:

    G(x) = clip(x + mu),  |mu| <= epsilon
    trigger:    min over mu of CE(F(G(x)), t) + CE(S(G(x)), t)
    teacher:    min over f of CE(f(x), y) + alpha CE(f(G(x)), y) + implicit     y: the true label
    surrogate:  min over its weights of CE(S(x), y) + delta KL(softmax(f(x)) || softmax(S(x)))

``implicit`` is the only term in which the teacher hears of its students: ``implicit.py`` says what
it is. The teacher classifies triggered images correctly, so a test of it finds nothing.

The trigger is made to fool networks that were never attacked. So C1 is large by design. kdbench
gives no verdict where C3 is not over C1: no backdoor has travelled. Compare C1 and C3 with the
teacher's own ASR. The fact ``universal`` is the clean teacher's response (SCAR's "search ASR"), and
``surrogate_asr_first`` that of a new student of the clean teacher.

``scar.oscar`` has no surrogate at all. BackWeak's code has this under the name OSCAR.
``scar.direct`` does all that ``scar`` does, without the implicit term. So these two say what it
adds.

Deviations from the paper
- The hypergradient is that of one step of length ``inner_step`` of the surrogate. The code sums
  100 steps of 1e-5. It differs by under 5 % where the curvature of the inner loss is at most 100.
  A variant with the code's sum, or with an exact inverse, is not here.
- The surrogate goes on from round to round, for ``round_epochs``. The code trains a new one for 20
  epochs in each round, with a falling rate.
- Each round begins Adam anew, at a constant rate. The code has one Adam for the teacher, with a
  cosine.
- The teacher's rate is the paper's. The code's is ten times as high.
- The search of the trigger ends by responses on training images. The code takes test images.
- The authors' 50 epochs of search are ``steps`` here, at a constant rate instead of a cosine.
- The last teacher is taken. The code takes that of the highest test accuracy.
- The clean teacher is the preset's, and so is the batch size.
- ``scar.oscar`` trains the teacher with the preset's fine-tuning.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import Tensor

from kdbench.attack import Attack, AttackSetting, Backdoor, rescaled, universal_response
from kdbench.data.base import Batch
from kdbench.method import Info, Variant
from kdbench.models.base import FeatureModel
from kdbench.search_steps import fit_steps, target_loss
from kdbench.trigger_search import class_rows, frozen
from kdbench.triggers import AddTrigger
from kdbench_scar.losses import SCARParams
from kdbench_scar.rounds import Facts, harden, new_student, play_rounds


class SCAR(Attack):
    """Search a universal trigger, train the teacher against it and its student for it."""

    info = Info(
        name="scar",
        title="SCAR, a distillation-conditional backdoor attack",
        authors="Chen et al.",
        venue="NeurIPS",
        year=2025,
        link="https://arxiv.org/abs/2509.23871",
        evidence="first-look",
    )
    Params = SCARParams
    zero = {"rounds": 0, "epoch_factor": 0.0}
    for_checks = {
        "steps": 20,
        "search_batch": 16,
        "surrogate": "wrn10_1",
        "surrogate_epochs": 1,
        "rounds": 2,
        "round_batches": 2,
    }
    presets = {
        "quick": {"steps": 200, "search_batch": 32, "surrogate_epochs": 15, "rounds": 10},
        "standard": {"surrogate_epochs": 15, "rounds": 20},
        "paper": {},
    }
    variants = {
        "oscar": Variant(
            "no surrogate: the direct terms alone, as OSCAR in BackWeak's code", {"surrogate": None}
        ),
        "direct": Variant("no implicit term: what it adds, a control", {"inner_step": 0.0}),
        "sham": Variant(
            "the clean teacher as it is: what the trigger does without any attack, a control",
            {"rounds": 0, "epoch_factor": 0.0},
        ),
    }

    params: SCARParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        params = self.params
        surrogate = None if params.surrogate is None else new_student(setting, params)
        trigger = AddTrigger(self.search(setting, surrogate))
        facts: Facts = {
            # Each image is shown with the trigger as well, and always under its own label.
            "poisons": len(setting.train),
            "labels_changed": 0,
            "epsilon": params.epsilon,
            "mean_change_of_255": 255 * float(trigger.change.abs().mean()),
            "universal": universal_response(setting, trigger),
        }
        if surrogate is None:
            harden(rescaled(setting, params.epoch_factor), params, trigger)
        else:
            facts |= play_rounds(setting, params, trigger)
        return Backdoor(setting.teacher, trigger, setting.target_class, facts)

    def start(self, setting: AttackSetting) -> Tensor:
        """mu before the search: uniform in [0, 1], and clamped at epsilon, so most of it is
        epsilon."""
        noise = torch.rand(setting.train.shape, generator=setting.generator)
        return noise.clamp(max=self.params.epsilon).to(setting.numerics.device)

    def search(self, setting: AttackSetting, surrogate: FeatureModel | None = None) -> Tensor:
        """mu, float (3, H, W) in [-epsilon, epsilon], on the device."""
        params, change = self.params, self.start(setting).requires_grad_()
        fooled = {"target": setting.teacher}
        if surrogate is not None:
            fooled["surrogate"] = surrogate

        @torch.no_grad()
        def into_bounds() -> None:
            change.clamp_(-params.epsilon, params.epsilon)

        def loss(batch: Batch) -> dict[str, Tensor]:
            shown = (batch.images + change).clamp(0, 1)
            return {
                name: target_loss(network(shown), setting.target_class)
                for name, network in fooled.items()
            }

        def enough() -> bool:
            trigger = AddTrigger(change)
            return all(
                universal_response(replace(setting, teacher=network), trigger) >= params.enough
                for network in fooled.values()
            )

        with ExitStack() as stack:
            for network in fooled.values():
                stack.enter_context(frozen(network))
            fit_steps(
                setting,
                change,
                loss,
                class_rows(setting, target=False),
                steps=params.steps,
                batch_size=params.search_batch,
                lr=params.lr,
                after_step=into_bounds,
                until=enough,
            )
        return change.detach()
