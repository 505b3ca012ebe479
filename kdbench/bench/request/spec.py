"""What is asked for: a request, checked and resolved into numbers before anything runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

from kdbench.bench.request.presets import RECIPES, DatasetSizes, Preset, read_preset
from kdbench.data import DatasetSource, dataset_source
from kdbench.errors import ConfigError, UnknownMethodError, unknown
from kdbench.loading.answers import Answers, base_name
from kdbench.loading.facts import MethodFacts
from kdbench.loading.settling import Settled, Wanted, build, toml_value
from kdbench.method import METHOD_KINDS
from kdbench.report.columns import MOST_WHOLE
from kdbench.training import Recipe

#: A list in a file is a tuple here, but its items are as strict as the rest.
_List = Strict(False)
_Names = Annotated[tuple[str, ...], _List]
_Pairs = Annotated[tuple[Annotated[tuple[str, str], _List], ...], _List]
#: Every file and table takes whole numbers of this range, so a request has no other.
_Whole = Annotated[int, Field(le=MOST_WHOLE)]
_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)


class Block(BaseModel):
    """Further cells of a request. An axis that a block leaves out is the request's."""

    model_config = _STRICT

    attacks: _Names | None = Field(None, min_length=1)
    """Names of attacks."""
    defenses: _Names | None = Field(None, min_length=1)
    """Names of defenses."""
    distillers: _Names | None = Field(None, min_length=1)
    """Names of distillers."""
    pairs: _Pairs | None = Field(None, min_length=1)
    """(teacher, student), names of networks."""
    datasets: _Names | None = Field(None, min_length=1)
    """Names of datasets."""


class RunSpec(BaseModel):
    """A request: axes that are crossed, and settings that hold for all of its cells.

    The options of ``kdbench run`` and a spec file have the same fields. The types are strict: a
    number in quotes is no number, ``true`` is not 1, and 32.0 is not 32.
    """

    model_config = _STRICT

    attacks: _Names = ()
    """Names of attacks."""
    teacher_from: _Names = ()
    """Names of imported teachers. Each is used as it is, beside the attacks or without any."""
    defenses: _Names = Field(("none",), min_length=1)
    """Names of defenses."""
    distillers: _Names = Field(("fkd",), min_length=1)
    """Names of distillers."""
    pairs: _Pairs = Field(min_length=1)
    """(teacher, student), names of networks."""
    datasets: _Names = Field(("signs",), min_length=1)
    """Names of datasets."""
    presets: _Names = Field(("quick",), min_length=1)
    """Names of presets."""
    seeds: Annotated[tuple[Annotated[_Whole, Field(ge=0)], ...], _List] = Field((0,), min_length=1)
    """Root seeds."""
    data_dir: Path | None = Field(None, strict=False)
    """Folder of the dataset, where it needs one."""
    download: bool = False
    """Fetch the dataset into ``data_dir`` if that is possible."""
    image_size: _Whole | None = Field(None, ge=8)
    """Pixels a side. None, here and in the next three: the preset's or the dataset's number."""
    num_classes: _Whole | None = Field(None, ge=2)
    """Keep the first so many classes."""
    train_size: _Whole | None = Field(None, ge=2)
    """Keep so many training images."""
    test_size: _Whole | None = Field(None, ge=2)
    """Keep so many test images."""
    data_seed: _Whole = Field(0, ge=0)
    """Seed of the choice or the drawing of images."""
    class_names: _Names | None = Field(None, min_length=2)
    """The classes in the order in which they are counted. None: the dataset's own order."""
    target_class: _Whole = Field(0, ge=0)
    """The class that triggered images shall be taken for."""
    transfer_fraction: float | None = Field(None, gt=0, le=1)
    """The deployer's share of the training images that are not held out. None: the preset's, and
    all of them where no attack is named."""
    clean_fraction: float | None = Field(None, gt=0, le=1)
    """The defender's share of the deployer's images. None: the preset's."""
    unlabeled: float | None = Field(None, gt=0, le=1)
    """The defender's share, without labels, of the images that neither are held out nor are the
    deployer's. None: no such images."""
    controls: bool = True
    """Train and measure the control students, too."""
    device: str = "auto"
    """As torch names it, or ``auto``."""
    numerics: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of matrix work."""
    threads: int | None = Field(None, ge=1, le=1024)
    """Threads of a stage on a CPU. None: torch's default."""
    overrides: dict[str, str] = Field(default_factory=dict)
    """What ``--set`` says: key -> value as text. See :func:`resolve` for the keys."""
    also: Annotated[tuple[Block, ...], _List] = ()
    """Further blocks of cells. A cell that two blocks name is one cell."""

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
        changes = [block.model_dump(exclude_none=True) for block in self.also]
        return [self.model_copy(update={"also": (), **values}) for values in ({}, *changes)]

    def methods(self) -> set[tuple[str, str]]:
        """(kind, name) of every method that the request names, those of its blocks among them."""
        # A control student meets no defense, which is the defense called none.
        methods = {("defense", "none")} if self.controls else set()
        for block in self.blocks():
            named = (
                ("attack", block.attacks),
                ("defense", block.defenses),
                ("distiller", block.distillers),
            )
            methods |= {(kind, name) for kind, names in named for name in names}
        return methods


