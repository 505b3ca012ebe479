"""What a defense is judged by: what the backdoor added to the student, and how much of it the
defense removed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

#: Points of ASR. Where less was transferred, a share of it says nothing.
TRANSFER_FLOOR = 30.0
#: %. A defense that stopped the backdoor removed at least this.
STOPPED_REMOVED = 90.0
#: Points. A defense that lost more ACC did not stop the backdoor, whatever it removed.
STOPPED_ACC_LOSS = 3.0
#: %. A defense that removed less did not stop the backdoor.
PARTLY_REMOVED = 50.0

#: What a verdict is about: a share of it was removed.
_ADDED = "of what the backdoor added to the student's ASR (C3 - C1)"
#: Verdict -> what it means, in a sentence.
MEANING = {
    "stopped": f"the defense removed at least {STOPPED_REMOVED:.0f} % {_ADDED}, and cost at most "
    f"{STOPPED_ACC_LOSS:.0f} points of ACC",
    "partly": f"the defense removed at least {PARTLY_REMOVED:.0f} % {_ADDED}, but not enough of it "
    "or at too high a cost in ACC",
    "not stopped": f"the defense removed under {PARTLY_REMOVED:.0f} % {_ADDED}",
    "inconclusive": "too little of the backdoor reached the undefended student, so the run says "
    "nothing about the defense",
}


@dataclass(frozen=True)
class Transfer:
    """What a defense is judged by, each with its 95 % interval."""

    #: C3 - C1, points.
    transferred: float
    transferred_interval: tuple[float, float]
    #: 100 (C3 - ASR) / (C3 - C1), %. None where nothing transferred.
    removed: float | None
    removed_interval: tuple[float, float] | None


def transfer(
    student: np.ndarray, clean_control: np.ndarray, undefended: np.ndarray, resamples: int = 2000
) -> Transfer:
    """What was transferred and removed, from the hits (bool (n,)) of the three students on the same
    triggered images.

    The intervals are percentile bootstrap over test images, with the three students paired. They
    speak of the test images only, not of the spread between training seeds.
    """
    hits = np.stack([student, clean_control, undefended]).astype(np.float64)
    n = hits.shape[1]
    weights = _resampled(n, resamples)
    asr, c1, c3 = map(float, hits.mean(1) * 100)
    asr_b, c1_b, c3_b = (weights @ hits.T / n * 100).T
    low, high = np.percentile(c3_b - c1_b, [2.5, 97.5])
    moved, removed = shares(asr, c1, c3)
    if removed is None:
        return Transfer(moved, (float(low), float(high)), None, None)
    gone = c3_b - c1_b > 0  # a resample in which nothing transferred has no ratio
    r_low, r_high = np.percentile(100 * (c3_b - asr_b)[gone] / (c3_b - c1_b)[gone], [2.5, 97.5])
    return Transfer(moved, (float(low), float(high)), removed, (float(r_low), float(r_high)))


def shares(student: float, clean_control: float, undefended: float) -> tuple[float, float | None]:
    """(transferred, removed) from the ASR of the three students, %."""
    moved = undefended - clean_control
    return moved, None if moved <= 0 else 100 * (undefended - student) / moved


@lru_cache(maxsize=4)
def _resampled(n: int, resamples: int) -> np.ndarray:
    """How often each of ``n`` images is in each resample, (resamples, n). It is the same for every
    cell with as many images."""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples)


def verdict(
    transferred: float, removed: float | None, acc_lost: float, c1: float = 0.0
) -> tuple[str, str]:
    """(verdict, reason).

    Args:
        transferred: C3 - C1, points of ASR.
        removed: what the defense removed of it, %.
        acc_lost: undefended minus defended student ACC, points.
        c1: ASR of the clean teacher's student, %.
    """
    if transferred < TRANSFER_FLOOR or removed is None:
        # So much of C1 leaves little or no room for C3 above it.
        alone = f"C1 is {c1:.0f} %: the trigger works without the backdoor; "
        return (
            "inconclusive",
            f"{alone if c1 >= TRANSFER_FLOOR else ''}only {transferred:.1f} points of ASR "
            f"transferred; {TRANSFER_FLOOR:.0f} are needed to judge",
        )
    if removed >= STOPPED_REMOVED and acc_lost <= STOPPED_ACC_LOSS:
        return "stopped", f"removed {removed:.0f} %, {acc_lost:.1f} points of ACC lost"
    if removed >= PARTLY_REMOVED:
        return "partly", f"removed {removed:.0f} %, {acc_lost:.1f} points of ACC lost"
    return "not stopped", f"removed {removed:.0f} %"
