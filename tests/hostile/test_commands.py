"""Commands that import plugins, and a store that others may change."""

from __future__ import annotations

import pytest

from tests.hostile.outside import namespaces
from tests.hostile.running import snapshot
from tests.sizes import SOAK

COMMANDS = {
    "plugins": ["plugins"],
    "list": ["list", "defenses"],
    "plan": [
        *("plan", "--attack", "badnets", "--pair", "wrn10_1-wrn10_1"),
        *("--defense", "imports.nothing"),
    ],
}


@pytest.mark.skipif(not namespaces(), reason="this kernel gives a process no namespaces of its own")
@pytest.mark.parametrize("name", COMMANDS if SOAK else ["plugins"])
def test_a_command_that_only_shows_runs_no_plugin_in_the_name_of_the_user(ground, name):
    """Beside it lies a plugin that ends the process that imports it. That is said, and no more."""
    files = [f"--plugin-file={ground.plugin(file)}" for file in ("imports", "quits")]
    named = files if name == "plugins" else files[:1]
    shown = ground.call([*COMMANDS[name], *named], ground.folder)
    assert shown.code == 0, shown.tail
    assert "imports" in shown.text
    if name == "plugins":
        assert "broken" in shown.text
        assert "quits.py" in shown.text
    else:
        refused = ground.call([*COMMANDS[name], *files], ground.folder)
        assert refused.code == 2, refused.tail
        assert "quits.py: its process exited with code 0" in refused.text
    assert snapshot(ground.user) == ground.untouched


WAYS = ["other_files", "piped", "linked", "folder_linked", "endless", "no_classes"]


@pytest.mark.parametrize("way", WAYS if SOAK else WAYS[:1])
def test_images_of_a_plugin_are_images_or_an_error(ground, way):
    run = ground.run(["datasets"], ["none"], "--dataset", f"hostile_{way}")
    assert run.code == 2, run.tail
    assert "cannot be used" in run.text
    assert "Traceback" not in run.text
    assert snapshot(ground.user) == ground.untouched


def test_a_store_that_all_may_write_is_not_used_without_a_word(ground):
    for path in (ground.store, *ground.store.rglob("*")):
        if path.is_dir():
            path.chmod(0o777)
    run = ground.run([], ["none"])
    assert run.code in (0, 2), run.tail
    said = " ".join(run.text.split())
    assert "other users" in said, said
    assert str(ground.store) in said
