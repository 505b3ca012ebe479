"""The numbers of a method for a request: its own, the preset's, the variant's and those set.

They are put together where the method is imported. Only what comes out goes to the coordinator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kdbench.errors import ConfigError
from kdbench.loading.facts import Facts, Values
from kdbench.untrusted.documents import parse_toml

if TYPE_CHECKING:
    from kdbench.method import Method

Step = Literal["cleanse_teacher", "objective", "repair_student"]


class Wanted(BaseModel):
    """A method as a request wants it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    """attack, distiller or defense."""
    name: str
    """Of the method, without a variant."""
    variant: str = ""
    """The word after the point. Empty for none."""
    preset: str
    """Name of the preset."""
    changes: dict[str, str] = Field(default_factory=dict)
    """What is set for the method: parameter -> value as the user wrote it."""
    variant_changes: dict[str, str] = Field(default_factory=dict)
    """What is set for the variant."""

    @property
    def full_name(self) -> str:
        """``NAME`` or ``NAME.VARIANT``."""
        return f"{self.name}.{self.variant}" if self.variant else self.name


class Settled(Facts):
    """A method with every number."""

    params: Values
    """Its parameters, in JSON."""
    steps: tuple[Step, ...] = ()
    """Of a defense: the steps that it takes with these parameters."""
    batch_norm_mode: Literal["running", "batch"] | None = None
    """Of a distiller: how the teacher's batch norms run. None for other methods."""
    promise: Values
    """Its parameters when nothing is set.

    A method that needs a number to be set cannot be built without it, and promises none.
    """


def settle(cls: type[Method], wanted: Wanted) -> Settled:
    """Settle a method that is imported here.

    A method's numbers are its defaults, then those that it has for the preset, then those that are
    set. A variant has the numbers of its method, then its own, then those that are set for it.

    Raises:
        ConfigError: the method does not take such a number.
    """
    for_preset = cls.presets.get(wanted.preset, {})
    variant: Mapping[str, Any] = {}
    values = for_preset | _values(wanted.changes)
    if wanted.variant:
        variant = cls.variants[wanted.variant].params if wanted.variant in cls.variants else {}
        values = values | variant | _values(wanted.variant_changes)
    method: Any = cls(build(f"{wanted.kind}.{wanted.full_name}", cls.Params, values))
    return Settled(
        params=method.params.model_dump(mode="json"),
        steps=sorted(method.steps()) if wanted.kind == "defense" else (),
        batch_norm_mode=method.batch_norm_mode() if wanted.kind == "distiller" else None,
        promise=_promise(cls, {**for_preset, **variant}),
    )


def _promise(cls: type[Method], values: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return cls.Params(**values).model_dump(mode="json")
    except ValidationError:
        return {}


def _values(changes: Mapping[str, str]) -> dict[str, Any]:
    return {name: toml_value(raw) for name, raw in changes.items()}


def toml_value(raw: str) -> Any:
    """Read a value as TOML: a number, a boolean, a list or a quoted string. Any other text is taken
    as it is."""
    try:
        return parse_toml(f"value = {raw}")["value"]
    except ValueError:
        return raw


def build(where: str, model: type[BaseModel], values: Mapping[str, Any]) -> Any:
    """A model of these values.

    Raises:
        ConfigError: it does not take one of them. ``where`` is what the message says it is of.
    """
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        # Our own messages say already what the value was. Those of pydantic do not.
        message = first["msg"].removeprefix("Value error, ")
        value = "" if message != first["msg"] else f"; got {first.get('input')!r}"
        raise ConfigError(f"{'.'.join(filter(None, [where, name]))}: {message}{value}") from error
