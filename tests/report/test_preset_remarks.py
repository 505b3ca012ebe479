"""What a preset is known to get wrong about a method stands beside its rows."""

from __future__ import annotations

from kdbench.report.columns import COLUMNS
from kdbench.report.merge import merge
from kdbench.report.notes import notes
from kdbench.report.preset_remarks import preset_remark, remark_lines
from kdbench.report.read import read_results
from kdbench.report.tables import write_results
from tests.report.report_rows import cell

REMARKS = {"defense.robustkd": "too strong", "defense.robustkd.paper": "too weak"}
NAMES = {"attack": "lba", "defense": "none", "distiller": "fkd"}


def test_a_remark_on_a_method_holds_for_its_variants():
    def said(**names):
        return preset_remark(NAMES | names, REMARKS)

    assert said() is None
    assert said(defense="robustkd") == "robustkd: too strong"
    assert said(defense="robustkd.eq15") == "robustkd: too strong"
    assert said(defense="robustkd.paper") == "robustkd.paper: too weak"
    assert said(defense="nad", attack="robustkd") is None, "a remark is on one kind of method"


def test_a_row_has_the_remarks_on_all_its_methods():
    remarks = REMARKS | {"attack.lba": "too easy", "distiller.fkd": "too short"}
    text = preset_remark(NAMES | {"defense": "robustkd"}, remarks)
    assert text == "lba: too easy; robustkd: too strong; fkd: too short"
    rows = [cell(preset_remark=text), cell(seed=1, preset_remark="lba: too easy")]
    assert remark_lines(rows) == [
        "preset quick, lba: too easy",
        "preset quick, robustkd: too strong",
        "preset quick, fkd: too short",
    ]


def test_a_row_without_numbers_needs_no_remark():
    assert remark_lines([cell(status="failed", preset_remark="lba: too easy"), cell()]) == []


def test_a_ranking_repeats_each_remark_once():
    rows = [cell(seed=seed, preset_remark="lba: too easy") for seed in range(3)]
    assert [note for note in notes(rows, []) if "too easy" in note] == [
        "preset quick, lba: too easy"
    ]


def test_a_table_of_a_thousand_remarks_is_no_wall_of_text():
    rows = [cell(seed=seed, preset_remark=f"lba: {seed}") for seed in range(1000)]
    lines = remark_lines(rows)
    assert len(lines) == 9
    assert lines[-1] == "992 more remarks: see the column preset_remark"


def test_runs_of_two_versions_are_merged_whatever_they_knew_of_the_preset(tmp_path):
    files = []
    for number, remark in enumerate((None, "lba: too easy")):
        path = tmp_path / f"{number}.csv"
        write_results([cell(preset_remark=remark)], path)
        files.append(read_results(path))
    assert len(merge(files)) == 1


def test_the_column_is_neither_a_number_nor_a_result():
    column = COLUMNS["preset_remark"]
    assert (column.role, column.since) == ("free", 8)
