"""Calls of the command line that nobody chose.

Whatever the options, the files and the surroundings are: it ends, with an exit code that a user can
cause, with a sentence, without a traceback, and it leaves nothing outside its folder. Where nothing
is wrong, it exits with 0.

The suite plays the same hundred cases each time. ``make soak`` plays two thousand others each time.
A case that fails is made as small as possible, and is shown as lines of bash.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz import trees
from tests.fuzz.case import Case
from tests.fuzz.cases import TINY, hostile, sound, tiny_runs
from tests.fuzz.client import Client
from tests.fuzz.found import FOUND
from tests.sizes import SOAK, size


def played(cases: int):
    """How often a test plays. The suite plays the same cases each time."""
    return settings(
        max_examples=cases,
        deadline=None,
        derandomize=not SOAK,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    player = Client(tmp_path_factory.mktemp("fuzz"))
    yield player
    player.close()


@pytest.fixture(scope="module")
def run(client):
    """The files of a run that computed something."""
    arguments = ("run", *TINY, "--dataset", "imagefolder:photos", "--out", "out")
    folder, [(_, ending)] = client.play(Case((arguments,), trees.tree()))
    assert ending.code == 0, ending.err
    return {path.name: path.read_bytes() for path in (folder / "out").iterdir() if path.is_file()}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once(client, name):
    assert not (report := client.judge(FOUND[name])), report


@played(size(70, 1400))
@given(data=st.data())
def test_any_call_ends_well(client, run, data):
    assert not (report := client.judge(data.draw(hostile(run)))), report


@played(size(27, 540))
@given(data=st.data())
def test_a_sound_call_succeeds(client, run, data):
    assert not (report := client.judge(data.draw(sound(run)))), report


@played(size(3, 60))
@given(data=st.data())
def test_a_run_ends_well_and_its_table_can_be_read(client, data):
    assert not (report := client.judge(data.draw(tiny_runs()))), report
