"""Whatever the reporter of a plugin does, the run goes on and its rows are the same."""

from __future__ import annotations

import csv
import os
import time

import pytest

from kdbench.bench.kinds import Kind
from kdbench.bench.run import tracker as module
from kdbench.bench.run.tracker import Tracker, tracking
from kdbench.errors import UnknownMethodError
from kdbench.loading.catalogue import Catalogue
from kdbench.loading.choice import PluginChoice
from kdbench.loading.hosts import Hosts
from kdbench.report.read import read_results
from tests.docs.shown import DOCS, files
from tests.loading.strangers import GOOD, HOOK, SMALL, kdbench
from tests.loading.test_hosts import SAY

#: Keeps every event that it hears.
HONEST = (
    "import json\n"
    f"{HOOK}def kdbench_reporter(run):\n"
    "    file = (run.folder / 'events.jsonl').open('w')\n"
    "    file.write(json.dumps([run.name, dict(run.request), sorted(run.versions)]) + '\\n')\n"
    "    def report(event):\n        file.write(json.dumps(event) + '\\n')\n"
    "    report.close = file.close\n"
    "    return report\n"
)


def reporter(body, head=""):
    """A plugin whose reporter does this at each event."""
    return (
        f"{head}\n{HOOK}def kdbench_reporter(run):\n"
        f"    def report(event):\n        {body}\n    return report\n"
    )


def returning(value):
    """A plugin whose hook does this."""
    return f"{HOOK}def kdbench_reporter(run):\n    return {value}\n"


ACCUSES = b'{"error": {"kind": "OtherCodeError", "text": "\\u001b[2J"}}\n'
#: Those of which nothing is heard any more.
SILENT = ("hangs", "stops", "closes")
#: What a reporter may do -> (its plugin, what is told).
HOSTILE = {
    "raises": (reporter("1 / 0"), "failed at run_started: ZeroDivisionError: division by zero"),
    "exits": (reporter("import sys; sys.exit(0)"), "SystemExit"),
    "dies": (reporter("import os; os._exit(0)"), "its process exited with code 0 at "),
    "killed": (
        reporter("import os, signal; os.kill(os.getpid(), signal.SIGKILL)"),
        "its process was ended by SIGKILL at ",
    ),
    "hangs": (reporter("import time; time.sleep(1000)"), "the run has waited long enough for it"),
    "stops": (
        reporter("import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"),
        "the run has waited long enough for it",
    ),
    "refuses": (returning("1 / 0"), "failed at begin: ZeroDivisionError"),
    "number": (returning(7), "must return a function of one event, got 7"),
    "nothing": (returning(None), "must return a function of one event, got None"),
    "mumbles": (reporter("say(b'{nonsense\\n')", SAY), "its process said nonsense"),
    "lies": (reporter("say(b'{\"plugin\": {}}\\n')", SAY), "its process said nonsense"),
    "accuses": (reporter(f"say({ACCUSES!r})", SAY), "failed at "),
    "floods": (reporter("say(b'x' * (10 << 20))", SAY), "its process said too much"),
    "closes": (reporter("import os; os.closerange(3, 64)"), "it failed at "),
    "closing": (
        f"{HOOK}def kdbench_reporter(run):\n    def report(event): ...\n"
        "    report.close = lambda: 1 / 0\n    return report\n",
        "failed at end: ZeroDivisionError",
    ),
}


@pytest.fixture
def known(zygote, tmp_path):
    """A function: sources of plugins -> what is known of them."""
    opened = []

    def load(sources):
        paths = []
        for name, source in sources.items():
            paths.append(tmp_path / f"{name}.py")
            paths[-1].write_text(source)
        hosts = Hosts(zygote)
        opened.append(hosts)
        return Catalogue.load(hosts, None, PluginChoice(files=tuple(paths)))

    yield load
    for hosts in opened:
        hosts.close()


RUN = {"name": "run", "request": {"attacks": ["lba"]}, "versions": {"torch": "2"}}


