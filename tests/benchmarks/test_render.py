"""The tables of the pages are what the results say."""

import re

import pytest

from tests.benchmarks.pages import BENCHMARKS, FINDINGS, render
from tests.report.report_rows import cell

PAGES = sorted(BENCHMARKS.rglob("*.md"))
MARKER = "results/sample rows=attack,defense columns=c1_asr,student_asr,removed"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_rendering_changes_nothing(path):
    assert path.read_text() == render.render(path.read_text()), "run python benchmarks/render.py"


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.stem)
def test_every_table_of_a_finding_is_rendered(path):
    by_hand = re.sub(r"<!-- table.*?<!-- end -->", "", path.read_text(), flags=re.DOTALL)
    assert not re.findall(r"^\|.*", by_hand, re.MULTILINE)


@pytest.fixture
def sample(monkeypatch):
    """A folder of results, read as a file of it would be."""

    class Read:
        rows = [
            cell(student_asr=720),
            cell(defense="robustkd", student_asr=270, seed=1),
            cell(defense="robustkd", student_asr=90),
            cell(attack="badnets", defense="nad", verdict="inconclusive", seed=1),
            cell(attack="badnets", defense="robustkd", status="failed"),
        ]

    monkeypatch.setattr(render, "read_results", lambda path: Read())


def table(marker):
    page = render.render(f"before\n<!-- table: {marker} -->\nold\n<!-- end -->\nafter\n")
    assert page.startswith(f"before\n<!-- table: {marker} -->\n| ")
    assert page.endswith("\n<!-- end -->\nafter\n")
    return [line for line in page.splitlines() if line.startswith("| ")]


@pytest.mark.usefixtures("sample")
def test_means_and_then_seeds():
    # Student's t of two seeds is 12.706: 12.706 x 14.142 / sqrt(2) = 127.06; removed: (720 - 90) /
    # (720 - 9), (720 - 270) / 711
    assert table(MARKER) == [
        "| attack | defense | seeds | C1 ASR, % | student ASR, % | removed, % |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| badnets | nad | 1 | 1.0 | 50.0 | - |",
        "| lba | none | 1 | 1.0 | 80.0 | - |",
        "| lba | robustkd | 2 | 1.0 ± 0.0 | 20.0 ± 127.1 | 76 ± 161 |",
        "| attack | defense | seed | C1 ASR, % | student ASR, % | removed, % |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| badnets | nad | 1 | 1.0 | 50.0 | - |",
        "| lba | none | 0 | 1.0 | 80.0 | - |",
        "| lba | robustkd | 0 | 1.0 | 10.0 | 89 |",
        "| lba | robustkd | 1 | 1.0 | 30.0 | 63 |",
    ]


@pytest.mark.usefixtures("sample")
def test_a_line_a_seed_where_it_is_asked_for():
    lines = table(
        "results/sample rows=defense,seed columns=student_asr attack=lba defense=robustkd"
    )
    assert lines[2:] == ["| robustkd | 0 | 10.0 |", "| robustkd | 1 | 30.0 |"]


@pytest.mark.usefixtures("sample")
def test_what_is_kept_is_in_the_order_of_the_request():
    lines = table(
        "results/sample rows=attack,defense columns=student_asr attack=lba,badnets seed=1"
    )
    assert lines[2:] == ["| lba | robustkd | 1 | 30.0 |", "| badnets | nad | 1 | 50.0 |"]


def test_a_mean_over_some_seeds_says_how_many():
    rows = [cell(seed=0), cell(seed=1, verdict="inconclusive")]
    for row in rows:
        row |= {"defense": "nad", "removed": 50.0}
    assert render.mean(rows, render.COLUMNS["removed"]) == "50 (1 of 2)"


@pytest.mark.usefixtures("sample")
@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ("results/sample columns=asr", "no columns asr; there are: clean_acc, "),
        ("results/sample rows=colour", "no rows colour; there are: results, pair, "),
        ("results/sample colour=red", "no filters colour; there are: "),
        ("results/sample attack=lba,ckd", r"no row has attack ckd in \['sample'\]"),
        ("results/sample rows=attack", "rows=attack does not tell all 3 settings apart"),
    ],
)
def test_what_is_not_there_is_named(marker, message):
    with pytest.raises(ValueError, match=message):
        table(marker)


def test_rows_made_with_other_numbers_are_not_averaged(monkeypatch):
    class Read:
        rows = [cell(setting_digest="a" * 64), cell(seed=1, setting_digest="b" * 64)]

    monkeypatch.setattr(render, "read_results", lambda path: Read())
    with pytest.raises(ValueError, match="does not tell all 2 settings apart"):
        table("results/sample rows=attack,defense columns=student_asr")
