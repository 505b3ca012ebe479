"""The options of a request, translated into a :class:`kdbench.bench.request.spec.RunSpec`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.bench.session.networks import spelled
from kdbench.bench.session.numbers import check_least
from kdbench.bench.session.tell import Tell
from kdbench.errors import ConfigError
from kdbench.untrusted.text import strip_control

if TYPE_CHECKING:
    from pydantic import ValidationError

    from kdbench.bench.request.spec import RunSpec
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.store.teacher_record import Imported
    from kdbench.loading.answers import Answers
    from kdbench.models import ModelSource

#: What ``--pair all`` stands for.
PAPER_PAIRS = (
    "wrn28_4-wrn16_4",
    "wrn28_4-wrn28_2",
    "wrn28_4-wrn16_2",
    "wrn28_4-resnet56",
    "pyramid200-wrn28_4",
    "pyramid200-pyramid110",
)
#: Each is a number in memory, and at least one cell.
MOST_SEEDS = 100_000
#: The option of a request's field, where its name is not that of the field.
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


def build_spec(
    registry: Answers,
    store: Store,
    tell: Tell,
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
    overrides: tuple[str, ...] = (),
    **rest: Any,
) -> RunSpec:
    """Turn a spec file and the options into a request. An option replaces the file's field.

    Args:
        tell: takes what whoever asks should know of their request.

    Raises:
        UsageError: a name does not exist, or a value is out of range (names the option).
    """
    from pydantic import ValidationError

    from kdbench.bench.request.spec import RunSpec
    from kdbench.bench.request.specfile import read_spec

    fields: dict[str, Any] = {} if spec is None else read_spec(spec)
    lists = {
        "attacks": attacks,
        "teacher_from": teacher_from,
        "defenses": defenses,
        "distillers": distillers,
        "pairs": pairs,
        "datasets": datasets,
        "presets": presets,
    }
    from_options = {name: list(values) for name, values in lists.items() if values}
    fields |= from_options | {name: value for name, value in rest.items() if value is not None}
    file_overrides, set_overrides = fields.pop("overrides", {}), parse_overrides(overrides)
    # An option replaces the file's field in every block of the file.
    replaced = set(from_options) | ({"pairs"} if teacher or student else set())
    blocks = [
        {name: value for name, value in block.items() if name not in replaced}
        for block in fields.pop("also", [])
    ]
    _expand_names([fields, *blocks], registry)
    if seeds is not None:
        check_least("seeds", seeds, 1)
        if seeds > MOST_SEEDS:
            raise ConfigError(f"--seeds: at most {MOST_SEEDS} can be taken; got {seeds}")
    if seed is not None or seeds is not None:
        fields["seeds"] = list(range(seed or 0, (seed or 0) + (seeds or 1)))
    imported = imported_teachers(store, fields.get("teacher_from", ()))
    fields["pairs"] = parse_pairs(
        fields.get("pairs", ()), teacher, student, imported, registry.models, tell
    )
    for block in blocks:
        if "pairs" in block:
            block["pairs"] = parse_pairs(block["pairs"], None, None, (), registry.models, tell)
    fields["also"] = [block for block in blocks if block]
    fields |= _taken_from(imported, fields, file_overrides | set_overrides, tell)
    try:
        request = RunSpec(**fields)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error
    if replaced:
        file_overrides = _still_used(file_overrides, request)
    return request.model_copy(update={"overrides": file_overrides | set_overrides})


def _expand_names(blocks: Sequence[dict[str, Any]], registry: Answers) -> None:
    """Replace 'all' by the methods of each kind, and check the names of datasets."""
    from kdbench.data import check_dataset_name

    for name, kind in (("attacks", "attack"), ("defenses", "defense"), ("distillers", "distiller")):
        for block in blocks:
            if name in block:
                block[name] = _expand(block[name], functools.partial(registry.names, kind))
    for block in blocks:
        for name in block.get("datasets", ()):
            check_dataset_name(str(name), registry.datasets)


def _still_used(overrides: Mapping[str, Any], request: RunSpec) -> dict[str, Any]:
    """A file's overrides without those of methods that the options have replaced. Nobody misses
    them."""
    from kdbench.loading.answers import base_name
    from kdbench.method import METHOD_KINDS

    methods = {
        f"{kind}.{name}" for kind, full in request.methods() for name in (full, base_name(full))
    }
    return {
        key: value
        for key, value in overrides.items()
        if key.rpartition(".")[0] in methods or key.partition(".")[0] not in METHOD_KINDS
    }


def _explain(error: ValidationError) -> str:
    """The first problem of a request, by the option that it is about."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return message
    name = str(first["loc"][0])
    option = _OPTION_OF.get(name, f"--{name.replace('_', '-')}")
    return f"{option}: {message[:1].lower() + message[1:]}; got {first.get('input')!r}"


