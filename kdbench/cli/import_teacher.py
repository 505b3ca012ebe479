"""``kdbench import-teacher``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdbench._counted import counted
from kdbench.bench.store.teacher_names import check_teacher_name
from kdbench.cli.choice import plugin_options, same_options
from kdbench.cli.here import check_current_folder
from kdbench.cli.number import Number
from kdbench.cli.request import store_option
from kdbench.cli.tell import tell
from kdbench.errors import ConfigError, IntegrityError, KdbenchError, UnknownMethodError
from kdbench.loading.choice import PluginChoice
from kdbench.untrusted.text import strip_control

if TYPE_CHECKING:
    from kdbench.bench.plan.teacher_reading import TeacherReading
    from kdbench.bench.session.processes import Processes
    from kdbench.bench.store.teacher_record import Imported
    from kdbench.data import Dataset
    from kdbench.untrusted.weights import Foreign


def _channels(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> tuple[float, float, float] | None:
    """Three numbers with commas, one for each channel."""
    if value is None:
        return None
    try:
        red, green, blue = (float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is not three numbers with commas; write for example 0.485,0.456,0.406",
            ctx,
            param,
        ) from None
    return red, green, blue


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
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder of the dataset.")
@click.option(
    "--num-classes", type=click.IntRange(min=2), help="Number of classes.  [default: the dataset's]"
)
@click.option(
    "--image-size", type=click.IntRange(8, 512), help="Pixels a side.  [default: the dataset's]"
)
@click.option(
    "--mean",
    metavar="R,G,B",
    callback=_channels,
    help="Its input is normalised with it, for images in 0 to 1.  [default: the dataset's]",
)
@click.option("--std", metavar="R,G,B", callback=_channels, help="As --mean.")
@click.option(
    "--class-order",
    metavar="text|number|FILE",
    help="How its outputs count the classes: names sorted as text (torchvision) or as numbers "
    "(timm), or a file with one name a line or a class_to_idx in JSON.  [default: the dataset's]",
)
@click.option(
    "--name", help="What the teacher is called from now on.  [default: FILE without its suffix]"
)
@click.option("--replace", is_flag=True, help="Take the name from the teacher that has it.")
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
@click.option(
    "--check/--no-check",
    default=True,
    help="Measure it on up to 500 test images, where the dataset is here.  [default: check]",
)
def import_teacher_command(
    file: str,
    choice: PluginChoice,
    model: str | None,
    dataset: str,
    data_dir: Path | None,
    num_classes: int | None,
    image_size: int | None,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
    class_order: str | None,
    name: str | None,
    replace: bool,
    store_dir: Path | None,
    sha256: str | None,
    memory: float,
    time_limit: float | None,
    check: bool,
) -> None:
    """Read foreign weights, confined, and keep them as safetensors.

    FILE is safetensors, or a state_dict() saved with torch.save, or hf:OWNER/NAME@COMMIT on the
    Hugging Face hub. It is read in a process of its own that can reach nothing else; nothing in it
    is executed, and there is no option to trust it. Side, order of the classes, mean and std are
    recorded with it, and what nobody said is assumed and shown as that. A run takes them from the
    teacher. Exits with 4 when it is refused, 2 when the request is wrong.
    """
    check_current_folder()
    from kdbench.bench.plan.teacher_reading import Stated, TeacherReading
    from kdbench.bench.session.networks import spelled
    from kdbench.untrusted.weights import hub

    path, origin, hints = Path(file), {}, hub.Hints()
    file = hub.plain_reference(file)
    if file.startswith(hub.PREFIX):
        fetched = hub.fetch(file)
        path, origin, model = fetched.file, fetched.origin, model or fetched.model
        hints = fetched.hints
        name = name if name is not None else file.partition("/")[2].partition("@")[0]
    if model is None:
        raise ConfigError(
            "which network the weights are of is not known here; give --model, see `kdbench list "
            "models`"
        )
    model = spelled(model, tell)
    # Everything is checked before the file is read, which takes the longest.
    from kdbench.cli.processes import command_processes

    with command_processes(choice, computes=check) as processes:
        known = processes.catalogue
        stated = Stated(dataset, data_dir, num_classes, image_size, mean, std, class_order, hints)
        how = TeacherReading(stated, known.datasets)
        (size, _), (classes, _) = how.image_size, how.num_classes
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
        from kdbench.bench.store.teacher_record import Imported
        from kdbench.bench.store.teachers import save_teacher

        lay = None if origin else str(path.absolute())
        reading, before = how.reading().model_copy(update={"file": lay}), _entry(store_dir, name)
        facts: dict[str, Any] = {
            "model": model,
            "dataset": dataset,
            "num_classes": classes,
            "image_size": size,
            "code": known.origin_of_model(model),
        }
        key = save_teacher(
            store_dir,
            name,
            foreign.state,
            foreign.origin,
            reading=reading,
            replace=replace,
            save=None if blank is None else blank.save,
            **facts,
        )
        teacher = Imported(name=name, key=key, origin=foreign.origin, **facts, **dict(reading))
        options = same_options()
        for line in [*_summary(teacher, foreign, how), *_replaced(before, teacher)]:
            click.echo(strip_control(line))
        if check and how.data is not None:
            for line in _measured(teacher, how.data, processes, store_dir, options):
                click.echo(strip_control(line))
    for line in _next_step(teacher, how, options):
        click.echo(strip_control(line))


def _entry(store_dir: Path | None, name: str) -> Imported | None:
    """The teacher that has the name now."""
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.store.teachers import read_entry

    try:
        return read_entry(Store(store_dir), name)
    except (UnknownMethodError, IntegrityError):
        return None


def _replaced(before: Imported | None, teacher: Imported) -> Iterator[str]:
    """What the name meant before, where that was something else."""
    from kdbench.bench.store.teacher_record import differences

    if before is not None and (changes := "; ".join(differences(before, teacher))):
        yield f"  replaced  {changes}"


def _summary(teacher: Imported, foreign: Foreign, how: TeacherReading) -> list[str]:
    """What was imported, what was changed and how it is read, line by line."""
    from kdbench.cli.teacher import how_it_is_read

    statistics = ("running_mean", "running_var", "num_batches_tracked")
    parameters = sum(
        tensor.numel() for name, tensor in foreign.state.items() if not name.endswith(statistics)
    )
    origin: dict[str, Any] = foreign.origin
    size = f"{teacher.image_size}x{teacher.image_size}"
    lines = [
        f"imported {teacher.name}: {teacher.model} for {teacher.dataset}, "
        f"{counted(teacher.num_classes, 'class')}, {size} pixels",
        f"  weights   {counted(len(foreign.state), 'tensor')}, {parameters:,} parameters",
        f"  file      {origin['file']}, {origin['format']}, {origin['bytes']:,} bytes",
        f"  SHA-256   {origin['sha256']}",
        f"  changed   {'; '.join(foreign.changes()) or 'nothing'}",
        f"  read by   torch {origin['torch']}, kdbench {origin['kdbench']}, confined by: "
        f"{origin['confinement']}",
        f"  key       {teacher.key}",
        *how_it_is_read(teacher),
    ]
    if (hint := _library_hint(teacher)) is not None:
        lines.append(f"  hint      {hint}")
    if how.absent:
        lines.append(f"  dataset   not looked at: {how.absent}")
    return lines


def _library_hint(teacher: Imported) -> str | None:
    """What the library's own weights of this network take, where nobody said what these do."""
    library, _, name = teacher.model.partition("/")
    if library != "timm" or teacher.own_normalization:
        return None
    from timm.models import get_pretrained_cfg

    from kdbench.bench.store.teacher_record import channels_text

    known = get_pretrained_cfg(name)
    if known is None or (teacher.mean, teacher.std) == (tuple(known.mean), tuple(known.std)):
        return None
    mean, std = (channels_text(values) for values in (known.mean, known.std))
    return f"timm's own weights of {name} take --mean {mean} --std {std}"


