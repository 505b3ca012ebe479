"""``kdbench import-teacher``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdbench.bench.store.teacher_names import check_teacher_name
from kdbench.cli.choice import plugin_options
from kdbench.cli.networks import spelled
from kdbench.cli.number import Number
from kdbench.cli.request import store_option
from kdbench.errors import ConfigError
from kdbench.loading.choice import PluginChoice
from kdbench.untrusted.text import strip_control

if TYPE_CHECKING:
    from kdbench.data import DatasetSource
    from kdbench.untrusted.weights import Foreign


@click.command("import-teacher")
@click.argument("file")
@click.option(
    "--model",
    help="Network that the weights are of; see `kdbench list models`.  [default: the hub's]",
)
@click.option(
    "--dataset",
    required=True,
    help="Dataset that it was trained on; a folder of yours is imagefolder:PATH.",
)
@click.option(
    "--num-classes", type=click.IntRange(min=2), help="Number of classes.  [default: the dataset's]"
)
@click.option(
    "--image-size", type=click.IntRange(8, 512), help="Pixels a side.  [default: the dataset's]"
)
@click.option(
    "--name", help="What the teacher is called from now on.  [default: FILE without its suffix]"
)
@plugin_options
@store_option
@click.option(
    "--sha256", metavar="HEX", help="Refuse any other file than the one with this SHA-256."
)
@click.option(
    "--memory",
    type=Number(1, 1024),
    default=2.0,
    show_default=True,
    metavar="GIB",
    help="Private memory that reading may take.",
)
@click.option(
    "--time-limit",
    type=Number(0, 86_400, min_open=True),
    metavar="S",
    help="Seconds for reading it.  [default: 4, and 1 per 25 MiB]",
)
def import_teacher_command(
    file: str,
    choice: PluginChoice,
    model: str | None,
    dataset: str,
    num_classes: int | None,
    image_size: int | None,
    name: str | None,
    store_dir: Path | None,
    sha256: str | None,
    memory: float,
    time_limit: float | None,
) -> None:
    """Read foreign weights, confined, and keep them as safetensors.

    FILE is safetensors, or a state_dict() saved with torch.save, or hf:OWNER/NAME@COMMIT on the
    Hugging Face hub. It is read in a process of its own that can reach nothing else; nothing in it
    is executed, and there is no option to trust it. Exits with 4 when it is refused, 2 when the
    request is wrong.
    """
    from kdbench.untrusted.weights import hub

    path, origin = Path(file), {}
    file = hub.plain_reference(file)
    if file.startswith(hub.PREFIX):
        fetched = hub.fetch(file)
        path, origin, model = fetched.file, fetched.origin, model or fetched.model
        num_classes = num_classes or fetched.num_classes
        name = name if name is not None else file.partition("/")[2].partition("@")[0]
    if model is None:
        raise ConfigError(
            "which network the weights are of is not known here; give --model, see `kdbench list "
            "models`"
        )
    model = spelled(model)
    # Everything is checked before the file is read, which takes the longest.
    from kdbench.cli.processes import catalogue

    with catalogue(choice) as known:
        classes, size = _sizes(dataset, num_classes, image_size, known.datasets)
        name = name if name is not None else path.stem
        check_teacher_name(name)
        blank = known.blank_network(model, classes, size)
        from kdbench.untrusted.weights import read_foreign

        foreign = read_foreign(
            path,
            model=model,
            num_classes=classes,
            image_size=size,
            memory_bytes=int(memory * 2**30),
            seconds=time_limit,
            expect_sha256=sha256,
            state=None if blank is None else blank.state,
        )
        foreign.origin.update(origin)
        from kdbench.bench.store.teachers import save_teacher

        key = save_teacher(
            store_dir,
            name,
            foreign.state,
            foreign.origin,
            model=model,
            dataset=dataset,
            num_classes=classes,
            image_size=size,
            code=known.origin_of_model(model),
            save=None if blank is None else blank.save,
        )
    for line in _summary(name, key, model, dataset, classes, size, foreign):
        click.echo(strip_control(line))


def _sizes(
    dataset: str,
    num_classes: int | None,
    image_size: int | None,
    sources: Mapping[str, DatasetSource],
) -> tuple[int, int]:
    """Classes and pixels a side: from the options, or from the dataset."""
    from kdbench.data import dataset_source

    source = dataset_source(dataset, sources)
    classes, size = num_classes or source.num_classes, image_size or source.image_size
    if classes is None or size is None:
        numbers = {"--num-classes": source.num_classes, "--image-size": source.image_size}
        options = " and ".join(option for option, number in numbers.items() if number is None)
        raise ConfigError(f"what {dataset!r} is like is not known here; give {options}")
    return classes, size


def _summary(
    name: str, key: str, model: str, dataset: str, classes: int, size: int, foreign: Foreign
) -> list[str]:
    """What was imported and what was changed, line by line."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    parameters = sum(
        tensor.numel() for name, tensor in foreign.state.items() if not name.endswith(statistics)
    )
    origin: dict[str, Any] = foreign.origin
    return [
        f"imported {name}: {model} for {dataset}, {classes} classes, {size}x{size} pixels",
        f"  weights   {len(foreign.state)} tensors, {parameters:,} parameters",
        f"  file      {origin['file']}, {origin['format']}, {origin['bytes']:,} bytes",
        f"  SHA-256   {origin['sha256']}",
        f"  changed   {'; '.join(foreign.changes()) or 'nothing'}",
        f"  read by   torch {origin['torch']}, kdbench {origin['kdbench']}, confined by: "
        f"{origin['confinement']}",
        f"  key       {key}",
        "It is a suspect teacher: whether it carries a backdoor is not known. Use it with",
        f"  kdbench run --teacher-from {name}",
    ]
