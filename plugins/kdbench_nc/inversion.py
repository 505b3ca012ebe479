"""The search for the smallest trigger that sends clean images to a class, for many classes at once.

    patch:  x' = (1 - m) x + m p      m one opacity a pixel, size = sum of m, in pixels
    blend:  x' = (1 - a) x + a p      a a grid of 4 x 4 opacities, size = mean of a
    m, a, p = tanh(raw) / (2 - 1e-7) + 1/2
    minimised by Adam: CE(f(x'), k) + c * size, over images that are not of class k

A step is one pass over the images. Its success is the share of them that went to class k in it. c
is 0 until ``patience`` steps in a row had enough success, and then starts. It is doubled after as
many in a row with enough, and divided by 2^1.5 after as many without. The trigger that is kept is
the smallest of those at the end of a step with enough success. A class stops when its best trigger
has not become smaller by 1 % for ``stop`` steps, and c was both raised and lowered.

Every class is searched by itself, though classes share batches: their numbers never meet. It needs
logits only, so that anything that judges networks can use it.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.data.base import Batch, ImageSet
from kdbench.training import Fit, Recipe

Family = Literal["patch", "blend"]
#: Opacities of a blend, along each side of the image.
GRID = 4
#: Images in a pass of the network, at most, unless one batch is larger.
AT_ONCE = 512
_EPS = 1e-7
_UP, _DOWN = 2.0, 2**1.5


@dataclass(frozen=True)
class Budget:
    """How long, and until when."""

    steps: int
    """Passes over the images, at most."""
    restarts: int = 1
    """Searches of each class. The smallest trigger is taken."""
    batch_size: int = 32
    lr: float = 0.1
    """Learning rate of Adam."""
    threshold: float = 0.99
    """Success that is enough, of [0, 1]."""
    cost: float = 1e-3
    """c when it starts."""
    patience: int = 5
    """Steps in a row before c changes."""
    stop: int = 25
    """Steps without progress before a class stops."""


@dataclass(frozen=True)
class Found:
    """The smallest trigger of a class."""

    mask: Tensor
    """Opacity (1, H, W), in [0, 1]."""
    pattern: Tensor
    """(3, H, W), in [0, 1]."""
    success: float
    """Share of the images that went to the class, in the step that ended with this trigger."""
    size: float
    """In the unit of the family. Infinite where no trigger had enough success."""

    def on(self, images: Tensor) -> Tensor:
        """Images (N, 3, H, W) with the trigger."""
        return (1 - self.mask) * images + self.mask * self.pattern


def squash(raw: Tensor) -> Tensor:
    """Any number to [0, 1]."""
    return raw.tanh() / (2 - _EPS) + 0.5


def unsquash(value: Tensor) -> Tensor:
    """The inverse of :func:`squash`."""
    return ((value - 0.5) * (2 - _EPS)).atanh()


class Search(nn.Module):
    """Triggers of J classes while they are searched. All that a resumed search needs is in it.

    Args:
        classes: int64 (J,). A class may be there more than once.
        shape: (3, H, W) of the images.
        family: of the triggers.
        budget: its costs and limits.
        seeds: of the J random starts, uniform in [0, 1].
    """

    hits: Tensor
    seen: Tensor
    cost: Tensor
    above: Tensor
    below: Tensor
    raised: Tensor
    lowered: Tensor
    stale: Tensor
    mark: Tensor
    best_size: Tensor
    best_success: Tensor
    best_mask: Tensor
    best_pattern: Tensor

    def __init__(
        self,
        classes: Tensor,
        shape: tuple[int, int, int],
        family: Family,
        budget: Budget,
        seeds: Sequence[int],
    ) -> None:
        super().__init__()
        self.family, self.budget, self.side = family, budget, shape[1:]
        grid = shape[1:] if family == "patch" else (GRID, GRID)
        masks, patterns = [], []
        for seed in seeds:
            generator = torch.Generator().manual_seed(seed)
            masks.append(torch.rand(1, *grid, generator=generator))
            patterns.append(torch.rand(shape, generator=generator))
        self.raw_mask = nn.Parameter(unsquash(torch.stack(masks)))
        self.raw_pattern = nn.Parameter(unsquash(torch.stack(patterns)))
        self.register_buffer("classes", classes)
        for name in ("hits", "seen", "cost", "above", "below", "raised", "lowered", "stale"):
            self.register_buffer(name, torch.zeros(len(classes)))
        for name in ("mark", "best_size"):
            self.register_buffer(name, torch.full((len(classes),), math.inf))
        self.register_buffer("best_success", torch.zeros(len(classes)))
        self.register_buffer("best_mask", self.mask().detach().clone())
        self.register_buffer("best_pattern", squash(self.raw_pattern).detach().clone())

    def mask(self) -> Tensor:
        """Opacities, (J, 1, H, W)."""
        mask = squash(self.raw_mask)
        return mask if self.family == "patch" else F.interpolate(mask, self.side, mode="nearest")

    def size(self) -> Tensor:
        """(J,), in the unit of the family."""
        mask = squash(self.raw_mask).flatten(1)
        return mask.sum(1) if self.family == "patch" else mask.mean(1)

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """What is minimised, summed over the classes. Counts hits."""
        classes: Tensor = self.classes
        mask, pattern = self.mask()[:, None], squash(self.raw_pattern)[:, None]
        images = (1 - mask) * batch.images + mask * pattern
        logits = model(images.flatten(0, 1)).float()
        wanted = classes.repeat_interleave(len(batch.labels))
        ce = F.cross_entropy(logits, wanted, reduction="none").view(len(classes), -1)
        others = (batch.labels != classes[:, None]).float()
        with torch.no_grad():
            self.hits += ((logits.argmax(1) == wanted).view_as(others) * others).sum(1)
            self.seen += others.sum(1)
        mean = (ce * others).sum(1) / others.sum(1).clamp(min=1)
        return {"ce": mean.sum(), "size": (self.cost * self.size()).sum()}

    @torch.no_grad()
    def end_step(self) -> None:
        """Keep what is smaller, and change c."""
        success = self.hits / self.seen.clamp(min=1)
        enough = success >= self.budget.threshold
        self.keep(success, enough)
        self.above = torch.where(enough, self.above + 1, 0)
        self.below = torch.where(enough, 0, self.below + 1)
        up, down = (n >= self.budget.patience for n in (self.above, self.below))
        begun = self.cost > 0
        self.raised = torch.maximum(self.raised, (up & begun).float())
        self.lowered = torch.maximum(self.lowered, (down & begun).float())
        start = torch.full_like(self.cost, self.budget.cost)
        self.cost = torch.where(up, torch.where(begun, self.cost * _UP, start), self.cost)
        self.cost = torch.where(down, self.cost / _DOWN, self.cost)
        self.above, self.below = self.above * ~up, self.below * ~down
        self.hits, self.seen = torch.zeros_like(self.hits), torch.zeros_like(self.seen)

    def keep(self, success: Tensor, enough: Tensor) -> None:
        """Take a trigger that is the smallest with enough success, where the class still runs."""
        size = self.size()
        better = enough & (size < self.best_size) & self.running()
        wide = better[:, None, None, None]
        self.best_size = torch.where(better, size, self.best_size)
        self.best_success = torch.where(better, success, self.best_success)
        self.best_mask = torch.where(wide, self.mask(), self.best_mask)
        self.best_pattern = torch.where(wide, squash(self.raw_pattern), self.best_pattern)
        progress = self.best_size < 0.99 * self.mark
        self.mark = torch.where(progress, self.best_size, self.mark)
        self.stale = torch.where(progress | self.best_size.isinf(), 0, self.stale + 1)

    def running(self) -> Tensor:
        """Which classes have not stopped, bool (J,)."""
        return ~((self.stale >= self.budget.stop) & (self.raised > 0) & (self.lowered > 0))

    def found(self, j: int) -> Found:
        """The best of entry j."""
        size, success = self.best_size[j].item(), self.best_success[j].item()
        return Found(self.best_mask[j], self.best_pattern[j], success, size)


class _DoneError(Exception):
    """Every class has stopped."""


def invert(
    model: nn.Module,
    images: ImageSet,
    classes: Sequence[int],
    family: Family,
    budget: Budget,
    *,
    fit: Fit,
    generator: torch.Generator,
) -> list[Found]:
    """The smallest trigger of each class.

    Args:
        model: float images (N, 3, H, W) in [0, 1] -> logits (N, K). In eval mode, without
            gradients of its parameters.
        images: clean, labelled.
        classes: those that are searched. The result of one does not depend on which others are.
        family: of the triggers.
        budget: how long.
        fit: the loop.
        generator: a CPU generator.
    """
    seed = int(torch.randint(1 << 62, (), generator=generator))
    entries = [(k, r) for k in classes for r in range(budget.restarts)]
    together = max(1, AT_ONCE // min(budget.batch_size, len(images)))
    results: dict[int, Found] = {}
    for start in range(0, len(entries), together):
        part = entries[start : start + together]
        seeds = [(seed + k * budget.restarts + r) % 2**63 for k, r in part]
        search = Search(torch.tensor([k for k, _ in part]), images.shape, family, budget, seeds)
        _run(search.to(fit.numerics.device), model, images, fit, seed)
        for j, (k, _) in enumerate(part):
            found = search.found(j)
            if k not in results or found.size < results[k].size:
                results[k] = found
    return [results[k] for k in classes]


def _run(search: Search, model: nn.Module, images: ImageSet, fit: Fit, seed: int) -> None:
    """Search with all images in each step, in an order that is the same for every part."""
    budget = search.budget
    recipe = Recipe(
        epochs=budget.steps,
        batch_size=budget.batch_size,
        optimizer="adam",
        lr=budget.lr,
        betas=(0.5, 0.9),
        weight_decay=0,
    )
    per_step, done = max(1, len(images) // min(budget.batch_size, len(images))), 0

    def loss(batch: Batch) -> dict[str, Tensor]:
        if done % per_step == 0 and not bool(search.running().any()):
            raise _DoneError
        return search.loss(model, batch)

    def after_step() -> None:
        # A resumed search begins with a whole step, so the count does, too.
        nonlocal done
        done += 1
        if done % per_step == 0:
            search.end_step()

    with contextlib.suppress(_DoneError):
        fit(
            search,
            loss,
            images,
            recipe,
            generator=torch.Generator().manual_seed(seed),
            after_step=after_step,
        )
