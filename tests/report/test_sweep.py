"""Rows that differ in any one column: no command puts them together without a word.

What must happen follows from the role of the column, and a column without a role fails a test.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.errors import ConfigError
from kdbench.report.columns import COLUMNS, MOST_WHOLE, RATES
from kdbench.report.compare import compare
from kdbench.report.leaderboard import leaderboard
from kdbench.report.merge import merge
from kdbench.report.notes import notes
from kdbench.report.read import UNSTEADY, ResultsFile
from kdbench.report.settings import DIGESTS
from tests.report.report_rows import cell

#: Columns of text that hold entries: one of them is changed.
ENTRIES = {
    "plugins": "kdbench 2.0",
    "software": "attack.lba=3c4d; numpy=2.0",
    "changed": "distill.epochs=3",
}
BY_ROLE = {
    role: [name for name, column in COLUMNS.items() if column.role == role]
    for role in ("name", "number", "images", "origin", "result", "free")
}


def other(name):
    """The column with another value than a row of :func:`cell` has."""
    column, value = COLUMNS[name], cell()[name]
    if name in ENTRIES:
        return {name: ENTRIES[name]}
    if column.kind == "text":
        return {name: f"other-{value}"}
    if column.kind == "word":
        return {name: next(word for word in column.words if word != value)}
    if column.kind == "digest":
        return {name: "9" * 64}
    if column.kind == "whole":
        # No rate may have more hits than images.
        return {name: value - 1 if value and name.endswith("_hits") else (value or 0) + 1}
    return {name: 0.25 if value is None else value / 4 + 1}


def files(*rows):
    return [ResultsFile(Path(f"{n}.csv"), [row], [2]) for n, row in enumerate(rows)]


def changed(name, **values):
    return cell(**values) | other(name)


def refused(*rows, split=False):
    with pytest.raises(ConfigError) as caught:
        merge(files(*rows), split)
    message = str(caught.value)
    assert "0.csv" in message
    assert "1.csv" in message
    return message


def told(rows):
    return " ".join(notes(rows, []))


@pytest.mark.parametrize("name", [name for name in COLUMNS if COLUMNS[name].role != "name"])
def test_two_files_that_disagree_about_one_cell_are_not_merged(name):
    if name in UNSTEADY:
        assert COLUMNS[name].may_differ
        assert len(merge(files(cell(), changed(name)))) == 1
        return
    message = refused(cell(), changed(name))
    part = name in (*DIGESTS, "setting_digest")
    words = "other numbers" if part else "other images" if name == "dataset_digest" else name
    assert words in message


@pytest.mark.parametrize("name", BY_ROLE["name"])
def test_rows_of_other_names_are_other_cells(name):
    rows = files(cell(), changed(name))
    if name == "preset":
        with pytest.raises(ConfigError, match="presets are never ranked together"):
            merge(rows)
        return
    merged = merge(rows)
    assert len(merged) == 2
    assert len(leaderboard(merged)) == (1 if name == "seed" else 2)
    assert compare(*rows).shared == 0


@pytest.mark.parametrize("name", BY_ROLE["number"])
def test_seeds_with_other_numbers_are_refused_or_shown_apart(name):
    rows = cell(), changed(name, seed=1)
    assert "0.csv" in refused(*rows)
    if name in (*DIGESTS, "setting_digest"):
        apart = merge(files(*rows), split=True)
        assert list(leaderboard(apart)["n_seeds"]) == [1, 1]
    else:
        refused(*rows, split=True)


@pytest.mark.parametrize("name", [*BY_ROLE["origin"], *BY_ROLE["images"]])
def test_seeds_that_were_made_otherwise_are_ranked_with_a_note(name):
    rows = merge(files(cell(), changed(name, seed=1)))
    what = {"plugins": "plugin kdbench: 1.0, 2.0", "software": "attack.lba: 1a2b, 3c4d"}
    assert f"differ in {name}" in told(rows) or what[name] in told(rows)
    assert told(merge(files(cell(), cell(seed=1)))) == told([cell()])
    if name == "schema":
        assert "neither averaged nor ranked together" in told(rows)


@pytest.mark.parametrize("name", [*BY_ROLE["result"], *BY_ROLE["free"]])
def test_seeds_may_differ_in_what_is_measured(name):
    """That is what seeds are for. What may differ besides has a reason in the table."""
    assert len(merge(files(cell(), changed(name, seed=1)))) == 2
    assert COLUMNS[name].role == "result" or COLUMNS[name].may_differ


@pytest.mark.parametrize("name", [name for name in COLUMNS if COLUMNS[name].role != "name"])
def test_compare_tells_every_difference_of_a_cell(name):
    pair = files(cell(), changed(name))
    role = COLUMNS[name].role
    if name in DIGESTS or name in ("setting_digest", "dataset_digest"):
        with pytest.raises(ConfigError):
            compare(*pair)
        return
    comparison = compare(*pair)
    columns = {change.column for change in comparison.cells.changes}
    columns |= {entry["column"] for entry in (*comparison.causes, *comparison.others)}
    # A rate stands for its count and its interval.
    ends = [f"{rate}{end}" for rate in RATES for end in ("_low", "_high", "_hits")]
    bootstrapped = [f"{n}{end}" for n in ("transferred", "removed") for end in ("_low", "_high")]
    if name in ends:
        assert name.rpartition("_")[0] in COLUMNS
    elif name in bootstrapped or role == "free":
        assert role == "free" or name in columns
    else:
        assert name in columns


def test_two_teachers_of_one_name_are_told_apart():
    one, two = (
        cell(attack="imported:mine", attack_digest=digit * 64, teacher_sha256=digit * 64, seed=n)
        for n, digit in enumerate("89")
    )
    message = refused(one, two)
    assert f"a teacher with the weights {'8' * 12} in 0.csv" in message
    assert f"a teacher with the weights {'9' * 12} in 1.csv" in message


def test_defenses_of_several_plugins_need_no_note():
    """They bring code of their own, and none of it is in two versions."""
    rows = [
        cell(defense="a", plugins="kdbench 1.0; a 1.0", software="defense.a=1; numpy=2.0"),
        cell(defense="b", plugins="kdbench 1.0; b 7.0", software="defense.b=2; numpy=2.0"),
    ]
    assert "differ" not in told(rows)


def test_many_differences_are_counted():
    software = ["; ".join(f"lib{n}={v}" for n in range(20)) for v in (1, 2)]
    rows = [cell(seed=n, software=text) for n, text in enumerate(software)]
    assert "lib7: 1, 2" in told(rows)
    assert "differ in software lib8, software lib9, software lib10 and 9 more, too" in told(rows)


def test_the_largest_seed_is_a_seed():
    assert merge(files(cell(seed=MOST_WHOLE), cell(seed=0)))
