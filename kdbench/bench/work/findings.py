"""What a defense found, as facts of its stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdbench.defense import Finding, check_finding


def finding_facts(findings: Sequence[Finding], num_classes: int) -> dict[str, Any]:
    """The facts of a stage whose defense reported these. Empty: it reported nothing.

    Raises:
        ContractError: one is no finding of a network with so many classes.
    """
    for finding in findings:
        check_finding(finding, num_classes)
    if not findings:
        return {}
    return {
        "flagged": sorted({c for finding in findings for c in finding.flagged}),
        "findings": [
            {"score": float(f.score), "per_class": [float(n) for n in f.per_class]}
            for f in findings
        ],
    }