def _measured(
    teacher: Imported,
    data: Dataset,
    processes: Processes,
    store_dir: Path | None,
    options: Sequence[str],
) -> Iterator[str]:
    """Its accuracy on test images, and whether it seems to be read wrongly."""
    from kdbench.bench.run.teacher_check import CHECK_S, MOST_IMAGES, measure_teacher, prepare_check
    from kdbench.bench.session.execution import place
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.work.executors.make import JobLimits, make_executor
    from kdbench.cli.teacher_remarks import remarks

    store, known = Store(store_dir), processes.catalogue
    count = min(len(data.test), MOST_IMAGES)
    click.echo(
        f"measuring it on {counted(count, 'test image')}; --no-check leaves this out", err=True
    )
    limits = JobLimits(CHECK_S)
    executor = make_executor("local", lambda: processes.registry, limits, processes.zygote)
    try:
        prepared = prepare_check(teacher, len(data.test), known, store)
        place(executor, 1, prepared.numerics, tell)
        facts = measure_teacher(prepared, known, store, executor)
    except (KdbenchError, OSError) as error:
        facts = str(error)
    finally:
        executor.close()
    if isinstance(facts, str):
        yield f"  accuracy  not measured: {facts}"
        return
    right, total = facts["acc"]
    all_of_them = counted(len(data.test), "test image")
    some = "the test images" if total == len(data.test) else f"{total} of {all_of_them}"
    yield f"  accuracy  {100 * right / total:.1f} % of {some}"
    yield from remarks(teacher, facts, prepared.parts[0].dataset.class_names, None, options)


def _next_step(teacher: Imported, how: TeacherReading, options: Sequence[str]) -> list[str]:
    """The command that uses the teacher."""
    from kdbench.cli.teacher import run_command

    elsewhere = how.source.folder and teacher.folder is None and not how.source.takes_path
    data = ["--data-dir", "DATA"] if elsewhere else []
    where = f" (DATA is the folder of {teacher.dataset})" if elsewhere else ""
    return [
        f"It is a suspect teacher: whether it carries a backdoor is not known. Use it with{where}",
        f"  {run_command(teacher, [*data, *options])}",
    ]
