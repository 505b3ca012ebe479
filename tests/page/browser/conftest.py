"""One browser for all tests of a file."""

from __future__ import annotations

import pytest

from tests.page.browser.chrome import MISSING, Chrome


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    if MISSING:
        pytest.skip(MISSING)
    browser = Chrome(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
