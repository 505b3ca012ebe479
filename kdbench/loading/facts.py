"""What is known of a plugin outside the process that imported it: names, texts and numbers.

These come from a process that a plugin may have taken over. So every text has a longest length and
holds nothing that a terminal could obey, and every list has a largest number of entries.
"""

from __future__ import annotations

import inspect
import math
from types import CodeType
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)
from pydantic_core import to_jsonable_python

from kdbench.loading.candidates import NAME
from kdbench.untrusted.text import strip_control

if TYPE_CHECKING:
    from kdbench.method import Method

_DEEPEST, _LARGEST = 12, 10_000
_TEXT, _LONG = 4_000, 40_000
_MANY = 1_000
#: Most classes of a dataset. A network for them has at least so many weights.
MOST_CLASSES = 100_000
#: Most pixels a side.
WIDEST = 4096


def plain(value: Any) -> Any:
    """The value itself, which must be JSON of a usual size with finite numbers.

    Raises:
        ValueError: it is not.
    """
    left = _LARGEST

    def look(part: Any, depth: int) -> None:
        nonlocal left
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise ValueError("it is too large")
        if isinstance(part, dict):
            for name, inner in part.items():
                look(name, depth + 1)
                look(inner, depth + 1)
        elif isinstance(part, list):
            for inner in part:
                look(inner, depth + 1)
        elif isinstance(part, str):
            if len(part) > _TEXT:
                raise ValueError(f"a text has more than {_TEXT} characters")
            part.encode()  # half a character is a ValueError
        elif isinstance(part, float):
            if not math.isfinite(part):
                raise ValueError("a number is not finite")
        elif isinstance(part, int) and part.bit_length() > 1024:
            raise ValueError("a number has more than 1024 bits")

    look(value, 0)
    return value


def _line(text: str) -> str:
    return strip_control(text)[:_TEXT]


def _lines(text: str) -> str:
    return "\n".join(strip_control(line) for line in text[-_LONG:].split("\n"))


#: A text on one line, cut where it is too long.
Line = Annotated[str, AfterValidator(_line)]
#: A text on several lines. Only its end is kept where it is too long.
Lines = Annotated[str, AfterValidator(_lines)]
#: The name of something that a plugin brings.
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$", max_length=100)]
#: The name of a parameter.
FieldName = Annotated[str, StringConstraints(pattern=r"^\w+$", max_length=100)]
#: Parameters by name, in JSON.
Values = Annotated[dict[FieldName, Any], AfterValidator(plain)]
#: How many there are of something.
Count = Annotated[int, Field(ge=0, le=10**12)]


#: By check of the conformance kit: why something cannot pass it.
KnownFailures = Annotated[dict[Line, Line], Field(max_length=_MANY)]


class Facts(BaseModel):
    """Base of everything that another process says."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class InfoFacts(Facts):
    """Where a method comes from, see :class:`kdbench.method.Info`."""

    name: Name
    title: Line
    authors: Line
    venue: Line
    year: int = Field(ge=-10_000, le=10_000)
    link: Line
    evidence: Line = ""


class FieldFacts(Facts):
    """One parameter."""

    default: Line
    """Its default as Python writes it."""
    description: Line
    """What it is."""
    presets: dict[Line, Line] = Field(max_length=_MANY)
    """By preset: its value there, where it differs, as Python writes it."""
    variants: dict[Line, Line] = Field(max_length=_MANY)
    """By variant: its value there, where the variant sets it, as Python writes it."""


class VariantFacts(Facts):
    """A named set of parameters, see :class:`kdbench.method.Variant`."""

    text: Line
    params: Values


class MethodFacts(Facts):
    """What is known of an attack, a distiller or a defense."""

    kind: Literal["attack", "distiller", "defense"]
    name: Name
    info: InfoFacts
    class_name: Line
    """Of its class, with the module."""
    fields: dict[FieldName, FieldFacts] = Field(max_length=_MANY)
    """Its parameters by name."""
    variants: dict[Name, VariantFacts] = Field(max_length=_MANY)
    """Its variants by word."""
    known_failures: KnownFailures
    place: Line = ""
    """See :func:`place_of`."""

    @model_validator(mode="after")
    def _one_name(self) -> MethodFacts:
        if self.info.name != self.name:
            raise ValueError(f"its info is of {self.info.name!r}, and it is called {self.name!r}")
        return self


class ModelFacts(Facts):
    """What is known of a network by name."""

    kind: Literal["model"] = "model"
    name: Name
    about: Line
    known_failures: KnownFailures = {}
    place: Line = ""
    """See :func:`place_of`."""


class DatasetFacts(Facts):
    """What is known of a dataset by name, see :class:`kdbench.data.DatasetSource`."""

    kind: Literal["dataset"] = "dataset"
    name: Name
    about: Line
    folder: Line
    downloadable: bool
    takes_path: bool
    options: tuple[Line, ...] = Field(max_length=10)
    num_classes: int | None = Field(ge=1, le=MOST_CLASSES)
    image_size: int | None = Field(ge=1, le=WIDEST)
    train_size: Count | None
    test_size: Count | None
    known_failures: KnownFailures = {}
    place: Line = ""
    """See :func:`place_of`."""


class ReporterFacts(Facts):
    """What is known of a plugin's reporter. It has the plugin's name."""

    kind: Literal["reporter"] = "reporter"
    name: Name


class PluginReport(Facts):
    """What a process says of one plugin that it has loaded."""

    name: Line
    """Of the plugin."""
    status: Literal["ok", "broken"]
    api: Line
    seconds: float = Field(ge=0, le=1e9)
    """How long its import took."""
    cause: Line
    """Why it is broken."""
    trace: Lines
    """The whole traceback."""
    defines: tuple[
        Annotated[
            MethodFacts | ModelFacts | DatasetFacts | ReporterFacts, Field(discriminator="kind")
        ],
        ...,
    ] = Field(max_length=_MANY)
    """Everything that it brings."""


class CheckFacts(Facts):
    """How a check of the conformance kit ended, see :class:`kdbench.testing.Result`."""

    name: Line
    status: Literal["ok", "failed", "known", "not applicable"]
    text: Line
    seconds: float = Field(ge=0, le=1e9)


def place_of(value: object) -> str:
    """Where a function, or the first one of a class, is written: ``FILE:LINE``. Empty: unknown."""
    parts = vars(value).values() if isinstance(value, type) else (value,)
    for part in parts:
        code = getattr(inspect.unwrap(part) if callable(part) else part, "__code__", None)
        if isinstance(code, CodeType):
            return f"{code.co_filename}:{code.co_firstlineno}"
    return ""


def method_facts(cls: type[Method]) -> MethodFacts:
    """The facts of a method, where it is imported."""
    presets = {str(preset): values for preset, values in cls.presets.items()}
    return MethodFacts.model_validate(
        {
            "kind": cls.kind,
            "name": cls.info.name,
            "info": {name: getattr(cls.info, name) for name in InfoFacts.model_fields},
            "class_name": f"{cls.__module__}.{cls.__qualname__}",
            "fields": {
                name: {
                    "default": repr(field.default),
                    "description": field.description or "",
                    "presets": {p: repr(v[name]) for p, v in presets.items() if name in v},
                    "variants": {
                        word: repr(variant.params[name])
                        for word, variant in cls.variants.items()
                        if name in variant.params
                    },
                }
                for name, field in cls.Params.model_fields.items()
            },
            "variants": {
                word: {"text": variant.text, "params": to_jsonable_python(variant.params)}
                for word, variant in cls.variants.items()
            },
            "known_failures": dict(cls.known_failures),
            "place": place_of(cls),
        }
    )
