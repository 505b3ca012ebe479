"""A store that other users of the machine may change."""

from __future__ import annotations

import pytest

from tests.hostile.running import Ground, copied


@pytest.fixture
def ground(honest_ground, honest, tmp_path):
    return copied(Ground(tmp_path / "ground"), honest_ground.store)


def test_a_store_that_all_may_write_is_not_used_without_a_word(ground):
    for folder in (ground.store, *[path for path in ground.store.rglob("*") if path.is_dir()]):
        folder.chmod(0o777)
    run = ground.run([], ["none"])
    assert run.code in (0, 2), run.tail
    said = " ".join(run.text.split())
    assert "other users" in said, said
    assert str(ground.store) in said
