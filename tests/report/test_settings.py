"""Rows of one name that were made with other numbers are refused, or shown apart."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from kdbench.cli import main
from kdbench.errors import ConfigError
from kdbench.report.columns import SCHEMA
from kdbench.report.compare import compare
from kdbench.report.leaderboard import leaderboard, overall
from kdbench.report.merge import merge
from kdbench.report.notes import notes
from kdbench.report.paired import against_control, comparisons
from kdbench.report.read import ResultsFile, read_results
from kdbench.report.settings import (
    attack_label,
    changes,
    changes_text,
    defense_label,
    difference_in_words,
    part_of,
)
from kdbench.report.tables import write_results
from tests.report.rankings import save
from tests.report.report_rows import cell

OLD = Path(__file__).with_name("data")
ALPHA = "distiller.fkd.alpha"


def made_with(entry=None, **values):
    """Two seeds of a cell with one number that its names do not promise."""
    digests = {}
    if entry is not None:
        digests = {"setting_digest": _digest(entry), f"{part_of(entry)}_digest": _digest(entry)}
    of = {"changed": entry} | digests | values
    return [cell(seed=seed, **of) for seed in (0, 1)]


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def files(*tables):
    return [
        ResultsFile(Path(f"{number}.csv"), rows, list(range(2, len(rows) + 2)))
        for number, rows in enumerate(tables)
    ]


def refused(*tables):
    with pytest.raises(ConfigError) as caught:
        merge(files(*tables))
    return str(caught.value)


@pytest.mark.parametrize(
    ("number", "part"),
    [
        ("clean_fraction", "shared"),
        ("transfer_fraction", "shared"),
        ("unlabeled", "shared"),
        ("train_size", "shared"),
        ("distill.epochs", "shared"),
        ("clean.lr", "shared"),
        (ALPHA, "shared"),
        ("attack.lba.steps", "attack"),
        ("poison.epochs", "attack"),
        ("target_class", "attack"),
        ("defense.robustkd.m30.m_max", "defense"),
        ("repair.epochs", "defense"),
    ],
)
def test_the_part_of_a_number(number, part):
    assert part_of(number) == part


def test_what_a_name_does_not_promise_stands_behind_it():
    row = cell(defense="robustkd.m30", changed="defense.robustkd.m30.m_max=0.3; train_size=800")
    assert defense_label(row) == "robustkd.m30 [m_max=0.3]"
    assert attack_label(row) == "lba"
    assert changes(row, "shared") == ["train_size=800"]
    assert changes(row) == ["defense.robustkd.m30.m_max=0.3", "train_size=800"]
    # a number without a section
    row = cell(changed="clean_fraction=0.05; target_class=3")
    assert attack_label(row) == "lba [target_class=3]"
    assert changes(row, "shared") == ["clean_fraction=0.05"]
    assert changes_text(reversed(changes(row))) == row["changed"]
    assert changes_text([]) is None


def test_other_numbers_under_one_name_are_refused_by_name():
    message = refused(made_with(f"{ALPHA}=0.001"), made_with(f"{ALPHA}=0.004"))
    assert "signs / fkd / wrn16_2 / wrn16_1 / quick was measured with other numbers" in message
    assert f"{ALPHA}=0.001 in 0.csv, line 2, and {ALPHA}=0.004 in 1.csv, line 2" in message
    assert "--split" in message
    message = refused(made_with(), made_with(f"{ALPHA}=0.004"))
    assert f"what the names promise in 0.csv, line 2, and {ALPHA}=0.004 in 1.csv" in message


def test_seeds_of_one_setting_are_not_averaged_over_other_numbers():
    one, other = made_with(f"{ALPHA}=0.001")[:1], made_with(f"{ALPHA}=0.004")[1:]
    assert f"{ALPHA}=0.004 in 1.csv" in refused(one, other)
    table = leaderboard(merge(files(one, other), split=True))
    assert list(table["n_seeds"]) == [1, 1]


def test_two_defenses_are_not_ranked_over_other_distillations():
    message = refused(made_with(f"{ALPHA}=0.001"), made_with(f"{ALPHA}=0.004", defense="nad"))
    assert ALPHA in message


def test_two_defenses_are_not_ranked_over_two_strengths_of_an_attack():
    strong, weak = "attack.lba.opacity=0.5", "attack.lba.opacity=0.1"
    message = refused(made_with(strong), made_with(weak, defense="nad"))
    assert message.startswith("signs / fkd / wrn16_2 / wrn16_1 / quick / lba was measured")
    assert strong in message
    assert weak in message
    assert len(merge(files(made_with(strong), made_with(weak, attack="ckd")))) == 4


def test_a_defense_is_not_pooled_over_attacks_with_other_numbers():
    few, many = "repair.epochs=1", "repair.epochs=9"
    message = refused(made_with(few, defense="nad"), made_with(many, defense="nad", attack="ckd"))
    assert few in message
    assert many in message
    assert len(merge(files(made_with(few, defense="nad"), made_with(many, defense="anp")))) == 4


def test_equal_words_do_not_hide_other_numbers():
    """Another version promises other numbers under the same names."""
    newer = made_with(f"{ALPHA}=0.004", changed=None, kdbench_version="2.0")
    message = refused(made_with(), newer)
    assert f"shared_digest {'1' * 12} of kdbench 1.0 in 0.csv" in message
    assert "of kdbench 2.0 in 1.csv" in message


def test_split_ranks_and_compares_within_the_same_numbers_only():
    def run(entry, best):
        return [
            *made_with(entry, student_asr=best),
            *made_with(entry, defense="nad", student_asr=600),
        ]

    entries = (f"{ALPHA}=0.001", f"{ALPHA}=0.004")
    rows = merge(files(run(entries[0], 90), run(entries[1], 700)), split=True)
    assert len(rows) == 8
    records = leaderboard(rows).to_dict("records")
    ranks = {(r["changed"], r["defense"]): r["rank"] for r in records}
    assert ranks == {
        (entries[0], "none"): 1,
        (entries[0], "nad"): 2,
        (entries[1], "none"): 2,
        (entries[1], "nad"): 1,
    }
    assert all(record["n_seeds"] == 2 for record in records)
    pairs = [record for record in comparisons(rows) if record["metric"] == "student_asr"]
    assert {(p["changed"], p["defense_a"], p["defense_b"], p["n_seeds"]) for p in pairs} == {
        (entry, "nad", "none", 2) for entry in entries
    }
    assert len(against_control(rows)) == 8
    assert sorted(overall(rows)["changed"]) == [entries[0]] * 2 + [entries[1]] * 2


def test_split_tells_two_strengths_of_one_attack_apart_in_the_worst_case():
    rows = merge(
        files(
            made_with("attack.lba.opacity=0.1", student_asr=90),
            made_with("attack.lba.opacity=0.5", student_asr=600),
        ),
        split=True,
    )
    (case,) = overall(rows).to_dict("records")
    assert (case["worst_attack"], case["n_attacks"]) == ("lba [opacity=0.5]", 2)
    assert sorted(case["attacks"].split(", ")) == ["lba [opacity=0.1]", "lba [opacity=0.5]"]


def test_two_numbers_of_one_defense_are_compared_with_each_other():
    small, large = "defense.robustkd.m_max=0.3", "defense.robustkd.m_max=0.5"
    rows = merge(
        files(
            made_with(small, defense="robustkd", student_asr=90),
            made_with(large, defense="robustkd", student_asr=600),
        ),
        split=True,
    )
    asr, _ = comparisons(rows)
    sides = [(asr[f"defense_{side}"], asr[f"changed_{side}"], asr[side]) for side in "ab"]
    assert sorted(sides) == [("robustkd", small, 10), ("robustkd", large, pytest.approx(66.6667))]
    assert asr["finding"].startswith("robustkd [m_max=0.")


def test_rows_of_an_older_schema_stand_with_no_others(tmp_path):
    old, third = read_results(OLD / "schema2.csv"), read_results(OLD / "schema3.csv")
    new = made_with(defense="robustkd", student_asr=90, dataset_digest="d" * 64)
    message = "numbers that schema 2 did not record"
    for other in (third, *files(new)):
        with pytest.raises(ConfigError, match=message):
            merge([old, other])
    rows = merge([third, *files(new)], split=True)
    table = leaderboard(rows)
    of = table[table["defense"] == "robustkd"]
    assert sorted(zip(of["schema"], of["n_seeds"], strict=True)) == [(3, 2), (SCHEMA, 2)]


def test_an_older_file_is_compared_and_says_that_its_numbers_are_not_known(tmp_path):
    old = read_results(OLD / "schema3.csv")
    new = files(made_with(f"{ALPHA}=0.004", defense="robustkd", dataset_digest="d" * 64))[0]
    found = compare(old, new)
    assert found.shared == 2
    causes = {cause["column"]: (cause["a"], cause["b"]) for cause in found.causes}
    assert causes["setting_digest"] == ("not recorded", "recorded")
    assert causes["changed"] == ("not recorded", f"{ALPHA}=0.004")
    assert compare(old, new, split=True).shared == 0


def test_compare_refuses_other_numbers_and_tells_them_apart():
    a, b = files(made_with(f"{ALPHA}=0.001"), made_with(f"{ALPHA}=0.004"))
    with pytest.raises(ConfigError, match=rf"{ALPHA}=0\.001 in 0\.csv, line 2, and"):
        compare(a, b)
    found = compare(a, b, split=True)
    assert found.shared == 0
    assert [c["changed"] for c in found.only_in_b] == [f"{ALPHA}=0.004"] * 2
    assert compare(a, a, split=True).shared == 2


def command(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def two_runs(tmp_path):
    return [save(tmp_path / n, made_with(f"{ALPHA}=0.00{n}")) for n in ("1", "4")]


def test_the_commands_refuse_in_one_line(two_runs, tmp_path):
    for words in (["leaderboard", "--out", tmp_path / "l.csv"], ["compare"]):
        result = command(*words, *two_runs)
        assert result.exit_code == 2
        assert result.output.count("\n") == 1
        for word in (f"{ALPHA}=0.001 in {two_runs[0]}", f"{ALPHA}=0.004 in {two_runs[1]}"):
            assert word in result.output
    assert not (tmp_path / "l.csv").exists()


def test_the_commands_show_settings_of_their_own(two_runs, tmp_path):
    out = tmp_path / "l.csv"
    result = command("leaderboard", "--split", "--out", out, *two_runs)
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    for alpha in ("0.001", "0.004"):
        title = f"signs / lba / fkd / wrn16_2 / wrn16_1 / quick [{ALPHA}={alpha}]"
        assert shown.count(title) == 2  # the ranking, and C1 against each defense
    with out.open(newline="", encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    assert [record["changed"] for record in records] == [f"{ALPHA}=0.001", f"{ALPHA}=0.004"]
    result = command("compare", "--split", "--json", *two_runs)
    assert json.loads(result.output)["shared"] == 0
    shown = command("compare", "--split", *two_runs).output
    assert f"seed 0 [{ALPHA}=0.004]" in " ".join(shown.split())


def test_titles_that_words_do_not_tell_apart_have_their_digests(tmp_path):
    entry = f"{ALPHA}=0.004"
    runs = [save(tmp_path / "a", made_with()), save(tmp_path / "b", made_with(entry, changed=None))]
    result = command("leaderboard", "--split", "--out", tmp_path / "l.csv", *runs)
    shown = " ".join(result.output.split())
    for digest in ("1" * 12, _digest(entry)[:12]):
        assert f"quick ({digest}, {'2' * 12})" in shown


def test_names_that_read_alike_stay_two_tables(tmp_path):
    run = save(
        tmp_path / "a", [cell(teacher="a / b", student="c"), cell(teacher="a", student="b / c")]
    )
    result = command("leaderboard", "--out", tmp_path / "l.csv", run)
    assert result.output.count("worst case over attacks") == 2


def test_other_numbers_are_no_reservation_about_one_ranking():
    """Rows that are not ranked together need not share their controls."""
    rows = [
        *made_with(f"{ALPHA}=0.001", c3_asr=720),
        *made_with(f"{ALPHA}=0.004", c3_asr=360, defense="nad"),
    ]
    assert not [note for note in notes(rows, []) if "different teachers or controls" in note]
    same = [row | {"shared_digest": "1" * 64} for row in rows]
    assert [note for note in notes(same, []) if "different teachers or controls" in note]


def test_a_runs_own_leaderboard_never_pools(tmp_path):
    from kdbench.report.leaderboard import write_leaderboard

    rows = [made_with(f"{ALPHA}=0.001")[0], made_with(f"{ALPHA}=0.004")[1]]
    write_leaderboard(rows, tmp_path / "l.csv")
    with (tmp_path / "l.csv").open(newline="", encoding="utf-8") as file:
        assert [record["n_seeds"] for record in csv.DictReader(file)] == ["1", "1"]


def test_a_digest_is_one(tmp_path):
    write_results([cell(setting_digest="no digest")], tmp_path / "r.csv")
    with pytest.raises(ConfigError, match="line 2, column setting_digest: 'no digest' is no SHA"):
        read_results(tmp_path / "r.csv")


def test_many_numbers_are_told_apart_at_once_and_twenty_are_named():
    """A cell of a stranger's table may hold any number of entries."""
    a, b = (
        cell(changed="; ".join(f"distill.k{n}={value}" for n in range(100_000))) for value in (1, 2)
    )
    words = difference_in_words(a, b, "shared")
    assert [text.count(";") for text in words] == [19, 19]
    assert words[0].startswith("distill.k0=1; distill.k1=1; ")
    assert words[1].endswith("distill.k19=2 and 99980 more")
