"""Methods with one thing wrong each, made of built-ins that have nothing wrong."""

from __future__ import annotations

import os
from dataclasses import replace

import torch
from kdbench_badnets.method import BadNets
from kdbench_finetune.method import FineTuning
from kdbench_fkd.method import FKD
from kdbench_robustkd.method import RobustKD
from torch import nn

from kdbench.attack import Trigger
from kdbench.data.base import Batch
from kdbench.defense import Finding
from kdbench.models.views import Edited
from kdbench.models.wrn import WideResNet
from kdbench.testing import scene


def _with_trigger(cls):
    """BadNets, whose trigger is put into one of this class."""

    class Mutant(BadNets):
        def implant(self, setting):
            backdoor = super().implant(setting)
            return replace(backdoor, trigger=cls(backdoor.trigger))

    return Mutant


class _Around(Trigger):
    def __init__(self, inner: Trigger) -> None:
        super().__init__()
        self.inner = inner


class _OutOfRange(_Around):
    def forward(self, images):
        return self.inner(images) * 1.2


class _OtherShape(_Around):
    def forward(self, images):
        return self.inner(images)[:, :, 1:]


class _InPlace(_Around):
    def forward(self, images):
        images.copy_(self.inner(images))
        return images.clone()


class _Random(_Around):
    def forward(self, images):
        return (self.inner(images) + 0.01 * torch.rand_like(images)).clamp(0, 1)


class _ByBatch(_Around):
    def forward(self, images):
        return (0.9 * self.inner(images) + 0.1 * images.mean(0)).clamp(0, 1)


class _NotKept(_Around):
    def __init__(self, inner):
        super().__init__(inner)
        self.function = lambda images: images

    def forward(self, images):
        return self.function(self.inner(images))


class SeedIgnored(BadNets):
    def implant(self, setting):
        return super().implant(replace(setting, generator=torch.Generator().manual_seed(3)))


class SeedsAnew(BadNets):
    def implant(self, setting):
        torch.manual_seed(3)
        return super().implant(setting)


class ShuffledLabels(BadNets):
    def implant(self, setting):
        labels = setting.train.labels
        order = torch.randperm(len(labels), generator=setting.generator)
        shuffled = setting.train.subset(torch.arange(len(labels)))
        shuffled.labels = labels[order]
        return super().implant(replace(setting, train=shuffled))


class OneMore(BadNets):
    def implant(self, setting):
        backdoor = super().implant(setting)
        return replace(backdoor, facts={**backdoor.facts, "poisons": backdoor.facts["poisons"] + 1})


def _with_response(value):
    class Mutant(BadNets):
        def implant(self, setting):
            backdoor = super().implant(setting)
            return replace(backdoor, facts={**backdoor.facts, "universal": value})

    return Mutant


class TargetCounted(BadNets):
    def implant(self, setting):
        return replace(super().implant(setting), source_classes=tuple(range(setting.num_classes)))


class ImagesChanged(BadNets):
    def implant(self, setting):
        setting.train._store.pixels[0] += 1
        return super().implant(setting)


class LabelsChanged(BadNets):
    def implant(self, setting):
        setting.train.labels[:10] = setting.target_class
        return super().implant(setting)


class AlwaysPoisons(BadNets):
    """At its zero strength too."""

    zero = {"poison_rate": 0.0}

    def implant(self, setting):
        recipe = setting.recipe.model_copy(update={"epochs": 6, "lr": 0.05})
        strong = BadNets(BadNets.Params(poison_rate=0.3, pattern="white", size=6))
        return strong.implant(replace(setting, recipe=recipe))


class LeavesTraining(BadNets):
    def implant(self, setting):
        backdoor = super().implant(setting)
        backdoor.teacher.train()
        return backdoor


_SEEN: list[int] = []


class RemembersCalls(BadNets):
    """What it does depends on what this process did before."""

    def implant(self, setting):
        _SEEN.append(1)
        recipe = setting.recipe.model_copy(
            update={"lr": setting.recipe.lr * (1 if len(_SEEN) == 1 else 2)}
        )
        return super().implant(replace(setting, recipe=recipe))


class MovesAway(BadNets):
    def implant(self, setting):
        os.chdir("/")
        return super().implant(setting)


