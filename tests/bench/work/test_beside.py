"""Companions: further processes of a job, that share nothing with it but a socket."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from kdbench.bench.work.executors.inline import _beside
from kdbench.bench.work.executors.local import JobLimits, LocalExecutor
from kdbench.bench.work.job import BOX, IN, Companion
from tests.bench.work.hostile import carry_out, job

#: The plugin finds the descriptors of its process's companions.
LINKS = """
frame = sys._getframe()
while "links" not in frame.f_locals:
    frame = frame.f_back
links = frame.f_locals["links"]
"""
ASKS = """
with socket.socket(fileno=os.dup(links["one"])) as companion:
    companion.sendall(json.dumps({"paths": PATHS}).encode())
    answer = json.loads(companion.recv(1 << 16))
end({"facts": answer})
"""
#: The end of a companion is the end of the socket between the two.
WAITS = """
with socket.socket(fileno=os.dup(links["one"])) as companion:
    answer = companion.recv(1)
end({"facts": {"answer": answer.decode()}})
"""


@pytest.fixture(scope="module")
def executor():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        executor = LocalExecutor(jobs=2)
        executor.warm_up()
    yield executor
    executor.close()


@pytest.fixture(autouse=True)
def _unlimited(executor):
    executor.limits = JobLimits()


def with_companion(folder, act, code, reads=(), **order):
    companion = Companion("one", f"companion_acts:{act}", order, reads)
    return job(folder, LINKS + code, companions=(companion,))


def test_a_companion_is_told_its_order_and_opens_what_it_may(executor, tmp_path):
    folder = tmp_path / "job"
    allowed, secret = folder / IN / "trigger", folder / IN / "labels"
    code = f"open(BOX + '/result', 'w').close(); PATHS = {[str(allowed), str(secret)]!r}"
    code += f"+ [{str(folder / BOX / 'result')!r}]\n{ASKS}"
    asking = with_companion(folder, "answers", code, (allowed,), number=7)
    allowed.write_text("x")
    secret.write_text("x")
    outcomes, _ = carry_out(executor, asking)
    facts = outcomes["key"].facts
    assert (facts["order"], facts["links"]) == ({"number": 7}, ["job"])
    reached = list(facts["reached"].values())
    if facts["confinement"] == "none":
        pytest.skip("this kernel cannot confine a process: a companion opens what it likes")
    assert reached == [True, False, False]
    # Its temporary files are where the job cannot write.
    assert (folder / "tmp-one" / "own").read_text() == "x"


def test_a_companion_ends_with_its_job(executor, tmp_path):
    outcomes, _ = carry_out(executor, with_companion(tmp_path / "job", "sleeps", "end()"))
    assert outcomes["key"].status == "ok"
    code = f"say({{'outcomes': [GOOD]}}); os._exit(3)\n{WAITS}"
    outcomes, _ = carry_out(executor, with_companion(tmp_path / "crashes", "sleeps", code))
    assert outcomes["key"].status == "crashed"


def test_a_job_sees_the_end_of_its_companion(executor, tmp_path):
    outcomes, _ = carry_out(executor, with_companion(tmp_path / "job", "leaves", WAITS))
    assert outcomes["key"].facts["answer"] == ""


def test_what_a_companion_says_to_the_coordinator_is_dropped(executor, tmp_path):
    code = "time.sleep(0.3); end()"
    outcomes, _ = carry_out(executor, with_companion(tmp_path / "job", "floods", code))
    assert outcomes["key"].status == "ok"


def test_a_companion_leaves_no_word_in_the_log_of_its_job(executor, tmp_path):
    code = """
with socket.socket(fileno=os.dup(links["one"])) as companion:
    companion.recv(1)
end({"facts": {"size": os.fstat(1).st_size, "place": os.lseek(1, 0, os.SEEK_CUR)}})
"""
    outcomes, _ = carry_out(executor, with_companion(tmp_path / "job", "writes", code))
    facts = outcomes["key"].facts
    assert (facts["size"], facts["place"]) == (0, 0)
    assert outcomes["key"].log == "x" * 100


def test_the_memory_of_a_companion_counts(executor, tmp_path):
    executor.limits = JobLimits(memory_mb=1200)
    outcomes, _ = carry_out(executor, with_companion(tmp_path / "job", "hogs", WAITS))
    assert outcomes["key"].status == "out of memory"


def test_a_limit_ends_job_and_companion(executor, tmp_path):
    executor.limits = JobLimits(seconds=0.5)
    outcomes, _ = carry_out(executor, with_companion(tmp_path / "job", "sleeps", WAITS))
    assert outcomes["key"].status == "timeout"


def test_in_this_process_a_companion_is_a_thread(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with _beside([Companion("one", "companion_acts:answers", {"number": 7})]) as links:
        os.write(links["one"], b'{"paths": []}')
        answer = json.loads(os.read(links["one"], 4096))
    assert answer["order"] == {"number": 7}
