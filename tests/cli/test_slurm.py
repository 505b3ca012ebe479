"""``kdbench slurm``: the scripts that it prints are sound, and do what the docs say."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import forked

REQUEST = ("run", "--attack", "lba", "--threads", "1", "--store", "/shared/my store")


def slurm(*arguments):
    return forked.run(("slurm", *arguments), env=dict(os.environ), cwd=Path.cwd())


def played(tmp_path, script, **variables):
    """What the programs of a cluster are called with when a script runs."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("kdbench", "srun"):
        (programs / name).write_text(f'#!/bin/bash\nprintf "%s\\n" {name} "$@"\n')
    (programs / "scontrol").write_text("#!/bin/bash\nprintf '%s\\n' first second\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", **variables}
    ran = subprocess.run(
        ["bash"], input=script, capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.splitlines()


def test_an_array_is_the_same_command_on_each_node_over_one_store(tmp_path):
    done = slurm("--nodes", "3", "--cpus", "8", "--", *REQUEST)
    assert done.returncode == 0, done.stderr
    for line in ("#SBATCH --array=0-2", "#SBATCH --cpus-per-task=8", "#SBATCH --requeue"):
        assert line in done.stdout.splitlines()
    called = played(tmp_path, done.stdout, SLURM_ARRAY_JOB_ID="77", SLURM_ARRAY_TASK_ID="2")
    assert called == ["kdbench", *REQUEST, "--jobs", "8", "--out", "kdbench-77-2"]


def test_on_ray_it_is_one_run_on_all_nodes(tmp_path):
    done = slurm("--ray", "--nodes", "2", "--cpus", "8", "--gpus", "4", "--", *REQUEST)
    assert done.returncode == 0, done.stderr
    assert "#SBATCH --gpus-per-node=4" in done.stdout.splitlines()
    called = played(tmp_path, done.stdout, SLURM_JOB_ID="41234", SLURM_JOB_NODELIST="n[1-2]")
    head = f"first:{20000 + 41234 % 20000}"
    ray = ["ray", "symmetric-run", "--address", head, "--min-nodes", "2", "--num-cpus", "8"]
    run = ["--", "kdbench", *REQUEST, "--on", f"ray:{head}", "--out", "kdbench-41234"]
    assert called == ["srun", "--kill-on-bad-exit=1", *ray, "--num-gpus", "4", *run]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to run"),
        (("--", "list"), "nothing to run"),
        (("--", "run", "--threads", "1"), "add --store FOLDER"),
        (("--", "run", "--store", "s"), "add --threads 1"),
        (("--", *REQUEST, "--on", "ray"), "the script says --on itself"),
        (("--", *REQUEST, "--out=o"), "the script says --out itself"),
        (("--time", "soon", "--", *REQUEST), "Slurm writes it as 08:00:00"),
    ],
)
def test_what_a_script_could_not_do_is_refused(arguments, message):
    done = slurm(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""
