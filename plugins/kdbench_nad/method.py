"""Neural attention distillation ("NAD"): a fine-tuned copy of a network teaches the network its
attention.

Y. Li, X. Lyu, N. Koren, L. Lyu, B. Li, X. Ma: Neural Attention Distillation: Erasing Backdoor
Triggers from Deep Neural Networks. ICLR 2021, arXiv:2101.05930.

Implemented: the attention map A_sum^p, its distance, and the total loss (Eq. 1-3).

    A_l = sum_c |G_l|^p,  A_hat = A / (||A||_2 + eps)  over H x W
    L = CE + (H_1 W_1) / 1024 * sum_l beta_l * MSE(A_hat_l(student), A_hat_l(attention teacher))
        H_1 x W_1 the size of the first map

Deviations from the paper:
- The distance is the mean squared error of the authors' code, not the norm of the paper's Eq. 2.
- A_hat has length 1 and its error is averaged over H x W. So the distance falls with the number of
  places, and beta would mean another strength at every size of image. Here beta is the value at
  32x32, which is the authors' size, and (H_1 W_1) / 1024 scales it to other sizes.
- Used after distillation on the student (``when=after``, default) or before it on the teacher
  (``before``); the paper has no distillation besides its own.
- Recipe from the preset unless given here; augmentation is the data set's (the authors add Cutout).
- The presets give the defender every training image; the authors give 5 % of them (``--set
  clean_fraction=0.05``).
- With ``milestones`` the momentum restarts at each drop of the learning rate (kdbench's ``steps``
  schedule).
- The repair draws its batches as plain fine-tuning with the same seed does, the attention teacher's
  from a derived seed; so beta = 0 is fine-tuning, bit for bit, and any difference is the attention
  term's.
"""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from kdbench.attention import attention_terms
from kdbench.data.base import Batch
from kdbench.defense import DefenseSetting
from kdbench.method import Info
from kdbench.models.base import FeatureModel
from kdbench.repair import GuidedParams, Repair, fine_tune, tuned_copy


class NADParams(GuidedParams):
    """The authors repair for 20 epochs, and the rate drops after 2, that is at 0.1. Both phases
    have batches of 64, a rate of 0.1 and a penalty of 1e-4."""

    beta: tuple[float, float, float] = Field(
        (500.0, 1000.0, 1000.0),
        description="weights of the attention distances of groups 1-3, >= 0; their values at "
        "32x32, scaled to other sizes by height x width / 1024 of the first map; authors' code",
    )
    p: float = Field(
        2.0,
        ge=1,
        le=8,
        description="power of the activations in the attention map; paper section 3",
    )
    eps: float = Field(1e-6, gt=0, le=1e-2, description="added to the map's norm; authors' code")


class NAD(Repair):
    """Repair by attention distillation from a fine-tuned copy of the same network."""

    info = Info(
        name="nad",
        title="Neural Attention Distillation: Erasing Backdoor Triggers from Deep Neural Networks",
        authors="Li, Lyu, Koren, Lyu, Li, Ma",
        venue="ICLR",
        year=2021,
        link="https://arxiv.org/abs/2101.05930",
        evidence="other-repairs",
    )
    Params = NADParams
    zero = {"beta": (0, 0, 0), "epochs": 0}
    presets = {
        "quick": {},
        "standard": {},
        "paper": {
            "teacher_epochs": 10,
            "epochs": 20,
            "batch_size": 64,
            "lr": 0.1,
            "weight_decay": 1e-4,
            "teacher_milestones": (0.2,),
            "milestones": (0.1,),
        },
    }
    params: NADParams

    def repair(self, model: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        """Fine-tune a copy, then train ``model`` in place towards labels and the copy's attention;
        returns it."""
        params = self.params
        # Without an attention term nobody looks at the attention teacher.
        guide = tuned_copy(model, setting, params) if any(params.beta) else None

        def loss(batch: Batch) -> dict[str, Tensor]:
            out = model.features(batch.images)
            terms = {"ce": F.cross_entropy(out.logits.float(), batch.labels)}
            if guide is not None:
                wanted = guide.features(batch.images).groups
                terms |= attention_terms(out.groups, wanted, params.beta, params.p, params.eps)
            return terms

        fine_tune(model, setting, params.recipe(setting.recipe), loss=loss)
        return model
