"""Rows and folders of runs, for tests of pages."""

from __future__ import annotations

import json

from kdbench.page.source import Run, Source
from kdbench.report.tables import write_results
from tests.report.report_rows import cell

#: An outcome -> the hits of 900 that make it. C1 has 9 and C3 720, so 711 travelled.
HITS = {"stopped": 18, "partly": 300, "not stopped": 700}


def outcome(name, **values):
    """A cell with an outcome: a verdict, or how it failed."""
    if name in HITS:
        return cell(student_asr=HITS[name], **values)
    if name == "inconclusive":
        return cell(student_asr=90, c3_asr=99, **values)
    if name == "no verdict":
        hits = dict.fromkeys(("c1_asr", "c1_acc"))
        return cell(**hits, **{"reason_code": "control_failed"} | values)
    return cell(status=name, **values)


def source(rows, record=None, **values):
    """What a page is made of these rows."""
    return Source(rows, (Run("a-run", record or {}),), **values)


def write_run(folder, rows, record=None, logs=()):
    """A run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_results(rows, folder / "results.csv")
    if record is not None:
        (folder / "run.json").write_text(json.dumps(record))
    for name, text in dict(logs).items():
        (folder / "logs").mkdir(exist_ok=True)
        (folder / "logs" / name).write_text(text)
    return folder


def mixed(seeds=3):
    """A run with every outcome: two attacks, three defenses, some cells inconclusive or failed."""
    rows = []
    for seed in range(seeds):
        for attack in ("lba", "ckd"):
            same = {"attack": attack, "seed": seed}
            rows += [
                cell(defense="none", student_asr=720, **same),
                outcome("stopped" if attack == "ckd" else "partly", defense="nad", **same),
                outcome("inconclusive" if seed == 1 else "not stopped", defense="anp", **same),
            ]
            if seed == 2 and attack == "lba":
                rows[-2] = outcome("timeout", defense="nad", **same)
    return rows


def many(count):
    """So many cells, with other hits each: pairs, then seeds, then attacks, then defenses."""
    rows = []
    for number in range(count):
        pair, rest = divmod(number, 60)
        seed, rest = divmod(rest, 12)
        attack, defense = divmod(rest, 6)
        rows.append(
            cell(
                defense=("none", "nad", "anp", "robustkd", "finetune", "fineprune")[defense],
                attack=("lba", "ckd")[attack],
                student=f"net{pair}",
                seed=seed,
                student_asr=720 if defense == 0 else (number * 37) % 720,
                student_acc=930 + (number * 7) % 40,
                shared_digest=f"{pair:064x}",
                setting_digest=f"{pair * 12 + rest:064x}",
                student_sha256=f"{number * 7919:064x}",
                config_digest=f"{number * 104729:064x}",
            )
        )
    return rows
