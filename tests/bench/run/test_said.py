"""Whatever jobs say, a run ends with all its rows, and its files hold nothing that breaks them."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdbench.bench.plan import prepare
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run import runner
from kdbench.bench.run.events import Quiet
from kdbench.bench.store.artefacts import Store
from kdbench.bench.work.executors.inline import InlineExecutor
from kdbench.bench.work.job import BOX, OUT, Done, Job
from kdbench.cli.display import facts_line
from tests.bench.work.said import HELLO, events_of
from tests.bench.work.test_report import JSON
from tests.runs import ANY_TEACHER


class Liar:
    """Answers each job with the files of an honest run, and with lines of its own."""

    jobs, apart = 1, True

    def __init__(self, honest, say):
        self.honest, self.say, self.events, self.said = honest, say, [], 0

    def free(self):
        return 0 if self.events else 1

    def start(self, job: Job):
        for each in (job, *job.beside):
            for name in each.kind.files:
                source = self.honest.folder(each.key) / name
                shutil.copyfile(source, each.folder / BOX / OUT / name)
        facts = [self.honest.find(each.key).facts for each in (job, *job.beside)]
        self.said += len(facts)
        self.events += events_of(job, self.say(facts))

    def wait(self, timeout):
        events, self.events = self.events, []
        return events

    def close(self):
        return


class Seen(Quiet):
    """Shows facts as the command line does."""

    def stage_finished(self, number, kind, title, seconds, facts):
        assert facts_line(facts).isprintable()


@pytest.fixture(scope="module")
def honest(registry, tmp_path_factory):
    """(a plan, the store of an honest run of it)."""
    folder = tmp_path_factory.mktemp("honest")
    spec = RunSpec(
        attacks=("badnets",),
        defenses=("none",),
        pairs=(("wrn10_1", "wrn10_1"),),
        numerics="fp32",
        threads=1,
        train_size=40,
        test_size=40,
        controls=False,
        overrides={f"{part}.epochs": "1" for part in ("clean", "poison", "distill")} | ANY_TEACHER,
    )
    store = Store(folder / "store")
    ready = prepare.prepare(spec, registry, store)
    runner.run(ready, registry, folder / "out", Quiet(), store, InlineExecutor(registry))
    return ready, store


@pytest.fixture
def lied_to(registry, honest, tmp_path):
    """Carries a plan out with a liar; answers (the rows, how many outcomes were said)."""
    ready, kept = honest
    # In memory where that can be had: two hundred runs wait for a disk most of their time.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield partial(_lie, registry, ready, kept, Path(folder))


def _lie(registry, ready, kept, folder, say):
    with tempfile.TemporaryDirectory(dir=folder) as name:
        out = Path(name, "out")
        liar = Liar(kept, say)
        store = Store(Path(name, "store"))
        rows = runner.run(ready, registry, out, Seen(), store, liar)
        assert len(rows) == len(ready.plan.cells)
        json.loads((out / "run.json").read_text(), parse_constant=pytest.fail)
        for name in ("results.csv", "leaderboard.csv", "run.json"):
            text = (out / name).read_text()
            assert "\x1b" not in text
            assert "\x07" not in text
        return rows, liar.said


def outcome(facts):
    return {"status": "ok", "facts": facts}


def line(*outcomes):
    return json.dumps({"outcomes": outcomes}).encode()


def test_an_honest_process_gives_an_honest_row(lied_to):
    rows, _ = lied_to(lambda facts: [HELLO, line(*map(outcome, facts))])
    assert [row["status"] for row in rows] == ["ok"]
    assert rows[0]["student_acc"] is not None


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"acc": [30, 39]}, "failed"),
        ({"acc": [10**15, 10**15]}, "failed"),
        (dict.fromkeys(("asr", "asr_hits", "ra", "base", "variance")), "crashed"),
        ({"variance": {"clean": [], "triggered": []}}, "crashed"),
        ({"device": "\x1b]0;title\x07"}, "crashed"),
        ({"confinement": ["x"]}, "ok"),
    ],
)
def test_one_measurement_that_cannot_be(lied_to, change, status):
    """The first evaluation lies."""
    assert _statuses(lied_to, change, "asr") == [status]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"acc": [9, 9]}, "failed"),
        ({"acc": [10**15, 10**15]}, "failed"),
        ({"acc": [11, 10]}, "crashed"),
        ({"acc": None}, "crashed"),
        ({"asr": [1, 2]}, "crashed"),
        ({"acc": [10, 10]}, "ok"),
    ],
)
def test_one_check_that_cannot_be(lied_to, change, status):
    """The check of the clean teacher lies."""
    assert _statuses(lied_to, change, "acc") == [status]


def _statuses(lied_to, change, name):
    """Of the rows, where the first measurement that says ``name`` lies."""
    lies = iter([change])

    def say(facts):
        if name in facts[0]:
            facts = [facts[0] | next(lies, {})]
        return [HELLO, line(*map(outcome, facts))]

    rows, _ = lied_to(say)
    return [row["status"] for row in rows]


def test_a_thousand_random_outcomes(lied_to):
    said = 0

    @settings(
        max_examples=260, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(st.data())
    def lie(data):
        nonlocal said
        rng = random.Random(data.draw(st.integers(0, 2**32)))
        lies = data.draw(st.lists(JSON, min_size=4, max_size=4))

        def change(facts):
            """Facts that differ from the honest ones in one place, at most."""
            names = [*facts, "confinement", "device", "cohort", "profile", "x"]
            if rng.random() < 0.3:
                facts = facts | {rng.choice(names): rng.choice(lies)}
            changes = {}
            if rng.random() < 0.1:
                name = rng.choice(("status", "reason", "facts", "device_peak_mb", "files"))
                changes = {name: rng.choice(lies)}
            return outcome(facts) | changes

        def say(facts):
            whole = line(*map(change, facts))
            if rng.random() < 0.05:
                whole = whole[: rng.randrange(len(whole))]
            return [HELLO, whole]

        said += lied_to(say)[1]

    lie()
    assert said >= 1000  # 1150 to 1550: how many are said is a draw


def test_each_job_ends_once(lied_to):
    """The events of a process that says all it can think of."""
    del lied_to
    job = Job("key", "distill", None, None, {})
    events = events_of(job, [HELLO, line(outcome({})), line(outcome({})), HELLO, b"x"])
    assert [type(event) for event in events] == [Done]
    assert events[0].outcome.status == "crashed"
