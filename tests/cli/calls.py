"""The command line called in the test's process, and a row of results to show."""

from __future__ import annotations

from click.testing import CliRunner

from kdbench.cli import main
from kdbench.report.columns import COLUMNS

RUN = ["run", "--attack", "badnets", "--pair", "wrn16_2-wrn16_1"]


def call(*arguments):
    return CliRunner().invoke(main, list(arguments))


def row(**values):
    return (
        dict.fromkeys(COLUMNS)
        | {
            "status": "ok",
            "attack": "badnets",
            "defense": "robustkd",
            "distiller": "fkd",
            "teacher": "pyramid200",
            "student": "pyramid110",
            "seed": 0,
            "teacher_acc": 97.12,
            "teacher_asr": 100.0,
            "student_acc": 95.0,
            "student_asr": 100.0,
            "student_ra": 100.0,
            "c1_asr": 100.0,
            "c3_asr": 100.0,
            "transferred": -100.0,
            "removed": -100.0,
            "verdict": "not stopped",
            "reason": "because",
        }
        | values
    )
