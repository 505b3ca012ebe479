"""What a hostile job says, or does to the files by which it speaks: the run goes on without it."""

from __future__ import annotations

import pytest

from tests.hostile.conftest import RIVALS
from tests.hostile.running import Acts, Ground, copied, ended_well, snapshot

ACTS = [
    "no_files",
    "manifest",
    "a_list_for_a_word",
    "nested",
    "sparse",
    "escape",
    "boast",
    "boast_in_lines",
    "steps",
    "wait_for_outcome",
    "wait_for_log",
    "wait_for_result",
    "linked_log",
    "linked_result",
    "garble",
    "pour",
    "silent",
]


@pytest.fixture(scope="module")
def acts(honest_ground, honest, tmp_path_factory):
    ground = copied(Ground(tmp_path_factory.mktemp("outcomes")), honest_ground.store)
    return Acts(ground, "outcomes", [f"red.{name}" for name in ACTS], beside=("none", "finetune"))


@pytest.mark.parametrize("act", ACTS)
def test_the_run_ends_and_its_rivals_are_measured(acts, honest, act):
    run = acts.of(f"red.{act}")
    assert ended_well(run), run.tail
    assert run.rows[f"red.{act}"]["status"] in ("ok", "failed", "crashed"), run.tail
    assert {name: run.rows[name] for name in RIVALS} == honest.rows
    assert snapshot(run.ground.user) == run.ground.untouched


@pytest.mark.parametrize("act", ["no_files", "manifest", "a_list_for_a_word", "nested", "sparse"])
def test_a_forged_outcome_is_no_better_than_an_honest_one(acts, honest, act):
    """The student is the undefended one. So either the row says that, or it says nothing."""
    row, undefended = acts.of(f"red.{act}").rows[f"red.{act}"], honest.rows["none"]
    if row["status"] == "ok":
        for name in ("student_acc", "student_asr", "student_ra", "student_sha256"):
            assert row[name] == undefended[name]
    else:
        assert row["student_acc"] is None


def test_no_escape_sequence_reaches_a_table(acts):
    run = acts.of("red.escape")
    for path in run.out.glob("*.csv"):
        assert not {"\x1b", "\x07"} & set(path.read_text()), path.name
    assert "\x1b" not in run.tail


@pytest.mark.parametrize("act", ["boast", "boast_in_lines"])
def test_a_job_does_not_say_how_it_was_confined_measured_and_on_what(acts, honest, act):
    run = acts.of(f"red.{act}")
    assert "landlock 99" not in run.everything
    assert "H9000" not in run.everything
    for stage in run.record["stages"]:
        assert 0 <= stage.get("seconds", 0) < 1e6
    text = (run.out / "results.csv").read_text()
    assert "1e+300" not in text
    assert max(map(len, text.replace("\n", ",").split(","))) < 300
    assert run.rows["none"]["device"] == honest.rows["none"]["device"]


@pytest.mark.parametrize("act", ["linked_log", "linked_result"])
def test_no_private_file_is_published(acts, act):
    run = acts.of(f"red.{act}")
    assert "own words" not in run.everything
    files = [path for path in run.ground.store.rglob("*") if path.is_file()]
    copies = [path for path in files if not path.is_symlink()]
    assert not [path for path in copies if b"own words" in path.read_bytes()]
