"""Commands that import plugins, and a store that others may change."""

from __future__ import annotations

import pytest

from tests.hostile.outside import namespaces
from tests.hostile.running import snapshot
from tests.sizes import SOAK

COMMANDS = {
    "list": ["list", "defenses"],
    "plan": [
        *("plan", "--attack", "badnets", "--pair", "wrn10_1-wrn10_1"),
        *("--defense", "imports.nothing"),
    ],
}


@pytest.mark.skipif(not namespaces(), reason="this kernel gives a process no namespaces of its own")
@pytest.mark.parametrize("name", COMMANDS if SOAK else ["list"])
def test_a_command_that_only_shows_runs_no_plugin_in_the_name_of_the_user(ground, name):
    arguments = [*COMMANDS[name], f"--plugin-file={ground.plugin('imports')}"]
    shown = ground.call(arguments, ground.folder)
    assert shown.code == 0, shown.tail
    assert "imports" in shown.text
    assert snapshot(ground.user) == ground.untouched


@pytest.mark.parametrize("name", ["quits", "lingers"] if SOAK else ["quits"])
def test_a_plugin_that_cannot_be_imported_is_said_to_be_broken(ground, name):
    shown = ground.call(["plugins", f"--plugin-file={ground.plugin(name)}"], ground.folder)
    assert shown.code is not None, "it hangs"
    assert "broken" in shown.text
    assert f"{name}.py" in shown.text


def test_a_store_that_all_may_write_is_not_used_without_a_word(ground):
    for path in (ground.store, *ground.store.rglob("*")):
        if path.is_dir():
            path.chmod(0o777)
    run = ground.run([], ["none"])
    assert run.code in (0, 2), run.tail
    said = " ".join(run.text.split())
    assert "other users" in said, said
    assert str(ground.store) in said