def imported_teachers(store: Store, names: Iterable[str]) -> list[Imported]:
    """The imported teachers named."""
    from kdbench.bench.store.teachers import load_teacher

    return [load_teacher(store, name) for name in names]


def _taken_from(
    imported: Sequence[Imported],
    fields: Mapping[str, Any],
    overrides: Mapping[str, Any],
    tell: Tell,
) -> dict[str, Any]:
    """What the request leaves to its imported teachers. A message says of which nothing is
    known."""
    if not imported:
        return {}
    from kdbench.bench.plan.suspects import taken_from, undescribed

    for line in undescribed(imported):
        tell(f"note: {strip_control(line)}")
    return taken_from(imported, {**fields, "overrides": overrides})


def _expand(names: Iterable[Any], everything: Callable[[], Iterable[str]]) -> list[Any]:
    """The names in their order, with everything in the place of 'all'."""
    return [full for name in names for full in (everything() if name == "all" else [name])]


def parse_pairs(
    pairs: Iterable[Any],
    teacher: str | None,
    student: str | None,
    imported: Sequence[Imported],
    sources: Mapping[str, ModelSource],
    tell: Tell,
) -> tuple[tuple[str, str], ...]:
    """The pairs of ``--pair``, of ``--teacher`` with ``--student``, and of imported teachers with
    ``--student``.

    Args:
        sources: networks by name.
        tell: as for :func:`build_spec`.

    Raises:
        UsageError: there is no pair at all, or half a pair, or a model that does not exist.
    """
    from kdbench.models import model_source, split_pair

    names: list[tuple[str, str]] = []
    for pair in _expand(pairs, lambda: PAPER_PAIRS):
        if isinstance(pair, list | tuple) and len(pair) == 2:
            names.append((str(pair[0]), str(pair[1])))
        else:
            names.append(split_pair(str(pair), sources))
    from_elsewhere = [known.model for known in imported] if student is not None else []
    teachers = [teacher] if teacher is not None else from_elsewhere
    if (teacher is not None and student is None) or (student is not None and not teachers):
        raise ConfigError(
            "--teacher and --student belong together; give both, or --pair TEACHER-STUDENT"
        )
    names += [(name, student) for name in teachers if student is not None]
    names = [(spelled(teacher, tell), spelled(student, tell)) for teacher, student in names]
    for pair in names:
        for name in pair:
            model_source(name, sources)
    if not names and imported:
        raise ConfigError(
            f"--teacher-from {imported[0].name} needs a student; add --student NAME, e.g. "
            "--student wrn16_1; `kdbench list models` shows the networks"
        )
    if not names:
        raise ConfigError(
            "no pair given; add --pair TEACHER-STUDENT, e.g. --pair wrn16_2-wrn16_1, or --pair all"
        )
    return tuple(dict.fromkeys(names))


def parse_overrides(items: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` items as a mapping. A later one wins.

    Raises:
        ConfigError: there is no ``=``, or nothing before it.
    """
    overrides = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"--set {item!r} is not KEY=VALUE; write for example --set clean.epochs=2"
            )
        overrides[key.strip()] = value.strip()
    return overrides
