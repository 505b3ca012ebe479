"""What a cluster costs a stage: ``python benchmarks/overhead.py``.

The same request of stages of next to no work is run twice at the same time, so that both have the
same neighbours: on this machine, and on a Ray cluster that has one machine, this one. Both compute
one stage at a time. What is counted is the time from the end of one stage to the end of the next,
so no agent that begins. The first cell is left out: processes and files are new to the machine
then. A cell has thirteen stages. ``least`` is the mean over them of the shortest time that any cell
took, which a busy machine changes less than the mean.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np

#: Of a cell of the smallest kind.
STAGES = 13
REQUEST = (
    *("run", "--attack", "badnets", "--pair", "wrn10_1-wrn10_1", "--threads", "1", "--jobs", "1"),
    *("--train-size", "80", "--test-size", "77", "--cohort", "1", "--json"),
    *(
        word
        for name in ("clean.epochs=1", "poison.epochs=1", "distill.epochs=1", "min_teacher_acc=0")
        for word in ("--set", name)
    ),
)


def measure(on: str, cells: int, folder: Path) -> tuple[float, float]:
    """(mean, least) milliseconds a stage of a run into a new store."""
    command = [sys.executable, "-m", "kdbench", *REQUEST, "--on", on, "--seeds", str(cells)]
    command += ["--store", str(folder / "store"), "--out", str(folder / "out")]
    ended = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if json.loads(line)["event"] == "stage_finished":
                ended.append(1000 * time.perf_counter())
    if running.returncode or len(ended) != cells * STAGES:
        raise SystemExit(f"--on {on} did not end well: {len(ended)} stages")
    took = np.diff(ended[STAGES - 1 :]).reshape(cells - 1, STAGES)
    return took.mean(), took.min(axis=0).mean()


@click.command()
@click.option("--stages", default=200, show_default=True, help="How many of each, about.")
def main(stages: int) -> None:
    """Print milliseconds a stage on this machine, on the cluster, and the difference."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Else its processes stand back behind all others of a busy machine, as those of jobs here do
    # not.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    from ray.cluster_utils import Cluster

    args = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=args)
    cells = 1 + -(-stages // STAGES)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="kdbench-overhead-") as folder,
            ThreadPoolExecutor() as both,
        ):
            near = both.submit(measure, "local", cells, Path(folder, "near"))
            far = both.submit(measure, f"ray:{cluster.address}", cells, Path(folder, "far"))
            local, there = near.result(), far.result()
    finally:
        cluster.shutdown()
    print("on this machine: mean {:.0f}, least {:.0f} ms a stage".format(*local))
    print("on the cluster: mean {:.0f}, least {:.0f} ms a stage".format(*there))
    more = there[0] - local[0], there[1] - local[1]
    print("more on the cluster: mean {:.0f}, least {:.0f} ms a stage".format(*more))


if __name__ == "__main__":
    main()
