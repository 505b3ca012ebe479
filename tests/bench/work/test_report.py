"""What a job says is believed only if it is what jobs say: everything else is nonsense, never an
error of the coordinator."""

from __future__ import annotations

import base64
import json
import math
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdbench.bench.kinds import Kind
from kdbench.bench.work import report
from kdbench.bench.work.report import (
    HelloReport,
    NonsenseError,
    OutcomeReport,
    OutcomesReport,
    StepReport,
    check_facts,
    clean_facts,
    encode,
    misfit,
    parse,
)
from kdbench.training import Step

STEP = {"epoch": 1, "epochs": 2, "done": 3, "total": 4, "images": 5, "loss": 0.5}
GOOD = {"status": "ok", "reason": "", "facts": {"loss": 1.0}}
EVALUATE = Kind.EVALUATE, ("model", "trigger")
PLAIN = Kind.EVALUATE, ("model",)
DISTILL = Kind.DISTILL, ("teacher",)
MEASURED = {
    "acc": [5, 10],
    "asr": [3, 9],
    "ra": [0, 9],
    "base": [9, 9],
    "asr_hits": base64.b64encode(bytes([0b11100000, 0])).decode(),
    "variance": {"clean": [1.0, 2.0], "triggered": [0.5]},
}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    max_leaves=8,
)


def said(value):
    return parse(json.dumps(value).encode(), tasks=1)


def step(**changes):
    return {"place": 0, **STEP, **changes}


def outcomes(*changes):
    return {"outcomes": [GOOD | change for change in changes]}


def test_what_a_job_says_comes_back_as_it_was():
    failed = OutcomeReport(status="failed", reason="no", profile={"x_s": 1})
    for each in (
        HelloReport(hello="cpu"),
        StepReport.of(1, Step(**STEP)),
        OutcomesReport(outcomes=[failed, OutcomeReport(status="ok", facts={"loss": 0.5})]),
    ):
        assert parse(encode(each), tasks=2) == each
    assert said(step()).step() == Step(**STEP)
    assert said(step(loss=None)).step().loss is None


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "\x1b"},
        {"loss": math.nan},
        {"loss": math.inf},
        {"epoch": "one"},
        {"total": None},
        {"done": math.inf},
        {"done": -1},
        {"done": 3.5},
        {"epochs": True},
        {"total": 10**400},
        {"total": 10**3000},
        {"total": 2**53 + 1},
        {"place": -1},
        {"place": 1},
        {"place": "0x"},
        {"place": None},
        {"job": "another"},
        {"pid": 1},
        {"exit": 0},
    ],
)
def test_steps_are_numbers(changes):
    with pytest.raises(NonsenseError):
        said(step(**changes))


@pytest.mark.parametrize(
    "change",
    [
        {"status": "timeout"},
        {"status": "crashed"},
        {"status": "fine"},
        {"status": ["ok"]},
        {"facts": []},
        {"facts": None},
        {"reason": "\x1b]0;"},
        {"reason": "\x07"},
        {"reason": "x" * 2001},
        {"reason": 3},
        {"files": ["manifest.json"]},
        {"seconds": -1e300},
        {"peak_mb": 1e300},
        {"device_peak_mb": 1e300},
        {"device_peak_mb": -1.0},
        {"device_peak_mb": "1"},
        {"profile": {"x_s": "long"}},
        {"profile": {"x_s": -1}},
        {"profile": []},
        {"facts": {"\n": 1}},
        {"facts": {"a": "\x1b[2J"}},
        {"facts": {"a": 2**64}},
        {"facts": {"a": math.nan}},
        {"facts": {"a": "x" * (report.CHARACTERS + 1)}},
    ],
)
def test_an_outcome_is_of_its_schema(change):
    with pytest.raises(NonsenseError):
        said(outcomes(change))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"{}",
        b"[]",
        b"3",
        b"null",
        b"\xff",
        b'{"hello": "cpu"}{',
        b'{"outcomes": []}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 100_000,
        b'{"hello": "' + b"x" * 5000 + b'"}',
        b'{"hello": "\\ud800"}',
    ],
)
def test_no_line_is_an_error_of_the_reader(line):
    with pytest.raises(NonsenseError):
        parse(line, tasks=1)


def test_there_are_as_many_outcomes_as_tasks():
    for count in (0, 1, 3, 100_000):
        with pytest.raises(NonsenseError, match="outcomes of 2 tasks"):
            parse(json.dumps(outcomes(*[{}] * count)).encode(), tasks=2)
    assert len(parse(json.dumps(outcomes({}, {})).encode(), tasks=2).outcomes) == 2


def nested(depth):
    value = 1
    for _ in range(depth):
        value = {"a": value}
    return value


def test_facts_have_a_depth_and_a_size():
    check_facts(*DISTILL, nested(report.DEPTH))
    said(outcomes({"facts": nested(report.DEPTH)}))
    for deep in (report.DEPTH + 1, 960):
        with pytest.raises(NonsenseError):
            check_facts(*DISTILL, nested(deep))
    for facts in (nested(report.DEPTH + 1), nested(100)):
        with pytest.raises(NonsenseError, match="nested too deep"):
            said(outcomes({"facts": facts}))
    check_facts(*DISTILL, {"a": list(range(report.VALUES - 2))})
    for much in ({"a": list(range(report.VALUES))}, {"a": ["x" * 99_999] * 11}):
        with pytest.raises(NonsenseError, match="too much"):
            check_facts(*DISTILL, much)


