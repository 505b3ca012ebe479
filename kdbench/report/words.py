"""The words that results.csv may hold in its columns of words, and what each of them means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: How a cell ended.
STATUSES = {
    "ok": "measured",
    "failed": "a stage ended with an error",
    "diverged": "a loss was no number",
    "not learned": "the ACC of a teacher on images that it was not trained on was under "
    "min_teacher_acc, so nothing can be said",
    "crashed": "a process ended by a signal or by itself",
    "timeout": "a stage took longer than it may",
    "out of memory": "a stage took more memory than it may",
}

#: What a defense did.
VERDICTS = {
    "stopped": "at least 90 % removed, at most 3 points of ACC lost",
    "partly": "at least 50 % removed",
    "not stopped": "less removed",
    "inconclusive": "under 30 points transferred, too few to judge",
}

#: The verdicts that say what a defense did.
CONCLUSIVE = ("stopped", "partly", "not stopped")
#: The defense that does nothing.
UNDEFENDED = "none"
#: What is shown in the place of a verdict, and what it means.
SHOWN = {"undefended": "the backdoor travelled, and no defense was there to be judged"}

#: Why a row has the verdict that it has, or none.
REASON_CODES = {
    "judged": "the verdict is stopped, partly or not stopped",
    "few_transferred": "inconclusive: too little of the backdoor transferred to judge",
    "controls_skipped": "no verdict: the controls were not asked for",
    "control_failed": "no verdict: C1 or C3 could not be measured",
    "c2_failed": "there is a verdict, but C2 could not be measured",
    "imported_teacher": "no verdict: nobody knows an imported teacher's trigger",
    "stage_failed": "the teacher or the student could not be measured; status says how it ended",
}

#: What a teacher from elsewhere may be read wrongly by.
REMARKS = {
    "number_order": "far more images are right if its outputs count the classes in number order",
    "text_order": "far more are right if its outputs count the classes in text order",
    "other_order": "far more are right if its outputs stand for other classes",
    "raw_input": "far more are right if its input is not normalised (mean 0, std 1)",
    "bytes_input": "far more are right if its input is pixels of 0 to 255 (std 1/255)",
    "half_input": "far more are right with mean 0.5 and std 0.5",
    "imagenet_input": "far more are right with ImageNet's mean and std",
    "dataset_input": "far more are right with the dataset's mean and std",
    "near_chance": "its accuracy is less than 10 points above the share of the largest class",
}

#: Whether it is so.
ANSWERS = {"yes": "it is so", "no": "it is not so"}


def shown_verdict(row: Mapping[str, Any]) -> str:
    """The verdict of a row as it is shown: ``undefended`` where the backdoor travelled and the
    defense is ``none``, since there is no defense to judge. Empty: it has none.

    The column of results.csv follows from the counts alone, and is ``not stopped`` there.
    """
    verdict = row.get("verdict") or ""
    undefended = row.get("defense") == UNDEFENDED and verdict in CONCLUSIVE
    return "undefended" if undefended else str(verdict)
