"""What the store writes of a stage is read back as it was."""

from __future__ import annotations

import os
import subprocess

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdbench.bench.run.timings import FILE, Timings
from kdbench.bench.store.manifest import Manifest
from kdbench.cli.execute import resume_command
from kdbench.report.columns import MOST_WHOLE
from tests.runs import plan_of

EXAMPLES = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(["a\nb", "\u2028", '"seal":""', "\ud800", "a,b", "=1+1", "x" * 5000]),
)
NUMBERS = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([5e-324, 1e-300, 1e16])
)
MANIFESTS = st.builds(
    Manifest,
    key=st.just("a" * 64),
    kind=st.just("clean"),
    title=TEXTS,
    facts=st.dictionaries(TEXTS, st.none() | st.booleans() | NUMBERS | TEXTS, max_size=3),
    files=st.just({}),
    seconds=NUMBERS,
    peak_mb=NUMBERS,
    made=NUMBERS,
    ingredients=st.dictionaries(TEXTS, st.integers(0, MOST_WHOLE), max_size=3),
)


@EXAMPLES
@given(MANIFESTS)
def test_a_manifest_is_read_as_it_was_written(manifest):
    assert Manifest.decoded(manifest.encoded()) == manifest


@EXAMPLES
@given(seconds=st.floats(0, 1e300), seed=st.integers(0, MOST_WHOLE), title=TEXTS)
def test_a_time_is_read_as_it_was_noted(registry, tmp_path_factory, seconds, seed, title):
    root = tmp_path_factory.mktemp("store")
    stage = next(iter(plan_of(registry, seeds=(seed,)).stages.values()))
    object.__setattr__(stage, "title", title)
    manifest = Manifest(stage.key, "clean", title, {}, {}, seconds, 1.0, 0.0, {})
    Timings(root).add(stage, manifest)
    again = Timings(root)
    cost = again.cost(stage)
    assert cost is not None
    assert (cost.seconds, cost.bytes, cost.exact) == (seconds, 0, True)
    assert again.namesake(stage) == stage.key
    assert len((root / FILE).read_bytes().splitlines()) == 1


def _is_word(text):
    """Whether a program can be given it: a word of a command is bytes without a zero."""
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


WORDS = TEXTS.filter(_is_word)


@EXAMPLES
@given(st.lists(WORDS, max_size=5), WORDS)
def test_the_command_to_go_on_is_the_command_that_was_called(tmp_path, words, folder):
    command = resume_command(["run", *words], tmp_path / folder)
    # A shell, since the command has $'...' for what a terminal would obey.
    script = f"kdbench() {{ printf '%s\\0' kdbench \"$@\"; }}; {command}"
    shell = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    parts = [os.fsdecode(part) for part in shell.stdout.split(b"\0")[:-1]]
    assert parts[: len(words) + 2] == ["kdbench", "run", *words]
    assert parts[len(words) + 2 :] in (["--out", str(tmp_path / folder)], [])
