"""The options of a request, which several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kdbench.bench.session.request import MOST_SEEDS
from kdbench.report.columns import MOST_WHOLE

_OPTIONS = (
    click.option(
        "--spec",
        type=click.Path(path_type=Path),
        help="TOML file with a request; options given beside it win.",
    ),
    click.option(
        "--attack", "attacks", multiple=True, help="Attack; repeatable; 'all' for every one."
    ),
    click.option(
        "--teacher-from",
        multiple=True,
        help="Imported teacher, as it is, instead of an attack; repeatable.",
    ),
    click.option(
        "--defense",
        "defenses",
        multiple=True,
        help="Defense; repeatable; or 'all'.  [default: none]",
    ),
    click.option(
        "--distiller", "distillers", multiple=True, help="Distiller; as above.  [default: fkd]"
    ),
    click.option(
        "--pair",
        "pairs",
        multiple=True,
        help="TEACHER-STUDENT; repeatable; 'all' for the six pairs of the paper.",
    ),
    click.option("--teacher", help="Teacher whose name holds a dash; with --student."),
    click.option(
        "--student", help="Student whose name holds a dash; with --teacher or --teacher-from."
    ),
    click.option(
        "--dataset",
        "datasets",
        multiple=True,
        help="Dataset; repeatable; or imagefolder:PATH.  [default: signs]",
    ),
    click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the dataset."),
    click.option(
        "--download", is_flag=True, default=None, help="Fetch the dataset where torchvision can."
    ),
    click.option("--image-size", type=int, help="Pixels a side."),
    click.option("--num-classes", type=int, help="Number of classes."),
    click.option("--train-size", type=int, help="Training images."),
    click.option("--test-size", type=int, help="Test images."),
    click.option(
        "--data-seed",
        type=int,
        help="Seed of what a dataset draws or splits; all --seeds share it.  [default: 0]",
    ),
    click.option(
        "--preset",
        "presets",
        multiple=True,
        help="Training lengths and rates; repeatable.  [default: quick]",
    ),
    click.option("--seed", type=click.IntRange(0, MOST_WHOLE), help="Root seed.  [default: 0]"),
    click.option(
        "--seeds",
        type=click.IntRange(1, MOST_SEEDS),
        help="How many seeds, from --seed upwards.  [default: 1]",
    ),
    click.option("--target-class", type=int, help="The attacker's target.  [default: 0]"),
    click.option(
        "--transfer-fraction",
        type=float,
        help="The deployer's share of the training images, above 0 to 1.",
    ),
    click.option(
        "--clean-fraction",
        type=float,
        help="The defender's share of the deployer's images, above 0 to 1.",
    ),
    click.option(
        "--unlabeled",
        type=float,
        help="The defender's share, without labels, of what the deployer lacks, above 0 to 1.",
    ),
    click.option(
        "--controls/--no-controls",
        default=None,
        help="Train the controls; no verdict without.  [default: controls]",
    ),
    click.option("--device", metavar="auto|cpu|cuda", help="Where to compute.  [default: auto]"),
    click.option(
        "--numerics",
        type=click.Choice(["auto", "fp32", "bf16"]),
        help="Arithmetic.  [default: auto]",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="A stage's threads on a CPU.  [default: one a core]",
    ),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override one number; repeatable.",
    ),
)
store_option = click.option(
    "--store",
    "store_dir",
    type=click.Path(path_type=Path),
    help="Folder of what was computed.  [default: $KDBENCH_STORE, or in the cache]",
)


def request_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command every option of a request."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
