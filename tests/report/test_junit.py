"""Cells as tests of a CI service, and when a comparison fails it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from kdbench.report.compare import compare
from kdbench.report.junit import cells_as_tests, comparison_as_tests, write_junit
from kdbench.report.read import read_results
from kdbench.report.tables import write_results
from tests.report.report_rows import HOSTILE, cell


def save(path, rows):
    write_results(rows, path)
    return path


def suite(path):
    (suite,) = ElementTree.parse(path).getroot()
    return suite


def endings(path):
    """(name of each test, the element that says how it ended)."""
    return {
        f"{case.get('classname')}: {case.get('name')}": next((end.tag for end in case), "passed")
        for case in suite(path)
    }


TASK = "signs / lba / fkd / wrn16_2 / wrn16_1 / quick"


def test_a_cell_that_was_measured_passes_whatever_was_found(tmp_path):
    rows = [cell(verdict="not stopped", wall_s=2.5), cell(seed=1, status="failed", reason="full")]
    write_junit("x", cells_as_tests(rows), tmp_path / "j.xml")
    assert endings(tmp_path / "j.xml") == {
        f"{TASK}: none seed 0": "passed",
        f"{TASK}: none seed 1": "error",
    }
    counts = suite(tmp_path / "j.xml").attrib
    assert (counts["tests"], counts["errors"], counts["failures"]) == ("2", "1", "0")
    first, second = suite(tmp_path / "j.xml")
    assert first.get("time") == "2.500"
    assert second[0].get("message") == "failed: full"


@pytest.mark.parametrize("text", [*HOSTILE, "\x00\ufffe\ud800]]>"])
def test_any_text_makes_xml(text, tmp_path):
    rows = [cell(status="failed", reason=text, attack=text)]
    write_junit(text, cells_as_tests(rows), tmp_path / "j.xml")
    assert len(suite(tmp_path / "j.xml")) == 1
    before = (tmp_path / "j.xml").read_bytes()
    write_junit(text, cells_as_tests(rows), tmp_path / "j.xml")
    assert (tmp_path / "j.xml").read_bytes() == before


def test_what_got_worse_fails(tmp_path):
    a = [cell(student_asr=100), cell(seed=1, student_asr=100), cell(seed=2), cell(seed=3)]
    b = [cell(student_asr=700), cell(seed=1, student_asr=101), cell(seed=2, status="failed")]
    files = [read_results(save(tmp_path / f"{n}.csv", rows)) for n, rows in (("a", a), ("b", b))]
    write_junit("x", comparison_as_tests(compare(*files), files[0].rows), tmp_path / "j.xml")
    assert endings(tmp_path / "j.xml") == {
        f"{TASK}: none seed 0": "failure",
        f"{TASK}: none seed 1": "passed",
        f"{TASK}: none seed 2": "failure",
        f"{TASK}: none mean over seeds": "passed",
        f"{TASK}: none seed 3": "skipped",
    }
    messages = [end.get("message") for case in suite(tmp_path / "j.xml") for end in case]
    assert messages[0].startswith("student_asr rose from 11.1 to 77.8 %, by ")
    assert messages[1:] == ["status: ok in A, failed in B", "only in A"]


def test_a_mean_over_seeds_that_rose_fails(tmp_path):
    a = [cell(seed=n, student_asr=400) for n in range(6)]
    b = [cell(seed=n, student_asr=430 + n) for n in range(6)]
    files = [read_results(save(tmp_path / f"{n}.csv", rows)) for n, rows in (("a", a), ("b", b))]
    write_junit("x", comparison_as_tests(compare(*files), files[0].rows), tmp_path / "j.xml")
    failed = [name for name, end in endings(tmp_path / "j.xml").items() if end == "failure"]
    assert failed == [f"{TASK}: none mean over seeds"]
