"""The networks that kdbench brings."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from kdbench.models.pyramid import PyramidNet110, PyramidNet200
from kdbench.models.resnet import ResNet
from kdbench.models.source import ModelSource
from kdbench.models.wrn import WideResNet


def _resnet(depth: int) -> ModelSource:
    return ModelSource(
        lambda num_classes, image_size: ResNet(f"resnet{depth}", depth, num_classes),
        f"ResNet-{depth} for small images",
    )


def _wide(depth: int, width: int) -> ModelSource:
    return ModelSource(
        lambda num_classes, image_size: WideResNet(
            f"wrn{depth}_{width}", depth, width, num_classes
        ),
        f"WRN-{depth}-{width}",
    )


MODELS: Mapping[str, ModelSource] = MappingProxyType(
    {
        "pyramid110": ModelSource(
            lambda num_classes, image_size: PyramidNet110("pyramid110", num_classes),
            "PyramidNet-110, alpha 84",
        ),
        "pyramid200": ModelSource(
            lambda num_classes, image_size: PyramidNet200("pyramid200", num_classes),
            "PyramidNet-200, alpha 240, bottlenecks",
        ),
        "resnet20": _resnet(20),
        "resnet56": _resnet(56),
        "wrn10_1": _wide(10, 1),
        "wrn16_1": _wide(16, 1),
        "wrn16_2": _wide(16, 2),
        "wrn16_4": _wide(16, 4),
        "wrn28_2": _wide(28, 2),
        "wrn28_4": _wide(28, 4),
        "wrn40_2": _wide(40, 2),
    }
)
