"""The one adapter through which timm and torchvision classifiers become kdbench models.

Feature groups are found, not listed: the network is run once on blank images, every module that
returns a feature map is noted in the order in which it finishes, and the outermost, last one at
each of the three last spatial sizes is a group's end. Maps of 1x1 do not count, so at small image
sizes a network's last stage may belong to the head. A network of tokens (a vision transformer)
takes three evenly spaced blocks instead; its groups are the patch tokens laid out as an image and
its logits come from the patches' mean: a class token would carry them past G3, and no edit or head
of G3 would be right.
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

from kdbench.errors import ConfigError, UnknownMethodError, unknown
from kdbench.models.base import GROUPS, Edit, FeatureModel, FeatureOutput


def check(library: str, name: str) -> None:
    """Raise UnknownMethodError unless the library has that classification model."""
    names = _names(library)
    if name not in names:
        raise UnknownMethodError(_unknown(library, name, names))


def _names(library: str) -> list[str]:
    if library == "timm":
        import timm

        return timm.list_models()
    from torchvision import models

    return models.list_models(module=models)


def _unknown(library: str, name: str, names: list[str]) -> str:
    text = unknown(f"{library} model", name, names)
    return f"{text.split(' known:')[0]} {library} has {len(names)} classification models"


def _build(library: str, name: str, num_classes: int, size: int | None) -> tuple[nn.Module, int]:
    """The network with fresh weights, and the image size that it is traced at (64 where neither
    side asks for one)."""
    options: dict[str, Any] = {}
    if library == "timm":
        import timm

        settings = timm.get_pretrained_cfg(name)
        if settings is not None and settings.fixed_input_size:
            size = options["img_size"] = size or settings.input_size[-1]
            # See the top of this file; a family without the option has no class token to choose, or
            # is refused later.
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
        # no objective here reads the auxiliary heads, and inception's cannot take small maps
        options["aux_logits"] = False
        options["init_weights"] = True
    return models.get_model(name, weights=None, num_classes=num_classes, **options), size or 64


@dataclass(frozen=True)
class _End:
    """A group's end: the module, the layout of its output (``nchw``, ``nhwc`` or ``tokens``) and
    the group's channels.

    prefix: how many tokens that belong to no patch (the class token, registers) come first.
    """

    path: str
    layout: str
    channels: int
    prefix: int = 0

    def read(self, output: Tensor) -> Tensor:
        """The module's output -> the group (N, C, H, W)."""
        if self.layout == "nhwc":
            return output.permute(0, 3, 1, 2)
        if self.layout == "tokens":
            patches = output[:, self.prefix :]
            side = math.isqrt(patches.shape[1])
            return patches.transpose(1, 2).unflatten(2, (side, side))
        return output

    def write(self, g: Tensor, output: Tensor) -> Tensor:
        """The group -> what the module returns in its place; the tokens of no patch are kept from
        ``output``."""
        if self.layout == "nhwc":
            return g.permute(0, 2, 3, 1)
        if self.layout == "tokens":
            return torch.cat([output[:, : self.prefix], g.flatten(2).transpose(1, 2)], dim=1)
        # Cloned: the next activation may work in place and would change what was kept.
        return g.clone()


class ExternalModel(FeatureModel):
    """A timm or torchvision classifier with fresh weights.

    Taps are the group outputs themselves (often post-ReLU); their distribution is unknown, so there
    are no tap norms.

    Args:
        library: ``timm`` or ``torchvision``. name: as that library spells it. num_classes: at least
            2.
        image_size: side of the images, for networks that must know it and for finding the groups.

    Raises:
        ConfigError: the network cannot take such images, or has no three feature maps at that size.
    """

    def __init__(
        self, library: str, name: str, num_classes: int, image_size: int | None = None
    ) -> None:
        super().__init__()
        self.name, self.num_classes = f"{library}/{name}", num_classes
        self.body, self.blank_size = _build(library, name, num_classes, image_size)
        self.ends = _find_groups(self.body, self.blank_size, self.name)
        self.group_channels = self.tap_channels = tuple(end.channels for end in self.ends)

    def features(self, x: Tensor, edit: Edit | None = None) -> FeatureOutput:
        return self._run((x - self.pixel_mean) / self.pixel_std, edit)

    def _run(
        self, x: Tensor, edit: Edit | None, after: Callable[[int], None] | None = None
    ) -> FeatureOutput:
        """Run the body on normalized images; ``after(i)`` is called when group ``i`` has been
        reached."""
        groups: list[Tensor] = []

        def keep(i: int, end: _End) -> Any:
            def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
                g = end.read(output) if edit is None else edit(i, end.read(output))
                # The kept tensor is the one that downstream is computed from: gradients of the
                # logits reach it.
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
        """Run on from group ``i``, given as ``g``: blank images, whose own group ``i`` is replaced.

        The layers before it run, which is slow but needs no knowledge of the network. They run in
        eval mode, since blank images must not enter a batch norm's running statistics.
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
            return self._run(blank, lambda j, own: g if j == i else own, after)
        finally:
            set_training(True)

    def head(self, g: Tensor) -> Tensor:
        """G3 -> logits, at the cost of a full pass."""
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


def _find_groups(body: nn.Module, size: int, name: str) -> tuple[_End, ...]:
    seen: list[tuple[str, tuple[int, ...]]] = []

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            # Attention windows and the like have another batch size than the images.
            if isinstance(output, Tensor) and len(output) == 2:
                seen.append((path, tuple(output.shape[1:])))

        return hook

    handles = [m.register_forward_hook(note(path)) for path, m in body.named_modules() if path]
    was_training = [module for module in body.modules() if module.training]
    try:
        body.eval()
        with torch.no_grad():
            body(torch.zeros(2, 3, size, size))
    except Exception as error:
        raise ConfigError(
            f"{name} cannot take images of {size}x{size}: {error}; try another --image-size"
        ) from error
    finally:
        for module in was_training:
            module.training = True
        for handle in handles:
            handle.remove()
    # A module that runs twice in a pass would be edited twice.
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
    """The end of every spatial size, largest first. The blank images are square, so the two equal
    sides are H and W."""
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
        # Sizes only shrink: a larger one later on is a pool that repeats values, or attention
        # weights.
        if side == 1 or side > min(last_of_size, default=side):
            continue
        # The outermost module wins: a whole stage rather than a layer inside the next one.
        known = last_of_size.get(side)
        if known is None or path.count(".") <= known.path.count("."):
            last_of_size[side] = end
    return list(last_of_size.values())


def _tokens(seen: list[tuple[str, tuple[int, ...]]], prefix: int | None) -> list[_End]:
    """Three evenly spaced blocks of the longest numbered run of modules that return tokens (N, T,
    C) of one shape."""
    runs: dict[tuple[str, tuple[int, ...]], list[str]] = defaultdict(list)
    for path, shape in seen:
        parent, _, own = path.rpartition(".")
        if len(shape) == 2 and re.search(r"\d+$", own):
            runs[parent, shape].append(path)
    if not runs:
        return []
    (_, (tokens, channels)), blocks = max(runs.items(), key=lambda run: len(run[1]))
    if prefix is None:
        prefix = tokens - math.isqrt(tokens) ** 2
    if len(blocks) < GROUPS or math.isqrt(tokens - prefix) ** 2 != tokens - prefix:
        return []
    picked = [blocks[len(blocks) * (i + 1) // GROUPS - 1] for i in range(GROUPS)]
    return [_End(path, "tokens", channels, prefix) for path in picked]
