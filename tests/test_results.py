"""What ``Results`` says is what the tables of the commands say."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pandas as pd
import pytest

import kdbench
from kdbench.errors import ConfigError, UsageError
from kdbench.report.columns import COLUMNS
from kdbench.report.leaderboard import as_records, leaderboard, overall
from kdbench.report.tables import write_csv, write_results
from kdbench.results import Results
from tests.report.report_rows import HOSTILE, cell

RECORDED = sorted((Path(__file__).parents[1] / "benchmarks" / "results").glob("*/results.csv"))


def saved(path, rows):
    write_results(rows, path)
    return path


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.parent.name)
def test_the_table_is_exactly_results_csv(path, tmp_path):
    runs = kdbench.load(path)
    assert list(runs.table.columns) == list(COLUMNS)
    assert len(runs) == len(runs.table) == len(runs.rows)
    # Written back it has the values of the file. Columns that came later are empty.
    written = tmp_path / "results.csv"
    write_csv(list(COLUMNS), as_records(runs.table), written)
    before, after = (pd.read_csv(p, dtype=str, keep_default_na=False) for p in (path, written))
    shared = [name for name in before if name in after]
    assert len(shared) > 30
    pd.testing.assert_frame_equal(before[shared], after[shared])


def test_the_table_of_todays_schema_is_the_file_byte_for_byte(tmp_path):
    rows = [cell(seed=0, reason=text) for text in HOSTILE[:1]]
    rows += [cell(seed=n, reason=text) for n, text in enumerate(HOSTILE, 1)]
    path = saved(tmp_path / "results.csv", [*rows, cell(seed=99, status="failed")])
    write_csv(list(COLUMNS), as_records(kdbench.load(path).table), tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == path.read_bytes()


def test_types_of_the_table(tmp_path):
    table = kdbench.load(saved(tmp_path / "r.csv", [cell(), cell(seed=1, status="failed")])).table
    assert str(table["student_asr"].dtype) == "float64"
    assert str(table["student_asr_hits"].dtype) == "Int64"
    assert table["student_asr_hits"].isna().tolist() == [False, True]
    assert table["verdict"].tolist()[1] is None


def test_rankings_are_those_of_the_leaderboard(tmp_path):
    rows = [
        cell(seed=seed, defense=name, student_asr=hits + seed)
        for name, hits in (("none", 800), ("nad", 300))
        for seed in (0, 1, 2)
    ]
    runs = kdbench.load(saved(tmp_path / "r.csv", rows))
    pd.testing.assert_frame_equal(runs.leaderboard, leaderboard(runs.rows))
    pd.testing.assert_frame_equal(runs.overall, overall(runs.rows))
    assert runs.leaderboard["defense"].tolist() == ["nad", "none"]
    asr = runs.paired[runs.paired["metric"] == "student_asr"]
    assert {("nad", "none")} <= {*zip(asr["defense_a"], asr["defense_b"], strict=True)}


def test_of_one_seed_nothing_is_paired(tmp_path):
    runs = kdbench.load(saved(tmp_path / "r.csv", [cell(), cell(defense="nad")]))
    assert len(runs.paired) == 0
    assert "p_holm" in runs.paired


def test_failures_have_their_reasons(tmp_path):
    rows = [cell(), cell(seed=1, status="failed", reason="no room")]
    runs = kdbench.load(saved(tmp_path / "r.csv", rows))
    ((_, failure),) = runs.failures.iterrows()
    assert (failure["seed"], failure["status"], failure["reason"]) == (1, "failed", "no room")
    assert repr(runs) == f"<Results: 2 cells, 1 of them failed of {tmp_path / 'r.csv'}>"


def test_equal_are_those_that_were_measured_alike(tmp_path):
    first = kdbench.load(saved(tmp_path / "a.csv", [cell(wall_s=1.0)]))
    assert first == kdbench.load(saved(tmp_path / "b.csv", [cell(wall_s=9.0)]))
    assert first != kdbench.load(saved(tmp_path / "c.csv", [cell(student_asr=1)]))
    assert first != "rows"
    with pytest.raises(TypeError):
        hash(first)


def test_what_is_changed_in_a_copy_changes_nothing(tmp_path):
    runs = kdbench.load(saved(tmp_path / "a.csv", [cell()]))
    runs.rows[0]["attack"] = "other"
    assert runs.rows[0]["attack"] == "lba"


def test_several_are_merged_as_strictly_as_by_the_leaderboard(tmp_path):
    a = saved(tmp_path / "a.csv", [cell(), cell(seed=1)])
    b = saved(tmp_path / "b.csv", [cell(seed=1), cell(seed=2)])
    runs = kdbench.load(a, b)
    assert runs.table["seed"].tolist() == [0, 1, 2]
    assert runs.paths == (a, b)
    other = saved(tmp_path / "c.csv", [cell(preset="standard")])
    with pytest.raises(ConfigError, match="presets are never ranked together"):
        kdbench.load(a, other)
    with pytest.raises(ConfigError, match="does not exist"):
        kdbench.load(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="nothing to load"):
        kdbench.load()


def test_a_run_and_its_results_are_compared_alike(tmp_path):
    a = saved(tmp_path / "a.csv", [cell(student_asr=100)])
    b = saved(tmp_path / "b.csv", [cell(student_asr=700)])
    by_path, by_rows = kdbench.compare(a, b), kdbench.compare(kdbench.load(a), Results.read([b]))
    assert by_path == by_rows
    assert [change.column for change in by_path.worse] == ["student_asr"]
    assert kdbench.compare(b, a).worse == []
    with pytest.raises(ConfigError, match="share no cell"):
        kdbench.compare(a, saved(tmp_path / "c.csv", [cell(attack="ckd")]))


# -- what is seen ----------------------------------------------------------------------------------


class Elements(HTMLParser):
    """The elements of a page, and the words between them."""

    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        # A mark is drawn by the shape of its name, which is in the same piece of HTML.
        asks = [value for name, value in attrs if name == "href" and not value.startswith("#m")]
        assert not asks
        assert not [name for name, _ in attrs if name.startswith("on") or name == "src"]

    def handle_data(self, data):
        self.text += data


def elements(html):
    parser = Elements()
    parser.feed(html)
    return parser


def test_a_notebook_shows_the_finding_and_the_verdicts(tmp_path):
    rows = [cell(seed=n, defense=name) for name in ("none", "nad") for n in (0, 1)]
    runs = kdbench.load(saved(tmp_path / "r.csv", [*rows, cell(attack="ckd", status="failed")]))
    page = elements(runs._repr_html_())
    assert {*page.tags}.isdisjoint(("script", "a", "img", "iframe", "link", "form", "input"))
    for word in ("nad", "lba", "ckd", "failed", "ASR", "5 cells"):
        assert word in page.text


@pytest.mark.parametrize("text", [*HOSTILE, "<script>alert(1)</script>", "<img src=x onerror=y>"])
def test_no_name_is_obeyed_in_a_notebook(text):
    # A name may be broken at its dots.
    alike = re.sub(r"[^.]", "x", text)
    plain = Results([cell(attack=alike, defense=alike)])
    hostile = Results([cell(attack=text, defense=text, teacher=text, reason=text)])
    assert elements(hostile._repr_html_()).tags == elements(plain._repr_html_()).tags


def test_the_page_is_the_one_of_the_command(tmp_path):
    from kdbench.page.source import read_source

    folder = tmp_path / "run"
    folder.mkdir()
    saved(folder / "results.csv", [cell(seed=n) for n in (0, 1)])
    from kdbench.page.build import write_page

    write_page(read_source([folder]), tmp_path / "command.html")
    assert kdbench.load(folder).report(tmp_path / "page.html") == tmp_path / "page.html"
    assert (tmp_path / "page.html").read_bytes() == (tmp_path / "command.html").read_bytes()
    Results([cell()]).report(tmp_path / "alone.html")
    assert "lba" in (tmp_path / "alone.html").read_text()


def test_a_plot_has_a_mark_and_a_name_for_each_setting(monkeypatch):
    from matplotlib.figure import Figure

    monkeypatch.setattr(matplotlib, "get_backend", lambda: "agg")
    rows = [cell(seed=n, defense=name) for name in ("none", "nad") for n in (0, 1)]
    axes = Figure().subplots()
    runs = Results([*rows, cell(attack="ckd", status="failed"), cell(attack="htba")])
    assert runs.plot(axes) is axes
    marks = [line for line in axes.lines if line.get_gid()]
    names = ["C1", "C1", "lba, none", "lba, nad", "htba, none"]
    assert [mark.get_gid().partition(":")[0] for mark in marks] == names
    assert {text.get_text() for text in axes.texts} <= {"C1", "none", "nad"}
    means = runs.leaderboard.dropna(subset="student_asr")
    places = sorted((float(mark.get_xdata()[0]), float(mark.get_ydata()[0])) for mark in marks[2:])
    wanted = sorted(zip(means["student_asr"], means["student_acc"], strict=True))
    assert places == [pytest.approx(place) for place in wanted]
    crosses = [x for line in axes.lines if not line.get_gid() for x in line.get_xdata()]
    assert crosses
    assert 0 <= min(crosses) <= max(crosses) <= 100
    low, high = axes.get_xlim()
    assert low <= min(places)[0] <= max(places)[0] <= high
    nothing = Results([cell(status="failed")]).plot(Figure().subplots())
    assert nothing.get_legend() is None
