"""One browser for all tests of a file."""

from __future__ import annotations

import pytest

from tests.page.browser import pages
from tests.page.browser.chrome import MISSING, Chrome


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    if MISSING:
        pytest.skip(MISSING)
    browser = Chrome(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """The page of a run with everything that a page can show."""
    return pages.page(tmp_path_factory.mktemp("run"))


@pytest.fixture
def show(chrome, tmp_path):
    """Opens a page."""

    def show(text, **values):
        path = tmp_path / "report.html"
        path.write_text(text, encoding="utf-8")
        chrome.show(path, **values)
        return chrome

    return show
