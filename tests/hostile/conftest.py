"""An honest run, whose store and rows the hostile ones are held against."""

from __future__ import annotations

import pytest

from tests.hostile.running import Ended, Ground

RIVALS = ["none", "finetune"]


@pytest.fixture(scope="session")
def honest_ground(tmp_path_factory) -> Ground:
    return Ground(tmp_path_factory.mktemp("honest"))


@pytest.fixture(scope="session")
def honest(honest_ground) -> Ended:
    """A run without a hostile plugin."""
    run = honest_ground.run([], RIVALS)
    assert run.code == 0, run.tail
    return run
