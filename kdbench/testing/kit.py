"""Checks bound to a method, run, and told."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from kdbench.loading.registry import Registry
from kdbench.method import Method
from kdbench.testing import attacks, common, defenses, distillers  # noqa: F401 - each adds its own checks
from kdbench.testing.checks import REGISTERED, Check, CheckFailedError, NotApplicableError, Subject


@dataclass(frozen=True)
class Result:
    """How a check ended. status: ``known`` failed as ``known_failures`` says; ``not applicable``:
    see text."""

    name: str
    status: Literal["ok", "failed", "known", "not applicable"]
    text: str = ""
    seconds: float = 0.0


def every_check() -> Iterator[Check]:
    """All of them, in the order in which they are run."""
    yield from REGISTERED.values()


@dataclass(frozen=True)
class Bound:
    """One check of one method; call it: raises CheckFailedError or NotApplicableError."""

    check: Check
    subject: Subject

    def __call__(self) -> None:
        self.check.run(self.subject)

    @property
    def known(self) -> str:
        """Why it is known to fail, or nothing."""
        return self.subject.cls.known_failures.get(self.check.name, "")

    def __str__(self) -> str:
        return f"{self.subject.cls.info.name}-{self.check.name}"


def checks_for(cls: type[Method], variant: str = "") -> Iterator[Bound]:
    """Every check that is for a class, with the parameters of its preset ``quick``, of a variant,
    and its ``for_checks``.

    Raises:
        CheckFailedError: ``known_failures`` names a check that does not exist.
    """
    values = (
        cls.presets.get("quick", {})
        | (cls.variants[variant].params if variant else {})
        | cls.for_checks
    )
    subject = Subject(cls, cls.Params(**values))
    found = [check for check in every_check() if subject.kind in check.kinds]
    unknown = sorted(set(cls.known_failures) - {check.name for check in found})
    if unknown:
        raise CheckFailedError(
            f"known_failures names {', '.join(unknown)}; there are "
            f"{', '.join(c.name for c in found)}"
        )
    return (Bound(check, subject) for check in found)


def run_checks(
    cls: type[Method], variant: str = "", told: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    """Run them all; whatever a method raises is a failure of that check."""
    found = []
    for bound in checks_for(cls, variant):
        start = time.perf_counter()
        status, text = _outcome(bound)
        found.append(Result(bound.check.name, status, text, time.perf_counter() - start))
        told(found[-1])
    return found


def _outcome(bound: Bound) -> tuple[Any, str]:
    try:
        bound()
    except NotApplicableError as why:
        return "not applicable", str(why)
    except CheckFailedError as why:
        text = str(why)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
    else:
        if bound.known:
            return (
                "failed",
                f"it passes, though known_failures says: {bound.known}; take it off the list",
            )
        return "ok", ""
    return ("known", bound.known) if bound.known else ("failed", text)


def parametrize_with_checks(methods: Iterable[type[Method] | str]) -> Callable[[Any], Any]:
    """A pytest decorator: the test gets each check of each method as its argument ``check``, to be
    called.

    Args:
        methods: classes, or names such as ``lba`` and ``ckd.lowvar`` of installed ones. A known
            failure is an xfail, strictly.
    """
    import pytest

    found = []
    for method in methods:
        cls, variant = (method, "") if not isinstance(method, str) else Registry.load().find(method)
        for bound in checks_for(cls, variant):
            marks = [pytest.mark.xfail(reason=bound.known, strict=True)] if bound.known else []
            found.append(pytest.param(_skipping(bound), id=str(bound), marks=marks))
    return pytest.mark.parametrize("check", found)


def _skipping(bound: Bound) -> Callable[[], None]:
    def run() -> None:
        import pytest

        try:
            bound()
        except NotApplicableError as why:
            pytest.skip(str(why))

    return run
