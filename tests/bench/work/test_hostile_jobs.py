"""A process that says nonsense, too much or nothing costs its own job, and nothing else."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from kdbench.bench.kinds import Kind
from kdbench.bench.work.executors import running
from kdbench.bench.work.executors.local import JobLimits, LocalExecutor
from kdbench.bench.work.job import BOX, Done, Progressed
from tests.bench.work.hostile import carry_out, job


@pytest.fixture(scope="module")
def shared():
    """One process forks for all these tests, since torch takes long to import."""
    executor = LocalExecutor(jobs=4)
    yield executor
    executor.close()


@pytest.fixture
def executor(shared):
    # On a busy machine an honest process may need long to end after its last word.
    shared.limits, shared.without, shared.grace_s = JobLimits(), (), 300.0
    yield shared
    left = [each.job.key for each in shared._running]
    for each in shared._running:
        each.end("crashed", "left over")
    while shared.free() < 4:
        shared.wait(1.0)
    assert left == []


def outcome_of(executor, tmp_path, code, **changes):
    outcomes, _ = carry_out(executor, job(tmp_path / "job", code, **changes))
    return outcomes["key"]


def test_a_job_that_says_what_jobs_say(executor, tmp_path):
    outcomes, steps = carry_out(executor, job(tmp_path / "job", "print('hello'); say(STEP); end()"))
    outcome = outcomes["key"]
    assert (outcome.status, outcome.reason, outcome.facts["loss"]) == ("ok", "", 0.5)
    assert (outcome.facts["device"], outcome.log) == ("cpu", "hello\n")
    assert isinstance(steps[0], Progressed)


# -- nonsense --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        'channel.send(b"{")',
        'channel.send(b"{\\n")',
        'channel.send(b"\\n"); end()',
        'channel.send(b"\\0" * 9 + b"\\n"); end()',
        'channel.send(b"[" * 100_000 + b"\\n"); end()',
        'channel.sendall(b"x" * (9 << 20) + b"\\n"); end()',
        'say(STEP | {"total": 10 ** 3000}); end()',
        'say(STEP | {"loss": "\\x1b[2J"}); end()',
        'say(STEP | {"place": 1}); end()',
        'say({"job": "key", "exit": 0}); end()',
        'say({"exit": 0, "peak_mb": 0}); end()',
        'say({"pid": 1}); end()',
        'say({"hello": "another device"}); end()',
        'say({"wall": {"text": "landlock 99", "reached": []}}); end()',
        'say({"outcomes": [GOOD]}, STEP); os._exit(0)',
        'say({"outcomes": [GOOD]}, {"outcomes": [GOOD]}); os._exit(0)',
        'say({"outcomes": []}); os._exit(0)',
        "end({}, {})",
        'end({"files": ["manifest.json"]})',
        'end({"files": []})',
        'end({"status": "timeout"})',
        'end({"status": "not learned", "reason": "ACC 3 %"})',
        'end({"seconds": -1e300})',
        'end({"peak_mb": 1e300})',
        'end({"facts": {"a": float("nan")}})',
        'end({"facts": {"a": "\\x1b]0;"}})',
        'facts = 1\nfor _ in range(960): facts = {"a": facts}\nend({"facts": facts})',
        'end({"reason": "\\x07"})',
    ],
)
def test_nonsense_is_a_crash(executor, tmp_path, code):
    outcome = outcome_of(executor, tmp_path, code)
    assert outcome.status == "crashed"
    assert "it reported nonsense" in outcome.reason
    assert outcome.reason.isprintable()


def test_a_line_without_an_end_is_soon_too_long(executor, tmp_path):
    """The sender would need minutes: it is ended before."""
    code = 'while True: channel.sendall(b"x" * (1 << 20))'
    outcome = outcome_of(executor, tmp_path, code)
    assert (outcome.status, outcome.reason) == (
        "crashed",
        "it reported nonsense (a line is too long)",
    )


def test_the_check_of_a_teacher_may_say_that_it_has_not_learned(executor, tmp_path):
    code = 'end({"status": "not learned", "reason": "ACC 3 %"})'
    outcome = outcome_of(executor, tmp_path, code, kind=Kind.CHECK)
    assert (outcome.status, outcome.reason) == ("not learned", "ACC 3 %")


def test_what_a_measurement_is_not(executor, tmp_path):
    facts = {"acc": [5, 10], "asr": [3, 9], "ra": [0, 9], "base": [9, 9]}
    facts |= {"asr_hits": base64.b64encode(bytes([0b11100000, 0])).decode()}
    facts |= {"variance": {"clean": [1.0], "triggered": [1.0]}}
    for number, (change, status) in enumerate(
        (({}, "ok"), ({"acc": [11, 10]}, "crashed"), ({"asr": None}, "crashed"))
    ):
        measuring = job(
            tmp_path / str(number), f"end({{'facts': {facts | change!r}}})", kind=Kind.EVALUATE
        )
        measuring.task["inputs"] = {"model": "m", "trigger": "t"}
        assert carry_out(executor, measuring)[0]["key"].status == status


def test_the_coordinator_knows_better(executor, tmp_path):
    lies = {"confinement": ["x"], "device": "\u2603", "cohort": 7, "profile": "long", "loss": 1.0}
    code = f"end({{'facts': {lies!r}, 'device_peak_mb': 77.0}})"
    outcome = outcome_of(executor, tmp_path, code)
    facts = outcome.facts
    assert (facts.pop("device"), facts.pop("loss")) == ("cpu", 1.0)
    assert isinstance(facts.pop("confinement"), str)
    assert facts == {}
    assert outcome.peak_mb != 77
    assert 0 <= outcome.seconds < 120


def test_steps_without_end_are_not_all_read(executor, tmp_path, monkeypatch):
    read = []
    parse = running.parse
    monkeypatch.setattr(running, "parse", lambda *said: read.append(1) or parse(*said))
    code = """
