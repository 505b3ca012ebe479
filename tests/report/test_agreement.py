"""What shorter and longer trainings say of the same defenses, on tables made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy import stats

from kdbench.errors import ConfigError
from kdbench.report.agreement import (
    MIN_CELLS,
    NO_MAJORITY,
    RowSet,
    Share,
    agreement,
    agreements,
    row_set,
    share_of,
    summaries,
)
from kdbench.report.read import ResultsFile
from tests.report.report_rows import cell

#: Of 900 images. C1 has 9 and C3 720, so 711 are 100 %.
STOPPED, PARTLY, NOT_STOPPED = 45, 270, 630


def rows(hits, **names):
    """A row of each defense and seed: ``{"nad": (630, 45)}`` has two seeds."""
    return [
        cell(defense=defense, seed=seed, student_asr=count, **names)
        for defense, counts in hits.items()
        for seed, count in enumerate(counts)
    ]


def both(short, long, **names):
    return agreement(RowSet("short", rows(short, **names)), RowSet("long", rows(long, **names)))


def inconclusive(**names):
    return cell(c3_asr=200, student_asr=100, **names)


def test_the_verdict_of_a_cell_is_that_of_more_than_half_of_its_seeds():
    members = rows(
        {
            "nad": (STOPPED, STOPPED, NOT_STOPPED),
            "anp": (STOPPED, NOT_STOPPED),
            "finetune": (PARTLY,),
        }
    )
    members += [inconclusive(defense="nad", seed=3)]
    found = {defense: summary for (_, defense), summary in summaries(RowSet("x", members)).items()}
    assert [(s.verdict, s.votes, s.judged) for s in found.values()] == [
        (NO_MAJORITY, 2, 4),
        (NO_MAJORITY, 1, 2),
        ("partly", 1, 1),
    ]
    # (720 - 45) / 711 twice, and (720 - 630) / 711; an inconclusive seed has no share
    assert found["nad"].removed == pytest.approx(100 * (675 + 675 + 90) / 711 / 3)
    # (45 + 45 + 630 + 100) / 900 / 4
    assert found["nad"].asr == pytest.approx(22.7778, abs=1e-4)


def test_verdicts_are_compared_where_the_longer_set_has_one():
    short = {"a": (STOPPED,), "b": (STOPPED,), "c": (PARTLY, STOPPED), "none": (720,)}
    long = {"a": (STOPPED,), "b": (NOT_STOPPED,), "c": (PARTLY,), "none": (720,)}
    found = both(short, long)
    assert found.share == Share(same=1, other=1, undecided=1)
    assert found.confusion() == {
        ("stopped", "stopped"): 1,
        ("stopped", "not stopped"): 1,
        (NO_MAJORITY, "partly"): 1,
    }, "the undefended control has no verdict of its own"
    undecided = agreement(
        RowSet("short", rows({"a": (STOPPED,)})), RowSet("long", [inconclusive(defense="a")])
    )
    assert undecided.share.compared == 0
    assert undecided.confusion() == {("stopped", "inconclusive"): 1}


def test_kendalls_tau_by_hand():
    short = {"none": (400,), "a": (100,), "b": (200,), "c": (300,)}
    long = {"none": (700,), "a": (100,), "b": (300,), "c": (200,)}
    (order,) = both(short, long).orders
    # Of six pairs five are in the same order and one is not: (5 - 1) / 6.
    assert order.tau == pytest.approx(4 / 6)
    assert order.p == pytest.approx(stats.kendalltau([4, 1, 2, 3], [4, 1, 3, 2]).pvalue)
    assert (order.short, order.long) == (("a", "b", "c", "none"), ("a", "c", "b", "none"))
    tied = {"none": (400,), "a": (100,), "b": (200,), "c": (200,)}
    (order,) = both(tied, short).orders
    # One pair of six is tied in one of the two orders: 5 / sqrt((6 - 1) * 6).
    assert order.tau == pytest.approx(5 / 30**0.5)
    reverse = {name: (1000 - count,) for name, (count,) in short.items() if name != "none"}
    (order,) = both({**short, "none": (900,)}, {**reverse, "none": (600,)}).orders
    # a < b < c < none against none < c < b < a
    assert order.tau == pytest.approx(-1)


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ({"none": (1,), "a": (2,)}, {"none": (1,), "a": (2,)}),
        ({"none": (5,), "a": (5,), "b": (5,)}, {"none": (1,), "a": (2,), "b": (3,)}),
    ],
)
def test_two_defenses_or_equal_ones_have_no_tau(short, long):
    found = both(short, long)
    assert found.orders[0].tau is None
    assert found.taus == []


def test_defenses_are_ordered_over_the_seeds_that_all_of_them_have():
    """At seed 1 much travels. A defense that was measured there is not worse for it."""
    short = rows({"none": (300, 900), "a": (200, 800), "b": (250,)})
    long = rows({"none": (300,), "a": (200,), "b": (250,)})
    (order,) = agreement(RowSet("s", short), RowSet("l", long)).orders
    assert order.short == ("a", "b", "none")
    assert (order.short_seeds, order.long_seeds, order.tau) == (1, 1, pytest.approx(1))
    apart = [row for row in short if row["defense"] != "b"] + rows({"b": (250,)}, preset="quick")
    apart[-1] |= {"seed": 7}
    (order,) = agreement(RowSet("s", apart), RowSet("l", long)).orders
    assert (order.short, order.short_seeds, order.tau) == ((), 0, None)


def test_presets_seeds_and_the_size_of_a_dataset_may_differ():
    short = rows({"a": (STOPPED,)}, dataset="gtsrb-subset", preset="quick")
    long = [cell(defense="a", student_asr=STOPPED, dataset="gtsrb", preset="standard", seed=5)]
    found = agreement(RowSet("s", short), RowSet("l", long))
    assert found.share == Share(1, 0, 0)
    assert found.cells[0].task == ("gtsrb", "lba", "fkd", "wrn16_2", "wrn16_1")


@pytest.mark.parametrize("name", ["dataset", "attack", "distiller", "teacher", "student"])
def test_other_names_are_other_tasks(name):
    short, long = rows({"a": (STOPPED,)}), rows({"a": (STOPPED,)}, **{name: "other"})
    assert agreement(RowSet("s", short), RowSet("l", long)).cells == []


def test_what_failed_is_not_measured():
    short = [*rows({"a": (STOPPED,)}), cell(defense="a", seed=1, status="failed")]
    short += [cell(defense="b", status="failed")]
    found = agreement(RowSet("s", short), RowSet("l", rows({"a": (STOPPED,), "b": (STOPPED,)})))
    assert [(c.defense, c.short.judged) for c in found.cells] == [("a", 1)]


def many(*counts):
    return {f"d{n}": (count,) for n, count in enumerate(counts)}


@pytest.mark.parametrize(
    ("short", "long", "words"),
    [
        (many(40), many(40), "nothing: 1 verdict was compared, and 6 are needed"),
        (many(*[40] * 5), many(*[40] * 5), "nothing: 5 verdicts were compared, and 6 are needed"),
        (
            many(10, 20, 30, 40, 50, 500),
            many(10, 20, 30, 40, 50, 500),
            "the verdicts and the order of the defenses",
        ),
        (many(10, 20, 30, 40, 50, 500), many(60, 50, 40, 30, 20, 500), "the verdicts"),
        (
            many(10, 20, 30, 40, 50, 60),
            many(60, 50, 40, 30, 20, 10),
            'the verdict "stopped", the only one that occurred',
        ),
        (
            many(500, 510, 520, 530, 540, 550),
            many(10, 20, 30, 40, 50, 60),
            "the order of the defenses",
        ),
        (
            many(500, 510, 520, 530, 540, 550),
            many(60, 50, 40, 30, 20, 10),
            "neither the verdicts nor the order of the defenses",
        ),
    ],
)
def test_what_a_reader_may_conclude(short, long, words):
    assert MIN_CELLS == 6
    assert both(short, long).conclusion() == words


def test_about_which_defenses_a_set_misleads():
    short = {"worse": (STOPPED,), "moved": (400,), "same": (400,), "none": (720,)}
    long = {"worse": (NOT_STOPPED,), "moved": (700,), "same": (420,), "none": (720,)}
    # Moved: (700 - 400) / 711 is 42 points, and both are not stopped.
    assert both(short, long).misleads() == ["moved", "worse"]
    undecided = agreement(
        RowSet("s", [inconclusive(defense="a")]), RowSet("l", rows({"a": (STOPPED,)}))
    )
    assert undecided.share == Share(0, 0, 1)
    assert undecided.misleads() == [], "who says nothing misleads nobody"


def test_every_set_is_compared_with_every_longer_one():
    sets = [RowSet(name, rows({"a": (STOPPED,)})) for name in ("quick", "standard", "long")]
    assert [(found.short, found.long) for found in agreements(sets)] == [
        ("quick", "standard"),
        ("quick", "long"),
        ("standard", "long"),
    ]
    assert share_of(agreements(sets)[0].cells) == Share(1, 0, 0)


def results(name, members):
    return ResultsFile(Path(f"{name}.csv"), members, list(range(2, len(members) + 2)))


def test_a_file_of_two_presets_is_two_sets():
    members = [*rows({"a": (STOPPED,)}), *rows({"a": (PARTLY,)}, preset="standard")]
    file = results("both", members)
    assert [row["preset"] for row in row_set("standard", [file]).rows] == ["standard"]
    with pytest.raises(ConfigError, match="has the presets quick, standard"):
        row_set("long", [file])
    assert row_set("long", [results("quick", members[:1])]).rows == members[:1]


def test_a_set_cannot_hold_two_parts_of_one_dataset():
    files = [
        results(name, rows({"a": (STOPPED,)}, dataset=name)) for name in ("gtsrb", "gtsrb-subset")
    ]
    with pytest.raises(ConfigError, match="gtsrb and gtsrb-subset, which would count as one"):
        row_set("quick", files)


def test_a_set_cannot_hold_one_cell_with_two_results():
    files = [results(str(n), rows({"a": (hits,)})) for n, hits in enumerate((STOPPED, PARTLY))]
    with pytest.raises(ConfigError, match="leave one of the two files out"):
        row_set("quick", files)
