"""The process that holds a cluster of this machine, for :mod:`tests.bench.work.remote.machines`.

Ray keeps one cluster a process, and one environment for its nodes. So it is not the tests'.
Orders and answers are lines of JSON. The cluster ends with the orders.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

#: Bytes of a node's object store, and no web page.
_SMALL = {"object_store_memory": 100 << 20, "include_dashboard": False}


def main() -> None:
    from ray.cluster_utils import Cluster

    orders, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints is no answer
    # Its sockets lie below, and their paths may have no more than 107 characters.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **_SMALL})
    nodes = {}
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(cluster.address), file=answers, flush=True)
        for line in orders:
            order = json.loads(line)
            if order["what"] == "add":
                node = _add(cluster, order["cpus"], order["environment"])
                nodes[node.node_id] = node
                answer = [node.node_id, node.all_processes["raylet"][0].process.pid]
            else:
                # SIGKILL, to every process of it.
                cluster.remove_node(nodes.pop(order["node"]), allow_graceful=False)
                answer = None
            print(json.dumps(answer), file=answers, flush=True)
    cluster.shutdown()


def _add(cluster, cpus, environment):
    """A further node, whose processes have a changed environment."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        return cluster.add_node(num_cpus=cpus, **_SMALL)
    finally:
        os.environ.clear()
        os.environ.update(before)


if __name__ == "__main__":
    main()
