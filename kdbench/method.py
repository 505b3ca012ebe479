"""What attacks, distillers and defenses have in common: who made it, and its typed parameters."""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, model_validator

METHOD_KINDS = ("attack", "distiller", "defense")
"""The kinds of method. Each has a base class, which carries its kind as ``kind``."""


@dataclass(frozen=True)
class Info:
    """Where a method comes from. ``name`` is what the command line calls it: lower case letters,
    digits, ``_``."""

    name: str
    title: str
    authors: str
    venue: str
    year: int
    link: str


@dataclass(frozen=True)
class Variant:
    """A named set of parameters: ``robustkd.eq15`` is ``robustkd`` with these in place of its own.

    text: what it is, in a few words, and where it is from. params: those that differ, at every
    preset.
    """

    text: str
    params: dict[str, Any]


class Params(BaseModel):
    """Base of every parameter model: unknown fields are errors, instances are immutable.

    Declare each field as ``Field(default, ge=..., le=..., description="what, in which unit;
    source")``.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

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


#: ``Method.Params`` hides the class of this name within Method.
_Params = Params


class Method(ABC):
    """Base of Attack, Distiller and Defense.

    Class attributes:
        info: see :class:`Info`.
        Params: the typed parameters.
        presets: for a preset name the parameters that differ from the defaults there, e.g.
            ``{"quick": {"steps": 100}}``. ``--set KIND.NAME.FIELD=VALUE`` overrides both.
        zero: the parameters at which it does nothing: no backdoor is planted, nothing is changed.
        None: there are none.
        for_checks: parameters with which the conformance kit (:mod:`kdbench.testing`) takes
        seconds.
        known_failures: for a check of the kit that it cannot keep the reason; shown with every row.
        variants: for a word the parameters that make up ``NAME.WORD``; they win over presets, and
        over what is set for NAME.
    """

    info: ClassVar[Info]
    Params: ClassVar[type[Params]] = Params
    presets: ClassVar[dict[str, dict[str, Any]]] = {}
    variants: ClassVar[dict[str, Variant]] = {}
    zero: ClassVar[dict[str, Any] | None] = None
    for_checks: ClassVar[dict[str, Any]] = {}
    known_failures: ClassVar[dict[str, str]] = {}

    def __init__(self, params: _Params | None = None) -> None:
        self.params = type(self).Params() if params is None else params