def play(known, name, results, events=3):
    """Let a reporter hear a short run: what is told of it."""
    lines = []
    tracker = Tracker(known.reporter(name), known.hosts, RUN, lines.append)
    tracker.run_started(3, 2, 1, "out")
    for number in range(events):
        tracker.stage_started(number, Kind.CLEAN, "train")
        tracker.stage_finished(number, Kind.CLEAN, "train", 1.0, {"loss": float("nan")})
    tracker.cell_finished({"attack": "lba", "student_asr": 12.5})
    tracker.run_finished([{"status": "ok"}], "out")
    tracker.close(results)
    return lines


def test_a_reporter_hears_a_run(known, tmp_path):
    assert play(known({"honest": HONEST}), "honest", tmp_path / "out") == []
    text = (tmp_path / "out" / "reporters" / "honest" / "events.jsonl").read_text()
    first, *lines = text.splitlines()
    assert first == '["run", {"attacks": ["lba"]}, ["torch"]]'
    assert [line.split('"')[3] for line in lines] == [
        "run_started",
        *["stage_started", "stage_finished"] * 3,
        "cell_finished",
        "run_finished",
    ]
    assert '{"event": "cell_finished", "row": {"attack": "lba", "student_asr": 12.5}}' in lines
    assert not list(tmp_path.glob("kdbench-hosts-*"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_reporter_ends_itself_only(name, known, tmp_path, monkeypatch):
    if name in SILENT:
        monkeypatch.setattr(module, "PATIENCE_S", 0.5)
    source, says = HOSTILE[name]
    lines = play(known({name: source}), name, tmp_path / "out")
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"reporter {name} gets no more events: it failed")
    assert says in lines[0]
    assert lines[0].isprintable()


def test_answers_that_nobody_waits_for_change_nothing(known, tmp_path):
    answers = reporter("say(b'{\"answer\": null}\\n' * 9)", SAY)
    lines = play(known({"answers": answers}), "answers", tmp_path / "out")
    assert len(lines) <= 1


def test_one_that_is_slow_is_waited_for_once(known, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 0)
    waits = []
    monkeypatch.setattr(module, "wait_for", lambda hosts: waits.append(1) or time.sleep(0.2))
    monkeypatch.setattr(module, "PATIENCE_S", 0.5)
    slow = reporter("import time; time.sleep(1000)")
    lines = play(known({"slow": slow}), "slow", tmp_path / "out", events=50)
    assert "the run has waited long enough" in lines[0]
    assert len(waits) <= 5


def test_one_that_takes_events_slowly_hears_all_of_them(known, tmp_path):
    slow = HONEST.replace("def report(event):\n", "def report(event):\n        time.sleep(0.01)\n")
    assert play(known({"slow": f"import time\n{slow}"}), "slow", tmp_path / "out", events=40) == []
    text = (tmp_path / "out" / "reporters" / "slow" / "events.jsonl").read_text()
    assert len(text.splitlines()) == 1 + 1 + 80 + 2


def test_it_reaches_neither_network_nor_files(known, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    out = tmp_path / "out"
    body = (
        "import json, os, socket\n"
        "        reached = []\n"
        "        for act in (lambda: socket.create_connection(('127.0.0.1', 22), 1),\n"
        f"                    lambda: open({str(tmp_path / 'secret.txt')!r}),\n"
        f"                    lambda: open({str(tmp_path / 'new.txt')!r}, 'w'),\n"
        "                    lambda: os.environ['KDBENCH_STORE']):\n"
        "            try:\n                act(); reached.append(1)\n"
        "            except (OSError, KeyError): pass\n"
        "        (run.folder / 'reached.txt').write_text(json.dumps(reached))"
    )
    assert play(known({"spy": reporter(body)}), "spy", out) == []
    assert (out / "reporters" / "spy" / "reached.txt").read_text() == "[]"
    assert not (tmp_path / "new.txt").exists()


def test_only_plain_files_of_a_usual_size_are_kept(known, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_BYTES", 1000)
    body = (
        "import os\n"
        "        if event['event'] != 'run_started': return\n"
        "        os.chdir(run.folder)\n"
        "        open('a.txt', 'w').write('x')\n"
        "        open('b\\x1b[2J', 'w')\n"
        "        open('large', 'w').write('x' * 2000)\n"
        "        os.symlink('/etc/passwd', 'link')\n"
        "        os.mkfifo('pipe')\n"
        "        os.mkdir('folder')"
    )
    out = tmp_path / "out"
    lines = play(known({"litter": reporter(body)}), "litter", out)
    assert os.listdir(out / "reporters" / "litter") == ["a.txt"]
    assert len(lines) == 5
    for name in ("'b\\x1b[2J'", "large", "link", "pipe", "folder"):
        assert [line for line in lines if line.startswith(f"reporter litter: {name} is not kept: ")]


def test_no_end_of_files_is_copied(known, tmp_path):
    body = "[(run.folder / str(n)).write_text('') for n in range(200)]"
    out = tmp_path / "out"
    lines = play(known({"many": reporter(body)}), "many", out)
    assert len(os.listdir(out / "reporters" / "many")) == 64
    assert lines == ["reporter many: it left more than 64 files; only so many are kept"]


def interrupted(known, tmp_path):
    class Prepared:
        class spec:
            model_dump = staticmethod(lambda mode: {})

    with tracking(["honest"], known, Prepared, tmp_path, print) as (tracker,):
        tracker.run_started(1, 1, 1, "o")
        raise KeyboardInterrupt


def test_an_interrupt_ends_reporters_and_keeps_their_files(known, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "INTERRUPTED_S", 1000.0)
    with pytest.raises(KeyboardInterrupt):
        interrupted(known({"honest": HONEST}), tmp_path)
    assert "run_started" in (tmp_path / "reporters" / "honest" / "events.jsonl").read_text()


def test_an_interrupt_does_not_wait_for_one_that_hangs(known, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE_S", 1e6)
    monkeypatch.setattr(module, "ANSWER_S", 1e6)
    hangs = reporter("import time; time.sleep(1e6)")
    with pytest.raises(KeyboardInterrupt):
        interrupted(known({"honest": hangs}), tmp_path)


def test_a_reporter_is_found_by_the_name_of_its_plugin(known):
    catalogue = known({"honest": HONEST, "both": GOOD.replace("NAME", "both") + HONEST})
    assert [d.kind for p in catalogue.plugins if p.name == "both" for d in p.defines] == [
        "attack",
        "reporter",
    ]
    with pytest.raises(UnknownMethodError, match="did you mean 'honest'"):
        catalogue.reporter("honst")


def test_the_tutorials_reporter_writes_its_table_beside_one_that_raises(tmp_path):
    """A whole run: its rows are those of a run without reporters."""
    (tmp_path / "csvlog.py").write_text(
        files((DOCS / "plugins-reporter.md").read_text())["csvlog.py"]
    )
    (tmp_path / "raises.py").write_text(HOSTILE["raises"][0])
    plain, both = tmp_path / "plain", tmp_path / "both"
    options = ["run", "--attack", "badnets", "--no-controls", "--threads=1", *SMALL, "--quiet"]
    stores = [f"--store={tmp_path / name}" for name in ("s", "t")]
    done = kdbench(tmp_path, *options, stores[0], "--out", plain)
    assert done.returncode == 0, done.stderr
    plugins = [f"--plugin-file={tmp_path / name}.py" for name in ("csvlog", "raises")]
    done = kdbench(
        tmp_path,
        *options,
        stores[1],
        *plugins,
        "--reporter=csvlog",
        "--reporter=raises",
        "--out",
        both,
    )
    assert done.returncode == 0, done.stderr
    assert "reporter raises gets no more events" in done.stderr
    first, second = (read_results(path).rows for path in (plain, both))
    steady = [{k: v for k, v in row.items() if k not in ("wall_s", "peak_mem_mb")} for row in first]
    assert [{k: row[k] for k in steady[0]} for row in second] == steady
    with (both / "reporters" / "csvlog" / "cells.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert (line["attack"], line["status"]) == ("badnets", "ok")
