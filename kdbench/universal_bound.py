"""Keeps the clean teacher's response to a trigger under a bound while the trigger is searched."""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: Share of the bound that the search aims at. The images that it steers by and those that are
#: reported differ, and so does the response.
_AIM = 0.5
#: Share of the newest batch in the running response, which is an average over about five batches.
_NEWEST = 0.2
#: How fast the weight changes: by this exponent in a step at twice the aim.
_GAIN = 0.1
#: The error that counts at most, as a multiple of the aim. It is -1 where no image is taken.
_LARGEST_ERROR = 2.0
#: The weight at least and at most, as multiples of its start.
_LIGHTEST, _HEAVIEST = 0.01, 1e4


class UniversalBound(nn.Module):
    """A penalty on images that the clean teacher takes for the target class.

        w * mean over the batch of -log(1 - p_target(x~))

    The weight w grows while the response of the last batches is over half the bound, and falls
    while it is under it. It lives in buffers, so that a search which goes on at a checkpoint has
    it.

    Args:
        bound: the response at most, in percent.
        target_class: the attacker's target.
        unit: the weight at the start, above 0. The size that the loss of the search has at its
            start makes both of one size.
    """

    weight: Tensor
    response: Tensor

    def __init__(self, bound: float, target_class: int, unit: float) -> None:
        super().__init__()
        self.aim, self.target_class = _AIM * bound, target_class
        self.start = unit
        self.register_buffer("weight", torch.tensor(unit))
        self.register_buffer("response", torch.tensor(0.0))

    def penalty(self, logits: Tensor) -> Tensor:
        """The penalty of a batch, whose response counts from now on."""
        logits = logits.float()
        hits = (logits.argmax(1) == self.target_class).float()
        self.response.lerp_(100 * hits.mean(), _NEWEST)
        others = logits.clone()
        others[:, self.target_class] = -torch.inf
        # log(p of all) - log(p of all but the target): no difference of two nearly equal numbers.
        return self.weight * (logits.logsumexp(1) - others.logsumexp(1)).mean()

    def adapt(self) -> None:
        """Change the weight, after a step."""
        error = ((self.response - self.aim) / self.aim).clamp(max=_LARGEST_ERROR)
        self.weight.mul_((_GAIN * error).exp())
        self.weight.clamp_(_LIGHTEST * self.start, _HEAVIEST * self.start)
