"""What a process may write in /proc behind the wall of one that computes on a GPU; prints JSON.

The machine's device of full disks stands for the GPU's.
"""

import json
import os
import sys
from pathlib import Path

from kdbench.untrusted.wall.namespaces import Namespaces, build
from kdbench.untrusted.wall.paths import interpreter_paths
from kdbench.untrusted.wall.root import Mounts

DEVICES = (Path("/dev/full"), Path("/proc/self/task"))
FILES = {
    "its thread": "/proc/thread-self/comm",
    "kernel settings": "/proc/sys/kernel/core_pattern",
    "limits of namespaces": "/proc/sys/user/max_mnt_namespaces",
    "interrupts": "/proc/irq/default_smp_affinity",
}


def writable() -> dict[str, bool]:
    """Whether each of the files takes what it already holds."""
    done = {}
    for name, path in FILES.items():
        try:
            Path(path).write_text(Path(path).read_text("ascii"), "ascii")
            done[name] = True
        except OSError:
            done[name] = False
    return done


spaces = Namespaces()
if not spaces.available:
    sys.exit("this kernel gives no namespaces")
read, write = os.pipe()
spaces.enter()
child = os.fork()
if not child:
    build(Mounts(tuple(interpreter_paths()), devices=DEVICES), network=False, processes=400)
    os.write(write, json.dumps(writable()).encode())
    os._exit(0)
os.close(write)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(os.read(read, 1 << 16).decode())
sys.exit(code)
