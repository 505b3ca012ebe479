"""Everything that kdbench writes to results.csv is read back as it was, at every value that a run
can have."""

from __future__ import annotations

import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdbench.errors import ConfigError
from kdbench.report.columns import COLUMNS, MOST_WHOLE
from kdbench.report.compare import compare
from kdbench.report.leaderboard import leaderboard
from kdbench.report.merge import merge
from kdbench.report.read import read_results
from kdbench.report.tables import write_results
from tests.report.report_rows import HOSTILE, N_ASR, N_TEST, cell, kept

EXAMPLES = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
#: Names may be anything that is not empty once a terminal's commands are out of it.
NAMES = st.one_of(
    st.text(min_size=1, max_size=20), st.sampled_from([*HOSTILE, "é", "x" * 5000, "a,b", "0", "01"])
)
TEXTS = {name: NAMES for name in ("dataset", "distiller", "reason", "device", "plugins")}
HITS = {
    name: st.integers(0, N_TEST if name.endswith("_acc") else N_ASR)
    for name in (
        "teacher_acc",
        "student_acc",
        "student_asr",
        "c1_acc",
        "c1_asr",
        "c3_acc",
        "c3_asr",
    )
}
NUMBERS = {
    "seed": st.one_of(st.integers(0, MOST_WHOLE), st.sampled_from([MOST_WHOLE, 10**18])),
    "clean_fraction": st.one_of(
        st.floats(0, 1, exclude_min=True), st.sampled_from([5e-324, 1e-300, 1 / 3])
    ),
    "wall_s": st.one_of(st.floats(0, 1e300), st.sampled_from([1e16, 1e22])),
    "target_class": st.none() | st.integers(0, MOST_WHOLE),
    "clean_variance": st.none() | st.floats(0, 1e16),
}


@EXAMPLES
@given(st.fixed_dictionaries(TEXTS), st.fixed_dictionaries(HITS), st.fixed_dictionaries(NUMBERS))
def test_a_row_is_read_as_it_was_written(tmp_path, texts, hits, numbers):
    row = cell(**texts, **hits, **numbers)
    write_results([row], tmp_path / "results.csv")
    file = read_results(tmp_path)
    for name, value in row.items():
        if isinstance(value, str):
            value = kept(value)
        elif isinstance(value, float) and not COLUMNS[name].is_exact:
            value = round(value, 4)
        assert file.rows[0][name] == value, name
    assert len(leaderboard(merge([file]))) == 1
    assert compare(file, file).shared == 1
    write_results(file.rows, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "results.csv").read_bytes()


def test_a_small_share_is_told_from_none_and_from_others(tmp_path):
    write_results([cell(clean_fraction=1e-5)], tmp_path / "a.csv")
    write_results([cell(seed=1, clean_fraction=2e-5)], tmp_path / "b.csv")
    files = [read_results(tmp_path / name) for name in ("a.csv", "b.csv")]
    assert [file.rows[0]["clean_fraction"] for file in files] == [1e-5, 2e-5]
    with pytest.raises(ConfigError, match="clean_fraction is 1e-05 in"):
        merge(files)


def test_a_share_that_an_older_version_rounded_to_nothing_is_read(tmp_path):
    """It wrote such files itself."""
    schema = 6
    names = [name for name, column in COLUMNS.items() if column.since <= schema]
    row = cell(schema=schema, clean_fraction=0.0, confinement="none")
    write_results([row], tmp_path / "new.csv")
    header, line = (text.split(",") for text in (tmp_path / "new.csv").read_text().splitlines()[:2])
    assert '"' not in ",".join(line)
    kept_columns = [n for n, name in enumerate(header) if name in names]
    (tmp_path / "old.csv").write_text(
        "".join(",".join(fields[n] for n in kept_columns) + "\n" for fields in (header, line))
    )
    assert read_results(tmp_path / "old.csv").rows[0]["clean_fraction"] == 0
    write_results([cell(clean_fraction=0.0)], tmp_path / "new.csv")
    with pytest.raises(ConfigError, match="a share is above 0"):
        read_results(tmp_path / "new.csv")


@pytest.mark.parametrize("seed", ["9223372036854775808", "99999999999999999999", "1" * 400])
def test_a_whole_number_beyond_the_range_is_no_whole_number(tmp_path, seed):
    write_results([cell(seed=int(seed))], tmp_path / "results.csv")
    with pytest.raises(ConfigError, match=r"column seed: .* is no whole number"):
        read_results(tmp_path)
    assert sys.maxsize == MOST_WHOLE
