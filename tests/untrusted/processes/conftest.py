from __future__ import annotations

from pathlib import Path

import pytest

from kdbench.untrusted.processes.client import Zygote


@pytest.fixture(scope="module", autouse=True)
def _walled_acts():
    """Walled processes import ``walled_acts`` from here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield


@pytest.fixture(scope="module")
def zygote(_walled_acts):
    zygote = Zygote()
    yield zygote
    zygote.close()