class SetsFlags(BadNets):
    def implant(self, setting):
        torch.set_grad_enabled(True)
        torch.use_deterministic_algorithms(True)
        return super().implant(setting)


class _Wrapped(nn.Module):
    """FKD's objective, and the teacher within reach but no part of it."""

    def __init__(self, inner: nn.Module, teacher, student) -> None:
        super().__init__()
        self.inner, self.teacher = inner, [teacher]

    def forward(self, batch: Batch, teacher_out, student_out):
        return self.inner(batch, teacher_out, student_out)


def _with_objective(cls):
    class Mutant(FKD):
        def objective(self, teacher, student):
            return cls(super().objective(teacher, student), teacher, student)

    return Mutant


class _MovesTeacher(_Wrapped):
    def forward(self, *arguments):
        with torch.no_grad():
            for parameter in self.teacher[0].model.parameters():
                parameter.mul_(0.999)
        return super().forward(*arguments)


class _MovesBuffers(_Wrapped):
    def forward(self, batch, *outputs):
        self.teacher[0].model.train()
        for module in self.teacher[0].model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = True
        self.teacher[0].features(batch.images)
        return super().forward(batch, *outputs)


class _HoldsStudent(_Wrapped):
    def __init__(self, inner, teacher, student):
        super().__init__(inner, teacher, student)
        self.student = student


class _SpoilsBatch(_Wrapped):
    def forward(self, batch, *outputs):
        losses = super().forward(batch, *outputs)
        batch.images.clamp_(0.1, 0.9)
        return losses


class _SpoilsFeatures(_Wrapped):
    def forward(self, batch, teacher_out, student_out):
        teacher_out.taps[0].clamp_(min=0)
        return super().forward(batch, teacher_out, student_out)


class _SpoilsTheStem(_Wrapped):
    def forward(self, batch, teacher_out, student_out):
        teacher_out.stem.clamp_(min=0)
        return super().forward(batch, teacher_out, student_out)


class _NotFinite(_Wrapped):
    def forward(self, *arguments):
        return {name: value * float("nan") for name, value in super().forward(*arguments).items()}


class _PerExample(_Wrapped):
    def forward(self, *arguments):
        return {name: value.expand(4) for name, value in super().forward(*arguments).items()}


class _NoStudent(_Wrapped):
    def __init__(self, inner, teacher, student):
        super().__init__(inner, teacher, student)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, *arguments):
        return {
            name: value.detach() * self.weight
            for name, value in super().forward(*arguments).items()
        }


class NeverNothing(RobustKD):
    zero = {"m_max": 0.01}


class TunesTheImages(FineTuning):
    def repair(self, model, setting):
        setting.clean.labels[0] = 1 - setting.clean.labels[0].clamp(0, 1)
        return super().repair(model, setting)


class LabelsOfThePool(FineTuning):
    """It trains on the unlabeled images as if they had labels."""

    def repair(self, model, setting):
        return super().repair(model, replace(setting, clean=setting.unlabeled or setting.clean))


class _Pooled(FineTuning):
    def repair(self, model, setting):
        if setting.unlabeled is not None:
            self.change(setting.unlabeled)
        return super().repair(model, setting)


class LabelsThePool(_Pooled):
    def change(self, pool):
        pool.labels[:] = 0


class PaintsThePool(_Pooled):
    def change(self, pool):
        pool._store.pixels[0] += 1


class LostInThePool(_Pooled):
    """What it makes of the unlabeled images is no number."""

    def repair(self, model, setting):
        model = super().repair(model, setting)
        if setting.unlabeled is not None:
            model.fc.bias.data += setting.unlabeled.labels.float().log().sum()
        return model

    def change(self, pool):
        pass


class ReturnsTraining(FineTuning):
    def repair(self, model, setting):
        return super().repair(model, setting).train()


def _with_report(reported):
    """Fine-tuning that reports this as what it found."""

    class Mutant(FineTuning):
        def repair(self, model, setting):
            setting.report(reported)
            return super().repair(model, setting)

    return Mutant


class StepsOfAnother(FineTuning):
    def steps(self):
        return frozenset({"objective"})


