"""The options that say what is asked for, shared by every command that takes a request, and their
translation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kdbench.errors import ConfigError

if TYPE_CHECKING:
    from kdbench.bench.request.spec import RunSpec
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.work.executors.slots import Slots
    from kdbench.loading.registry import Registry
    from kdbench.models import ModelSource
    from kdbench.numerics import Numerics

PAPER_PAIRS = (
    "wrn28_4-wrn16_4",
    "wrn28_4-wrn28_2",
    "wrn28_4-wrn16_2",
    "wrn28_4-resnet56",
    "pyramid200-wrn28_4",
    "pyramid200-pyramid110",
)
_OPTION_OF = {
    "attacks": "--attack",
    "defenses": "--defense",
    "distillers": "--distiller",
    "pairs": "--pair",
    "datasets": "--dataset",
    "presets": "--preset",
    "seeds": "--seed",
    "overrides": "--set",
}
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
    click.option("--seed", type=click.IntRange(min=0), help="Root seed.  [default: 0]"),
    click.option(
        "--seeds",
        type=click.IntRange(min=1),
        help="How many seeds, from --seed upwards.  [default: 1]",
    ),
    click.option("--target-class", type=int, help="The attacker's target.  [default: 0]"),
    click.option(
        "--clean-fraction",
        type=float,
        help="The defender's share of the training images, above 0 to 1.",
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
        "settings",
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


def build_spec(
    registry: Registry,
    store: Store,
    *,
    spec: Path | None = None,
    attacks: tuple[str, ...] = (),
    teacher_from: tuple[str, ...] = (),
    defenses: tuple[str, ...] = (),
    distillers: tuple[str, ...] = (),
    pairs: tuple[str, ...] = (),
    datasets: tuple[str, ...] = (),
    presets: tuple[str, ...] = (),
    teacher: str | None = None,
    student: str | None = None,
    seed: int | None = None,
    seeds: int | None = None,
    settings: tuple[str, ...] = (),
    **rest: Any,
) -> RunSpec:
    """Turn a spec file and the options into a request; an option that is given replaces the file's
    field.

    Raises:
        UsageError: a name does not exist, or a value is out of range (names the option).
    """
    from pydantic import ValidationError

    from kdbench.bench.request.spec import RunSpec
    from kdbench.bench.request.specfile import read_spec
    from kdbench.data import check_dataset_name
    from kdbench.loading.registry import base_name

    asked: dict[str, Any] = {} if spec is None else read_spec(spec)
    named = {
        "attacks": attacks,
        "teacher_from": teacher_from,
        "defenses": defenses,
        "distillers": distillers,
    }
    named |= {"pairs": pairs, "datasets": datasets, "presets": presets}
    asked |= {name: list(values) for name, values in named.items() if values}
    asked |= {name: value for name, value in rest.items() if value is not None}
    from_file, own = asked.pop("overrides", {}), parse_settings(settings)
    # An option replaces the file's field wherever the file has it.
    given = {"pairs"} if pairs or teacher or student else set()
    given |= {name for name, values in named.items() if values}
    blocks = [
        {name: value for name, value in block.items() if name not in given}
        for block in asked.pop("also", [])
    ]
    for name, kind in (("attacks", "attack"), ("defenses", "defense"), ("distillers", "distiller")):
        for table in (asked, *blocks):
            if name in table:
                table[name] = _expand(table[name], lambda kind=kind: registry.names(kind))
    for name in (name for table in (asked, *blocks) for name in table.get("datasets", ())):
        check_dataset_name(str(name), registry.datasets)
    if seed is not None or seeds is not None:
        asked["seeds"] = list(range(seed or 0, (seed or 0) + (seeds or 1)))
    asked["pairs"] = parse_pairs(
        asked.get("pairs", ()),
        teacher,
        student,
        imported_models(store, asked.get("teacher_from", ())),
        registry.models,
    )
    for block in blocks:
        if "pairs" in block:
            block["pairs"] = parse_pairs(block["pairs"], None, None, [], registry.models)
    asked["also"] = [block for block in blocks if block]
    try:
        found = RunSpec(**asked)
        if given:  # what the file sets for methods that the options have replaced is not missed
            there = {
                f"{kind}.{name}"
                for kind, full in found.methods()
                for name in (full, base_name(full))
            }
            from_file = {
                key: raw
                for key, raw in from_file.items()
                if key.rpartition(".")[0] in there or not _of_method(key)
            }
        return found.model_copy(update={"overrides": from_file | own})
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def _of_method(key: str) -> bool:
    from kdbench.method import METHOD_KINDS

    return key.partition(".")[0] in METHOD_KINDS


def _explain(error: Any) -> str:
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    option = _OPTION_OF.get(name, f"--{name.replace('_', '-')}")
    return f"{option}: {message[:1].lower() + message[1:]}; got {first.get('input')!r}"


def divide(jobs: int, numerics: Numerics) -> Slots:
    """How ``--jobs`` is met on this machine; says so where that is fewer side by side."""
    from kdbench.bench.work.executors.slots import share_machine

    slots = share_machine(jobs, numerics)
    if slots.note:
        click.echo(slots.note, err=True)
    return slots


def imported_models(store: Store, names: Iterable[str]) -> list[str]:
    """The architectures of the imported teachers named."""
    from kdbench.bench.store.teachers import load_teacher

    return [load_teacher(store, name).model for name in names]


def _expand(names: Iterable[Any], everything: Callable[[], Iterable[str]]) -> list[Any]:
    """Replace 'all', keep the order."""
    return [found for name in names for found in (everything() if name == "all" else [name])]


def parse_pairs(
    pairs: Iterable[Any],
    teacher: str | None,
    student: str | None,
    imported: list[str],
    sources: Mapping[str, ModelSource],
) -> tuple[tuple[str, str], ...]:
    """Pairs from ``--pair``, from ``--teacher`` with ``--student``, and from imported teachers with
    ``--student``.

    ``sources``: networks by name.

    Raises:
        UsageError: no pair at all, half a pair, or a model that does not exist.
    """
    from kdbench.models import model_source, split_pair

    found: list[tuple[str, str]] = []
    for pair in _expand(pairs, lambda: PAPER_PAIRS):
        if isinstance(pair, list | tuple) and len(pair) == 2:
            found.append((str(pair[0]), str(pair[1])))
        else:
            found.append(split_pair(str(pair), sources))
    teachers = [teacher] if teacher is not None else imported if student is not None else []
    if (teacher is not None and student is None) or (student is not None and not teachers):
        raise ConfigError(
            "--teacher and --student belong together; give both, or --pair TEACHER-STUDENT"
        )
    found += [(name, student) for name in teachers if student is not None]
    found = [(_from_hub(teacher), _from_hub(student)) for teacher, student in found]
    for pair in found:
        for name in pair:
            model_source(name, sources)
    if not found:
        raise ConfigError(
            "no pair given; add --pair TEACHER-STUDENT, e.g. --pair wrn16_2-wrn16_1, or --pair all"
        )
    return tuple(dict.fromkeys(found))


def _from_hub(name: str) -> str:
    """A network by the name of a hub's repository: the one that it describes."""
    from kdbench.untrusted.weights import hub

    if not name.startswith(hub.PREFIX):
        return name
    found = hub.architecture(name)
    click.echo(
        f"{name} is {found}; it is trained from fresh weights (its own come in by kdbench "
        "import-teacher)",
        err=True,
    )
    return found


def parse_settings(settings: tuple[str, ...]) -> dict[str, str]:
    """``KEY=VALUE`` items as a mapping; a later one wins.

    Raises:
        ConfigError: no ``=``, or nothing before it.
    """
    found = {}
    for item in settings:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"--set {item!r} is not KEY=VALUE; write for example --set clean.epochs=2"
            )
        found[key.strip()] = value.strip()
    return found
