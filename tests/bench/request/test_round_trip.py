"""What ``kdbench plan --toml`` writes is read again as the same request, at every value that a
request can have."""

from __future__ import annotations

import json
import math
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdbench._files import read_record, write_record
from kdbench.bench.request.spec import Block, RunSpec
from kdbench.bench.request.specfile import read_spec, write_spec
from kdbench.bench.run.verify import read_request
from kdbench.bench.session.request import parse_overrides
from kdbench.errors import ConfigError
from kdbench.report.columns import MOST_WHOLE

EXAMPLES = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NASTY = ["a,b", 'a"b', "=1+1", "+1", "-1", "@x", "a\nb", "\t", "#", "a = 1", "é😀", "x" * 3000]
SETTINGS = [
    *("true", "1e-3", "5e-324", "1e16", "inf", "nan", "[1, 3]", "{}", "{a = 1}", '"20"', "1 # x"),
    *("1\nb = 2", "[{}]", "1979-05-27", "''"),
]
NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
    st.sampled_from(NASTY),
)
WHOLE = st.one_of(st.integers(0, MOST_WHOLE), st.sampled_from([0, MOST_WHOLE, 10**18]))
SHARES = st.one_of(
    st.floats(0, 1, exclude_min=True), st.sampled_from([5e-324, 1e-300, 1e-5, 1 / 3, 1])
)
WORDS = st.one_of(NAMES, st.integers().map(str), st.floats().map(str), st.sampled_from(SETTINGS))
PARTS = st.text(string.ascii_lowercase + string.digits + "_:/ é", min_size=1, max_size=4)
KEYS = st.lists(PARTS, min_size=1, max_size=3).map(".".join)


def several(values, least=1):
    return st.lists(values, min_size=least, max_size=3).map(tuple)


def at_most(names, **more):
    return {name: st.none() | st.integers(low, MOST_WHOLE) for name, low in names.items()} | more


AXES = {
    "attacks": several(NAMES),
    "defenses": several(NAMES),
    "distillers": several(NAMES),
    "pairs": several(st.tuples(NAMES, NAMES)),
    "datasets": several(NAMES),
}
SPECS = st.builds(
    RunSpec,
    **AXES,
    teacher_from=several(NAMES, 0),
    presets=several(NAMES),
    seeds=several(WHOLE),
    data_dir=st.none() | NAMES.map(lambda name: f"/{name.replace(chr(0), '')}"),
    download=st.booleans(),
    **at_most({"image_size": 8, "num_classes": 2, "train_size": 2, "test_size": 2}),
    data_seed=WHOLE,
    target_class=WHOLE,
    transfer_fraction=st.none() | SHARES,
    clean_fraction=st.none() | SHARES,
    unlabeled=st.none() | SHARES,
    controls=st.booleans(),
    device=NAMES,
    numerics=st.sampled_from(["auto", "fp32", "bf16"]),
    threads=st.none() | st.integers(1, 1024),
    overrides=st.dictionaries(KEYS, WORDS.map(str.strip), max_size=4),
    also=several(st.builds(Block, **{name: st.none() | axis for name, axis in AXES.items()}), 0),
)


def request_of(path):
    """The request of a file, as kdbench.bench.session.request makes it of names that exist."""
    fields = read_spec(path)
    return RunSpec(**fields)


@EXAMPLES
@given(SPECS)
def test_a_request_is_read_as_it_was_written(tmp_path, spec):
    text = write_spec(spec)
    (tmp_path / "s.toml").write_bytes(text.encode())
    again = request_of(tmp_path / "s.toml")
    assert again == spec
    assert all(c.isprintable() or c == "\n" for c in text)
    # An editor of another system, which marks UTF-8 and ends its lines otherwise.
    (tmp_path / "s.toml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert request_of(tmp_path / "s.toml") == spec


@EXAMPLES
@given(SPECS)
def test_the_record_of_a_run_holds_its_request(tmp_path, spec):
    write_record({"config": {"request": spec.model_dump(mode="json")}}, tmp_path / "run.json")
    kept = spec.model_copy(update={"download": False})
    assert read_request(tmp_path) == kept
    record = read_record(tmp_path / "run.json")
    assert record["config"]["request"] == json.loads(json.dumps(spec.model_dump(mode="json")))


@EXAMPLES
@given(KEYS.map(str.strip).filter(bool), WORDS)
def test_what_set_says_is_kept(key, word):
    assert parse_overrides([f"{key}={word}"]) == {key: word.strip()}


def test_a_relative_folder_stays_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = RunSpec(attacks=("a",), pairs=(("t", "s"),), data_dir="DATA")
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "s.toml").write_text(write_spec(spec))
    assert request_of(tmp_path / "specs" / "s.toml").data_dir == tmp_path / "DATA"


def test_a_name_that_no_file_can_hold_is_refused():
    spec = RunSpec(attacks=("a",), pairs=(("t", "s"),), data_dir="/caf\udce9")
    with pytest.raises(ConfigError, match=r"/caf.udce9', a name that is not UTF-8"):
        write_spec(spec)


@pytest.mark.parametrize("value", [MOST_WHOLE + 1, -1, 10**20])
def test_seeds_have_the_range_that_the_readers_have(value):
    with pytest.raises(ValueError, match=r"(less|greater) than or equal"):
        RunSpec(attacks=("a",), pairs=(("t", "s"),), seeds=(value,))


@pytest.mark.parametrize("value", [0.0, -1e-300, math.inf, math.nan, 1.0000001])
def test_a_share_has_a_range(value):
    with pytest.raises(ValueError, match="clean_fraction"):
        RunSpec(attacks=("a",), pairs=(("t", "s"),), clean_fraction=value)
