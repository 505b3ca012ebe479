"""How fast kdbench distils, against the usual loop of the field's scripts: ``python
benchmarks/speed.py`` (``make bench``).

Both loops train the same student from the same teacher by FKD, on the same images, batch by batch.
They run in turn, several rounds in one process, so that what disturbs the machine disturbs both.

The textbook's loop has a DataLoader that shifts, flips and normalises PIL images one by one. It
computes in float32 with contiguous layout and the teacher in the graph, and reads the loss after
every step. kdbench's loop is that of a stage, without the process around it: ``train_together``
over an image set, in the arithmetic that ``auto`` chooses.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import click
import torch
from kdbench_fkd.method import FKD
from torch import nn

from kdbench.capture import Pass, teacher_features
from kdbench.data import Batch, Dataset, ImageSet, load_dataset
from kdbench.models import create_model, split_pair
from kdbench.models.base import FeatureModel, FeatureOutput
from kdbench.models.views import FrozenTeacher
from kdbench.numerics import Numerics, choose_numerics, peak_mib
from kdbench.training import Fit, RandomStates, Recipe, Silent, Trainee, train_together

PAIRS = ("wrn28_4-wrn16_2", "wrn28_4-resnet56", "pyramid200-pyramid110")


@dataclass(frozen=True)
class Timing:
    """How fast the loops are for one pair."""

    pair: str
    #: Images/s of the textbook's loop, median of the rounds.
    textbook: float
    #: Images/s of kdbench's loop, median of the rounds.
    kdbench: float
    #: kdbench's over the textbook's, one for each round, ascending.
    ratios: list[float]
    #: How many times faster several students of the teacher are trained together than one after the
    #: other, one for each round, ascending.
    together: list[float]
    #: See :func:`teacher_share`.
    teacher_share_of_peak: float
    #: Peak memory of this process.
    peak_gib: float


def per_second(count: int, run: Callable[[], object], device: torch.device) -> float:
    """Of the ``count`` things that ``run`` does, how many it does in a second."""
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return count / (time.perf_counter() - start)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def textbook(
    data: Dataset, teacher: FeatureModel, student: FeatureModel, batch: int, device: torch.device
) -> Callable[[int], None]:
    """The loop as scripts have it, as a function of the number of steps."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.transforms.functional import to_pil_image

    class Pictures(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        def __init__(self) -> None:
            pixels = data.train.read(torch.arange(len(data.train)))
            self.pictures = [to_pil_image(picture) for picture in pixels]
            self.labels = data.train.labels.tolist()
            self.change = transforms.Compose(
                [
                    transforms.RandomCrop(data.image_size, padding=4),
                    transforms.RandomHorizontalFlip(),
                    transforms.ToTensor(),
                    transforms.Normalize(data.mean, data.std),
                ]
            )

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
            return self.change(self.pictures[row]), self.labels[row]

    teacher, student = (copy.deepcopy(model).to(device).train() for model in (teacher, student))
    for model in (teacher, student):  # The images are normalised already.
        model.set_normalization((0.0,) * 3, (1.0,) * 3)
    objective = FKD().objective(FrozenTeacher(teacher), student).to(device).train()
    optimizer = torch.optim.SGD(
        [*student.parameters(), *objective.parameters()],
        lr=0.05,
        momentum=0.9,
        weight_decay=5e-4,
        nesterov=True,
        foreach=False,
    )
    loader = DataLoader(Pictures(), batch_size=batch, shuffle=True, drop_last=True)

    def run(steps: int) -> None:
        done, seen = 0, 0.0
        while done < steps:
            for images, labels in loader:
                images, labels = images.to(device), labels.to(device)
                terms = objective(
                    Batch(images, labels, labels),
                    teacher.features(images),
                    student.features(images),
                )
                loss = torch.stack(list(terms.values())).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                seen += loss.item()
                done += 1
                if done == steps:
                    return

    return run


def images_of(data: Dataset, steps: int, batch: int) -> ImageSet:
    """Training images for an epoch of so many steps, repeated where there are too few."""
    return data.train.subset(torch.arange(steps * batch) % len(data.train))


def cohort(
    data: Dataset, teacher: FeatureModel, name: str, batch: int, numerics: Numerics, count: int
) -> Callable[[int], None]:
    """kdbench's loop, as a function of the number of steps. ``count`` students learn from one pass
    of the teacher per batch."""
    frozen = FrozenTeacher(numerics.place(copy.deepcopy(teacher)), FKD().batch_norm_mode())
    features = teacher_features(frozen, numerics)

    def loss(
        student: FeatureModel, objective: nn.Module
    ) -> Callable[[Batch, FeatureOutput], dict[str, torch.Tensor]]:
        student_pass = Pass(student, numerics)
        return lambda b, teacher_out: objective(b, teacher_out, student_pass(b.images))

    students = []
    for _ in range(count):
        student = numerics.place(create_model(name, data.num_classes)).train()
        objective = numerics.place(FKD().objective(frozen, student)).train()
        students.append(([student, objective], loss(student, objective)))

    def run(steps: int) -> None:
        recipe = Recipe(epochs=1, batch_size=batch, lr=0.05, schedule="onecycle")
        images = images_of(data, steps, batch)
        trainees = [
            Trainee(
                Fit(numerics, Silent()),
                modules,
                student_loss,
                recipe,
                len(images),
                states=RandomStates(),
            )
            for modules, student_loss in students
        ]
        generator = torch.Generator().manual_seed(0)
        train_together(
            trainees, images, generator=generator, augmentation=data.augmentation, share=features
        )

    return run


def in_turn(
    loops: list[Callable[[int], None]], count: int, steps: int, rounds: int, numerics: Numerics
) -> list[list[float]]:
    """Images a second of each loop, round by round.

    Args:
        count: images of one loop in a round.
    """
    for run in loops:
        run(2)  # The first steps load kernels, allocate memory and import.
    return [
        [per_second(count, partial(run, steps), numerics.device) for run in loops]
        for _ in range(rounds)
    ]


def matrix_peak(numerics: Numerics) -> float:
    """The machine's best: multiply-adds per second of square matrices in the arithmetic of the
    run."""
    # A product must take long against the start of a kernel.
    size = 8192 if numerics.device.type == "cuda" else 2048
    kind = torch.bfloat16 if numerics.bf16 else torch.float32
    a, b = (torch.randn(size, size, device=numerics.device).to(kind) for _ in range(2))
    return max(per_second(size**3, lambda: a @ b, numerics.device) for _ in range(6))


def multiply_adds(model: FeatureModel, size: int) -> int:
    """Multiply-adds of one image's forward pass in convolutions and linear layers."""
    total = 0

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d | nn.Linear):
            total += output[0].numel() * module.weight[0].numel()

    handles = [module.register_forward_hook(count) for module in model.modules()]
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size))
    for handle in handles:
        handle.remove()
    return total


