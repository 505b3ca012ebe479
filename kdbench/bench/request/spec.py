"""What is asked for: a request, checked and resolved into numbers before anything runs."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kdbench.bench.request.presets import Preset, read_preset
from kdbench.errors import ConfigError, UnknownMethodError, unknown
from kdbench.loading.plugin import KINDS
from kdbench.loading.registry import Registry, base_name
from kdbench.method import Method, Params


class Block(BaseModel):
    """Further cells of a request: what is given here replaces the request's, all the rest is the
    request's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attacks: tuple[str, ...] | None = Field(None, min_length=1)
    defenses: tuple[str, ...] | None = Field(None, min_length=1)
    distillers: tuple[str, ...] | None = Field(None, min_length=1)
    pairs: tuple[tuple[str, str], ...] | None = Field(None, min_length=1)
    datasets: tuple[str, ...] | None = Field(None, min_length=1)


class RunSpec(BaseModel):
    """A request: axes that are crossed, and what holds for all of it. ``kdbench run``'s options and
    a spec file say the same.

    teacher_from: names of imported teachers, taken as they are, instead of (or beside) attacks.
    also: further blocks of cells; a cell that two blocks name is one cell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attacks: tuple[str, ...] = ()
    teacher_from: tuple[str, ...] = ()
    defenses: tuple[str, ...] = Field(("none",), min_length=1)
    distillers: tuple[str, ...] = Field(("fkd",), min_length=1)
    pairs: tuple[tuple[str, str], ...] = Field(min_length=1)
    datasets: tuple[str, ...] = Field(("signs",), min_length=1)
    presets: tuple[str, ...] = Field(("quick",), min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((0,), min_length=1)
    data_dir: Path | None = None
    download: bool = False
    image_size: int | None = Field(None, ge=8)
    num_classes: int | None = Field(None, ge=2)
    train_size: int | None = Field(None, ge=2)
    test_size: int | None = Field(None, ge=2)
    data_seed: int = Field(0, ge=0)
    target_class: int = Field(0, ge=0)
    clean_fraction: float | None = Field(None, gt=0, le=1)
    controls: bool = True
    device: str = "auto"
    numerics: Literal["auto", "fp32", "bf16"] = "auto"
    threads: int | None = Field(None, ge=1, le=1024)
    overrides: dict[str, str] = Field(default_factory=dict)
    also: tuple[Block, ...] = ()

    @field_validator(
        "attacks", "teacher_from", "defenses", "distillers", "pairs", "datasets", "presets", "seeds"
    )
    @classmethod
    def _each_once(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(dict.fromkeys(values))

    @model_validator(mode="after")
    def _something_to_attack(self) -> RunSpec:
        if not self.attacks and not self.teacher_from:
            raise ValueError(
                "neither an attack nor an imported teacher is named; add --attack NAME or "
                "--teacher-from NAME"
            )
        return self

    def blocks(self) -> list[RunSpec]:
        """The request as requests without ``also``, itself first."""
        given = [block.model_dump(exclude_none=True) for block in self.also]
        return [self.model_copy(update={"also": (), **values}) for values in ({}, *given)]

    def methods(self) -> set[tuple[str, str]]:
        """(kind, name) of every method that the request names, those of its blocks among them."""
        found = {("defense", "none")} if self.controls else set()
        for block in self.blocks():
            named = (
                ("attack", block.attacks),
                ("defense", block.defenses),
                ("distiller", block.distillers),
            )
            found |= {(kind, name) for kind, names in named for name in names}
        return found


@dataclass(frozen=True)
class Resolved:
    """One dataset and one preset of a request, with every name looked up and every number known.

    name: of the preset. methods: (kind, name) -> an instance with its parameters. origins: (kind,
    name) -> the plugin's version and source digest. promised_preset, promised: the numbers that the
    preset and the methods have when nothing is set for them.
    """

    spec: RunSpec
    dataset: str
    name: str
    preset: Preset
    methods: dict[tuple[str, str], Method]
    origins: dict[tuple[str, str], str]
    promised_preset: Preset
    promised: dict[tuple[str, str], dict[str, Any]]

    def method(self, kind: str, name: str) -> Any:
        return self.methods[kind, name]

    def as_dict(self) -> dict[str, Any]:
        """Every number of this part of the run, for ``--dry-run`` and ``run.json``."""
        return {
            "dataset": self.dataset,
            "preset": {"name": self.name, **self.preset.model_dump(mode="json")},
            "methods": {
                f"{kind}.{name}": m.params.model_dump(mode="json")
                for (kind, name), m in sorted(self.methods.items())
            },
        }


def resolve_all(spec: RunSpec, registry: Registry) -> list[Resolved]:
    """Every block of a request, with every dataset and every preset."""
    blocks = spec.blocks()
    return [
        resolve(block, registry, dataset, preset, spec.methods())
        for preset in spec.presets
        for block in blocks
        for dataset in block.datasets
    ]


def resolve(
    spec: RunSpec,
    registry: Registry,
    dataset: str | None = None,
    preset_name: str | None = None,
    named: set[tuple[str, str]] | None = None,
) -> Resolved:
    """Look everything up and apply ``--set`` overrides, for one dataset and preset of the request
    (the first ones unless said).

    Override keys: ``clean|poison|distill|repair|signs.FIELD``, ``clean_fraction`` and
    ``attack|distiller|defense.NAME.FIELD``. Whoever sets a recipe's ``epochs`` means them: the
    preset's ``min_steps`` then no longer raises them. A method's numbers are its defaults, then
    what it has for the preset, then what is set for it; a variant's those of its method, then its
    own, then what is set for the variant. A variant that the plugin does not have exists where
    something is set for it.

    Args:
        named: the methods that may be set, where they are more than this block's.

    Raises:
        UsageError: an unknown name, key or a value of the wrong type or range.
    """
    dataset, preset_name = dataset or spec.datasets[0], preset_name or spec.presets[0]
    table = read_preset(preset_name)
    named = named or spec.methods()
    bases = {(kind, base_name(name)) for kind, name in named}
    given: dict[tuple[str, str], dict[str, Any]] = {}
    for key, raw in spec.overrides.items():
        head, *rest = key.split(".")
        if head in KINDS and len(rest) >= 2:
            name, fieldname = ".".join(rest[:-1]), rest[-1]
            cls = registry.get(head, base_name(name))
            if (head, name) not in named | bases:
                raise ConfigError(
                    f"--set {key}: {head} {name!r} is not part of this run; add --{head} {name} or "
                    "drop the --set"
                )
            _known(key, fieldname, cls.Params.model_fields)
            given.setdefault((head, name), {})[fieldname] = _value(raw)
        elif len(rest) == 1 and isinstance(table.get(head), dict):
            section = Preset.model_fields[head].annotation
            assert section is not None
            _known(key, rest[0], section.model_fields)
            table[head][rest[0]] = _value(raw)
            if rest[0] == "epochs" and f"{head}.min_steps" not in spec.overrides:
                table[head]["min_steps"] = 0
        elif not rest and head == "clean_fraction":
            table[head] = _value(raw)
        else:
            known = [k for k in Preset.model_fields if k != "clean_fraction"]
            keys = [
                "clean_fraction",
                *(f"{k}.FIELD" for k in known),
                *(f"{kind}.NAME.FIELD" for kind in KINDS),
            ]
            raise ConfigError(unknown("--set key", key, keys))
    if spec.clean_fraction is not None:
        table["clean_fraction"] = spec.clean_fraction
    preset = _build(f"preset {preset_name}", Preset, table)
    methods, origins, promised = {}, {}, {}
    for kind, name in sorted(spec.methods()):
        cls, base = registry.get(kind, base_name(name)), (kind, base_name(name))
        for_preset, variant = cls.presets.get(preset_name, {}), {}
        values = for_preset | given.get(base, {})
        if name != base[1]:
            variant = _variant(kind, name, cls, given.get((kind, name)))
            values |= variant | given.get((kind, name), {})
        methods[kind, name] = cls(_build(f"{kind}.{name}", cls.Params, values))
        promised[kind, name] = _promise(cls, for_preset | variant)
        origins[kind, name] = registry.methods[kind][base[1]].origin
    for name in {name for pair in spec.pairs for name in pair}:
        if origin := registry.origin_of_model(name):
            origins["model", name] = origin
    promised_preset = Preset(**read_preset(preset_name))
    return Resolved(spec, dataset, preset_name, preset, methods, origins, promised_preset, promised)


def _promise(cls: type[Method], values: Mapping[str, Any]) -> dict[str, Any]:
    """A method's numbers as it comes. One that is none until something is set promises none."""
    try:
        return cls.Params(**values).model_dump(mode="json")
    except ValidationError:
        return {}


