"""What a claim is made of: a function that computes a sentence of a page from the results."""

import csv
from statistics import fmean

from tests.benchmarks.pages import BENCHMARKS, render, rows

THREE = ("gtsrb-wrn28_4-wrn16_2", "gtsrb-wrn28_4-resnet56", "gtsrb-wrn16_2-wrn16_1")
TRAVELLED = 30
CLAIMS = []


def claim(page, index=False):
    """The function's words must stand in the page, and in the index where ``index`` says so."""

    def add(function):
        CLAIMS.append((page, index, function))
        return function

    return add


def times(truths):
    truths = list(truths)
    return f"{sum(truths)} of {len(truths)}"


def span(values, digits=0, word="to"):
    values = list(values)
    return f"{min(values):z.{digits}f} {word} {max(values):z.{digits}f}"


def each(values, digits=0):
    *first, last = (f"{value:z.{digits}f}" for value in values)
    return f"{', '.join(first)} and {last}"


def value(folder, name, **kept):
    (row,) = rows(folder, **kept)
    return render.COLUMNS[name].value(row)


def values(name, cells):
    measured = [render.COLUMNS[name].value(row) for row in cells]
    return [number for number in measured if number is not None]


def several(folders, **kept):
    return [row for folder in folders for row in rows(folder, **kept)]


def matched(cells, a, b, key="defense"):
    """The pairs of rows that differ in nothing but ``key``, which is a and b."""
    names = [n for n in ("results", "pair", "attack", "distiller", "defense", "seed") if n != key]
    where = {(row[key], *(row[name] for name in names)): row for row in cells}
    return [
        (row, where[b, *rest])
        for (k, *rest), row in where.items()
        if k == a and (b, *rest) in where
    ]


def lower(pairs):
    return times(a["student_asr"] < b["student_asr"] for a, b in pairs)


def travelled(row):
    return row["transferred"] >= TRAVELLED


def significant(folder, metric="student_asr"):
    """What paired.csv of a folder does not call a tie."""
    with (BENCHMARKS / "results" / folder / "paired.csv").open() as file:
        lines = list(csv.DictReader(file))
    return [row for row in lines if row["finding"] != "tie" and row["metric"] == metric]


def setting_means(name, folders=THREE):
    """(pair, attack) -> defense, variants left out -> mean over the seeds."""
    means = {}
    for row in several(folders, distiller="fkd", attack=("ckd", "lba")):
        number = render.COLUMNS[name].value(row)
        if number is not None and "." not in row["defense"]:
            by_defense = means.setdefault((row["pair"], row["attack"]), {})
            by_defense.setdefault(row["defense"], []).append(number)
    return {key: {d: fmean(v) for d, v in by.items()} for key, by in means.items()}
