"""Rows of results.csv for tests of the reports, made of counts so that rates and intervals agree
with each other."""

from __future__ import annotations

from kdbench._intervals import wilson
from kdbench.report.columns import COLUMNS, SCHEMA

N_TEST, N_ASR = 1000, 900

#: Text that a spreadsheet, a terminal or rich could take for more than text.
HOSTILE = [
    *(
        "=1+1",
        '=cmd|"/C calc"!A0',
        '=HYPERLINK("http://x","y")',
        "=\t1",
        "+1+1",
        "+cmd|x",
        "-1+1",
        "-2+3+cmd|x",
        "@SUM(1)",
        "@x",
    ),
    *("\t=1+1", "\t\tx", '\r=1,"', "\r\n=1+1", "=\x1b[2J", "-\n=1", "+", "@", "==", "-"),
    *(
        "\x1b[2J",
        "\x1b]0;title\x07",
        "\x1b[31mred\x1b[0m",
        "a\x1bb",
        "\x9b31m",
        "\x07bell",
        "\x08\x08back",
        "a\u202eb",
        "\u2028x",
    ),
    *(
        "[bold]x[/bold]",
        "[/]",
        "[link=http://x]y[/link]",
        "[red",
        "\\[bold]",
        "[@click=app.quit]x[/]",
        ":smile:",
        "[[x]]",
    ),
    *("two\nlines", 'quo"te,comma', "<b>&amp;</b>"),
]


def cell(*, seed=0, verdict="partly", status="ok", **values):
    """A cell; a rate is given by its count, ``cell(student_asr=90)`` is 10 % of 900, or as None."""
    row = dict.fromkeys(COLUMNS) | {
        "schema": SCHEMA,
        "status": status,
        "reason": "because",
        "reason_code": "judged" if status == "ok" else "stage_failed",
        "dataset": "signs",
        "attack": "lba",
        "defense": "none",
        "distiller": "fkd",
        "teacher": "wrn16_2",
        "student": "wrn16_1",
        "preset": "quick",
        "seed": seed,
        "n_test": N_TEST,
        "n_asr": N_ASR,
        "verdict": verdict,
        "wall_s": 12.5,
        "peak_mem_mb": 900.0,
        "device": "cpu",
        "numerics": "fp32",
        "kdbench_version": "1.0",
        "torch_version": "2.15",
        "plugins": "kdbench 1.0",
        "target_class": 0,
        "clean_fraction": 1.0,
        "dataset_digest": "d" * 64,
        "config_digest": "c" * 64,
        "setting_digest": "e" * 64,
        "shared_digest": "1" * 64,
        "attack_digest": "2" * 64,
        "defense_digest": "3" * 64,
        "teacher_sha256": "a" * 64,
        "student_sha256": "b" * 64,
    }
    if status != "ok":
        return row | {"n_test": None, "n_asr": None, "verdict": None} | values
    hits = {
        "teacher_acc": 970,
        "teacher_asr": 900,
        "teacher_ra": 0,
        "teacher_base": 9,
        "student_acc": 950,
        "student_asr": 450,
        "student_ra": 300,
        "student_base": 9,
        "c1_acc": 960,
        "c1_asr": 9,
        "c3_acc": 960,
        "c3_asr": 720,
    }
    hits |= {name: values.pop(name) for name in list(values) if name in hits}
    student, c1, c3 = (hits[name] or 0 for name in ("student_asr", "c1_asr", "c3_asr"))
    transferred, removed = 100 * (c3 - c1) / N_ASR, 100 * (c3 - student) / max(c3 - c1, 1)
    for name, count in hits.items():
        if count is None:
            continue
        total = N_TEST if name.endswith("_acc") else N_ASR
        low, high = wilson(count, total)
        row |= {
            name: 100 * count / total,
            f"{name}_low": low,
            f"{name}_high": high,
            f"{name}_hits": count,
        }
    row |= {
        "transferred": transferred,
        "transferred_low": transferred - 3,
        "transferred_high": transferred + 3,
    }
    row |= {"removed": removed, "removed_low": removed - 5, "removed_high": removed + 5}
    return row | values