line = json.dumps(STEP).encode() + b"\\n"
for _ in range(100): channel.sendall(line * 1000)
end()
"""
    outcomes, steps = carry_out(executor, job(tmp_path / "job", code))
    assert outcomes["key"].status == "ok"
    # How many of the 100,000 are read depends on how fast the two processes are.
    assert 0 < len(steps) < len(read) < 50_000


# -- silence ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("os._exit(0)", "the process ended without an outcome (os._exit?)"),
        ("os._exit(3)", "the process exited with code 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "the process was killed by SIGSEGV"),
        ("end_quietly = channel.close(); os._exit(0)", "the process ended without an outcome"),
        ("say({'outcomes': [GOOD]}); os._exit(3)", "the process exited with code 3"),
        ("channel.close(); time.sleep(6000)", "the process closed its channel and went on"),
        ("channel.shutdown(socket.SHUT_RDWR); time.sleep(6000)", "closed its channel and went on"),
        ("say({'outcomes': [GOOD]}); time.sleep(6000)", "reported its outcome and went on"),
    ],
)
def test_a_job_that_says_nothing_is_seen(executor, tmp_path, code, reason):
    if reason.endswith("went on"):
        executor.grace_s = 0.1
    outcome = outcome_of(executor, tmp_path, code)
    assert outcome.status == "crashed"
    assert reason in outcome.reason


def test_a_plugin_that_raises_is_a_failure_and_its_traceback_is_in_the_log(executor, tmp_path):
    outcome = outcome_of(executor, tmp_path, "print('before')\nraise SystemExit('no')")
    assert outcome.status in ("failed", "crashed")
    assert "before" in outcome.log


@pytest.mark.parametrize("mask", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN);"])
def test_a_job_that_takes_too_long_is_ended(executor, tmp_path, mask):
    executor.limits = JobLimits(seconds=0.5)
    outcome = outcome_of(executor, tmp_path, f"{mask}time.sleep(600)")
    assert (outcome.status, outcome.reason) == ("timeout", "it took longer than the limit of 0.5 s")
    assert outcome.seconds >= 0.5


# -- neighbours ------------------------------------------------------------------------------------

WAITS = """
while not os.path.exists(BOX + "/go"): time.sleep(0.01)
end()
"""
ATTACK = """
texts = {thing for thing in gc.get_objects() if isinstance(thing, str)}
for handle in range(3, 256):
    for line in (b'{"exit": 0}', b'{"job": "victim", "exit": 0}', b'{"outcomes": []}'):
        try:
            os.write(handle, line + b"\\n")
        except OSError:
            pass