def _variant(
    kind: str, name: str, cls: type[Method], given: dict[str, Any] | None
) -> dict[str, Any]:
    base, _, word = name.partition(".")
    if word in cls.variants:
        return cls.variants[word].params
    if given:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_.]*", word):
            raise ConfigError(
                f"{kind} {name!r}: after the first point of a variant's name come a-z, 0-9, _ and ."
            )
        return {}
    known = [f"{base}.{variant}" for variant in cls.variants]
    raise UnknownMethodError(
        f"{unknown(f'{kind} variant', name, known)}; or make one of your own with --set "
        f"{kind}.{name}.FIELD=VALUE"
    )


def _known(key: str, fieldname: str, fields: Mapping[str, Any]) -> None:
    if fieldname not in fields:
        raise ConfigError(
            unknown("--set key", key, [f"{key.rsplit('.', 1)[0]}.{name}" for name in fields])
        )


def _value(raw: str) -> Any:
    """Read a value as TOML (numbers, booleans, lists, quoted strings); anything else is a plain
    string."""
    try:
        return tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        return raw


def _build(where: str, model: type[Params], values: Mapping[str, Any]) -> Any:
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        # ours, not pydantic's: it already says what was given
        message = first["msg"].removeprefix("Value error, ")
        given = "" if message != first["msg"] else f"; got {first.get('input')!r}"
        raise ConfigError(f"{'.'.join(filter(None, [where, name]))}: {message}{given}") from error