class _Disguised(WideResNet):
    """The network that it was, with a method of its own."""

    def features(self, x, edit=None):
        return super().features(x, edit)


class DisguisedTeacher(BadNets):
    def implant(self, setting):
        backdoor = super().implant(setting)
        backdoor.teacher.__class__ = _Disguised
        return backdoor


class ReturnsAnother(FineTuning):
    def repair(self, model, setting):
        return scene.network("wrn16_1", 0)


class EditsTheStudent(FineTuning):
    def repair(self, model, setting):
        return Edited(super().repair(model, setting), _Nothing()).eval()


class _Nothing(nn.Module):
    def forward(self, i, g):
        return g


#: A mutant -> a check that must catch it.
MUTANTS = {
    "disguised teacher": (DisguisedTeacher, "same_network"),
    "returns another": (ReturnsAnother, "returned_network"),
    "edits the student": (EditsTheStudent, "returned_network"),
    "trigger out of range": (_with_trigger(_OutOfRange), "trigger_range"),
    "trigger of another shape": (_with_trigger(_OtherShape), "trigger_range"),
    "trigger in place": (_with_trigger(_InPlace), "trigger_input_untouched"),
    "trigger at random": (_with_trigger(_Random), "trigger_by_image"),
    "trigger by batch": (_with_trigger(_ByBatch), "trigger_by_image"),
    "trigger that no file can hold": (_with_trigger(_NotKept), "file"),
    "seed ignored": (SeedIgnored, "another_seed"),
    "seeds anew": (SeedsAnew, "random_state"),
    "shuffled labels": (ShuffledLabels, "labels"),
    "declares one poison more": (OneMore, "labels"),
    "rate not kept": (OneMore, "poison_count"),
    "response over 100 %": (_with_response(100.5), "universal"),
    "response below 0 %": (_with_response(-0.5), "universal"),
    "response that is no number": (_with_response(float("nan")), "universal"),
    "response as a text": (_with_response("5"), "universal"),
    "response that is not known": (_with_response(None), "universal"),
    "response that is a switch": (_with_response(True), "universal"),
    "finding as a text": (_with_report("class 0"), "findings"),
    "finding of a class that is not there": (_with_report(Finding((99,), 1.0)), "findings"),
    "finding that is no number": (_with_report(Finding((), float("inf"))), "findings"),
    "target images counted in ASR": (TargetCounted, "source_classes"),
    "training images changed": (ImagesChanged, "images_untouched"),
    "training labels changed": (LabelsChanged, "images_untouched"),
    "poisons without strength": (AlwaysPoisons, "zero_strength"),
    "teacher in training mode": (LeavesTraining, "result"),
    "remembers calls": (RemembersCalls, "same_seed"),
    "another working directory": (MovesAway, "surroundings"),
    "torch's flags": (SetsFlags, "surroundings"),
    "teacher updated during distillation": (_with_objective(_MovesTeacher), "teacher_untouched"),
    "teacher's buffers updated": (_with_objective(_MovesBuffers), "teacher_untouched"),
    "objective holds the student": (_with_objective(_HoldsStudent), "gradients"),
    "batch changed": (_with_objective(_SpoilsBatch), "images_untouched"),
    "teacher's features changed": (_with_objective(_SpoilsFeatures), "images_untouched"),
    "teacher's stem changed": (_with_objective(_SpoilsTheStem), "images_untouched"),
    "loss not finite": (_with_objective(_NotFinite), "losses"),
    "loss by example": (_with_objective(_PerExample), "losses"),
    "no gradient to the student": (_with_objective(_NoStudent), "gradients"),
    "nothing that is something": (NeverNothing, "zero_strength_is_none"),
    "defender's labels changed": (TunesTheImages, "images_untouched"),
    "trains on labels of unlabeled images": (LabelsOfThePool, "unlabeled_images"),
    "labels unlabeled images": (LabelsThePool, "unlabeled_images"),
    "unlabeled images changed": (PaintsThePool, "unlabeled_images"),
    "takes the logarithm of a missing label": (LostInThePool, "unlabeled_images"),
    "repaired network in training mode": (ReturnsTraining, "interface"),
    "steps of another": (StepsOfAnother, "steps"),
}