@dataclass(frozen=True)
class Resolved:
    """One dataset and one preset of a request, with every name looked up and every number known."""

    spec: RunSpec
    """The block of the request."""
    dataset: str
    """As the request names it."""
    preset_name: str
    """As the request names it."""
    preset: Preset
    """The preset's numbers, after ``--set``. A pair has those of :meth:`Preset.of_teacher`."""
    methods: dict[tuple[str, str], Settled]
    """(kind, name) -> its parameters, and what follows from them."""
    origins: dict[tuple[str, str], str]
    """(kind, name) -> the plugin's version and source digest."""
    source: DatasetSource
    """Where the dataset comes from."""
    promised_preset: Preset
    """The preset's numbers when nothing is set."""

    def method(self, kind: str, name: str) -> Settled:
        """The method with its numbers."""
        return self.methods[kind, name]

    def as_dict(self) -> dict[str, Any]:
        """Every number of this part of the run, for ``--dry-run`` and ``run.json``."""
        return {
            "dataset": self.dataset,
            "preset": {"name": self.preset_name, **self.preset.model_dump(mode="json")},
            "methods": {
                f"{kind}.{name}": self.methods[kind, name].params
                for kind, name in sorted(self.methods)
            },
        }


def resolve_all(spec: RunSpec, registry: Answers) -> list[Resolved]:
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
    registry: Answers,
    dataset: str | None = None,
    preset_name: str | None = None,
    named: set[tuple[str, str]] | None = None,
) -> Resolved:
    """Look every name up and apply ``--set``, for one dataset and one preset of the request.

    The keys of ``--set`` are ``clean|poison|distill|repair.FIELD``, the preset's single numbers,
    ``datasets.NAME.FIELD`` and ``attack|distiller|defense.NAME.FIELD``.

    Which numbers win is said in :mod:`kdbench.loading.settling`. Setting something for a variant
    that the plugin does not have makes that variant.

    Args:
        dataset: None: the request's first.
        preset_name: None: the request's first.
        named: the methods that may be set. None: those of this block.

    Raises:
        UsageError: an unknown name, key or a value of the wrong type or range.
    """
    dataset, preset_name = dataset or spec.datasets[0], preset_name or spec.presets[0]
    table = _promised(preset_name, spec)
    promised = build(f"preset {preset_name}", Preset, table)
    changes = _apply_overrides(spec, registry, table, named or spec.methods())
    preset = build(f"preset {preset_name}", Preset, table)
    methods: dict[tuple[str, str], Settled] = {}
    origins: dict[tuple[str, str], str] = {}
    for kind, name in sorted(spec.methods()):
        methods[kind, name] = _method(registry, kind, name, preset_name, changes)
        origins[kind, name] = registry.methods[kind][base_name(name)].origin
    for name in {name for pair in spec.pairs for name in pair}:
        if origin := registry.origin_of_model(name):
            origins["model", name] = origin
    return Resolved(
        spec,
        dataset,
        preset_name,
        preset,
        methods,
        origins,
        dataset_source(dataset, registry.datasets),
        promised,
    )


def _promised(preset_name: str, spec: RunSpec) -> dict[str, Any]:
    """The preset's numbers as this request gets them without a ``--set``.

    Whoever brings a teacher and no attack brings his own images, and all of them are the
    deployer's. A preset's share is about a provider who trains here.
    """
    table = read_preset(preset_name)
    if not spec.attacks:
        table["transfer_fraction"] = 1.0
    return table


#: Numbers of a preset that are in none of its sections.
_SINGLE = tuple(n for n, field in Preset.model_fields.items() if field.annotation is float)

#: (kind, name) of a method or a variant -> the parameters that ``--set`` gives it, as text.
_Changes = dict[tuple[str, str], dict[str, str]]


