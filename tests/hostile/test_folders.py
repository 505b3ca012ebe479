"""What a hostile job leaves in place of its folders and files: the user's own are untouched."""

from __future__ import annotations

import pytest

from tests.hostile.conftest import RIVALS
from tests.hostile.running import Acts, Ground, copied, ended_well, snapshot
from tests.sizes import SOAK

LINKS = ["linked_folders", "linked_folders_late"]
CRASHES = ["crash", "crash_with_links", "crash_with_checkpoints"]


@pytest.fixture(scope="module")
def acts(honest_ground, honest, tmp_path_factory):
    ground = copied(Ground(tmp_path_factory.mktemp("folders")), honest_ground.store)
    names = [f"red.{name}" for name in (*CRASHES, *LINKS)]
    return Acts(ground, "folders", names, beside=tuple(RIVALS))


@pytest.mark.parametrize("act", [*LINKS, *CRASHES])
def test_nothing_of_the_user_is_deleted_or_written_to(acts, honest, act):
    run = acts.of(f"red.{act}")
    assert snapshot(run.ground.user) == run.ground.untouched
    assert ended_well(run), run.tail
    assert {name: run.rows[name] for name in RIVALS} == honest.rows


@pytest.mark.parametrize("act", CRASHES)
def test_nor_by_the_next_attempt_of_a_stage_that_crashed(acts, again, act):
    assert acts.of(f"red.{act}").rows[f"red.{act}"]["status"] == "crashed"
    run = again(act)
    assert snapshot(run.ground.user) == run.ground.untouched
    assert ended_well(run), run.tail
    assert run.rows[f"red.{act}"]["status"] == "crashed"
    assert "own words" not in run.everything


@pytest.fixture(scope="module")
def again(acts):
    """The run after the one in which an act was played: for all of them, or for each its own."""
    runs = {}

    def run(act):
        ground, names = acts.of(f"red.{act}").ground, [act] if SOAK else CRASHES
        if ground.folder not in runs:
            runs[ground.folder] = ground.run(["folders"], [f"red.{name}" for name in names])
        return runs[ground.folder]

    return run
