"""Neural Cleanse ("NC"): find the smallest trigger of each class, and unlearn that of the target.

B. Wang, Y. Yao, S. Shan, H. Li, B. Viswanath, H. Zheng, B. Y. Zhao: Neural Cleanse: Identifying and
Mitigating Backdoor Attacks in Neural Networks. IEEE S&P 2019.

Implemented: the inversion (section IV, in :mod:`kdbench_nc.inversion`, with its equations), the
anomaly index of the triggers' sizes, and the mitigation by unlearning (section VI). u_k is the size
of the smallest trigger of class k, and median and MAD* are over the classes that have one.

    index_k = (median - u_k) / MAD*
    flagged: the ``classes`` classes with the smallest triggers, or (``nc.index``) those with
        index_k > 2
    then fine-tuning with cross-entropy and true labels, where a share of each batch has a trigger
    of a flagged class

Where nothing is flagged the network is returned as it was.

Deviations from the paper:
- An index over 2 is no test: a clean network of many classes mostly has a class there. So the
  default flags the one class with the smallest trigger, whether there is a backdoor or not. The
  paper's rule is ``nc.index``.
- A class without a trigger of enough success has no size. It is not flagged, and counts in no
  median. Its index is reported as 0, or as the least where that is less. Some code takes the norm
  of the first mask, or of one without success.
- The images of a class do not count in the search of its own trigger. The authors count all.
- The trigger is unlearned as it was found. BackdoorBench saves it as a picture first, which changes
  its range.
- The authors' masks are for patches. A trigger over the whole image at a low opacity is larger for
  them than the natural ones of other classes. ``nc.blend`` searches such triggers.
- At most ``images`` of the defender's images are used for the search, each class in proportion.
- The unlearning is BackdoorBench's: 20 % of each batch. The paper has one pass over 10 % of the
  training images.
- ``quick`` and ``standard`` search for fewer steps, and once. ``quick`` searches with 256 images.
- Used after distillation on the student (``when=after``, default) or before it on the teacher
  (``before``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.data.base import Batch
from kdbench.data.fraction import stratified_rows
from kdbench.defense import DefenseSetting, Finding
from kdbench.method import Info, Variant
from kdbench.models.base import FeatureModel
from kdbench.outliers import anomaly_index, flagged
from kdbench.repair import PlainTuningParams, Repair, fine_tune
from kdbench.training import LossFunction
from kdbench.trigger_search import frozen
from kdbench_nc.inversion import Budget, Family, Found, invert


class NCParams(PlainTuningParams):
    """How triggers are searched, who is flagged, and how a trigger is unlearned."""

    family: Family = Field(
        "patch",
        description="patch: one opacity a pixel; blend: 4 x 4 opacities over the whole image; "
        "kdbench",
    )
    steps: int = Field(
        1000, ge=1, description="passes over the images of a search, at most; authors' code"
    )
    restarts: int = Field(2, ge=1, le=100, description="searches of each class, count; kdbench")
    images: int = Field(1000, ge=2, description="images of a search, at most; authors' code")
    search_batch: int = Field(32, ge=2, description="images a batch of a search; authors' code")
    search_lr: float = Field(0.1, gt=0, description="Adam's rate of a search; authors' code")
    success: float = Field(
        0.99,
        gt=0,
        le=1,
        description="share of the images that a trigger must send to its class, of (0, 1]; "
        "authors' code",
    )
    cost: float | None = Field(
        None,
        gt=0,
        description="first weight of the size; None: 0.001 for a patch (authors' code), 1 for a "
        "blend (kdbench)",
    )
    patience: int = Field(
        5, ge=1, description="steps in a row before that weight changes; authors' code"
    )
    flag: Literal["smallest", "index", "random"] = Field(
        "smallest",
        description="smallest: always as many as ``classes``; index: those over threshold, "
        "``classes`` at most; random: as many as ``classes``, drawn; kdbench",
    )
    classes: int = Field(1, ge=0, description="classes flagged, at most; kdbench")
    threshold: float = Field(
        2.0, ge=0, description="index: the anomaly index of a target; paper section IV"
    )
    share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="images of a batch that get a trigger in unlearning, of [0, 1]; paper section "
        "VI",
    )

    def budget(self) -> Budget:
        """Of one search."""
        first = {"patch": 1e-3, "blend": 1.0}[self.family] if self.cost is None else self.cost
        return Budget(
            steps=self.steps,
            restarts=self.restarts,
            batch_size=self.search_batch,
            lr=self.search_lr,
            threshold=self.success,
            cost=first,
            patience=self.patience,
        )


def suspicion(sizes: Sequence[float]) -> list[float]:
    """The anomaly index of each class, large where its trigger is small.

    Args:
        sizes: infinite where a class has no trigger. Such a class is no more suspicious than any.
    """
    known = [k for k, size in enumerate(sizes) if math.isfinite(size)]
    index = [0.0] * len(sizes)
    if known:
        values = anomaly_index(-torch.tensor([sizes[k] for k in known])).tolist()
        index = [min(0.0, *values)] * len(sizes)
        for k, value in zip(known, values, strict=True):
            index[k] = value
    return index


class NC(Repair):
    """Find the smallest trigger, and unlearn it."""

    info = Info(
        name="nc",
        title="Neural Cleanse: Identifying and Mitigating Backdoor Attacks in Neural Networks",
        authors="Wang, Yao, Shan, Li, Viswanath, Zheng, Zhao",
        venue="IEEE S&P",
        year=2019,
        link="https://doi.org/10.1109/SP.2019.00031",
        evidence="defenses-of-the-field",
    )
    Params = NCParams
    zero = {"classes": 0}
    for_checks = {"steps": 12, "restarts": 1, "search_batch": 80, "patience": 1, "success": 0.5}
    presets = {
        "quick": {"steps": 60, "restarts": 1, "images": 256},
        "standard": {"steps": 100, "restarts": 1},
        "paper": {
            "epochs": 100,
            "batch_size": 256,
            "lr": 0.01,
            "weight_decay": 5e-4,
            "cosine": True,
        },
    }
    variants = {
        "index": Variant(
            "the paper's rule: classes with an anomaly index over 2, and otherwise nothing",
            {"flag": "index", "classes": 1000},
        ),
        "blend": Variant(
            "triggers over the whole image, as those of CKD, instead of patches",
            {"family": "blend"},
        ),
        "random": Variant(
            "unlearns the trigger of a class that is drawn: whether it matters who is flagged, a "
            "control",
            {"flag": "random"},
        ),
    }
    params: NCParams

    def repair(self, model: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        """Train ``model`` in place if a class is flagged; returns it. Reports the index of every
        class."""
        params = self.params
        found = self.triggers(model, setting)
        index = suspicion([one.size for one in found])
        classes = self.targets([one.size for one in found], index, setting.generator)
        setting.report(Finding(tuple(sorted(classes)), max(index), tuple(index)))
        if classes:
            recipe = params.recipe(setting.recipe)
            loss = self.unlearning(model, [found[k] for k in classes])
            fine_tune(model, setting, recipe, loss=loss)
        return model

    def triggers(self, model: FeatureModel, setting: DefenseSetting) -> list[Found]:
        """The smallest trigger of every class; the network comes out as it went in."""
        clean = setting.clean
        if len(clean) > self.params.images:
            clean = clean.subset(
                stratified_rows(clean.labels, self.params.images, setting.generator)
            )
        with frozen(model):
            return invert(
                model,
                clean,
                range(setting.num_classes),
                self.params.family,
                self.params.budget(),
                fit=setting.fit,
                generator=setting.generator,
            )

    def targets(
        self, sizes: Sequence[float], index: Sequence[float], generator: torch.Generator
    ) -> list[int]:
        """The flagged classes, the most suspicious first. None of them is without a trigger."""
        params = self.params
        if params.flag == "index":
            return flagged(torch.tensor(index), params.threshold, params.classes)
        known = [k for k, size in enumerate(sizes) if math.isfinite(size)]
        if params.flag == "random":
            order = torch.randperm(len(known), generator=generator).tolist()
            known = [known[i] for i in order]
        else:
            known.sort(key=lambda k: sizes[k])
        return known[: params.classes]

    def unlearning(self, model: FeatureModel, triggers: Sequence[Found]) -> LossFunction:
        """The loss of fine-tuning with triggers and true labels."""

        def loss(batch: Batch) -> dict[str, Tensor]:
            count = round(self.params.share * len(batch.labels))
            rows = torch.randperm(len(batch.labels))[:count].to(batch.labels.device)
            which = torch.randint(len(triggers), (count,)).to(rows.device)
            images = batch.images.clone()
            for j, trigger in enumerate(triggers):
                images[rows[which == j]] = trigger.on(images[rows[which == j]])
            return {"ce": F.cross_entropy(model(images).float(), batch.labels)}

        return loss
