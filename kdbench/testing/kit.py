"""Binding the checks to what is tested, running them and reporting the results."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from kdbench.loading.registry import Registry
from kdbench.method import Method
from kdbench.testing import attacks, common, datasets, defenses, distillers, networks  # noqa: F401 - each adds its own checks
from kdbench.testing.checks import ALL, REGISTERED, Check, CheckFailedError, NotApplicableError
from kdbench.testing.subjects import DatasetSubject, NetworkSubject, Subject, Tested


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
    """One check of one thing. Calling it raises CheckFailedError or NotApplicableError."""

    check: Check
    subject: Tested

    def __call__(self) -> None:
        self.check.run(self.subject)

    @property
    def known(self) -> str:
        """Why it says of itself that the check fails; empty where it does not say so."""
        return self.subject.known_failures.get(self.check.name, "")

    def __str__(self) -> str:
        return f"{self.subject.name}-{self.check.name}"


#: The name that BoundCheck had first. Tests of plugins may go on using it.
Bound = BoundCheck


def subject_of(
    registry: Registry, kind: str, name: str, rest: str = "", data_dir: Path | None = None
) -> Tested:
    """What is tested, by kind and name.

    Args:
        rest: the variant of a method, the path of a dataset.
        data_dir: the folder of a dataset.
    """
    entry = registry.entry(kind, name)
    if kind == "model":
        return NetworkSubject(name, entry.value, entry.plugin)
    if kind == "dataset":
        asked = f"{name}:{rest}" if rest else name
        return DatasetSubject(asked, entry.value, entry.plugin, registry.datasets, data_dir)
    return _method(entry.value, rest)


def _method(cls: type[Method], variant: str) -> Subject:
    """A method with the parameters of the preset ``quick``, then of the variant, then
    ``for_checks``. Later ones win."""
    values = (
        cls.presets.get("quick", {})
        | (cls.variants[variant].params if variant else {})
        | cls.for_checks
    )
    return Subject(cls, cls.Params(**values))


def checks_for(tested: type[Method] | Tested, variant: str = "") -> Iterator[BoundCheck]:
    """Every check that applies to the kind of what is tested.

    Args:
        tested: a method's class, or what :func:`subject_of` returned.
        variant: of a method's class: one of its ``variants``. Empty for none.

    Raises:
        CheckFailedError: ``known_failures`` names a check that does not exist.
    """
    subject = tested if isinstance(tested, Tested) else _method(tested, variant)
    checks = [check for check in every_check() if subject.kind in check.kinds]
    unknown = sorted(set(subject.known_failures) - {check.name for check in checks})
    if unknown:
        raise CheckFailedError(
            f"known_failures names {', '.join(unknown)}; there are "
            f"{', '.join(c.name for c in checks)}"
        )
    return (BoundCheck(check, subject) for check in checks)


def run_checks(
    tested: type[Method] | Tested,
    variant: str = "",
    report: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """Run every check. Whatever is raised is a failure of that check.

    Args:
        tested: as for :func:`checks_for`.
        variant: as for :func:`checks_for`.
        report: called with each result as soon as it is there.
    """
    results = []
    for result in each_result(tested, variant):
        results.append(result)
        report(result)
    return results


def each_result(tested: type[Method] | Tested, variant: str = "") -> Iterator[Result]:
    """The results of :func:`run_checks`, each as soon as it is there."""
    for bound in checks_for(tested, variant):
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


def parametrize_with_checks(
    tested: Iterable[type[Method] | str | Tested], *, data_dir: str | Path | None = None
) -> Callable[[Any], Any]:
    """A pytest decorator for a test with the argument ``check``, which the test has to call.

    The test runs once for each check of each one. A check in ``known_failures`` is a strict xfail,
    and one that does not apply is a skip.

    Args:
        tested: classes of methods, or names of what is installed: ``lba``, ``ckd.lowvar``,
            ``network.mine``, ``dataset.mine``.
        data_dir: the folder of a dataset that reads one.
    """
    import pytest

    registry: Registry | None = None
    folder = None if data_dir is None else Path(data_dir)
    cases = []
    for one in tested:
        if isinstance(one, str):
            registry = registry or Registry.load()
            one = subject_of(registry, *registry.identify(one, ALL), folder)
        for bound in checks_for(one):
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
