"""What a step of each kind of stage takes at a preset's batch sizes: ``python benchmarks/steps.py
--pair TEACHER-STUDENT``.

``kdbench reproduce all --dry-run`` counts the images of the paper's tables. Both numbers together
give what the tables cost on a machine. The loops are those of the stages, without the process
around them. The losses are those of FKD, of plain training and of RobustKD.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import click
import torch
from kdbench_robustkd.method import Detoxification, RobustKDParams, detoxification_loss
from speed import PAIRS, cohort, images_of, per_second
from torch import Tensor

from kdbench.bench.request.presets import Preset, preset_names, read_preset
from kdbench.capture import Pass
from kdbench.data import Batch, Dataset, load_dataset
from kdbench.models import create_model, split_pair
from kdbench.models.base import FeatureModel
from kdbench.models.views import Edited
from kdbench.numerics import Numerics, choose_numerics, device_name
from kdbench.training import Fit, LossFunction, Recipe, Silent, Trained, cross_entropy


def training(
    trained: Trained,
    loss: LossFunction,
    data: Dataset,
    batch: int,
    numerics: Numerics,
    optimizer: str = "sgd",
) -> Callable[[int], object]:
    """The loop of every training, as a function of the number of steps."""

    def run(steps: int) -> None:
        recipe = Recipe(epochs=1, batch_size=batch, lr=1e-4, optimizer=optimizer)
        generator = torch.Generator().manual_seed(0)
        Fit(numerics, Silent())(
            trained,
            loss,
            images_of(data, steps, batch),
            recipe,
            generator=generator,
            augmentation=data.augmentation,
        )

    return run


def detoxified(teacher: FeatureModel, data: Dataset, numerics: Numerics) -> Edited:
    """A frozen teacher with an offset on every group, which RobustKD learns."""
    frozen = copy.deepcopy(teacher).eval().requires_grad_(False)
    with torch.no_grad():
        groups = frozen.features(data.train.read(torch.arange(2), numerics.device)).groups
    starts = {i: g.mean(0, keepdim=True).float() for i, g in enumerate(groups)}
    return numerics.place(Edited(frozen, Detoxification(starts, RobustKDParams()))).eval()


def stages(
    pair: str, sizes: Preset, data: Dataset, numerics: Numerics
) -> Iterator[tuple[str, int, Callable[[int], object]]]:
    """(title, batch size, function of the number of steps) of each kind of stage, in the order in
    which they must run."""
    teacher, student = (
        numerics.place(create_model(name, data.num_classes)).train() for name in split_pair(pair)
    )
    for model in (teacher, student):
        model.set_normalization(data.mean, data.std)

    def loop(
        trained: Trained, loss: LossFunction, batch: int, optimizer: str = "sgd"
    ) -> Callable[[int], object]:
        return training(trained, loss, data, batch, numerics, optimizer)

    batch = sizes.clean.batch_size
    yield (
        "train the clean teacher",
        batch,
        loop(teacher, cross_entropy(Pass(teacher, numerics).logits), batch),
    )
    batch = sizes.poison.batch_size
    yield "implant: train the teacher", batch, loop(teacher, cross_entropy(teacher), batch)

    # The trained teacher: the features of an untrained Pyramid overflow.
    edited = detoxified(teacher, data, numerics)
    params, features = RobustKDParams(), Pass(edited, numerics)
    pattern = torch.rand(data.train.shape, device=numerics.device).requires_grad_()

    def search(batch: Batch) -> dict[str, Tensor]:
        return {
            "taps": edited.model.features(0.9 * batch.images + 0.1 * pattern)
            .taps[-1]
            .float()
            .square()
            .mean()
        }

    def cleanse(batch: Batch) -> dict[str, Tensor]:
        return detoxification_loss(features, batch, params)

    yield (
        "implant: search the trigger",
        params.batch_size,
        loop(pattern, search, params.batch_size, "adam"),
    )
    yield (
        "robustkd: cleanse the teacher",
        params.batch_size,
        loop(edited.editor, cleanse, params.batch_size, "adam"),
    )
    batch = sizes.distill.batch_size
    yield "distil by fkd", batch, cohort(data, teacher, student.name, batch, numerics, 1)
    yield (
        "train the student alone",
        batch,
        loop(student, cross_entropy(Pass(student, numerics).logits), batch),
    )
    batch = sizes.repair.batch_size
    yield "repair: fine-tune the student", batch, loop(student, cross_entropy(student), batch)


@click.command(help=__doc__)
@click.option("--pair", "pairs", multiple=True, default=PAIRS, show_default=True)
@click.option("--preset", type=click.Choice(preset_names()), default="paper", show_default=True)
@click.option("--image-size", default=32, show_default=True)
@click.option("--steps", default=20, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", type=int)
def main(
    pairs: tuple[str, ...],
    preset: str,
    image_size: int,
    steps: int,
    device: str,
    threads: int | None,
) -> None:
    numerics = choose_numerics(device, "auto", threads)
    torch.set_num_threads(numerics.threads)
    data = load_dataset("signs", image_size=image_size, train_size=4096, test_size=50)
    click.echo(
        f"{device_name(numerics.device)}, {numerics}; {image_size}x{image_size}, {steps} steps each"
    )
    for pair in pairs:
        click.echo(pair)
        torch.manual_seed(0)
        for what, batch, run in stages(pair, Preset(**read_preset(preset)), data, numerics):
            run(3)  # The first steps load kernels, allocate memory and record graphs.
            rate = per_second(steps, partial(run, steps), numerics.device)
            click.echo(
                f"  {what:<32} batch {batch:>3} {1000 / rate:>10.2f} ms a step "
                f"{batch * rate:>9.0f} images/s"
            )


if __name__ == "__main__":
    main()
