"""What benchmarks/README.md says was measured is what its results say."""

import importlib.util
import re
from pathlib import Path

import pytest

from kdbench.report.read import read_results
from tests.report.report_rows import cell

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
#: Results whose table is of something else than the students' rates (feature variances).
OTHERWISE = {"fig2-signs"}
RESULTS = sorted(path.parent.name for path in BENCHMARKS.glob("results/*/results.csv"))


def section(name):
    """Text of the sections that link to a folder of results."""
    parts = re.split(r"^## ", (BENCHMARKS / "README.md").read_text(), flags=re.MULTILINE)
    found = [part for part in parts if f"(results/{name}/)" in part]
    assert found, f"benchmarks/README.md has no section on results/{name}/"
    return "\n".join(found)


@pytest.mark.parametrize("name", RESULTS)
def test_every_measured_student_is_in_the_text(name):
    text = section(name)
    said = set(re.findall(r"\d+(?:\.\d+)?", text))
    measured = [
        f"{found['student_asr']:.1f}" for found in read_results(BENCHMARKS / "results" / name).rows
    ]
    assert measured
    if name not in OTHERWISE:
        assert {value for value in measured if value not in said} == set()


def test_a_table_by_seed():
    spec = importlib.util.spec_from_file_location("by_seed", BENCHMARKS / "by_seed.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    rows = [
        cell(student_asr=720),
        cell(defense="robustkd", student_asr=90),
        cell(defense="robustkd", student_asr=270, seed=1),
        cell(attack="badnets", defense="nad", verdict="inconclusive", seed=1),
        cell(attack="badnets", defense="robustkd", status="failed"),
    ]
    _, _, *found = made.table(rows)
    # Student's t of two seeds is 12.706: 12.706 x 14.142 / sqrt(2) = 127.06; removed: (720 - 90) /
    # (720 - 9), (720 - 270) / 711
    assert found == [
        "| wrn16_2-wrn16_1 | badnets | fkd nad | 97.0 / 100.0 | - 1.0 | - 80.0 | 95.0 | - 50.0 | "
        "50.0 | - - |",
        "| wrn16_2-wrn16_1 | lba | fkd none | 97.0 / 100.0 | 1.0 - | 80.0 - | 95.0 | 80.0 - | 80.0 "
        "|  |",
        "| wrn16_2-wrn16_1 | lba | fkd robustkd | 97.0 ± 0.0 / 100.0 ± 0.0 | 1.0 1.0 | 80.0 80.0 | "
        "95.0 ± 0.0 | 10.0 30.0 "
        "| 20.0 ± 127.1 | 89 63 |",
    ]
