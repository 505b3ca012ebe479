"""Binding the checks to a method, running them and reporting the results."""

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
    """How a check ended."""

    name: str
    status: Literal["ok", "failed", "known", "not applicable"]
    """``known``: it failed, and ``known_failures`` says so."""
    text: str = ""
    """Why it failed or does not apply; empty for ``ok``."""
    seconds: float = 0.0
    """Wall-clock time of the check."""


def every_check() -> Iterator[Check]:
    """All checks, in the order in which they are run."""
    yield from REGISTERED.values()


@dataclass(frozen=True)
class BoundCheck:
    """One check of one method. Calling it raises CheckFailedError or NotApplicableError."""

    check: Check
    subject: Subject

    def __call__(self) -> None:
        self.check.run(self.subject)

    @property
    def known(self) -> str:
        """Why the method says that the check fails; empty where it does not say so."""
        return self.subject.cls.known_failures.get(self.check.name, "")

    def __str__(self) -> str:
        return f"{self.subject.cls.info.name}-{self.check.name}"


#: The name that BoundCheck had first. Tests of plugins may go on using it.
Bound = BoundCheck


def checks_for(cls: type[Method], variant: str = "") -> Iterator[BoundCheck]:
    """Every check that applies to the kind of a class.

    The parameters are those of the preset ``quick``, then of the variant, then ``for_checks``.
    Later ones win.

    Raises:
        CheckFailedError: ``known_failures`` names a check that does not exist.
    """
    values = (
        cls.presets.get("quick", {})
        | (cls.variants[variant].params if variant else {})
        | cls.for_checks
    )
    subject = Subject(cls, cls.Params(**values))
    checks = [check for check in every_check() if subject.kind in check.kinds]
    unknown = sorted(set(cls.known_failures) - {check.name for check in checks})
    if unknown:
        raise CheckFailedError(
            f"known_failures names {', '.join(unknown)}; there are "
            f"{', '.join(c.name for c in checks)}"
        )
    return (BoundCheck(check, subject) for check in checks)


def run_checks(
    cls: type[Method], variant: str = "", report: Callable[[Result], None] = lambda _: None
) -> list[Result]:
    """Run every check of a class. Whatever the method raises is a failure of that check.

    Args:
        cls: the method.
        variant: one of ``cls.variants``; empty for none.
        report: called with each result as soon as it is there.
    """
    results = []
    for result in each_result(cls, variant):
        results.append(result)
        report(result)
    return results


def each_result(cls: type[Method], variant: str = "") -> Iterator[Result]:
    """The results of :func:`run_checks`, each as soon as it is there."""
    for bound in checks_for(cls, variant):
        start = time.perf_counter()
        status, text = _outcome(bound)
        yield Result(bound.check.name, status, text, time.perf_counter() - start)


def _outcome(bound: BoundCheck) -> tuple[Any, str]:
    try:
        bound()
    except NotApplicableError as why:
        return "not applicable", str(why)
    except CheckFailedError as why:
        text = str(why)
    except Exception as error:
        # The innermost frame is where the method's author has to look.
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
    """A pytest decorator for a test with the argument ``check``, which the test has to call.

    The test runs once for each check of each method. A check in ``known_failures`` is a strict
    xfail, and one that does not apply is a skip.

    Args:
        methods: classes, or names of installed methods such as ``lba`` and ``ckd.lowvar``.
    """
    import pytest

    cases = []
    for method in methods:
        cls, variant = (method, "") if not isinstance(method, str) else Registry.load().find(method)
        for bound in checks_for(cls, variant):
            marks = [pytest.mark.xfail(reason=bound.known, strict=True)] if bound.known else []
            cases.append(pytest.param(_skipping(bound), id=str(bound), marks=marks))
    return pytest.mark.parametrize("check", cases)


def _skipping(bound: BoundCheck) -> Callable[[], None]:
    def run() -> None:
        import pytest

        try:
            bound()
        except NotApplicableError as why:
            pytest.skip(str(why))

    return run