def test_a_million_errors_are_not_listed_one_by_one():
    """A model would make an object of each."""
    line = b'{"outcomes": [{"status": "ok", "facts": {}, %s}]}' % b", ".join(
        b'"%x": 1' % n for n in range(400_000)
    )
    tracemalloc.start()
    try:
        with pytest.raises(NonsenseError):
            parse(line, tasks=1)
        assert tracemalloc.get_traced_memory()[1] < 20 * len(line)
    finally:
        tracemalloc.stop()


def test_a_reason_for_nonsense_is_short_and_harmless():
    for value in (outcomes({"\x1b" * 5000: 1}), step(**{"\x1b[2J": 1}), outcomes({"status": "x"})):
        with pytest.raises(NonsenseError) as caught:
            said(value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) <= 200


def test_a_measurement_is_what_rows_are_made_of():
    check_facts(*EVALUATE, MEASURED)
    check_facts(*PLAIN, {"acc": [0, 1]})
    check_facts(*DISTILL, {"acc": "what it likes"})


@pytest.mark.parametrize(
    "change",
    [
        {"acc": [11, 10]},
        {"acc": [0, 0]},
        {"acc": [1.5, 10]},
        {"acc": [True, 10]},
        {"acc": [-1, 10]},
        {"acc": [5]},
        {"acc": "510"},
        {"acc": [5, 8]},
        {"ra": None},
        {"base": [0, 8]},
        {"asr": [2, 9]},
        {"asr_hits": "?"},
        {"asr_hits": ""},
        {"asr_hits": base64.b64encode(bytes([0b11100000])).decode()},
        {"asr_hits": base64.b64encode(bytes([0b11000000, 0b01000000])).decode()},
        {"variance": None},
        {"variance": {"clean": [], "triggered": [1.0]}},
        {"variance": {"clean": [math.inf], "triggered": [1.0]}},
        {"variance": {"clean": [1.0]}},
        dict.fromkeys(("asr", "ra", "base", "asr_hits", "variance")),
    ],
)
def test_a_measurement_that_cannot_be_is_nonsense(change):
    with pytest.raises(NonsenseError):
        check_facts(*EVALUATE, MEASURED | change)


def test_without_a_trigger_there_is_no_asr():
    with pytest.raises(NonsenseError):
        check_facts(*PLAIN, MEASURED)
    with pytest.raises(NonsenseError):
        check_facts(*EVALUATE, {"acc": [5, 10]})


@pytest.mark.parametrize("universal", [0, 0.0, 4.5, 100])
def test_an_attack_may_state_the_response_to_its_trigger(universal):
    check_facts(Kind.BACKDOOR, ("clean",), {"universal": universal})


@pytest.mark.parametrize("universal", [-0.1, 100.5, "5", True, None, [5.0], 10**400])
def test_a_response_that_is_no_percentage_is_nonsense(universal):
    with pytest.raises(NonsenseError):
        check_facts(Kind.BACKDOOR, ("clean",), {"universal": universal})
    check_facts(Kind.BACKDOOR, ("clean",), {})


def test_measurements_of_one_cell_fit_together():
    assert misfit([MEASURED, MEASURED], 10) is None
    assert misfit([{"acc": [1, 10]}] * 2, 10) is None
    assert "10 test images" in misfit([MEASURED, MEASURED | {"acc": [9, 9]}], 10)
    assert "the same triggered" in misfit([MEASURED, MEASURED | {"asr": [3, 8]}], 10)
    assert "the same triggered" in misfit([MEASURED, {"acc": [1, 10]}], 10)


def test_what_the_coordinator_knows_is_not_the_jobs_to_say():
    lies = {"confinement": ["x"], "device": "\x1b", "cohort": 7, "profile": {}, "loss": 1.0}
    told = OutcomeReport(status="ok", facts=lies)
    outcome = told.outcome(2.0, 3.0, {"confinement": "landlock 7", "device": "cpu"})
    assert outcome.facts == {"confinement": "landlock 7", "device": "cpu", "loss": 1.0}
    assert (outcome.seconds, outcome.peak_mb) == (2.0, 3.0)


def test_an_honest_plugins_facts_are_made_harmless():
    facts = clean_facts({"a\n": "b\x1b", "c": (1, math.nan, {2: ("\t",)})})
    assert facts == {"a ": "b\\x1b", "c": [1, None, {"2": [" "]}]}
    check_facts(*DISTILL, facts)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.binary()
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {}, optional={"hello": JSON, "place": JSON, **dict.fromkeys(STEP, JSON), "outcomes": JSON}
    ).map(lambda value: json.dumps(value).encode())
    | st.lists(
        st.fixed_dictionaries(
            {"status": st.just("ok") | JSON},
            optional={"reason": JSON, "facts": JSON, "device_peak_mb": JSON, "profile": JSON},
        ),
        max_size=3,
    ).map(lambda value: json.dumps({"outcomes": value}).encode()),
    st.integers(1, 2),
)
def test_any_line_is_a_report_or_nonsense(line, tasks):
    try:
        told = parse(line, tasks)
    except NonsenseError:
        return
    assert isinstance(told, HelloReport | StepReport | OutcomesReport)
    if isinstance(told, OutcomesReport):
        for each in told.outcomes:
            outcome = each.outcome(1.0, 1.0, {"confinement": "x"})
            assert outcome.reason.isprintable()
            json.dumps(outcome.facts, allow_nan=False)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.fixed_dictionaries(
        {}, optional={name: JSON | st.just(value) for name, value in MEASURED.items()} | {"x": JSON}
    )
)
def test_any_facts_are_a_measurement_or_nonsense(facts):
    try:
        check_facts(*EVALUATE, facts)
    except NonsenseError:
        return
    assert isinstance(misfit([facts, MEASURED], 10), str | None)
