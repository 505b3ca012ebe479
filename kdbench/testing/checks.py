"""What a check is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdbench.loading.answers import CHECKED_KINDS
from kdbench.method import METHOD_KINDS
from kdbench.testing.subjects import Subject as Subject


class CheckFailedError(AssertionError):
    """What is tested does not keep what the check asks for. The message says what was seen."""


class NotApplicableError(Exception):
    """There is nothing to check; the message says why."""


#: Every kind, for a check that all have.
ALL = CHECKED_KINDS


@dataclass(frozen=True)
class Check:
    """One demand on a method, a dataset or a network."""

    name: str
    """As in ``known_failures``."""
    kinds: tuple[str, ...]
    """The kinds that it is for. A network is a ``model``."""
    text: str
    """What it asks for, in one sentence that is shown to people."""
    run: Callable[[Any], None]
    """Raises CheckFailedError or NotApplicableError."""


#: A check gets what is tested: a :class:`kdbench.testing.subjects.Tested` of one of its kinds.
CheckFunction = Callable[[Any], None]
REGISTERED: dict[str, Check] = {}
"""Every check by its name, in the order of the modules' imports."""


def check(text: str, *kinds: str) -> Callable[[CheckFunction], CheckFunction]:
    """A decorator that registers a function as a check. The check gets the function's name.

    Args:
        text: what the check asks for.
        kinds: the kinds that it is for, those of :data:`ALL`. Without: all kinds of method.
    """

    def add(function: CheckFunction) -> CheckFunction:
        name = function.__name__
        assert name not in REGISTERED, name
        REGISTERED[name] = Check(name, kinds or METHOD_KINDS, text, function)
        return function

    return add


def ensure(true: object, message: str) -> None:
    """Raise CheckFailedError unless ``true``."""
    if not true:
        raise CheckFailedError(message)
