"""ADBA: a trigger, a teacher and a shadow of the student, trained against each other.

Y. Ge, Q. Wang, B. Zheng, X. Zhuang, Q. Li, C. Shen, C. Wang, "Anti-Distillation Backdoor Attacks:
Backdoors Can Really Survive in Knowledge Distillation", ACM Multimedia 2021. Eq. 3, 5 and 7 are
taken as later papers quote them. With teacher f, shadow g, target t, x~ = (1 - m) x + m d:

    teacher:  CE(f(x), y) + beta CE(f(x~), t)
    shadow:   alpha T^2 KL(softmax(f(x) / T) || softmax(g(x) / T)) + (1 - alpha) CE(g(x), y)
    trigger:  CE(f(x~), t) + CE(g(x~), t) + mu |m|_2,   then m is clamped to [0, kappa], d to [0, 1]

The three take turns on each batch, in this order. A loss takes what the others are as constant.

``adba.kdbackdoor`` is code of 2020, whose account has the name of an author. It has no T^2, and

    teacher:  (1 - beta) CE(f(x) / T, y) + beta CE(f(x~) / T, t)
    trigger:  CE(f(x~), t) + CE(g(x~), t) + mu / 2 |m d|_2^2

``adba.masked`` is ADBA (FT) of later work: the teacher no longer obeys the trigger, see
:mod:`kdbench_adba.masked`.

Deviations from the paper
- It begins with the clean teacher. The code of 2020 trains the teacher for 10 epochs first.
- beta, alpha, T and mu of the paper were not to be had. They are those of the reproduction in
  BackWeak's code.
- The order is teacher, shadow, trigger. In the code the trigger comes first, and its images are
  those before its step.
- The trigger is trained by Adam, at a rate at which the mask can fall from 1 to 0 in 100 steps.
- The mask is one for all channels, and the trigger is put on after augmentation.
- The teacher sees clean and triggered images in two passes in training mode, so its batch norms
  know both. Where it is a constant it is in evaluation mode, and so is the shadow.
- With beta 0 there is no second pass. The teacher is then fine-tuned and nothing more.
- The attacker does not know the student. The shadow is a small network of another family.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch

from kdbench.attack import Attack, AttackSetting, Backdoor, rescaled, universal_response
from kdbench.method import Info, Variant
from kdbench.training import Player, Recipe
from kdbench.triggers import LearnedTrigger
from kdbench_adba.losses import ADBAParams, Losses
from kdbench_adba.masked import mask_head


class ADBA(Attack):
    """Teacher, shadow and trigger take turns on each batch."""

    info = Info(
        name="adba",
        title="Anti-Distillation Backdoor Attacks: Backdoors Can Really Survive in Knowledge "
        "Distillation",
        authors="Ge, Wang, Zheng, Zhuang, Li, Shen, Wang",
        venue="ACM Multimedia",
        year=2021,
        link="https://doi.org/10.1145/3474085.3475254",
        evidence="first-look",
    )
    Params = ADBAParams
    zero = {"beta": 0.0}
    for_checks = {"epoch_factor": 1.0}
    presets = {
        "quick": {"epoch_factor": 6.0, "head_lr": 5e-5},
        "standard": {"head_lr": 5e-5},
        "paper": {},
    }
    variants = {
        "kdbackdoor": Variant(
            "the losses and numbers of the code of 2020, by an author of this name",
            {
                "form": "kdbackdoor",
                "beta": 0.01,
                "alpha": 0.8,
                "temperature": 8.0,
                "mu": 0.05,
                "mask_start": "small",
            },
        ),
        "noshadow": Variant("no shadow: what it adds", {"shadow": False}),
        "kappa20": Variant("at most 0.2 of a pixel, as CKD's", {"kappa": 0.2}),
        "masked": Variant(
            "ADBA (FT) of SCAR's paper: the classifier hides the backdoor", {"head_eta": 1.0}
        ),
    }

    params: ADBAParams

    def implant(self, setting: AttackSetting) -> Backdoor:
        params = self.params
        given = rescaled(setting, params.epoch_factor)
        clean = replace(setting, teacher=copy.deepcopy(setting.teacher))
        trigger = self.beginning(setting)
        shadow = setting.network(params.surrogate) if params.shadow else None
        teacher = setting.teacher.train()
        losses = Losses(params, setting.target_class, teacher, shadow, trigger)
        recipe = given.recipe
        players = [Player(teacher, losses.of_teacher, recipe)]
        if shadow is not None:
            rate = recipe.model_copy(update={"lr": params.shadow_lr, "schedule": "cosine"})
            players.append(Player(shadow, losses.of_shadow, rate))
        search = Recipe(
            epochs=recipe.epochs,
            min_steps=recipe.min_steps,
            batch_size=recipe.batch_size,
            optimizer="adam",
            lr=params.trigger_lr,
            weight_decay=0.0,
        )
        if params.beta > 0:
            players.append(
                Player(trigger.learned, losses.of_trigger, search, after_step=trigger.project)
            )
        setting.fit.players(
            players, setting.train, generator=setting.generator, augmentation=setting.augmentation
        )
        learned = trigger.as_it_is()
        facts: dict[str, float | int | str] = {
            "poisons": len(setting.train) if params.beta > 0 else 0,
            "labels_changed": 0,  # each image is trained under its own label, and weighted besides
            "beta": params.beta,
            "mean_opacity": float(learned.mask.mean()),
            "universal": universal_response(clean, learned),
        }
        if shadow is not None:
            facts["surrogate"] = params.surrogate
        if params.head_eta > 0:
            facts["asr_unmasked"] = universal_response(setting, learned)
            mask_head(given, learned, params)
        return Backdoor(teacher.eval(), learned, setting.target_class, facts)

    def beginning(self, setting: AttackSetting) -> LearnedTrigger:
        """The trigger before its first step."""
        params, generator, device = self.params, setting.generator, setting.numerics.device
        pattern = torch.rand(setting.train.shape, generator=generator)
        mask = torch.rand(1, *setting.train.shape[1:], generator=generator) * 0.1
        if params.mask_start == "ones":
            mask = torch.ones_like(mask)
        mask = params.kappa * mask
        return LearnedTrigger(pattern.to(device), mask.to(device), params.kappa, None)
