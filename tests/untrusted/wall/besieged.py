"""``python besieged.py WITHOUT...``: what a hostile process reaches of this process's things.

Each ``WITHOUT`` names parts of the wall to leave out, or is ``all`` or empty. It prints JSON, a
result for each of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
# The folder of a script is none that a walled process imports from.
ACTS = tempfile.mkdtemp()
shutil.copy(HERE / "attempts.py", Path(ACTS, "walled_attempts.py"))
sys.path.append(ACTS)
sys.path.append(str(HERE))

import attempts  # noqa: E402 - the folder above has it

from kdbench.untrusted.processes.client import Zygote, wait  # noqa: E402
from kdbench.untrusted.processes.order import View  # noqa: E402

KEY, SEGMENT = f"kdbench-{os.getpid()}", 0x6B640000 | os.getpid() & 0xFFFF


@contextlib.contextmanager
def things():
    """What a wall has to keep."""
    folder = Path(tempfile.mkdtemp())
    (folder / "file").write_text("secret")
    shared = Path(tempfile.mkstemp(dir="/dev/shm")[1])
    victim = subprocess.Popen(["sleep", "600"])
    attempts.call("shmget", SEGMENT, 4096, 0o1600)
    secret = b"secret"
    attempts.call("add_key", b"user", KEY.encode(), secret, 6, attempts.USER_KEYRING)
    datagrams = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    datagrams.bind(str(folder / "datagrams"))
    listeners = [socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX), socket.socket()]
    addresses = [str(folder / "socket"), f"\0{KEY}", ("127.0.0.1", 0)]
    for listener, address in zip(listeners, addresses, strict=True):
        listener.bind(address)
        listener.listen(64)
    yield {
        "folder": str(folder),
        "file": str(folder / "file"),
        "unix": str(folder / "socket"),
        "unix_datagram": str(folder / "datagrams"),
        "abstract": KEY,
        "port": listeners[2].getsockname()[1],
        "victim": victim.pid,
        "shared_file": shared.name,
        "segment": SEGMENT,
        "key": KEY,
        "namespaces": {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net")},
    }
    for listener in (*listeners, datagrams):
        listener.close()
    victim.kill()
    victim.wait()
    shared.unlink()
    segment = attempts.call("shmget", SEGMENT, 0, 0)
    attempts.LIBC.shmctl(segment, 0, None)
    found = attempts.call("keyctl", 10, attempts.USER_KEYRING, b"user", KEY.encode(), 0)
    attempts.call("keyctl", 9, found, attempts.USER_KEYRING)
    shutil.rmtree(folder)


def besiege(zygote, without):
    box = tempfile.mkdtemp()
    with things() as told:
        view = View(write=(Path(box),), confined="all" not in without, without=tuple(without))
        walled = zygote.start(
            "walled_attempts:attempt",
            {**told, "box": box},
            view,
            log=2,
            environment={"TMPDIR": box},
        )
        lines = []
        while walled.exit is None or not walled.silent:
            wait([walled], 1.0)
            walled.look()
            lines += walled.hear()
    report = walled.report
    walled.close()
    shutil.rmtree(box)
    return {
        "wall": report and report.text,
        "reached": report and report.reached,
        "code": walled.exit.code,
        "done": json.loads(lines[0]) if lines else None,
    }


def main(variants):
    zygote = Zygote()
    results = {without: besiege(zygote, without.split()) for without in variants}
    zygote.close()
    print(json.dumps(results))
    shutil.rmtree(ACTS)


if __name__ == "__main__":
    main(sys.argv[1:])
