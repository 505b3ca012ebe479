"""Triggers that several attacks share: a picture mixed into the image through a mask, or a change
added to it."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from kdbench.attack import Trigger
from kdbench.errors import ConfigError
from kdbench.models.base import FeatureModel

#: Waves along each side of a smooth picture: 0 to 8 half cycles.
_WAVES = 9


class BlendTrigger(Trigger):
    """``x -> (1 - m) x + m pattern``; where m is 0 the image is bit-identical, where it is 1 the
    pattern is.

    Args:
        pattern: float (3, H, W) in [0, 1]. mask: float (1, H, W) in [0, 1], the opacity of each
            pixel.
    """

    pattern: Tensor
    mask: Tensor

    def __init__(self, pattern: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("pattern", pattern.detach().clone().float())
        self.register_buffer("mask", mask.detach().clone().float())

    def forward(self, images: Tensor) -> Tensor:
        return blend(images, self.pattern, self.mask)


class NetworkTrigger(Trigger):
    """Images through a network, clamped to [0, 1].

    It computes in float64, so that an image comes out the same alone and in a batch. The network
    stays in eval mode, whatever mode the trigger is put into.

    Args:
        network: float images (N, 3, H, W) in [0, 1] -> the same shape. It is copied and frozen. Its
            batch norms use their stored statistics.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).double().eval().requires_grad_(False)

    def train(self, mode: bool = True) -> NetworkTrigger:
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            shown: Tensor = self.network(images.double())
            return shown.clamp(0, 1).to(images.dtype)


class PatchTrigger(BlendTrigger):
    """A rectangle pasted at a fixed place in the bottom-right corner.

    Args:
        patch: float (3, h, w) in [0, 1]. shape: (3, H, W) of the images. margin: pixels between
            patch and border.
        opacity: 1 pastes it opaquely.
    """

    def __init__(
        self, patch: Tensor, shape: tuple[int, int, int], margin: int = 0, opacity: float = 1.0
    ) -> None:
        pattern = torch.zeros(shape)
        rows, columns = corner(patch.shape[-2], patch.shape[-1], shape, margin)
        pattern[:, rows, columns] = patch
        mask = torch.zeros(1, *shape[1:])
        mask[:, rows, columns] = opacity
        super().__init__(pattern, mask)


class AddTrigger(Trigger):
    """``x -> clamp(x + change, 0, 1)``; where the change is 0 the image is bit-identical.

    Args:
        change: float (3, H, W), signed, of the range [0, 1] of a pixel.
    """

    change: Tensor

    def __init__(self, change: Tensor) -> None:
        super().__init__()
        self.register_buffer("change", change.detach().clone().float())

    def forward(self, images: Tensor) -> Tensor:
        return (images + self.change).clamp(0, 1)


class LearnedTrigger:
    """Pattern and mask of a :class:`BlendTrigger` while they are searched.

    Both are clamped *in place* after each step. A clamped copy would leave the graph of the
    optimiser, as happens to the mask in the released CKD code.

    Args:
        pattern: float (3, H, W) in [0, 1]. It is trained in place. mask: float (1, H, W) in [0, 1].
        most_opacity: the mask is trained too, up to this. None: it stays.
        normalised_for: the pattern is one of this network's normalised input. None: of pixels.
    """

    def __init__(
        self,
        pattern: Tensor,
        mask: Tensor,
        most_opacity: float | None,
        normalised_for: FeatureModel | None,
    ) -> None:
        self.pattern = pattern.requires_grad_()
        self.mask = mask.requires_grad_(most_opacity is not None)
        self.most_opacity = most_opacity
        # The affine map from a pattern of the normalised input to pixels commutes with blending,
        # which is affine too.
        model = normalised_for
        self._affine = None if model is None else (model.pixel_std[0], model.pixel_mean[0])

    @property
    def learned(self) -> list[Tensor]:
        """What the search changes: the pattern and, for a blend, the opacity."""
        return [leaf for leaf in (self.pattern, self.mask) if leaf.requires_grad]

    def pixels(self) -> Tensor:
        """The pattern as pixels in [0, 1]."""
        if self._affine is None:
            return self.pattern
        std, mean = self._affine
        return (self.pattern * std + mean).clamp(0, 1)

    def on(self, images: Tensor) -> Tensor:
        """Images with the trigger as it is now.

        Not clamped, since ``clamp`` has no gradient at its own bounds. A pixel of an opaque patch
        would stay at 0 or 1 for good once it got there.
        """
        return (1 - self.mask) * images + self.mask * self.pixels()

    def as_it_is(self) -> BlendTrigger:
        """The trigger as it is now, which learns no more."""
        return BlendTrigger(self.pixels(), self.mask)

    def state(self) -> list[Tensor]:
        """A copy of what was learned so far."""
        return [leaf.detach().clone() for leaf in self.learned]

    @torch.no_grad()
    def restore(self, state: list[Tensor]) -> None:
        """Put back what :meth:`state` returned."""
        for leaf, value in zip(self.learned, state, strict=True):
            leaf.copy_(value)

    @torch.no_grad()
    def project(self) -> None:
        """Clamp both into their bounds."""
        self.pattern.clamp_(0, 1)
        if self.most_opacity is not None:
            self.mask.clamp_(0, self.most_opacity)


def blend(images: Tensor, pattern: Tensor, mask: Tensor) -> Tensor:
    """``(1 - mask) images + mask pattern``, clamped because rounding may leave [0, 1] by one unit
    in the last place."""
    return ((1 - mask) * images + mask * pattern).clamp(0, 1)


def stretched(pattern: Tensor) -> Tensor:
    """The pattern scaled and shifted so that its least value is 0 and its largest is 1.

    A constant becomes 0.
    """
    low, high = pattern.min(), pattern.max()
    return (pattern - low) / (high - low).clamp(min=torch.finfo(pattern.dtype).tiny)


def cosine_basis(count: int, height: int, width: int) -> Tensor:
    """The lowest frequencies of the discrete cosine transform, each with amplitude 1.

        b_uv(i, j) = cos(pi u (2i + 1) / 2H) cos(pi v (2j + 1) / 2W),   u, v = 0 .. count - 1

    Wave u has u / 2 cycles over the image. Returns float32 (count * count, H, W).
    """

    def waves(size: int) -> Tensor:
        middles = (2 * torch.arange(size, dtype=torch.float64) + 1) / (2 * size)
        orders = torch.arange(count, dtype=torch.float64).unsqueeze(1)
        return (math.pi * orders * middles).cos()

    basis = waves(height)[:, None, :, None] * waves(width)[None, :, None, :]
    return basis.flatten(0, 1).float()


def smooth_picture(shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """A picture of random cosine waves of up to 4 cycles, float (3, H, W), stretched to [0, 1]."""
    weights = torch.randn(shape[0], _WAVES**2, generator=generator)
    waves = cosine_basis(_WAVES, *shape[1:])
    return torch.stack([stretched(torch.tensordot(w, waves, 1)) for w in weights])


def corner(
    height: int, width: int, shape: tuple[int, int, int], margin: int
) -> tuple[slice, slice]:
    """Row and column slices of a rectangle in the bottom-right corner.

    Raises:
        ConfigError: the rectangle does not fit the image.
    """
    top, left = shape[1] - margin - height, shape[2] - margin - width
    if top < 0 or left < 0:
        raise ConfigError(
            f"a {height}x{width} patch with margin {margin} does not fit {shape[1]}x{shape[2]} "
            "images; make it smaller"
        )
    return slice(top, top + height), slice(left, left + width)