def teacher_share(teacher: FeatureModel, size: int, batch: int, numerics: Numerics) -> float:
    """Multiply-adds per second of the frozen teacher's forward pass, as a share of
    :func:`matrix_peak`."""
    frozen = FrozenTeacher(numerics.place(copy.deepcopy(teacher)), "batch")
    teacher_pass = Pass(frozen.model, numerics)
    images = torch.rand(batch, 3, size, size, device=numerics.device).contiguous(
        memory_format=torch.channels_last
    )
    # Many passes in a row, so that the wait at the end counts for little.
    passes = 20 if numerics.device.type == "cuda" else 1

    def run() -> None:
        with torch.no_grad(), numerics.autocast():
            for _ in range(passes):
                teacher_pass(images)

    run()
    best = max(per_second(passes * batch, run, numerics.device) for _ in range(5))
    return best * multiply_adds(teacher, size) / matrix_peak(numerics)


def measure(
    pair: str, data: Dataset, batch: int, steps: int, rounds: int, numerics: Numerics, count: int
) -> Timing:
    """Time the textbook's loop and kdbench's in turn. Then time kdbench's with ``count`` students
    and with one, unless ``count`` is 0."""
    torch.manual_seed(0)
    if numerics.device.type == "cuda":  # Otherwise the pair before would be in the peak.
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(numerics.device)
    teacher, student = (create_model(name, data.num_classes) for name in split_pair(pair))
    for model in (teacher, student):
        model.set_normalization(data.mean, data.std)
    alone = cohort(data, teacher, student.name, batch, numerics, 1)
    loops = [textbook(data, teacher, student, batch, numerics.device), alone]
    speeds = in_turn(loops, steps * batch, steps, rounds, numerics)
    ratios = sorted(ours / theirs for theirs, ours in speeds)
    together: list[float] = []
    if count:
        loops = [cohort(data, teacher, student.name, batch, numerics, count), alone]
        together = sorted(
            count * together_speed / alone_speed
            for together_speed, alone_speed in in_turn(
                loops, steps * batch, steps, rounds, numerics
            )
        )
    peak = peak_mib(numerics.device)
    return Timing(
        pair,
        statistics.median(theirs for theirs, _ in speeds),
        statistics.median(ours for _, ours in speeds),
        ratios,
        together,
        teacher_share(teacher, data.image_size, batch, numerics),
        peak / 2**10,
    )


@click.command(help=__doc__)
@click.option("--pair", "pairs", multiple=True, default=PAIRS, show_default=True)
@click.option("--image-size", default=32, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--steps", default=8, show_default=True, help="Of each loop in each round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--threads", type=int)
@click.option(
    "--cohort",
    "count",
    default=4,
    show_default=True,
    help="Students side by side; 0: not measured.",
)
@click.option("--json", "as_json", is_flag=True)
def main(
    pairs: tuple[str, ...],
    image_size: int,
    batch_size: int,
    steps: int,
    rounds: int,
    device: str,
    threads: int | None,
    count: int,
    as_json: bool,
) -> None:
    numerics = choose_numerics(device, "auto", threads)
    torch.set_num_threads(numerics.threads)
    data = load_dataset(
        "signs", image_size=image_size, train_size=max(1024, steps * batch_size), test_size=50
    )
    where = (
        torch.cuda.get_device_name(numerics.device)
        if numerics.device.type == "cuda"
        else f"{os.cpu_count()} cores"
    )
    if not as_json:
        click.echo(
            f"{where}, {numerics}; batch {batch_size}, {image_size}x{image_size}, {rounds} rounds "
            f"of {steps} steps"
        )
        click.echo(
            "images/s of distillation   textbook   kdbench   ratio (lowest to highest)   teacher "
            "of peak   memory, GiB"
        )
    for pair in pairs:
        t = measure(pair, data, batch_size, steps, rounds, numerics, count)
        if as_json:
            click.echo(json.dumps({"where": where, "numerics": str(numerics), **asdict(t)}))
            continue
        share = f"{100 * t.teacher_share_of_peak:.0f} %"
        click.echo(
            f"{pair:<25} {t.textbook:>9.1f} {t.kdbench:>9.1f}   {_spread(t.ratios):<26} "
            f"{share:>14} {t.peak_gib:>13.1f}"
        )
        if t.together:
            click.echo(
                f"  {count} students of it together, against one after the other: "
                f"{_spread(t.together)} times as fast"
            )


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})"


if __name__ == "__main__":
    main()
