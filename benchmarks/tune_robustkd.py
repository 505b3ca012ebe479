"""Which learning rate RobustKD's quick recipe takes: its objective on clean images that no training
has used.

    python benchmarks/tune_robustkd.py --data-dir DATA [--lr 0.02 --lr 0.1 ...]

A clean WRN-16-2 is trained on four fifths of the training images by the quick recipe and detoxified
on them with each rate. It is measured on the last fifth, with stored statistics in its batch norms
and with those of each batch. There is no trigger, so no ASR can decide.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from kdbench_robustkd.method import RobustKD, RobustKDParams, detoxification_loss

from kdbench.bench.request.presets import Preset, read_preset
from kdbench.data import load_dataset
from kdbench.data.base import ImageSet
from kdbench.defense import DefenseSetting
from kdbench.models import create_model
from kdbench.models.base import FeatureModel
from kdbench.models.views import batch_statistics
from kdbench.numerics import Numerics, choose_numerics
from kdbench.repair import fine_tune, held_out
from kdbench.training import Fit, Silent

_BATCH = 250


def measure(
    model: FeatureModel, images: ImageSet, numerics: Numerics, batch: bool
) -> dict[str, float]:
    """Means over the images of cross-entropy and variance (Eq. 8-10), and ACC in %."""
    means = {"ce": 0.0, "variance": 0.0, "acc": 0.0}
    with torch.no_grad(), batch_statistics(model, batch):
        for part in images.batches(_BATCH, device=numerics.device):
            share = len(part.labels) / len(images)
            with numerics.autocast():
                terms = detoxification_loss(model, part, RobustKDParams())
                right = (model(part.images).argmax(1) == part.labels).float().mean()
            means["ce"] += share * float(terms["ce"])
            means["variance"] += share * float(terms["variance"])
            means["acc"] += 100 * share * float(right)
    return means


@click.command(help=__doc__)
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option(
    "--lr",
    "rates",
    type=float,
    multiple=True,
    default=(0.02, 0.1, 0.3, 0.5, 1.0),
    show_default=True,
)
@click.option("--steps", default=300, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(data_dir: Path, rates: tuple[float, ...], steps: int, batch_size: int, seed: int) -> None:
    numerics = choose_numerics("auto", "auto")
    data = load_dataset("gtsrb", data_dir=data_dir)
    preset = Preset(**read_preset("quick"))
    train, rest = held_out(data.train, 0.2, torch.Generator().manual_seed(seed))

    def defense_setting() -> DefenseSetting:
        generator = torch.Generator().manual_seed(seed)
        fit = Fit(numerics, Silent())
        return DefenseSetting(
            train, data.num_classes, preset.clean, data.augmentation, fit, generator, numerics
        )

    torch.manual_seed(seed)
    teacher = create_model("wrn16_2", data.num_classes)
    teacher.set_normalization(data.mean, data.std)
    numerics.place(teacher)
    fine_tune(teacher, defense_setting(), preset.clean)
    click.echo(f"{'':>8} {'batch norms':>12} {'ce':>8} {'variance':>9} {'sum':>8} {'ACC':>6}")

    def show(name: str, model: FeatureModel) -> None:
        for batch, word in ((False, "stored"), (True, "each batch's")):
            means = measure(model, rest, numerics, batch)
            total = means["ce"] + means["variance"]
            click.echo(
                f"{name:>8} {word:>12} {means['ce']:8.3f} {means['variance']:9.3f} {total:8.3f} "
                f"{means['acc']:6.2f}"
            )

    show("teacher", teacher)
    for rate in rates:
        params = RobustKDParams(steps=steps, batch_size=batch_size, lr=rate, init_images=1024)
        show(f"{rate:g}", RobustKD(params).cleanse_teacher(teacher, defense_setting()))


if __name__ == "__main__":
    main()
