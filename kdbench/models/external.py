"""The adapter that makes kdbench models of timm and torchvision classifiers.

The feature groups are found, not listed. The network runs once on blank images, and every module
that returns a feature map is noted in the order in which it finishes. At each of the three last
spatial sizes the outermost, last module is the end of a group. Maps of 1x1 do not count. So at
small image sizes a network's last stage may belong to the head.

A network of tokens (a vision transformer) takes three evenly spaced blocks instead. Its groups are
the patch tokens laid out as an image. Its logits come from the mean of the patches: a class token
would carry information past G3, and then no edit or head of G3 would be right.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.errors import ConfigError
from kdbench.models.base import GROUPS, Edit, FeatureModel, FeatureOutput
from kdbench.models.soundness import cause


def _build(library: str, name: str, num_classes: int, size: int | None) -> tuple[nn.Module, int]:
    """The network with fresh weights, and the size of the images that it is traced with.

    That is 64 pixels a side where neither the caller nor the network asks for a size.
    """
    options: dict[str, Any] = {}
    if library == "timm":
        import timm

        settings = timm.get_pretrained_cfg(name)
        if settings is not None and settings.fixed_input_size:
            size = options["img_size"] = size or settings.input_size[-1]
            # No class token, see the top of this file. A family that lacks this option has no class
            # token to replace, or _find_groups refuses it.
            with contextlib.suppress(TypeError):
                return timm.create_model(
                    name, False, num_classes=num_classes, global_pool="avg", **options
                ), size
        return timm.create_model(
            name, pretrained=False, num_classes=num_classes, **options
        ), size or 64
    from torchvision import models

    if name.startswith("vit_"):
        size = options["image_size"] = size or 224
    if name in ("googlenet", "inception_v3"):
        # No objective here reads the auxiliary heads, and that of inception cannot take small maps.
        options["aux_logits"] = False
        options["init_weights"] = True
    return models.get_model(name, weights=None, num_classes=num_classes, **options), size or 64


@dataclass(frozen=True)
class _End:
    """The module at the end of a group."""

    path: str
    """The module's name within the network."""
    layout: str
    """Of its output: ``nchw``, ``nhwc`` or ``tokens``."""
    channels: int
    """The group's channels."""
    prefix: int = 0
    """How many tokens come first that belong to no patch: the class token, registers."""

    def read(self, output: Tensor) -> Tensor:
        """The group (N, C, H, W) in the module's output."""
        if self.layout == "nhwc":
            return output.permute(0, 3, 1, 2)
        if self.layout == "tokens":
            patches = output[:, self.prefix :]
            side = math.isqrt(patches.shape[1])
            return patches.transpose(1, 2).unflatten(2, (side, side))
        return output

    def write(self, g: Tensor, output: Tensor) -> Tensor:
        """The output that the module returns with ``g`` in the place of the group.

        Tokens that belong to no patch are those of ``output``.
        """
        if self.layout == "nhwc":
            return g.permute(0, 2, 3, 1)
        if self.layout == "tokens":
            return torch.cat([output[:, : self.prefix], g.flatten(2).transpose(1, 2)], dim=1)
        # A copy: the next activation may work in place, and would change the group that was kept.
        return g.clone()


class ExternalModel(FeatureModel):
    """A timm or torchvision classifier with fresh weights.

    The taps are the outputs of the groups themselves, often after a ReLU. Their distribution is not
    known, so there are no tap norms.

    Args:
        library: ``timm`` or ``torchvision``.
        name: as that library spells it.
        num_classes: at least 2.
        image_size: pixels a side. Some networks must know it, and the groups are found with images
            of this size.

    Raises:
        ConfigError: the network cannot take such images, or has no three feature maps at that size.
    """

    def __init__(
        self, library: str, name: str, num_classes: int, image_size: int | None = None
    ) -> None:
        super().__init__()
        self.name, self.num_classes = f"{library}/{name}", num_classes
        try:
            self.body, self.blank_size = _build(library, name, num_classes, image_size)
        # A library may raise anything for a size, or for an option that a network lacks.
        except Exception as error:
            size = f"images of {image_size}x{image_size}" if image_size else "its own size"
            raise ConfigError(
                f"{self.name} cannot be built for {num_classes} classes and {size}: {cause(error)}"
            ) from error
        self.ends = _find_groups(self.body, self.blank_size, self.name, num_classes)
        self.group_channels = self.tap_channels = tuple(end.channels for end in self.ends)

    def features(self, x: Tensor, edit: Edit | None = None) -> FeatureOutput:
        return self._run((x - self.pixel_mean) / self.pixel_std, edit)

    def _run(
        self, x: Tensor, edit: Edit | None, after: Callable[[int], None] | None = None
    ) -> FeatureOutput:
        """Run the body on normalised images. ``after(i)`` is called at the end of group ``i``."""
        groups: list[Tensor] = []

        def keep(i: int, end: _End) -> Any:
            def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
                g = end.read(output) if edit is None else edit(i, end.read(output))
                # The rest of the network is computed from this very tensor, so that gradients of
                # the logits reach it.
                groups.append(g)
                if after is not None:
                    after(i)
                return end.write(g, output)

            return hook

        handles = [
            self.body.get_submodule(end.path).register_forward_hook(keep(i, end))
            for i, end in enumerate(self.ends)
        ]
        try:
            logits = self.body(x)
        finally:
            for handle in handles:
                handle.remove()
        return FeatureOutput(tuple(groups), tuple(groups), logits)

    def _resume(self, i: int, g: Tensor) -> FeatureOutput:
        """Run the rest of the network from ``g``, which takes the place of group ``i``'s output.

        The layers before it run on blank images. That is slow, but needs no knowledge of the
        network. They run in eval mode: blank images must not enter the running statistics of a
        batch norm.
        """
        blank = torch.zeros(len(g), 3, self.blank_size, self.blank_size, device=g.device)
        training = [module for module in self.body.modules() if module.training]

        def set_training(mode: bool) -> None:
            for module in training:
                module.training = mode

        def after(j: int) -> None:
            if j == i:
                set_training(True)

        set_training(False)
        try:
            return self._run(blank, lambda j, computed: g if j == i else computed, after)
        finally:
            set_training(True)

    def head(self, g: Tensor) -> Tensor:
        """The logits of G3, at the cost of a full pass."""
        return self._resume(GROUPS - 1, g).logits

    def tap_norms(self) -> tuple[None, ...]:
        return (None,) * GROUPS

    def tap(self, i: int, g: Tensor) -> Tensor:
        return g

    def first_group(self, x: Tensor) -> Tensor:
        return self._run(x, None).groups[0]

    def next_group(self, i: int, g: Tensor, tap: Tensor) -> Tensor:
        return self._resume(i, g).groups[i + 1]

    def classify(self, g: Tensor, tap: Tensor) -> Tensor:
        return self.head(g)

    def pooled(self, output: FeatureOutput) -> Tensor:
        """The mean of G3 over the image. What the library's own head does beyond is not known."""
        return output.groups[-1].float().mean((2, 3))


