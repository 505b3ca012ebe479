"""A very small pre-activation network and data set, so that plugin tests depend on the base
contracts alone."""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdbench.data.base import Augmentation
from kdbench.data.tensor import TensorImages
from kdbench.defense import DefenseSetting
from kdbench.models.base import FeatureModel
from kdbench.numerics import Numerics
from kdbench.training import Fit, Recipe, Silent


class Tiny(FeatureModel):
    """Three convolutions with (w, 2w, 4w) channels; taps are the batch norms of their outputs, if
    ``norms``."""

    name = "tiny"

    def __init__(
        self, width: int = 4, num_classes: int = 4, norms: bool = True, stride: int = 1
    ) -> None:
        super().__init__()
        c = (width, 2 * width, 4 * width)
        self.num_classes, self.group_channels, self.tap_channels, self.norms = (
            num_classes,
            c,
            c,
            norms,
        )
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(3, c[0], 3, stride, 1),
                nn.Conv2d(c[0], c[1], 3, 2, 1),
                nn.Conv2d(c[1], c[2], 3, 2, 1),
            ]
        )
        self.bns = nn.ModuleList([nn.BatchNorm2d(k) if norms else nn.Identity() for k in c])
        self.fc = nn.Linear(c[2], num_classes)

    def first_group(self, x: Tensor) -> Tensor:
        return self.convs[0](x)

    def tap(self, i: int, g: Tensor) -> Tensor:
        return self.bns[i](g)

    def next_group(self, i: int, g: Tensor, tap: Tensor) -> Tensor:
        return self.convs[i + 1](F.relu(tap))

    def classify(self, g: Tensor, tap: Tensor) -> Tensor:
        return self.fc(F.relu(tap).mean((2, 3)))

    def tap_norms(self) -> tuple[nn.BatchNorm2d | None, ...]:
        return tuple(self.bns) if self.norms else (None, None, None)


def tiny(seed: int = 0, **kwargs: object) -> Tiny:
    torch.manual_seed(seed)
    model = Tiny(**kwargs)
    for bn in model.bns:
        if isinstance(bn, nn.BatchNorm2d):
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.uniform_(bn.bias, -0.3, 0.3)
            bn.running_mean.uniform_(-0.1, 0.1)
            bn.running_var.uniform_(0.05, 0.2)
    return model.eval()


def images(count: int = 96, seed: int = 0) -> TensorImages:
    """Each class is a colour plus noise."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    colours = torch.tensor([[200, 40, 40], [40, 200, 40], [40, 40, 200], [180, 180, 40]])
    noise = torch.randint(-40, 41, (count, 3, 16, 16), generator=g)
    return TensorImages(
        (colours[labels][:, :, None, None] + noise).clamp(0, 255).to(torch.uint8), labels
    )


def trained(seed: int = 0, **kwargs: object) -> Tiny:
    # Some tests keep the network for the next test. Whether it is trained now or was before, what
    # they draw afterwards is the same.
    with torch.random.fork_rng(devices=[]):
        model = tiny(seed, **kwargs).train()
        fit(model, images(), Recipe(epochs=12, batch_size=32, lr=0.05))
    model.zero_grad(set_to_none=True)
    return model.eval()


def fit(
    model: Tiny,
    data: TensorImages,
    recipe: Recipe,
    seed: int = 0,
    augmentation: Augmentation | None = None,
):
    return Fit(Numerics(), Silent())(
        model.parameters(),
        lambda b: {"ce": F.cross_entropy(model(b.images), b.labels)},
        data,
        recipe,
        generator=torch.Generator().manual_seed(seed),
        augmentation=augmentation,
    )


def setting(
    data: TensorImages | None = None, seed: int = 3, bf16: bool = False, **recipe: object
) -> DefenseSetting:
    numerics = Numerics(bf16=bf16)
    return DefenseSetting(
        clean=images() if data is None else data,
        num_classes=4,
        recipe=Recipe(**({"epochs": 2, "batch_size": 16, "lr": 0.02} | recipe)),
        augmentation=Augmentation(pad=2),
        fit=Fit(numerics, Silent()),
        generator=torch.Generator().manual_seed(seed),
        numerics=numerics,
    )


def digest(module: nn.Module) -> str:
    h = hashlib.sha256()
    for key, value in module.state_dict().items():
        h.update(key.encode() + value.contiguous().numpy().tobytes())
    return h.hexdigest()


def accuracy(model: FeatureModel, data: TensorImages) -> float:
    with torch.no_grad():
        return (
            (model(data.read(torch.arange(len(data)))).argmax(1) == data.labels)
            .float()
            .mean()
            .item()
        )


def distil(
    distiller, teacher, student, data, *, epochs: int = 1, seed: int = 5, bf16: bool = False
):
    """What the core does: seeded connectors, one optimiser over student and objective."""
    torch.manual_seed(seed)
    objective = distiller.objective(teacher, student).train()
    student.train()
    Fit(Numerics(bf16=bf16), Silent())(
        [*student.parameters(), *objective.parameters()],
        lambda b: objective(b, teacher.features(b.images), student.features(b.images)),
        data,
        Recipe(epochs=epochs, batch_size=32, lr=0.02),
        generator=torch.Generator().manual_seed(seed),
    )
    return objective
