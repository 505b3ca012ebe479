"""What a job is handed beside its inputs."""

from __future__ import annotations

import json
from types import SimpleNamespace

from kdbench.bench.run.jobs import Jobs
from kdbench.bench.run.verify import read_request
from kdbench.bench.work.job import Companion


def test_a_job_gets_the_plugins_that_it_needs_and_no_others(tmp_path):
    """Their names would tell a defense which attacks the run has."""
    (tmp_path / "plugins").mkdir()
    files = {f"kdbench_file_{name}": name.encode() for name in ("own", "input", "beside", "attack")}
    registry = SimpleNamespace(files=lambda: files)
    jobs = Jobs(None, registry, None, None, 60.0, False)
    task = {
        "points": {"own": "kdbench_file_own", "other": "package.module:thing"},
        "packages": {"teacher": ["kdbench_file_input"]},
    }
    companion = Companion("first", "module:entry", {"packages": ["kdbench_file_beside"]}, ())
    jobs._write_plugins(tmp_path, task, [companion])
    top, beside = tmp_path / "plugins", tmp_path / "plugins" / "first"
    assert {path.name for path in top.glob("*.py")} == {
        "kdbench_file_own.py",
        "kdbench_file_input.py",
    }
    assert [(path.name, path.read_text()) for path in beside.iterdir()] == [
        ("kdbench_file_beside.py", "beside")
    ]


def test_a_strangers_run_is_verified_without_a_download(tmp_path):
    request = {"attacks": ["lba"], "pairs": [["a", "b"]], "download": True}
    (tmp_path / "run.json").write_text(json.dumps({"config": {"request": request}}))
    assert not read_request(tmp_path).download
