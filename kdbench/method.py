"""What attacks, distillers and defenses have in common: who made it, and its typed parameters."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, model_validator


@dataclass(frozen=True)
class Info:
    """Where a method comes from."""

    name: str
    """What the command line calls it: lower case letters, digits, ``_``."""
    title: str
    authors: str
    venue: str
    year: int
    link: str
    evidence: str = ""
    """Where it was measured with kdbench: a page of ``benchmarks/findings`` for a built-in method,
    an address for others. Empty: nowhere yet."""


@dataclass(frozen=True)
class Variant:
    """A named set of parameters: ``robustkd.eq15`` is ``robustkd`` with these parameters."""

    text: str
    """What it is, in a few words, and where it is from."""
    params: dict[str, Any]
    """The parameters that differ, at every preset."""


class Params(BaseModel):
    """Base of every parameter model: unknown fields are errors, instances are immutable.

    Declare each field as ``Field(default, ge=..., le=..., description="what, in which unit;
    source")``. In a field that may be None the word ``none`` means that, and can mean nothing else.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _none_as_a_word(cls, values: Any) -> Any:
        """``none`` is None where a field may be that: neither TOML nor ``--set`` has another
        word for it."""
        if not isinstance(values, dict):
            return values
        return {
            name: None if value == "none" and cls._may_be_none(name) else value
            for name, value in values.items()
        }

    @classmethod
    def _may_be_none(cls, name: str) -> bool:
        field = cls.model_fields.get(name)
        return field is not None and type(None) in get_args(field.annotation)

    @model_validator(mode="before")
    @classmethod
    def _no_number_by_accident(cls, values: Any) -> Any:
        """``true`` is not the number 1: pydantic would take it for one."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None:
                allowed = get_args(field.annotation) or (field.annotation,)
                if bool not in allowed:
                    raise ValueError(
                        f"{name} is not a switch: a number or a word is expected, not "
                        f"{str(value).lower()}"
                    )
        return values


#: The kinds of method, in the order of a cell's name.
METHOD_KINDS = ("attack", "distiller", "defense")

#: ``Method.Params`` hides the class of this name within Method.
_Params = Params


class Method(ABC):
    """Base of Attack, Distiller and Defense."""

    kind: ClassVar[str]
    """One of :data:`METHOD_KINDS`."""
    info: ClassVar[Info]
    Params: ClassVar[type[Params]] = Params
    """The typed parameters."""
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    """By preset: the parameters that differ from the defaults, e.g. ``{"quick": {"steps": 100}}``.

    ``--set KIND.NAME.FIELD=VALUE`` overrides both.
    """
    variants: ClassVar[dict[str, Variant]] = {}
    """By word: the parameters of ``NAME.WORD``.

    They win over presets and over what is set for NAME.
    """
    zero: ClassVar[dict[str, Any] | None] = None
    """The parameters at which the method does nothing. None: there are none."""
    for_checks: ClassVar[dict[str, Any]] = {}
    """Parameters with which the conformance kit (:mod:`kdbench.testing`) takes seconds."""
    known_failures: ClassVar[dict[str, str]] = {}
    """By check of the kit: why the method cannot pass it. Every row of results shows the reason."""

    def __init__(self, params: _Params | None = None) -> None:
        self.params = type(self).Params() if params is None else params
