"""Fine-tuning: train on with clean images and hope that the trigger is forgotten.

The baseline of every repair; as in BackdoorBench (Wu et al., NeurIPS 2022, arXiv:2206.12654):
stochastic gradient descent on all weights with the labels alone.

Deviations from the source
- Used after distillation on the student (``when=after``, default) or before it on the teacher
  (``before``).
- Recipe from the preset unless given here; BackdoorBench's is 100 epochs, rate 0.01, cosine,
  batches of 256, 5 % of the images.
- The presets give the defender every training image (``--clean-fraction`` for less).
- It draws as NAD does: NAD without its attention loss is fine-tuning, bit for bit.
"""

from __future__ import annotations

from kdbench.defense import DefenseSetting
from kdbench.method import Info
from kdbench.models.base import FeatureModel
from kdbench.repair import Repair, TuningParams, fine_tune


class FineTuning(Repair):
    """Cross-entropy on clean images."""

    info = Info(
        name="finetune",
        title="Fine-tuning on clean images (baseline, as in BackdoorBench)",
        authors="Wu, Chen, Zhang, Zhu, Wei, Yuan, Shen",
        venue="NeurIPS Datasets and Benchmarks",
        year=2022,
        link="https://arxiv.org/abs/2206.12654",
        evidence="other-repairs",
    )
    Params = TuningParams
    zero = {"epochs": 0}
    presets = {
        "quick": {},
        "standard": {},
        "paper": {"epochs": 100, "batch_size": 256, "lr": 0.01, "weight_decay": 5e-4},
    }
    params: TuningParams

    def repair(self, model: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        """Train ``model`` in place; returns it."""
        fine_tune(model, setting, self.params.recipe(setting.recipe))
        return model
