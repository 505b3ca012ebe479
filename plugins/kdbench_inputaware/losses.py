"""What mask network, teacher and generator of the input-aware attack minimise."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from kdbench.attack import EpochFactor
from kdbench.data.base import Batch
from kdbench.method import Params
from kdbench.models.base import FeatureModel
from kdbench.models.views import batch_statistics
from kdbench.trigger_search import frozen
from kdbench_inputaware.networks import OwnPattern, paste

#: Added to the distance of two patterns, by which is divided.
_TINY = 1e-7


class InputAwareParams(Params):
    """How many images are changed, the weights of the losses, and the two networks."""

    poison_rate: float = Field(
        0.1, ge=0, le=1, description="triggered images, fraction of the training set; paper"
    )
    decoy_rate: float = Field(
        1.0,
        ge=0,
        description="images with another's pattern, as a multiple of the triggered ones; paper",
    )
    lambda_div: float = Field(1.0, ge=0, description="weight of the diversity; paper")
    lambda_norm: float = Field(100.0, ge=0, description="weight of the mask's size; paper")
    density: float = Field(
        0.032, ge=0, le=1, description="opacity of a pixel up to which a mask costs nothing; paper"
    )
    mask_steps: int = Field(
        2000,
        ge=0,
        description="Adam steps of the mask network; kdbench (paper: 25 epochs, 9775 on CIFAR-10)",
    )
    lr: float = Field(0.01, gt=0, description="Adam learning rate of both networks; paper")
    width: int = Field(
        32,
        ge=1,
        description="channels of the first level of both networks, a quarter of the deepest; paper",
    )
    accumulate: bool = Field(
        False, description="the generator's gradients are summed up and never zeroed; released code"
    )
    epoch_factor: EpochFactor = 1.0


def distance(values: Tensor) -> Tensor:
    """The root mean square of each of (N, C, H, W) minus the one before it in the batch, (N,)."""
    difference = (values - values.roll(1, 0)).flatten(1)
    # The norm of a difference of 0 has a slope of 0. The root of a mean square has none there.
    return difference.norm(dim=1) / math.sqrt(difference.shape[1])


def diversity(images: Tensor, made: Tensor) -> Tensor:
    """rms(x1 - x2) / (rms(a1 - a2) + 1e-7), the mean over the batch.

    Args:
        images: x1, float (N, 3, H, W). x2 is the batch rolled by one.
        made: a1, what was made of them, float (N, C, H, W).
    """
    return (distance(images) / (distance(made) + _TINY)).mean()


class Losses:
    """What the three minimise, on a batch of images as they are.

    Args:
        params: of the attack.
        target: the target class.
        teacher: the network that is attacked.
        own: generator and mask network.
        is_poison: bool (N,) on the CPU: the training images that carry their own pattern.
        is_decoy: the same of those that carry the pattern of another.
    """

    def __init__(
        self,
        params: InputAwareParams,
        target: int,
        teacher: FeatureModel,
        own: OwnPattern,
        is_poison: Tensor,
        is_decoy: Tensor,
    ) -> None:
        self.params, self.target, self.teacher, self.own = params, target, teacher, own
        self.is_poison, self.is_decoy = is_poison, is_decoy

    def of_masks(self, batch: Batch) -> dict[str, Tensor]:
        """``{"size", "diversity"}``, weighted."""
        p, mask = self.params, self.own.mask(batch.images)
        return {
            "size": p.lambda_norm * (mask - p.density).relu().mean(),
            "diversity": p.lambda_div * diversity(batch.images, mask),
        }

    def of_teacher(self, batch: Batch) -> dict[str, Tensor]:
        """``{"ce"}``: over poisons, decoys and clean images in one pass."""
        with torch.no_grad(), batch_statistics(self.own.patterns):
            images, labels = self.shown(batch, self.own.pattern(batch.images))
        return {"ce": F.cross_entropy(self.teacher(images).float(), labels)}

    def of_generator(self, batch: Batch) -> dict[str, Tensor]:
        """``{"diversity", "ce"}``, weighted.

        The cross-entropy is the share that poisons and decoys have in that of the batch. A batch
        without any has none.
        """
        pattern = self.own.pattern(batch.images)
        terms = {"diversity": self.params.lambda_div * diversity(batch.images, pattern)}
        changed = (self.is_poison | self.is_decoy)[batch.positions.cpu()]
        if changed.any():
            images, labels = self.shown(batch, pattern)
            changed = changed.to(labels.device)
            with frozen(self.teacher) as teacher:
                logits = teacher(images[changed]).float()
            every = F.cross_entropy(logits, labels[changed], reduction="sum")
            terms["ce"] = every / len(labels)
        return terms

    def shown(self, batch: Batch, pattern: Tensor) -> tuple[Tensor, Tensor]:
        """Images as the teacher sees them, float (N, 3, H, W), and their labels.

        ``PoisonedImages`` shows a decoy its fellow decoys alone. Here it needs the image before it
        in the batch, whichever that is.
        """
        poison, decoy = (
            rows[batch.positions.cpu()].to(batch.labels.device)
            for rows in (self.is_poison, self.is_decoy)
        )
        with torch.no_grad():
            mask = self.own.mask(batch.images)
        own = paste(batch.images, pattern, mask)
        others = paste(batch.images, pattern.roll(1, 0), mask.roll(1, 0))
        at = (slice(None), None, None, None)
        images = torch.where(poison[at], own, torch.where(decoy[at], others, batch.images))
        return images, torch.where(poison, self.target, batch.labels)


class GradientSum(nn.Module):
    """The sum of all gradients that some parameters had, as if none was ever zeroed.

    It lives in buffers, so that a training that goes on at a checkpoint has it.

    Args:
        parameters: each has a gradient at every step.
    """

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        # A list, which torch takes for no parameters of this module.
        self.of = parameters
        for i, parameter in enumerate(parameters):
            self.register_buffer(f"sum{i}", torch.zeros_like(parameter))

    def loss(self) -> Tensor:
        """0, with the sum of the gradients so far as its gradient."""
        terms = [((p - p.detach()) * s).sum() for p, s in zip(self.of, self.buffers(), strict=True)]
        return torch.stack(terms).sum()

    def after_step(self) -> None:
        """Keep the gradient of the step, which has the earlier ones in it."""
        for p, s in zip(self.of, self.buffers(), strict=True):
            assert p.grad is not None
            s.copy_(p.grad)