def _find_groups(body: nn.Module, size: int, name: str, num_classes: int) -> tuple[_End, ...]:
    seen: list[tuple[str, tuple[int, ...]]] = []

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # Two images go in. Modules inside attention windows, for example, have other batch
            # sizes, and their outputs are no feature maps of the images.
            if isinstance(output, Tensor) and len(output) == 2:
                seen.append((path, tuple(output.shape[1:])))

        return hook

    handles = [m.register_forward_hook(note(path)) for path, m in body.named_modules() if path]
    was_training = [module for module in body.modules() if module.training]
    try:
        body.eval()
        with torch.no_grad():
            logits = body(torch.zeros(2, 3, size, size))
    except Exception as error:
        raise ConfigError(
            f"{name} cannot take images of {size}x{size}: {cause(error)}; try another --image-size"
        ) from error
    finally:
        for module in was_training:
            module.training = True
        for handle in handles:
            handle.remove()
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else ()
    if shape != (2, num_classes):
        what = "x".join(map(str, shape)) or f"a {type(logits).__name__}"
        raise ConfigError(
            f"{name} is no classifier: for 2 images of {num_classes} classes it returns {what}; "
            "name a network with a classification head"
        )
    # A module that runs twice in a pass cannot end a group, since it would be edited twice.
    calls = Counter(path for path, _ in seen)
    seen = [(path, shape) for path, shape in seen if calls[path] == 1]
    ends = _maps(seen)
    if len(ends) < GROUPS:
        ends = _tokens(seen, getattr(body, "num_prefix_tokens", None))
    if len(ends) < GROUPS:
        raise ConfigError(
            f"no three feature maps found in {name} at {size}x{size}; try a larger --image-size"
        )
    if ends[-1].prefix and getattr(body, "global_pool", "token") != "avg":
        raise ConfigError(
            f"{name} reads its logits from a class token, not from a feature map; try one of "
            "timm's vit models"
        )
    return tuple(ends[-GROUPS:])


def _maps(seen: list[tuple[str, tuple[int, ...]]]) -> list[_End]:
    """The last, outermost module at every spatial size, the largest size first.

    The blank images are square, so two equal sides of a shape are H and W.
    """
    last_of_size: dict[int, _End] = {}
    for path, shape in seen:
        if len(shape) != 3:
            continue
        if shape[1] == shape[2]:
            end, side = _End(path, "nchw", shape[0]), shape[1]
        elif shape[0] == shape[1]:
            end, side = _End(path, "nhwc", shape[2]), shape[0]
        else:
            continue
        # In a classifier sizes only shrink. A larger one later on is a pool that repeats values, or
        # attention weights.
        if side == 1 or side > min(last_of_size, default=side):
            continue
        # The outermost module is taken: a whole stage, and not a layer inside the next one.
        known = last_of_size.get(side)
        if known is None or path.count(".") <= known.path.count("."):
            last_of_size[side] = end
    return list(last_of_size.values())


def _tokens(seen: list[tuple[str, tuple[int, ...]]], prefix: int | None) -> list[_End]:
    """Three evenly spaced blocks of a network of tokens; none where it has no such blocks.

    The blocks are the longest run of modules with numbers for names, such as ``blocks.0``, that
    return tokens (N, T, C) of one shape.
    """
    runs: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for path, shape in seen:
        parent, _, name = path.rpartition(".")
        if len(shape) == 2 and re.search(r"\d+$", name):
            runs[parent, shape].append(path)
    if not runs:
        return []
    (_, (tokens, channels)), blocks = max(runs.items(), key=lambda run: len(run[1]))
    # The patches form a square. Where the network does not say, what is left over is the prefix.
    if prefix is None:
        prefix = tokens - math.isqrt(tokens) ** 2
    if len(blocks) < GROUPS or math.isqrt(tokens - prefix) ** 2 != tokens - prefix:
        return []
    picked = [blocks[len(blocks) * (i + 1) // GROUPS - 1] for i in range(GROUPS)]
    return [_End(path, "tokens", channels, prefix) for path in picked]
