"""BCU: draw part of a network's weights anew, and distil the network into what is left of it.

L. Pang, T. Sun, H. Ling, C. Chen: Backdoor Cleansing with Unlabeled Data. CVPR 2023,
arXiv:2211.12044.

Implemented: layer-wise random re-initialisation, and distillation without labels (section 3), as in
the authors' code. T is the network as it was given, S the one with new weights, z their logits.

    each weight of a convolution or linear layer is drawn anew with probability p of its depth
    L = KL( softmax(z_T / tau) || softmax(z_S / tau) ), mean over the images
    tau in epoch e of E, counted from 0:  1 + (temperature - 1) (e + 1) / E

There is no factor tau^2, so that the loss fades while tau grows, and no cross-entropy. Batch norms
and biases stay as they are. T is in eval mode.

Deviations from the paper:
- With ``--unlabeled`` the images are the defender's unlabeled ones: of the training images, and
  none of them the deployer's. The paper has 10 % of the training images, held out from the
  attacker, or those of another data set. Here the teacher's provider has trained on them.
- Without ``--unlabeled`` they are the clean images, with their labels ignored.
- kdbench's networks have three groups, and the authors' ResNet-18 has four. p is 0.01 in the first
  convolution and the first group, 0.03 in the second, 0.27 in the third, and 0.1 in the linear
  layers after it. The authors have 0.01, 0.01, 0.03, 0.09 and 0.27 for their stem and groups.
- A new weight of a convolution is normal with the variance 2 / (k^2 C_out), as in kdbench's own
  networks. One of a linear layer is uniform, as torch has it.
- The authors report the epoch with the best *test* accuracy. Here it is the last.
- Used after distillation on the student (``when=after``, default) or before it on the teacher
  (``before``).
- Recipe from the preset unless given here; ``paper`` has the authors'.
- ``bcu.self`` draws nothing anew, ``bcu.scratch`` everything. They are controls of the same cost.
  The second is what distillation to a new student is, so compare it with C3.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from kdbench.data.base import Batch
from kdbench.defense import DefenseSetting
from kdbench.logits import soft_kl
from kdbench.method import Info, Variant
from kdbench.models.base import FeatureModel
from kdbench.models.views import FrozenTeacher
from kdbench.repair import PlainTuningParams, Repair, fine_tune, position

#: Depths, in the order of ``rates``: the first layer, the three groups, what comes after them.
STEM, HEAD = 0, 4
_Layer = nn.Conv2d | nn.Linear
_Rate = Annotated[float, Field(ge=0, le=1)]


class BCUParams(PlainTuningParams):
    """How many weights are drawn anew, and how the network is distilled."""

    rates: tuple[_Rate, _Rate, _Rate, _Rate, _Rate] = Field(
        (0.01, 0.01, 0.03, 0.27, 0.1),
        description="probability that a weight is drawn anew, of [0, 1]: first layer, groups 1-3, "
        "classifier; kdbench, after the paper's section 4",
    )
    scale: float = Field(
        1.0, ge=0, description="factor of all rates, which end at 1 at most; kdbench"
    )
    temperature: float = Field(
        4.0, ge=1, le=100, description="tau of the last epoch; it grows from 1; authors' code"
    )

    def rate(self, depth: int) -> float:
        """The probability at a depth."""
        return min(1.0, self.scale * self.rates[depth])


def depths(model: FeatureModel, images: Tensor) -> dict[_Layer, int]:
    """The depth of each convolution and linear layer that runs, found with images (N, 3, H, W).

    A layer that runs more than once has the depth of its first run.
    """
    found: dict[_Layer, int] = {}
    group = 1

    def note(layer: nn.Module, args: object, output: object) -> None:
        assert isinstance(layer, _Layer)
        found.setdefault(layer, group if found else STEM)

    def end_of_group(i: int, g: Tensor) -> Tensor:
        nonlocal group
        group = i + 2
        return g

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, _Layer)]
    try:
        with torch.no_grad():
            model.features(images, edit=end_of_group)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def reinitialise(layer: _Layer, rate: float, generator: torch.Generator) -> None:
    """Draw each weight of a layer anew with probability ``rate``. Everything is drawn on the
    CPU."""
    weight = layer.weight
    fresh, chosen = torch.empty(weight.shape), torch.rand(weight.shape, generator=generator) < rate
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(fresh, mode="fan_out", nonlinearity="relu", generator=generator)
    else:
        nn.init.kaiming_uniform_(fresh, a=math.sqrt(5), generator=generator)
    weight.copy_(torch.where(chosen.to(weight.device), fresh.to(weight), weight))


def temperature_of(epoch: int, epochs: int, last: float) -> float:
    """tau of an epoch, counted from 0."""
    return 1 + (last - 1) * (epoch + 1) / epochs


def soft_loss(teacher: Tensor, student: Tensor, tau: float) -> Tensor:
    """KL of the softened distributions of two logits (N, K), mean over N, without tau^2."""
    return soft_kl(student, teacher, tau)


class BCU(Repair):
    """Forget part of the weights, and learn them again from the network itself."""

    info = Info(
        name="bcu",
        title="Backdoor Cleansing with Unlabeled Data",
        authors="Pang, Sun, Ling, Chen",
        venue="CVPR",
        year=2023,
        link="https://arxiv.org/abs/2211.12044",
        evidence="defenses-of-the-field",
    )
    Params = BCUParams
    zero = {"scale": 0, "epochs": 0}
    presets = {
        "quick": {},
        "standard": {},
        "paper": {
            "epochs": 100,
            "batch_size": 256,
            "lr": 0.01,
            "weight_decay": 5e-4,
            "cosine": True,
        },
    }
    variants = {
        "self": Variant("a control: no weight is drawn anew", {"scale": 0}),
        "scratch": Variant(
            "a control: every weight of convolutions and linear layers is drawn anew",
            {"rates": (1, 1, 1, 1, 1), "scale": 1},
        ),
    }
    params: BCUParams

    def repair(self, model: FeatureModel, setting: DefenseSetting) -> FeatureModel:
        """Draw weights of ``model`` anew and train it in place; returns it."""
        params = self.params
        images = setting.clean if setting.unlabeled is None else setting.unlabeled
        guide = FrozenTeacher(model)
        one = images.read(torch.zeros(1, dtype=torch.int64), setting.numerics.device)
        for layer, depth in depths(model, one).items():
            reinitialise(layer, params.rate(depth), setting.generator)
        recipe = params.recipe(setting.recipe)
        epochs = recipe.passes(len(images))

        def loss(batch: Batch) -> dict[str, Tensor]:
            epoch, _ = position(batch, recipe, len(images))
            tau = temperature_of(epoch, epochs, params.temperature)
            wanted = guide.features(batch.images).logits
            return {"soft": soft_loss(wanted, model(batch.images), tau)}

        fine_tune(model, setting, recipe, images=images, loss=loss)
        return model