def _apply_overrides(
    spec: RunSpec, registry: Answers, table: dict[str, Any], named: set[tuple[str, str]]
) -> _Changes:
    """Apply ``--set`` and the shares of images. Changes the preset's ``table`` in place, and
    returns what is set for methods."""
    # What is set for a method holds for its variants, too, so it need not be named itself.
    settable = named | {(kind, base_name(name)) for kind, name in named}
    changes: _Changes = {}
    for key, raw in spec.overrides.items():
        kind, *rest = key.split(".")
        if kind in METHOD_KINDS and len(rest) >= 2:
            name, field = ".".join(rest[:-1]), rest[-1]
            fields = registry.facts(kind, base_name(name)).fields
            if (kind, name) not in settable:
                raise ConfigError(
                    f"--set {key}: {kind} {name!r} is not part of this run; add --{kind} {name} or "
                    "drop the --set"
                )
            _check_field(key, field, fields)
            changes.setdefault((kind, name), {})[field] = raw
        else:
            _set_in_preset(table, key, raw, spec, registry)
    for name in ("transfer_fraction", "clean_fraction"):
        if (fraction := getattr(spec, name)) is not None:
            table[name] = fraction
    return changes


def _set_in_preset(
    table: dict[str, Any], key: str, raw: str, spec: RunSpec, registry: Answers
) -> None:
    head, *rest = key.split(".")
    if head == "datasets" and len(rest) == 2:
        dataset_source(rest[0], registry.datasets)
        _check_field(key, rest[1], DatasetSizes.model_fields)
        table.setdefault(head, {}).setdefault(rest[0], {})[rest[1]] = toml_value(raw)
    elif len(rest) == 1 and head in RECIPES:
        _check_field(key, rest[0], Recipe.model_fields)
        _set_in_recipe(table, head, rest[0], toml_value(raw))
        # Whoever sets the epochs wants that many. The preset's least number of steps would raise
        # them on a small set.
        if rest[0] == "epochs" and f"{head}.min_steps" not in spec.overrides:
            _set_in_recipe(table, head, "min_steps", 0)
    elif not rest and head in _SINGLE:
        table[head] = toml_value(raw)
    else:
        raise ConfigError(_unknown_key(key, registry))


def _set_in_recipe(table: dict[str, Any], recipe: str, field: str, value: Any) -> None:
    """Set a number for the pairs of every teacher."""
    table[recipe][field] = value
    for of_network in table.get("networks", {}).values():
        of_network.get(recipe, {}).pop(field, None)


def _unknown_key(key: str, registry: Answers) -> str:
    hint = f"sizes are set as datasets.{key}" if key.split(".")[0] in registry.datasets else ""
    keys = [
        *_SINGLE,
        *(f"{k}.FIELD" for k in RECIPES),
        *(f"{kind}.NAME.FIELD" for kind in (*METHOD_KINDS, "datasets")),
    ]
    return unknown("--set key", key, keys, hint)


def _method(
    registry: Answers, kind: str, name: str, preset_name: str, changes: _Changes
) -> Settled:
    base, _, variant = name.partition(".")
    facts = registry.facts(kind, base)
    if name != base:
        _check_variant(kind, name, facts, makes_it=(kind, name) in changes)
    wanted = Wanted(
        kind=kind,
        name=base,
        variant=variant,
        preset=preset_name,
        changes=changes.get((kind, base), {}),
        variant_changes=changes.get((kind, name), {}) if variant else {},
    )
    return registry.settle(wanted)


def _check_variant(kind: str, name: str, facts: MethodFacts, makes_it: bool) -> None:
    """Raise UsageError where a method has no such variant, and ``--set`` does not make it."""
    base, _, word = name.partition(".")
    if word in facts.variants:
        return
    if not makes_it:
        known = [f"{base}.{variant}" for variant in facts.variants]
        raise UnknownMethodError(
            f"{unknown(f'{kind} variant', name, known)}; or make one of your own with --set "
            f"{kind}.{name}.FIELD=VALUE"
        )
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.]*", word):
        raise ConfigError(
            f"{kind} {name!r}: after the first point of a variant's name come a-z, 0-9, _ and ."
        )


def _check_field(key: str, field: str, fields: Mapping[str, Any]) -> None:
    if field not in fields:
        raise ConfigError(
            unknown("--set key", key, [f"{key.rsplit('.', 1)[0]}.{name}" for name in fields])
        )