parent = os.getppid()
for pid in {parent, *range(max(2, parent - 50), parent + 50)} - {os.getpid()}:
    try:
        os.kill(pid, 0)
    except OSError:
        pass
os._exit(0)
"""


#: Layers of the wall that a kernel may lack.
LACKING = [(), ("namespaces",), ("namespaces", "seccomp"), ("namespaces", "seccomp", "landlock")]


@pytest.mark.parametrize("without", LACKING)
def test_no_job_ends_another(executor, tmp_path, without):
    executor.without = without
    victim = job(tmp_path / "victim", WAITS, key="victim")
    executor.start(victim)
    outcomes, _ = carry_out(executor, job(tmp_path / "attacker", ATTACK, key="attacker"))
    assert outcomes["attacker"].status == "crashed"
    (victim.folder / BOX / "go").touch()
    while not (events := executor.wait(100.0)):
        pass
    assert [(event.key, event.outcome.status) for event in events] == [("victim", "ok")]


SEARCH = """
import re
seen = 0
with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
    for line in maps:
        first, last = (int(word, 16) for word in line.split()[0].split("-"))
        if line.split()[1][:2] == "rw":
            try:
                memory.seek(first)
                seen += len(re.findall(rb"not-my-[n]ame", memory.read(last - first)))
            except (OSError, ValueError, OverflowError):
                pass
end({"facts": {"seen": seen}})
"""


def test_a_job_holds_nothing_of_another(executor, tmp_path):
    """Neither in an object nor in memory that was given back."""
    victim = job(tmp_path / "not-my-name", WAITS, key="victim")
    executor.start(victim)
    outcomes, _ = carry_out(executor, job(tmp_path / "search", SEARCH, key="search"))
    (victim.folder / BOX / "go").touch()
    while not executor.wait(100.0):
        pass
    assert outcomes["search"].facts["seen"] == 0
    outcomes, _ = carry_out(executor, job(tmp_path / "not-my-name-but-mine", SEARCH))
    assert outcomes["key"].facts["seen"] > 0, "the search sees nothing"


# -- cohorts ---------------------------------------------------------------------------------------


def cohort(tmp_path, code):
    first, *others = (job(tmp_path / key, code, key=key) for key in "abc")
    return replace(first, beside=tuple(others))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("end({}, {'status': 'failed', 'reason': 'no'}, {})", ["ok", "failed", "ok"]),
        ("end({}, {})", ["crashed"] * 3),
        ("end({}, {}, {'facts': {'a': 10 ** 30}})", ["crashed"] * 3),
        ("os._exit(1)", ["crashed"] * 3),
    ],
)
def test_each_of_several_jobs_gets_its_own_outcome(executor, tmp_path, code, expected):
    outcomes, _ = carry_out(executor, cohort(tmp_path, code))
    assert [outcomes[key].status for key in "abc"] == expected
    if "ok" in expected:
        assert outcomes["a"].facts["cohort"] == 3
        assert outcomes["a"].seconds == outcomes["c"].seconds


def test_steps_are_those_of_their_job(executor, tmp_path):
    code = "say(STEP | {'place': 2}); end({}, {}, {})"
    _, steps = carry_out(executor, cohort(tmp_path, code))
    assert [step.key for step in steps] == ["c"]


# -- descendants -----------------------------------------------------------------------------------

#: Starts a process in a session of its own, whose parent ends at once.
SURVIVOR = """
def survive(code, mark):
    if not os.fork():
        os.setsid()
        subprocess.Popen([sys.executable, "-I", "-S", "-c", code, mark])
        os._exit(0)
    os.wait()
