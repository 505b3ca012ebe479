"""What the tests of several plugins start from."""

import copy

import pytest

from tests.plugins.tiny import trained


@pytest.fixture(scope="session")
def _good():
    return trained(1)


@pytest.fixture
def good(_good):
    """A private copy of a trained network."""
    return copy.deepcopy(_good)
