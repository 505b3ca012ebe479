"""What the walled processes of these tests do."""

from __future__ import annotations

import json
import os
import time


def answer(channel, value):
    channel.sendall(json.dumps(value).encode() + b"\n")


def tell(channel, order, links):
    """Say what it was given."""
    handles = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    answer(channel, {"order": order, "links": sorted(links), "environment": dict(os.environ)})
    answer(channel, {"handles": len(handles), "folder": os.getcwd()})
    for handle in links.values():
        os.write(handle, b"from the process")


def end(channel, order, links):
    """End as the order says."""
    if "signal" in order:
        os.kill(os.getpid(), order["signal"])
    if order.get("abort"):
        os.abort()
    print("a last word")
    raise SystemExit(order["code"])


def sleep(channel, order, links):
    answer(channel, os.getpid())
    time.sleep(order.get("seconds", 600))


def flood(channel, order, links):
    while True:
        channel.sendall(b"x" * 65536 + order["end"].encode())


def repeat(channel, order, links):
    for line in channel.makefile("rb"):
        channel.sendall(line)


def survive(channel, order, links):
    """Leave a process behind that has no parent, and its own session."""
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        memory = bytearray(order["mb"] << 20)
        memory[::4096] = b"x" * len(memory[::4096])
        answer(channel, "survivor")
        time.sleep(600)
    if not order["leaves"]:
        time.sleep(600)
    channel.recv(1)
