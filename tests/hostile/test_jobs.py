"""Jobs with hostile code: what holds whatever they do, say, leave behind and reach for."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.hostile.conftest import DEFENSES, RIVALS
from tests.hostile.outside import end, gone, namespaces
from tests.hostile.running import ended_well, snapshot
from tests.sizes import SOAK

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the attempts are made of what Linux has"
)
#: Where less is promised, and SECURITY.md says what.
reaching = pytest.mark.skipif(
    not namespaces(), reason="this kernel gives a process no namespaces of its own"
)
CRASHES = [name for name in DEFENSES if name.startswith("folders.crash")]
#: What a row says of its student.
STUDENT = ("student_acc", "student_asr", "student_ra", "student_base")


def of(*plugins):
    return [name for name in DEFENSES if name.startswith(plugins)]


def failed_or_undefended(row, honest):
    """These plugins change no weights. So a row says what that of the undefended student says, or
    it says nothing."""
    if row["status"] == "ok":
        said = {name: row[name] for name in STUDENT}
        return said == {name: honest.rows["none"][name] for name in STUDENT}
    return row["student_acc"] is None


@pytest.mark.parametrize("name", DEFENSES)
def test_the_run_ends_its_rivals_are_measured_and_the_user_loses_nothing(acts, honest, name):
    run = acts.of(name)
    assert ended_well(run), run.tail
    assert {rival: run.rows[rival] for rival in RIVALS} == honest.rows
    assert snapshot(run.ground.user) == run.ground.untouched
    assert failed_or_undefended(run.rows[name], honest)


# -- what a job says -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", of("outcomes."))
def test_no_text_of_a_job_is_more_than_text(acts, honest, name):
    run = acts.of(name)
    for path in run.out.glob("*.csv"):
        assert not {"\x1b", "\x07"} & set(path.read_text()), path.name
    assert "\x1b" not in run.text
    assert "own words" not in run.everything, "a private file is published"


@pytest.mark.parametrize("name", of("outcomes.boast"))
def test_a_job_does_not_say_how_it_was_confined_measured_and_on_what(acts, honest, name):
    run = acts.of(name)
    assert "landlock 99" not in run.everything
    assert "H9000" not in run.everything
    for stage in run.record["stages"]:
        assert 0 <= stage.get("seconds", 0) < 1e6
    text = (run.out / "results.csv").read_text()
    assert "1e+300" not in text
    assert max(map(len, text.replace("\n", ",").split(","))) < 1000


# -- what a job leaves -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", of("folders.", "outcomes.linked"))
def test_the_store_holds_no_copy_of_a_private_file(acts, name):
    files = [path for path in acts.of(name).ground.store.rglob("*") if path.is_file()]
    copies = [path for path in files if not path.is_symlink()]
    assert not [path for path in copies if b"own words" in path.read_bytes()]


@pytest.fixture(scope="module")
def again(acts):
    """The run after that in which a defense crashed: of all of them, or in its own ground."""
    runs = {}

    def run(name):
        ground = acts.of(name).ground
        if ground.folder not in runs:
            runs[ground.folder] = acts.play(ground, [name] if SOAK else CRASHES)
        return runs[ground.folder]

    return run


@pytest.mark.parametrize("name", CRASHES)
def test_the_next_attempt_of_a_stage_that_crashed_goes_through_nothing_it_left(acts, again, name):
    assert acts.of(name).rows[name]["status"] == "crashed"
    run = again(name)
    assert ended_well(run), run.tail
    assert snapshot(run.ground.user) == run.ground.untouched
    assert run.rows[name]["status"] == "crashed"
    assert "own words" not in run.everything


def test_what_is_measured_is_what_is_published(acts, honest):
    run = acts.of("processes.swap")
    row, undefended = run.rows["processes.swap"], honest.rows["none"]
    assert row["status"] == "ok", row["reason"]
    assert row["student_sha256"] == undefended["student_sha256"]
    verified = run.ground.call(["store", "verify"], run.out)
    assert verified.code == 0, verified.tail


# -- networks with code ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["networks.another_network", "networks.more_classes", "networks.a_wrapper"]
)
def test_a_student_is_the_network_that_the_row_names(acts, name):
    assert acts.of(name).rows[name]["status"] == "failed"


@pytest.mark.parametrize("name", of("networks."))
def test_a_network_with_code_reads_no_label_and_no_trigger(acts, honest, name):
    row = acts.of(name).rows[name]
    assert "REACHED" not in (row["reason"] or "")
    if row["cleansed_acc"] is not None:
        assert row["cleansed_acc"] == honest.rows["none"]["teacher_acc"]


def test_a_teacher_with_an_editor_is_a_method_and_is_measured(acts):
    assert acts.of("networks.editing").rows["networks.editing"]["status"] == "ok"


# -- imports ---------------------------------------------------------------------------------------


def test_no_table_is_what_a_plugin_makes_of_it(acts, honest):
    row = acts.of("imports.nothing").rows["imports.nothing"]
    assert row["status"] == "ok", row["reason"]
    assert row["student_acc"] == honest.rows["none"]["student_acc"]


# -- processes -------------------------------------------------------------------------------------


def test_no_process_outlives_the_run(acts, honest):
    for name in of("processes."):
        acts.of(name)
    comm = acts.ground.hints["comm"]
    try:
        assert gone(comm)
    finally:
        end(comm)


def test_the_memory_of_all_processes_counts(acts):
    row = acts.of("processes.crowd").rows["processes.crowd"]
    assert row["status"] == "out of memory", row["reason"]


# -- the rest of the machine -----------------------------------------------------------------------


@reaching
@pytest.mark.parametrize("name", of("imports.listen", "searching.", "system."))
def test_a_job_reaches_nothing_and_finds_no_secret(acts, name):
    if name == "system.keyring" and not acts.ground.hints["key"]:
        pytest.skip("this kernel gives the user no keyring")
    row = acts.of(name).rows[name]
    assert row["status"] == "ok", row["reason"]


@reaching
def test_the_machine_is_as_it_was(acts, outside):
    for name in of("system."):
        run = acts.of(name)
    assert outside.listeners.heard == set()
    assert outside.shared() == b"the user's"
    assert outside.segment.read_text() == "the user's"
    assert list(outside.segment.parent.glob(f"{outside.segment.name}*")) == [outside.segment]
    assert run.ground.store.stat().st_mode & 0o777 != 0o777


def test_another_process_of_the_user_is_as_it_was(acts, outside):
    acts.of("system.other_processes")
    pid = outside.victim.pid
    assert outside.victim.poll() is None
    assert Path(f"/proc/{pid}/limits").read_text() == Path("/proc/self/limits").read_text()
    assert os.sched_getaffinity(pid) == os.sched_getaffinity(0)
    assert os.getpriority(os.PRIO_PROCESS, pid) == os.getpriority(os.PRIO_PROCESS, 0)
    assert os.sched_getscheduler(pid) == os.sched_getscheduler(0)