"""


def alive(mark):
    """Processes whose command line holds a word."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in words and state != "Z":
            found.append(entry.name)
    return found


@pytest.mark.parametrize("without", LACKING)
@pytest.mark.parametrize("ending", ["end()", "os._exit(3)", "time.sleep(600)"])
def test_what_a_job_starts_ends_with_it(executor, tmp_path, ending, without):
    # An ending of its own has all the time that a busy machine takes.
    executor.without = without
    executor.limits = JobLimits(seconds=2 if ending.startswith("time.sleep") else 300)
    mark = f"survivor-{time.monotonic_ns()}"
    code = SURVIVOR + (
        f"survive('import sys, time; print(1, flush=True); time.sleep(600)', {mark!r}); {ending}"
    )
    outcome = outcome_of(executor, tmp_path, code)
    assert outcome.status == {"end()": "ok", "os._exit(3)": "crashed"}.get(ending, "timeout")
    assert alive(mark) == []


def test_the_memory_of_what_it_starts_counts(executor, tmp_path):
    executor.limits = JobLimits(memory_mb=1200)
    hog = "import time; held = bytearray(b'x' * (1300 << 20)); time.sleep(600)"
    code = SURVIVOR + f"survive({hog!r}, 'hog'); time.sleep(600)"
    outcome = outcome_of(executor, tmp_path, code)
    assert outcome.status == "out of memory"
    assert outcome.reason.endswith("the limit is 1200 MiB")
    assert outcome.peak_mb > 1200


# -- the executor itself ---------------------------------------------------------------------------


def test_a_job_that_cannot_be_started_has_failed(executor, tmp_path):
    gone = replace(job(tmp_path / "job"), folder=tmp_path / "nowhere")
    outcomes, _ = carry_out(executor, gone)
    assert outcomes["key"].status == "failed"
    assert "cannot be started" in outcomes["key"].reason


def test_a_job_whose_task_is_no_json_has_failed(executor, tmp_path):
    each = job(tmp_path / "job")
    each.task["values"] = {"weight": float("nan")}
    outcomes, _ = carry_out(executor, each)
    assert outcomes["key"].status == "failed"
    assert "cannot be started" in outcomes["key"].reason


def test_closing_ends_what_runs(tmp_path):
    executor = LocalExecutor()
    executor.start(job(tmp_path / "job", f"open(BOX + '/began', 'w'); {WAITS}"))
    while not (tmp_path / "job" / BOX / "began").exists():
        assert not any(isinstance(event, Done) for event in executor.wait(0.1))
    executor.close()
    assert executor.wait(0.0) == []
    assert executor.free() == 1


def test_facts_are_strict_json(executor, tmp_path):
    outcome = outcome_of(executor, tmp_path, "end({'facts': {'a': [1, None, {'b': True}]}})")
    assert json.loads(json.dumps(outcome.facts, allow_nan=False))["a"] == [1, None, {"b": True}]


# -- stalls ----------------------------------------------------------------------------------------


def test_a_job_that_does_nothing_is_ended_with_the_end_of_its_log(executor, tmp_path):
    executor.limits = JobLimits(stall_s=0.5)
    outcome = outcome_of(executor, tmp_path, "print('waiting', flush=True)\ntime.sleep(600)")
    assert outcome.status == "timeout"
    assert "for 0.5 s it reported no step and used no processor time" in outcome.reason
    assert outcome.reason.endswith("; its log ends: waiting")


def test_a_job_that_computes_without_a_word_is_not_ended(executor, tmp_path):
    executor.limits = JobLimits(stall_s=3.0)
    code = "begin = time.process_time()\nwhile time.process_time() - begin < 3.5: pass\nend()"
    assert outcome_of(executor, tmp_path, code).status == "ok"


def test_a_job_that_dies_says_the_end_of_its_log(executor, tmp_path):
    code = "print('\\n'.join('abcd'), flush=True)\nos.kill(os.getpid(), signal.SIGKILL)"
    outcome = outcome_of(executor, tmp_path, code)
    assert outcome.status == "crashed"
    assert outcome.reason.endswith("; its log ends: b | c | d")
