"""Rows of results.csv for tests of the reports, made of counts so that rates and intervals agree
with each other."""

from __future__ import annotations

from kdbench._intervals import wilson
from kdbench.report.columns import COLUMNS, RATES, SCHEMA
from kdbench.report.verdict import shares, verdict

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
    *("x;=1+1;=cmd|x", "a;'=1", 'a;"=1+1;"b', "x|=1", "x\t=1", " =1", "' =1", "\uff1d1+1", "; -1"),
    *("'\n=1", "'\tx", "\udcff=1", "a\x7fb", "\x85=1"),
]


def kept(text):
    """What a table keeps of a text: a space for each blank, and an escape for what nobody sees."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join("".join(map(_kept_character, line)) for line in lines)


def _kept_character(character):
    if character.isprintable():
        return character
    return " " if character.isspace() else repr(character)[1:-1]


def cell(*, seed=0, status="ok", **values):
    """A cell; a rate is given by its count, ``cell(student_asr=90)`` is 10 % of 900, or as None.

    What follows from the counts is computed, and can be overridden.
    """
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
        "wall_s": 12.5,
        "peak_mem_mb": 900.0,
        "device": "cpu",
        "numerics": "fp32",
        "confinement": "namespaces, landlock 7, seccomp",
        "kdbench_version": "1.0",
        "torch_version": "2.15",
        "plugins": "kdbench 1.0",
        "software": "attack.lba=1a2b; numpy=2.0",
        "target_class": 0,
        "clean_fraction": 1.0,
        "transfer_fraction": 1.0,
        "unlabeled": None,
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
        return row | {"n_test": None, "n_asr": None} | values
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
        "c2_acc": 940,
        "c2_asr": 9,
        "c3_acc": 960,
        "c3_asr": 720,
    }
    hits |= {name: values.pop(name) for name in list(values) if name in hits}
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
    row |= {"gain": _gain(hits), "dormant": _dormant(hits), "held_out_acc": 98.0}
    return row | _judged(hits) | values


def _gain(hits):
    alone, distilled = hits["c2_acc"], hits["c3_acc"]
    missing = alone is None or distilled is None
    return None if missing else 100 * distilled / N_TEST - 100 * alone / N_TEST


def _dormant(hits):
    there, awake = hits["teacher_asr"], hits["c3_asr"]
    return None if None in (there, awake) else 100 * awake / N_ASR - 100 * there / N_ASR


def imported_cell(**values):
    """A cell of an imported teacher: ACC only."""
    unknown = [name for name in RATES if name not in ("teacher_acc", "student_acc")]
    return cell(
        attack="imported",
        reason_code="imported_teacher",
        n_asr=None,
        **dict.fromkeys(unknown),
        **dict.fromkeys(("gain", "dormant", "held_out_acc")),
        **values,
    )


def _judged(hits):
    """The columns that follow from the counts of the student and its controls."""
    if any(hits[name] is None for name in ("student_asr", "c1_asr", "c3_asr", "c3_acc")):
        return {"reason_code": "control_failed"}
    moved, removed = shares(*(hits[n] / N_ASR * 100 for n in ("student_asr", "c1_asr", "c3_asr")))
    lost = 100.0 * hits["c3_acc"] / N_TEST - 100.0 * hits["student_acc"] / N_TEST
    word = verdict(moved, removed, lost)[0]
    code = "few_transferred" if word == "inconclusive" else "judged"
    row = {"verdict": word, "reason_code": "c2_failed" if hits["c2_acc"] is None else code}
    for name, value, half in (("transferred", moved, 3), ("removed", removed, 5)):
        if value is not None:
            row |= {name: value, f"{name}_low": value - half, f"{name}_high": value + half}
    return row
