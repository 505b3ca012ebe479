"""The process under test of test_confine.py: it trains, then tries everything, and answers what it
managed to do.

Standard input: {"confined", "out", "secret", "victim", "port"}; standard output: {attempt: true or
the error's number}.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from kdbench.untrusted.wall.confine import confine
from kdbench.untrusted.wall.paths import interpreter_paths

request = json.loads(sys.stdin.read())
out, secret, parent = Path(request["out"]), Path(request["secret"]), Path(f"/proc/{os.getppid()}")
how = confine(interpreter_paths(), [out]) if request["confined"] else "not at all"

import torch  # noqa: E402 - the point: everything after the confinement has to work inside it

torch.set_num_threads(2)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(7200, 4)
)
before = net[0].weight.detach().clone()
torch.nn.functional.cross_entropy(net(torch.rand(8, 3, 32, 32)), torch.arange(8) % 4).backward()
torch.optim.SGD(net.parameters(), 0.01).step()
trained = (
    torch.get_num_threads() == 2
    and bool(torch.isfinite(net[0].weight).all())
    and not torch.equal(net[0].weight, before)
)
torch.save(net.state_dict(), out / "weights")
kept = set(torch.load(out / "weights", weights_only=True)) == set(net.state_dict())


def execute() -> None:
    program = out / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    subprocess.run([program], check=True)


def child_reads() -> None:
    if subprocess.run(["/bin/cat", secret], capture_output=True).returncode != 0:
        raise OSError("the child could not")


def follow_link() -> None:
    (out / "symlink").symlink_to(secret)
    (out / "symlink").read_bytes()


attempts = {
    "read": secret.read_bytes,
    "read through /proc": lambda: Path("/proc/self/root", *secret.parts[1:]).read_bytes(),
    "read in a child": child_reads,
    "read through a symbolic link": follow_link,
    "read through a hard link": lambda: os.link(secret, out / "link"),
    "list": lambda: os.listdir(secret.parent),
    "write": lambda: (secret.parent / "new").write_text("x"),
    "truncate": lambda: os.truncate(request["victim"], 0),
    "make a device": lambda: os.mknod(out / "disk", 0o60600, os.makedev(7, 0)),
    "execute what it wrote": execute,
    "see the parent's environment": (parent / "environ").read_bytes,
    "see the parent's arguments": (parent / "cmdline").read_bytes,
    "connect": lambda: socket.create_connection(("127.0.0.1", request["port"]), timeout=5).close(),
    "open a raw socket": lambda: socket.socket(
        socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP
    ).close(),
    "listen": lambda: socket.socket().bind(("127.0.0.1", 0)),
    "signal the parent": lambda: os.kill(os.getppid(), 0),
}
done: dict[str, bool | int | None] = {}
for name, attempt in attempts.items():
    try:
        attempt()
        done[name] = True
    except OSError as error:
        done[name] = error.errno
print(json.dumps({"how": how, "trained": trained, "kept": kept, "done": done}))
