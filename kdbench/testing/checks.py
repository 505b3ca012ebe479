"""What a check is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kdbench.method import Method, Params

KINDS = ("attack", "distiller", "defense")


class CheckFailedError(AssertionError):
    """The method does not keep what the check asks for; the message says what was seen."""


class NotApplicableError(Exception):
    """There is nothing to check; the message says why."""


@dataclass(frozen=True)
class Subject:
    """The method under test: its class and the parameters that it is tested with."""

    cls: type[Method]
    params: Params
    kept: dict[str, Any] = field(default_factory=dict, compare=False)
    """What several checks of this subject need and one has computed."""

    @property
    def kind(self) -> str:
        return self.cls.kind  # type: ignore[attr-defined]

    def make(self, **changes: Any) -> Any:
        """A new instance, with other parameters where asked for."""
        return self.cls(type(self.params)(**{**self.params.model_dump(), **changes}))


@dataclass(frozen=True)
class Check:
    """name: as in ``known_failures``. kinds: of method it is for. text: what it asks for."""

    name: str
    kinds: tuple[str, ...]
    text: str
    run: Callable[[Subject], None]


REGISTERED: dict[str, Check] = {}


def check(
    text: str, *kinds: str
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Make a check of a function, called by the function's name, for these kinds or all."""

    def add(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        name = function.__name__
        assert name not in REGISTERED, name
        REGISTERED[name] = Check(name, kinds or KINDS, text, function)
        return function

    return add


def ensure(true: object, message: str) -> None:
    """Raise CheckFailedError unless ``true``."""
    if not true:
        raise CheckFailedError(message)
