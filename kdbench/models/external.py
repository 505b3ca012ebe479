"""The one adapter through which timm and torchvision classifiers become kdbench models.

Feature groups are found, not listed: the network is run once on a blank image, every module that returns a 4-d tensor is
noted in the order in which it finishes, and the outermost, last one at each of the three last spatial sizes is a group's
end. A network whose features keep one size throughout (some transformers do) takes three evenly spaced modules instead.
"""

from __future__ import annotations

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


def _build(library: str, name: str, num_classes: int) -> nn.Module:
    if library == "timm":
        import timm

        return timm.create_model(name, pretrained=False, num_classes=num_classes)
    from torchvision import models

    return models.get_model(name, weights=None, num_classes=num_classes)


class ExternalModel(FeatureModel):
    """A timm or torchvision classifier. Taps are the group outputs themselves; their distribution is unknown (no norms)."""

    def __init__(self, library: str, name: str, num_classes: int, image_size: int | None = None) -> None:
        super().__init__()
        self.name, self.num_classes = f"{library}/{name}", num_classes
        self.body = _build(library, name, num_classes)
        size = image_size or 64
        self.blank_size = size
        found = _find_groups(self.body, size, self.name)
        self.group_names = tuple(path for path, _ in found)
        self.group_shapes = tuple(shape for _, shape in found)
        self.group_channels = self.tap_channels = tuple(shape[0] for shape in self.group_shapes)

    def features(self, x: Tensor, edit: Edit | None = None) -> FeatureOutput:
        return self._run((x - self.pixel_mean) / self.pixel_std, edit)

    def _run(self, x: Tensor, edit: Edit | None) -> FeatureOutput:
        groups: list[Tensor] = []
        modules = dict(self.body.named_modules())

        def keep(i: int) -> Any:
            def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
                # Cloned: the next activation may work in place and would change what was kept.
                g = output.clone() if edit is None else edit(i, output.clone())
                groups.append(g.clone())
                return g

            return hook

        handles = [modules[path].register_forward_hook(keep(i)) for i, path in enumerate(self.group_names)]
        try:
            logits = self.body(x)
        finally:
            for handle in handles:
                handle.remove()
        return FeatureOutput(tuple(groups), tuple(groups), logits)

    def head(self, g: Tensor) -> Tensor:
        """G3 -> logits. The body runs on blank images with its third group's output replaced: slow, but always right."""
        blank = torch.zeros(len(g), 3, self.blank_size, self.blank_size, device=g.device)
        return self._run(blank, lambda i, own: g if i == GROUPS - 1 else own).logits

    def tap_norms(self) -> tuple[None, ...]:
        return (None,) * GROUPS

    def tap(self, i: int, g: Tensor) -> Tensor:
        return g

    def first_group(self, x: Tensor) -> Tensor:
        return self._run(x, None).groups[0]

    def next_group(self, i: int, g: Tensor, tap: Tensor) -> Tensor:
        blank = torch.zeros(len(g), 3, self.blank_size, self.blank_size, device=g.device)
        return self._run(blank, lambda j, own: g if j == i else own).groups[i + 1]

    def classify(self, g: Tensor, tap: Tensor) -> Tensor:
        return self.head(g)


def _find_groups(body: nn.Module, size: int, name: str) -> list[tuple[str, tuple[int, ...]]]:
    seen: list[tuple[str, tuple[int, ...]]] = []

    def note(path: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and min(output.shape[2:]) > 1:
                seen.append((path, tuple(output.shape[1:])))

        return hook

    handles = [m.register_forward_hook(note(path)) for path, m in body.named_modules() if path]
    was_training = body.training
    try:
        body.eval()
        with torch.no_grad():
            body(torch.zeros(1, 3, size, size))
    except Exception as error:
        raise ConfigError(f"{name} cannot take images of {size}x{size}: {error}; try another --image-size") from error
    finally:
        body.train(was_training)
        for handle in handles:
            handle.remove()
    last_of_size: dict[tuple[int, ...], tuple[str, tuple[int, ...]]] = {}
    for path, shape in seen:
        # The outermost module wins: a whole stage rather than a layer inside the next one.
        known = last_of_size.get(shape[1:])
        if known is None or path.count(".") <= known[0].count("."):
            last_of_size[shape[1:]] = (path, shape)
    ends = list(last_of_size.values())
    if len(ends) < GROUPS:
        ends = [seen[len(seen) * (i + 1) // GROUPS - 1] for i in range(GROUPS)] if len(seen) >= GROUPS else []
    if not ends:
        raise ConfigError(f"no three feature maps found in {name} at {size}x{size}; try a larger --image-size")
    return ends[-GROUPS:]
