"""Every request that is kept beside the results can be asked as it is written."""

import pytest

from kdbench.bench.request.spec import RunSpec, resolve_all
from kdbench.bench.request.specfile import read_spec
from tests.benchmarks.pages import BENCHMARKS


@pytest.mark.parametrize("path", sorted(BENCHMARKS.rglob("*.toml")), ids=lambda path: path.stem)
def test_every_setting_of_a_request_is_of_a_method_in_it(path, registry):
    request = read_spec(path)
    pairs = tuple(tuple(pair.split("-")) for pair in request["pairs"])
    assert resolve_all(RunSpec(**request | {"pairs": pairs}), registry)
