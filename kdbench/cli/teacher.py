"""``kdbench teacher show|rename|rm``, and an imported teacher in words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kdbench._counted import counted
from kdbench.cli.choice import same_options
from kdbench.cli.request import store_option
from kdbench.untrusted.text import command_line, strip_control

if TYPE_CHECKING:
    from kdbench.bench.store.teacher_record import Imported

#: Classes that a summary names: the first ones, and the last.
_NAMED = 6
#: A student that is small and takes images of any side.
_STUDENT = "wrn16_2"
_STATED = {
    "given": "given",
    "hub": "from the description on the hub",
    "dataset": "the dataset's",
    "assumed": "assumed",
}


@click.group("teacher")
def teacher_command() -> None:
    """Show, rename and remove imported teachers. `kdbench list teachers` lists them."""


@teacher_command.command("show")
@click.argument("name")
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print the whole record as JSON.")
def show_command(name: str, store_dir: Path | None, as_json: bool) -> None:
    """Show all that is recorded of a teacher: its file, its network, how it is read."""
    from kdbench._files import jsonable
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.store.teachers import read_entry

    teacher = read_entry(Store(store_dir), name)
    if as_json:
        record = jsonable(teacher.model_dump(mode="json"))
        click.echo(json.dumps(record, indent=1, sort_keys=True, allow_nan=False))
        return
    for line in describe(teacher):
        click.echo(strip_control(line))
    click.echo("Use it with")
    click.echo(f"  {strip_control(run_command(teacher, same_options()))}")


@teacher_command.command("rename")
@click.argument("old")
@click.argument("new")
@store_option
def rename_command(old: str, new: str, store_dir: Path | None) -> None:
    """Give a teacher another name. Tables that exist keep the old one."""
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.store.teachers import rename_teacher

    rename_teacher(Store(store_dir), old, new)
    click.echo(f"{old} is called {new} from now on; tables that exist keep the old name")


@teacher_command.command("rm")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@store_option
def rm_command(names: tuple[str, ...], store_dir: Path | None) -> None:
    """Forget teachers. A run that uses one goes on to its end."""
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.store.teachers import remove_teacher

    store = Store(store_dir)
    for name in names:
        remove_teacher(store, name)
        click.echo(f"removed {name}")
    click.echo(
        "The weights stay for runs that use them. A week after the last use `kdbench store gc "
        "--unused-days DAYS` takes them."
    )


def run_command(teacher: Imported, options: Sequence[str] = ()) -> str:
    """A command that uses a teacher, as it can be copied into a shell.

    What the run takes from the teacher's record is left out.

    Args:
        options: further ones.
    """
    words = ["kdbench", "run", "--teacher-from", teacher.name, "--student", _STUDENT]
    if not teacher.is_described:
        words += ["--dataset", teacher.dataset, "--image-size", str(teacher.image_size)]
    return command_line([*words, *options])


def describe(teacher: Imported) -> Iterator[str]:
    """What is recorded of a teacher, line by line."""
    origin, size = teacher.origin, f"{teacher.image_size}x{teacher.image_size}"
    yield (
        f"{teacher.name}: {teacher.model} for {teacher.dataset}, "
        f"{counted(teacher.num_classes, 'class')}, {size} pixels"
    )
    yield f"  file      {origin.get('file', 'not recorded')}, SHA-256 {origin.get('sha256', '-')}"
    yield f"  key       {teacher.key}"
    yield from how_it_is_read(teacher)
    if not teacher.is_described:
        yield (
            "  It was imported by an older kdbench, which did not record how it is read. A run "
            "reads it as its own options say. Import it again to have this recorded."
        )


def how_it_is_read(teacher: Imported) -> Iterator[str]:
    """Side, classes, mean and standard deviation, each with who says so."""
    size = f"{teacher.image_size}x{teacher.image_size}"
    yield f"  side      {size} ({_who(teacher, 'image_size', '--image-size')})"
    yield (
        f"  classes   {teacher.num_classes} ({_who(teacher, 'num_classes', '--num-classes')}): "
        f"{_classes(teacher)}"
    )
    yield f"  order     {_order(teacher)}"
    if teacher.mean is not None and teacher.std is not None:
        from kdbench.bench.store.teacher_record import channels_text

        numbers = f"mean {channels_text(teacher.mean)} std {channels_text(teacher.std)}"
    else:
        numbers = "the dataset's"
    who = _who(teacher, "normalization", "--mean and --std")
    yield f"  input     normalised with {numbers} ({who})"


def _who(teacher: Imported, fact: str, option: str) -> str:
    basis = teacher.basis.get(fact)
    if basis is None:
        return "not recorded who said so"
    other = f": a default; {option} states another" if basis == "assumed" else ""
    return f"{_STATED[basis]}{other}"


def _classes(teacher: Imported) -> str:
    names = teacher.class_names
    if names is None:
        return "their names are not known"
    places = list(range(len(names)))
    if len(names) > _NAMED + 1:
        places = [*places[:_NAMED], len(names) - 1]
    words = [f"{place} = {names[place]}" for place in places]
    if len(places) < len(names):
        words.insert(-1, "...")
    return ", ".join(words)


def _order(teacher: Imported) -> str:
    if teacher.class_order is None:
        return "not recorded; a run counts the classes as the dataset does"
    if teacher.class_order == "own":
        return (
            "that of the dataset (assumed: a default; --class-order number or FILE states another)"
        )
    who = _STATED[teacher.basis["class_names"]]
    own = "not the dataset's own" if teacher.reordered else "the dataset's own"
    return f"{teacher.class_order} ({who}), which is {own}"
