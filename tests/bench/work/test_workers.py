"""The real thing: worker processes that fail, cheat, are interrupted and killed. Small here, full
in ``make soak``."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pandas as pd
import pytest

from kdbench.bench.request.spec import RunSpec
from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.care import verify
from kdbench.bench.work.executors.inline import InlineExecutor
from kdbench.loading.registry import Registry
from tests import forked
from tests.failing_plugin import TINY, environment, kdbench, plant
from tests.runs import ANY_TEACHER, go
from tests.sizes import size

SAID = "said.txt"
TIMINGS = ["wall_s", "peak_mem_mb"]
MATRIX = (
    *TINY,
    "--defense",
    "none",
    "--defense",
    "robustkd",
    "--defense",
    "nad",
    "--set",
    "defense.robustkd.steps=2",
)
#: Trains for some seconds, so that there is a middle to be killed in.
LONG = (
    *TINY,
    "--no-controls",
    "--checkpoint-every",
    "0",
    "--set",
    "clean.epochs=40",
    "--set",
    "distill.epochs=40",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("failing_plugin"))


@pytest.fixture
def env(site, tmp_path):
    return environment(site, tmp_path / "store")


def table(path):
    return pd.read_csv(path / "results.csv").drop(columns=TIMINGS)


def defenses(*names):
    return [word for name in names for word in ("--defense", name)]


def processes(mark):
    """Pids whose environment or command line holds ``mark``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if mark.encode() in text and state != "Z" and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def gone(mark, seconds=300.0):
    end = time.monotonic() + seconds
    while (left := processes(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    return left == []


def test_five_ways_to_fail_cost_five_rows(env, tmp_path):
    fine = [f"fine{n:02d}" for n in range(size(3, 18))]
    ways = {
        "raises": ("failed", "RuntimeError: no such luck =1+1"),
        "segfaults": ("crashed", "killed by SIGSEGV"),
        "exits": ("crashed", "ended without an outcome"),
        "hogs": ("out of memory", "the limit is 1434 MiB"),
        "diverges": ("diverged", "loss is not finite at step"),
    }
    run = [*TINY, *defenses(*fine, *ways), "--memory-limit", "1.4", "--jobs", "2", "--out", "out"]
    done = kdbench(*run, env=env, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    rows = pd.read_csv(tmp_path / "out" / "results.csv").set_index("defense")
    assert len(rows) == len(fine) + 5
    assert (rows.status[fine] == "ok").all()
    assert rows.student_acc[fine].notna().all()
    for name, (status, reason) in ways.items():
        assert rows.status[name] == status
        assert reason in rows.reason[name]
        assert pd.isna(rows.student_asr[name])
    logs = [path.read_text() for path in (tmp_path / "out" / "logs").iterdir()]
    assert any("Traceback" in text for text in logs)
    assert "NaN" not in (tmp_path / "out" / "run.json").read_text()
    assert gone(str(env["KDBENCH_STORE"]))


def test_a_stage_that_hangs_costs_its_row(env, tmp_path):
    # The stages that it rests on are computed first, without a limit that they might reach.
    before = kdbench(*TINY, "--out", "before", env=env, cwd=tmp_path)
    assert before.returncode == 0, before.stderr
    limits = ("--time-limit", "3", "--out", "out")
    done = kdbench(*TINY, *defenses("none", "hangs"), *limits, env=env, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    rows = pd.read_csv(tmp_path / "out" / "results.csv").set_index("defense")
    assert rows.status.to_dict() == {"none": "ok", "hangs": "timeout"}
    assert "longer than the limit of 3 s" in rows.reason["hangs"]
    assert pd.isna(rows.student_asr["hangs"])
    assert gone(str(env["KDBENCH_STORE"]))


def test_fail_fast_stops(env, tmp_path):
    done = kdbench(
        *TINY,
        *defenses("raises", "fine00", "slow"),
        "--fail-fast",
        "--out",
        "out",
        env=env,
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "Stopped at the first failure" in done.stderr
    rows = pd.read_csv(tmp_path / "out" / "results.csv")
    assert rows.defense.tolist() == ["raises"]


def cheating(roots, marks):
    def words(paths):
        return json.dumps([str(path) for path in paths])

    return {
        "defense.cheats.target": "3",
        "defense.cheats.test_images": "77",
        "defense.cheats.marks": words(marks),
        "defense.cheats.roots": words(roots),
    }


def test_a_cheating_defense_finds_nothing(env, tmp_path):
    out = tmp_path / "out-of-the-run"
    store = Path(env["KDBENCH_STORE"])
    settings = cheating([out, store, tmp_path], [out])
    run = [*TINY, "--target-class", "3", "--defense", "cheats", "--out", str(out)]
    run += [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = kdbench(*run, env=env, cwd=tmp_path)
    confined = json.loads((out / "run.json").read_text())["confinement"]
    if confined == "none":
        pytest.skip(
            "this kernel has no Landlock: a plugin that walks through the user's files finds them"
        )
    assert done.returncode == 0, done.stdout
    (row,) = pd.read_csv(out / "results.csv").to_dict("records")
    assert (row["status"], row["n_test"]) == ("ok", 77)
    # What it looked for was there to be found, for anybody who is not confined.
    assert list(store.glob("vault.*/objects/*/*/trigger.safetensors"))


def test_the_same_defense_finds_everything_where_the_sides_share_a_process(
    site, tmp_path, monkeypatch
):
    """The search has teeth: in one process, unconfined, it finds the trigger, the target class, the
    images and the files."""
    monkeypatch.syspath_prepend(str(site))
    everything = Registry.load()
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.csv").write_text("")
    spec = RunSpec(
        attacks=("badnets",),
        defenses=("cheats",),
        pairs=(("wrn10_1", "wrn10_1"),),
        target_class=3,
        train_size=80,
        test_size=77,
        overrides={f"{key}.epochs": "1" for key in ("clean", "poison", "distill")}
        | ANY_TEACHER
        | cheating([out, tmp_path / "out-store"], [out]),
    )

    class Keeping(InlineExecutor):
        """As a runner in one process would: what was loaded stays alive."""

        alive = []

        def start(self, job):
            from kdbench.data.files import load_images
            from kdbench.models.files import load_module

            if job.kind.sees == "test":
                self.alive.append(load_images(job.folder / "in" / job.task["images"]))
            if "trigger" in job.task["inputs"]:
                self.alive.append(
                    load_module(job.folder / "in" / job.task["inputs"]["trigger"], ("kdbench",))[0]
                )
            super().start(job)

    monkeypatch.setenv("KDBENCH_OUT", str(out))
    (row,) = go(spec, everything, out, executor=Keeping(everything))
    assert row["status"] == "failed"
    wanted = (
        "gc: a PatchTrigger",
        "gc: a tensor of 77 rows",
        "target_class 3",
        "environment: KDBENCH_OUT",
    )
    for found in (*wanted, "file: results.csv", "file: trigger.safetensors"):
        assert found in row["reason"], row["reason"]
    Keeping.alive.clear()


def test_one_two_and_four_workers_write_the_same_table(env, tmp_path):
    texts = set()
    for jobs in ("1", "2", "4")[: size(2, 3)]:
        env = {**env, "KDBENCH_STORE": str(tmp_path / f"store{jobs}")}
        done = kdbench(*MATRIX, "--jobs", jobs, "--out", f"out{jobs}", env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        texts.add(table(tmp_path / f"out{jobs}").to_csv())
    assert len(texts) == 1


def test_more_defenses_and_workers_compute_only_what_is_new(env, tmp_path):
    first = kdbench(*TINY, "--out", "a", env=env, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    more = kdbench(*MATRIX, "--jobs", "2", "--out", "b", "--json", env=env, cwd=tmp_path)
    started = [
        json.loads(line)["title"] for line in more.stdout.splitlines() if '"stage_started"' in line
    ]
    assert started
    assert all("robustkd" in title or "nad" in title for title in started)
    again = kdbench(*MATRIX, "--out", "c", "--json", env=env, cwd=tmp_path)
    assert '"stage_started"' not in again.stdout
    assert (tmp_path / "b" / "results.csv").read_bytes() == (
        tmp_path / "c" / "results.csv"
    ).read_bytes()
    assert (tmp_path / "c" / "trigger-badnets-wrn10_1-seed0.png").exists()


def start(arguments, env, cwd):
    """Start the command line. What it says on standard error is in a file of that folder."""
    with (cwd / SAID).open("wb") as said, open(os.devnull, "wb") as nothing:
        streams = {"stdout": nothing.fileno(), "stderr": said.fileno()}
        return forked.start(arguments, env=env, cwd=cwd, **streams)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM][: size(1, 2)])
def test_an_interrupted_run_says_how_to_go_on_and_leaves_nobody(env, tmp_path, number):
    run = start([*LONG, "--jobs", "2", "--quiet"], env, tmp_path)
    wait_for(lambda: list(Path(env["KDBENCH_STORE"]).glob("**/checkpoints/fit-*.safetensors")))
    run.send_signal(number)
    code = run.wait(timeout=300)
    told = (tmp_path / SAID).read_text()
    assert code == 130, told
    command = re.search(r"^  (kdbench .*--out runs/.*)$", told, re.MULTILINE)
    assert command, told
    assert gone(str(env["KDBENCH_STORE"])), "orphans"
    _, *arguments = shlex.split(command[1])
    done = kdbench(*arguments, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert table(folder).status.tolist() == ["ok"]


def wait_for(condition, seconds=300.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def test_killed_in_mid_training_it_ends_in_the_same_weights(env, tmp_path):
    """make soak: 10 of 10."""
    whole = kdbench(*LONG, "--out", "whole", env=env, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    store = tmp_path / "killed"
    env = {**env, "KDBENCH_STORE": str(store)}
    rng = random.Random(5)
    equal = 0
    for n in range(size(1, 10)):
        shutil.rmtree(store, ignore_errors=True)
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        # in the teacher's training; every other time in the student's, too
        for stage in ("clean", "distill")[: 1 + n % 2]:
            run = start([*LONG, "--out", "out", "--quiet"], env, tmp_path)
            wait_for(lambda stage=stage: checkpoints(store, stage))
            time.sleep(rng.random() / 2)
            run.kill()
            run.wait()
            assert gone(str(store)), "orphans"
            assert checkpoints(store, stage), "it was not killed in the middle; make LONG longer"
        done = kdbench(*LONG, "--out", "out", env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        a, b = table(tmp_path / "whole"), table(tmp_path / "out")
        assert len(set(a.student_sha256) | set(a.teacher_sha256)) == 2
        equal += a.equals(b)
    assert equal == size(1, 10)


def checkpoints(store, stage):
    """Checkpoints of the teacher's training, or, once teacher and backdoor are there, of the
    student's."""
    models = list(store.glob("vault.*/objects/*/*/model.safetensors"))
    return len(models) == (0 if stage == "clean" else 2) and list(
        store.glob("**/checkpoints/fit-*.safetensors")
    )


def test_killed_at_random_moments_nothing_is_lost_or_wrong(env, tmp_path):
    """make soak: 50 kills with 2 workers; the coordinator, the process that forks, or a worker."""
    whole = kdbench(*MATRIX, "--out", "whole", env=env, cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    store = tmp_path / "killed"
    env = {**env, "KDBENCH_STORE": str(store)}
    rng, kills, finished, run = (
        random.Random(11),
        0,
        0,
        [*MATRIX, "--jobs", "2", "--out", "out", "--quiet"],
    )
    while kills < size(2, 50):
        child = start(run, env, tmp_path)
        try:
            child.wait(timeout=rng.uniform(1, 9))
        except subprocess.TimeoutExpired:
            victims = [child.pid, *processes(str(store))]
            os.kill(rng.choice(victims), signal.SIGKILL)
            kills += 1
            if rng.random() < 0.7:
                child.kill()
            child.wait(timeout=600)
            assert gone(str(store)), "orphans"
        verify(Store(store))
        assert not list(store.glob("vault.*/damaged/*")), "what is visible is whole"
        if child.returncode == 0:  # start over
            finished += 1
            assert table(tmp_path / "whole").equals(table(tmp_path / "out"))
            shutil.rmtree(store)
            shutil.rmtree(tmp_path / "out")
    done = kdbench(*MATRIX, "--jobs", "2", "--out", "out", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert table(tmp_path / "whole").equals(table(tmp_path / "out"))
    assert (tmp_path / "out" / "leaderboard.csv").read_text() == (
        tmp_path / "whole" / "leaderboard.csv"
    ).read_text()
