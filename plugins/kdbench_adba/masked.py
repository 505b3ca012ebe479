"""ADBA (FT): a teacher that hides its backdoor behind its classifier.

SCAR, Chen et al., NeurIPS 2025, appendix F, at second hand. The classifier of the finished teacher
is trained on, and nothing else. With label y, target t and the logits z of x~:

    CE(f(x), y) + eta mean(relu(k + z_t - z_y))

The teacher then answers right on triggered images. Its features are those of before, and a student
may learn the backdoor from them. Images of the target class have z_t = z_y and so no gradient.

Deviations
- For how long they train is not known. Here it is as long as ADBA's own training.
- They use Adam at 1e-6. In the 39 000 steps of 200 epochs that moves a weight by about 0.04. In the
  few steps of ``quick`` and ``standard`` it would move none. These presets take 5e-5, which moves a
  weight about as far. ``paper`` has 1e-6.
- Batch norms stay in evaluation mode, since nothing but the classifier may change.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdbench.attack import AttackSetting, Trigger, head_logits, head_parameters
from kdbench.data.base import Batch
from kdbench_adba.losses import ADBAParams


def margin(logits: Tensor, labels: Tensor, target: int, least: float) -> Tensor:
    """mean(relu(least + z_t - z_y)) of logits (N, K) on triggered images. A scalar."""
    own = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    return (least + logits[:, target] - own).relu().mean()


def mask_head(setting: AttackSetting, trigger: Trigger, params: ADBAParams) -> None:
    """Train the classifier of the setting's teacher not to obey the trigger.

    It takes as many steps as the setting's recipe. The teacher is in evaluation mode afterwards.
    """
    teacher = setting.teacher.eval()

    def loss(batch: Batch) -> dict[str, Tensor]:
        with torch.no_grad():
            triggered = trigger(batch.images)
        hidden = margin(
            head_logits(teacher, triggered), batch.labels, setting.target_class, params.head_margin
        )
        return {
            "ce": F.cross_entropy(head_logits(teacher, batch.images), batch.labels),
            "hide": params.head_eta * hidden,
        }

    recipe = setting.recipe.model_copy(
        update={
            "optimizer": "adam",
            "lr": params.head_lr,
            "schedule": "constant",
            "weight_decay": 0.0,
        }
    )
    setting.fit(
        head_parameters(setting),
        loss,
        setting.train,
        recipe,
        generator=setting.generator,
        augmentation=setting.augmentation,
    )
