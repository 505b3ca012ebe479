"""What the commands tell a CI service: exit codes and JUnit files."""

from __future__ import annotations

import json
from xml.etree import ElementTree

import pytest

from kdbench.report.tables import write_results
from tests.cli.calls import RUN, call, row
from tests.report.report_rows import cell


def save(path, rows):
    write_results(rows, path)
    return path


def endings(path):
    (suite,) = ElementTree.parse(path).getroot()
    return [next((end.tag for end in case), "passed") for case in suite]


@pytest.mark.parametrize(
    ("hits", "fail_if", "code"), [(700, False, 0), (700, True, 1), (105, True, 0), (20, True, 0)]
)
def test_a_comparison_fails_only_where_that_is_wanted(hits, fail_if, code, tmp_path):
    a = save(tmp_path / "a.csv", [cell(student_asr=100)])
    b = save(tmp_path / "b.csv", [cell(student_asr=hits)])
    options = ["--fail-if", "worse"] if fail_if else []
    result = call("compare", str(a), str(b), *options, "--junit", str(tmp_path / "j.xml"))
    assert result.exit_code == code, result.output
    assert ("worse in B: 1 of the changes" in result.stderr) == (code == 1)
    named = "seed 0: student_asr rose from 11.1 to 77.8 %, by "
    assert (named in " ".join(result.stderr.split())) == (code == 1)
    assert endings(tmp_path / "j.xml") == ["failure" if hits == 700 else "passed"]
    value = json.loads(call("compare", str(a), str(b), "--json").output)
    assert value["worse"] == (hits == 700)


def test_a_junit_file_overwrites_nothing(fake_run, tmp_path):
    a = save(tmp_path / "a.csv", [cell()])
    before = a.read_bytes()
    for path in (a, tmp_path, ""):
        result = call("compare", str(a), str(a), "--junit", str(path))
        assert result.exit_code == 2, result.output
        assert "--junit" in result.stderr
    assert a.read_bytes() == before
    assert call(*RUN, "--junit", str(tmp_path)).exit_code == 2
    assert fake_run.calls == []


def test_a_run_writes_its_cells(fake_run, tmp_path):
    fake_run.answer = [row(), row(seed=1, status="failed")]
    junit = tmp_path / "j.xml"
    result = call(*RUN, "--out", str(tmp_path / "o"), "--junit", str(junit))
    assert result.exit_code == 1
    assert endings(junit) == ["passed", "error"]
    fake_run.answer = [row()]


def test_a_junit_file_in_no_folder_is_refused_before_anything_is_computed(fake_run, tmp_path):
    result = call(*RUN, "--junit", str(tmp_path / "no" / "j.xml"))
    assert result.exit_code == 2
    assert f"there is no folder {tmp_path / 'no'}" in " ".join(result.stderr.split())
    assert fake_run.calls == []
