"""The conformance kit: named checks of one attack, distiller, defense, network or dataset.

The checks are independent of each other. They need a CPU and some seconds. Only a dataset that
reads a folder needs data.

For pytest::

    from kdbench.testing import parametrize_with_checks

    @parametrize_with_checks([MyAttack, MyDefense, "network.mine", "dataset.mine"])
    def test_conformance(check):
        check()

On the command line: ``kdbench check NAME``.

A class describes itself to the kit with three attributes of :class:`kdbench.method.Method`.
``for_checks`` are parameters that make it small. ``zero`` are parameters at which it does nothing.
``known_failures = {check: reason}`` lists the checks that it cannot pass. Every row of results
shows these reasons. A :class:`kdbench.models.ModelSource` and a
:class:`kdbench.data.DatasetSource` have ``known_failures``, too.
"""

from kdbench.testing.checks import Check, CheckFailedError, NotApplicableError
from kdbench.testing.kit import (
    Bound,
    BoundCheck,
    Result,
    checks_for,
    parametrize_with_checks,
    run_checks,
    subject_of,
)

__all__ = [
    "Bound",
    "BoundCheck",
    "Check",
    "CheckFailedError",
    "NotApplicableError",
    "Result",
    "checks_for",
    "parametrize_with_checks",
    "run_checks",
    "subject_of",
]
