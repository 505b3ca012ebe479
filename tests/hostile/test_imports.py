"""What a plugin does while it is imported changes nothing outside of its own process."""

from __future__ import annotations

import pytest

from tests.hostile.conftest import RIVALS
from tests.hostile.outside import namespaces
from tests.hostile.running import Ground, copied, ended_well, snapshot

pytestmark = pytest.mark.skipif(
    not namespaces(),
    reason="this kernel gives a process no namespaces, so less is out of its reach",
)


@pytest.fixture
def ground(honest_ground, honest, tmp_path):
    return copied(Ground(tmp_path / "ground"), honest_ground.store)


def test_an_import_does_nothing_in_the_name_of_the_user(ground, honest):
    run = ground.run(["imports"], ["red.nothing", "red.listen", *RIVALS])
    assert ended_well(run), run.tail
    assert snapshot(ground.user) == ground.untouched
    rows = run.rows
    assert {name: rows[name] for name in RIVALS} == honest.rows
    assert rows["red.nothing"]["student_acc"] == honest.rows["none"]["student_acc"]
    assert rows["red.listen"]["status"] == "ok", rows["red.listen"]["reason"]


@pytest.mark.parametrize("command", ["list defenses", "plan"])
def test_nor_for_a_command_that_only_shows(ground, command):
    words = command.split()
    if command != "list defenses":
        words += ["--attack", "badnets", "--pair", "wrn10_1-wrn10_1", "--defense", "red.nothing"]
    shown = ground.call([*words, f"--plugin-file={ground.plugin('imports')}"], ground.folder)
    assert shown.code == 0, shown.tail
    assert "red" in shown.text
    assert snapshot(ground.user) == ground.untouched


@pytest.mark.parametrize("name", ["quits", "lingers"])
def test_a_plugin_that_cannot_be_imported_is_said_to_be_broken(ground, name):
    run = ground.run([name], ["none"], limit=90)
    assert run.code is not None, "it hangs"
    assert f"{name}.py" in run.tail
    assert run.code == 2 or (run.code == 0 and run.rows["none"]["status"] == "ok")
