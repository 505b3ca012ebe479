"""What a check is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kdbench.method import METHOD_KINDS, Method, Params


class CheckFailedError(AssertionError):
    """The method does not keep what the check asks for; the message says what was seen."""


class NotApplicableError(Exception):
    """There is nothing to check; the message says why."""


@dataclass(frozen=True)
class Subject:
    """The method under test."""

    cls: type[Method]
    params: Params
    """The parameters that it is tested with."""
    kept: dict[str, Any] = field(default_factory=dict, compare=False)
    """What one check has computed and others need, too."""

    @property
    def kind(self) -> str:
        return self.cls.kind

    def make(self, **changes: Any) -> Any:
        """A new instance, with other parameters where asked for."""
        return self.cls(type(self.params)(**{**self.params.model_dump(), **changes}))


@dataclass(frozen=True)
class Check:
    """One demand on a method."""

    name: str
    """As in ``known_failures``."""
    kinds: tuple[str, ...]
    """The kinds of method that it is for."""
    text: str
    """What it asks for, in one sentence that is shown to people."""
    run: Callable[[Subject], None]
    """Raises CheckFailedError or NotApplicableError."""


REGISTERED: dict[str, Check] = {}
"""Every check by its name, in the order of the modules' imports."""


def check(
    text: str, *kinds: str
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """A decorator that registers a function as a check. The check gets the function's name.

    Args:
        text: what the check asks for.
        kinds: the kinds of method that it is for; all of them unless given.
    """

    def add(function: Callable[[Subject], None]) -> Callable[[Subject], None]:
        name = function.__name__
        assert name not in REGISTERED, name
        REGISTERED[name] = Check(name, kinds or METHOD_KINDS, text, function)
        return function

    return add


def ensure(true: object, message: str) -> None:
    """Raise CheckFailedError unless ``true``."""
    if not true:
        raise CheckFailedError(message)
