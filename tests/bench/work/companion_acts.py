"""What companions do in the tests. Walled processes import this module by its bare name."""

from __future__ import annotations

import json
import os
import socket
import time


def answers(channel, order, links):
    """Says to its job what it was told and which files it reaches."""
    with socket.socket(fileno=os.dup(links["job"])) as job:
        question = json.loads(job.recv(4096))
        reached = {}
        for path in question["paths"]:
            try:
                with open(path, "rb"):
                    reached[path] = True
            except OSError:
                reached[path] = False
        with open(os.path.join(os.environ["TMPDIR"], "own"), "w") as file:
            file.write("x")
        job.sendall(json.dumps({"order": order, "links": list(links), "reached": reached}).encode())


def writes(channel, order, links):
    """Tries to leave a number where the process beside it may look."""
    os.write(1, b"x" * 100)
    os.lseek(1, 77, os.SEEK_SET)
    with socket.socket(fileno=os.dup(links["job"])) as job:
        job.sendall(b"x")
    time.sleep(600)


def sleeps(channel, order, links):
    time.sleep(600)


def leaves(channel, order, links):
    os._exit(3)


def floods(channel, order, links):
    while True:
        channel.sendall(b'{"outcomes": []}\n' * 1000)


def hogs(channel, order, links):
    held = b"x" * (1300 << 20)
    time.sleep(600)
    del held
