"""The conformance kit: independent, named checks of one attack, distiller or defense, on a CPU,
without data, in seconds.

For pytest::

    from kdbench.testing import parametrize_with_checks

    @parametrize_with_checks([MyAttack, MyDefense])
    def test_conformance(check):
        check()

On the command line: ``kdbench check NAME``. A class says with ``for_checks`` what makes it small,
with ``zero`` at which parameters it does nothing, and with ``known_failures = {check: reason}``
what it cannot keep; that is shown on every row.
"""

from kdbench.testing.checks import Check, CheckFailedError, NotApplicableError
from kdbench.testing.kit import Bound, Result, checks_for, parametrize_with_checks, run_checks

__all__ = [
    "Bound",
    "Check",
    "CheckFailedError",
    "NotApplicableError",
    "Result",
    "checks_for",
    "parametrize_with_checks",
    "run_checks",
]
