"""What a hostile process tries. Each attempt raises where it is refused.

Every attempt is harmless to the machine where it succeeds, so the same list runs without a wall.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
#: Numbers on x86_64 and aarch64, by which a name is not needed in the C library.
CALLS = {
    "add_key": (248, 217),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "mount_setattr": (442, 442),
    "pidfd_getfd": (438, 438),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "clone": (56, 220),
    "kcmp": (312, 272),
    "sched_setscheduler": (144, 119),
    "ioprio_set": (251, 30),
}
_COLUMN = {"x86_64": 0, "aarch64": 1}.get(os.uname().machine, 0)
MPTCP, FASTOPEN = 262, 0x20000000
USER_KEYRING = -4


def call(name, *arguments):
    answer = LIBC.syscall(CALLS[name][_COLUMN], *arguments)
    if answer < 0:
        raise OSError(ctypes.get_errno(), name)
    return answer


def asked(name, *arguments):
    """The kernel may refuse what was asked, but it must not even look at the call."""
    try:
        call(name, *arguments)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            raise


def own(kind, told):
    """The process must live in a namespace of its own, else what follows is another's."""
    if os.readlink(f"/proc/self/ns/{kind}") != told["namespaces"][kind]:
        raise PermissionError(f"a {kind} namespace of its own")


def connect(family, address, protocol=0, kind=socket.SOCK_STREAM):
    with socket.socket(family, kind, protocol) as client:
        client.settimeout(5)
        client.connect(address)


def send(flags, kind, address):
    with socket.socket(socket.AF_INET, kind) as client:
        client.sendto(b"secret", flags, address)


def watch(folder):
    handle = call("inotify_init1", 0)
    call("inotify_add_watch", handle, os.fsencode(folder), 0x100)


def change_through_proc(path):
    handle = os.open(path, os.O_PATH)
    os.chmod(f"/proc/self/fd/{handle}", 0o640)


def send_from_a_pair(address):
    """A datagram names its receiver, so that a connected socket reaches others, too."""
    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
        with contextlib.suppress(PermissionError):
            near, far = socket.socketpair(socket.AF_UNIX, kind)
            with near, far:
                near.sendto(b"secret", address)
            return
    raise PermissionError("a pair for datagrams")


def search_keys(told):
    found = call("keyctl", 10, USER_KEYRING, b"user", told["key"].encode(), 0)
    held = ctypes.create_string_buffer(64)
    call("keyctl", 11, found, held, ctypes.c_size_t(64))


def names_in(path, name):
    if name not in Path(path).read_text():
        raise FileNotFoundError(name)


def listen(told):
    own("net", told)
    with socket.socket() as server:
        server.listen()


def sees_processes(told):
    own("pid", told)
    os.stat(f"/proc/{told['victim']}")


def of_victim(told, action):
    own("pid", told)
    action(told["victim"])


def slow_disks_of_everybody(told):
    """The kernel refuses the class 7, but only after it let the process ask for all of a user."""
    own("pid", told)
    asked("ioprio_set", 3, 0, 7 << 13)


def write_into(path):
    """Opening is enough; nothing is written."""
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


def make_in(folder):
    path = Path(folder, "kdbench-was-here")
    path.touch()
    path.unlink()


def execute(box):
    program = Path(box, "program")
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    subprocess.run([program], check=True)


def device(box):
    node = Path(box, "disk")
    os.mknod(node, 0o60600, os.makedev(7, 0))
    node.unlink()


def read_handle(path):
    """Open a file by its number instead of its name."""
    handle = ctypes.create_string_buffer(136)
    ctypes.c_uint32.from_buffer(handle).value = 128
    mount_id = ctypes.c_int()
    call("name_to_handle_at", -100, os.fsencode(path), handle, ctypes.byref(mount_id), 0)


def child_reads(path):
    if subprocess.run(["/bin/cat", path], capture_output=True).returncode:
        raise PermissionError(path)


def handles():
    """Descriptors that lead somewhere."""
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if not target.startswith(("socket:", "/dev/null", "/proc/")) and int(name) > 2:
            return
    raise PermissionError("no descriptor leads anywhere")


def terminal():
    """Refused before it is known that this is no terminal."""
    try:
        fcntl.ioctl(0, 0x5412, b"x")
    except OSError as error:
        if error.errno == errno.EPERM:
            raise


def table(told, box):
    """Every attempt by its name."""
    file, folder = told["file"], told["folder"]
    port, loop = told["port"], ("127.0.0.1", told["port"])
    none = ctypes.c_void_p()
    system = Path(sys.base_prefix, "lib", f"python3.{sys.version_info.minor}")
    import kdbench

    return {
        "descriptors": handles,  # first: what follows leaves some open
        # files outside
        "stat": lambda: os.stat(file),
        "read": lambda: Path(file).read_bytes(),
        "read in a child": lambda: child_reads(file),
        "read through /proc/self/root": lambda: Path("/proc/self/root", file[1:]).read_bytes(),
        "read through /proc/1/root": lambda: Path("/proc/1/root", file[1:]).read_bytes(),
        "list": lambda: os.listdir(folder),
        "write": lambda: write_into(file),
        "make": lambda: make_in(folder),
        "truncate": lambda: os.truncate(file, os.stat(file).st_size),
        "rename": lambda: os.rename(file, file),
        "link": lambda: os.link(file, Path(folder, "link")),
        "chmod": lambda: os.chmod(file, 0o640),
        "chmod through a descriptor": lambda: change_through_proc(file),
        "chown": lambda: os.chown(file, os.getuid(), -1),
        "utime": lambda: os.utime(file),
        "setxattr": lambda: os.setxattr(file, "user.mark", b"x"),
        "inotify": lambda: watch(folder),
        "enter": lambda: os.chdir(folder),
        "ask for a handle": lambda: read_handle(file),
        "open by a handle": lambda: asked("open_by_handle_at", -100, none, 0),
        # other processes
        "see a process": lambda: sees_processes(told),
        "signal": lambda: of_victim(told, lambda pid: os.kill(pid, 0)),
        "read its environment": lambda: of_victim(
            told, lambda pid: Path(f"/proc/{pid}/environ").read_bytes()
        ),
        "limit it": lambda: of_victim(
            told, lambda pid: resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
        ),
        "pin it": lambda: of_victim(told, lambda pid: os.sched_setaffinity(pid, {0})),
        "slow it": lambda: of_victim(told, lambda pid: os.setpriority(os.PRIO_PROCESS, pid, 19)),
        "disks of everybody": lambda: slow_disks_of_everybody(told),
        "idle it": lambda: of_victim(
            told, lambda pid: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        ),
        "trace it": lambda: of_victim(told, lambda pid: asked("ptrace", 16, pid, 0, 0)),
        "read its memory": lambda: of_victim(
            told, lambda pid: asked("process_vm_readv", pid, none, 0, none, 0, 0)
        ),
        "trace its parent": lambda: asked("ptrace", 0x4206, os.getppid(), 0, 0),
        "compare processes": lambda: asked("kcmp", os.getpid(), os.getppid(), 2, 0, 0),
        "read its parent's environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
        "take a descriptor": lambda: asked("pidfd_getfd", -1, 0, 0),
        # memory and keys of others
        "shared memory by its file": lambda: Path("/dev/shm", told["shared_file"]).read_bytes(),
        "shared memory by its key": lambda: call("shmget", told["segment"], 0, 0),
        "keys": lambda: search_keys(told),
        # network
        "unix socket": lambda: connect(socket.AF_UNIX, told["unix"]),
        "unix datagram": lambda: send_from_a_pair(told["unix_datagram"]),
        "abstract socket": lambda: connect(socket.AF_UNIX, "\0" + told["abstract"]),
        "tcp": lambda: connect(socket.AF_INET, loop),
        "mptcp": lambda: connect(socket.AF_INET, loop, MPTCP),
        "tcp fast open": lambda: send(FASTOPEN, socket.SOCK_STREAM, loop),
        "udp": lambda: send(0, socket.SOCK_DGRAM, loop),
        "listen": lambda: listen(told),
        "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close(),
        "host of the machine": lambda: socket.socket(40, socket.SOCK_STREAM).close(),
        "kernel's ciphers": lambda: socket.socket(38, socket.SOCK_SEQPACKET).close(),
        "names of sockets": lambda: names_in("/proc/self/net/unix", told["unix"]),
        "ports": lambda: names_in("/proc/self/net/tcp", f":{port:04X} "),
        # the wall itself
        "mount": lambda: asked("mount", b"x", b"/nothing", b"tmpfs", 0, none),
        "unmount": lambda: asked("umount2", b"/nothing", 0),
        "remount": lambda: asked("mount_setattr", -100, b"/nothing", 0, none, 0),
        "new mounts": lambda: asked("fsopen", b"nothing", 0),
        "copy a tree": lambda: asked("open_tree", -100, b"/nothing", 0),
        "change the root": lambda: asked("pivot_root", b"/nothing", b"/nothing"),
        "new user namespace": lambda: asked("unshare", ctypes.c_ulong(0x10000000 | 1 << 40)),
        "clone into a namespace": lambda: asked(
            "clone", ctypes.c_ulong(0x10000000 | 0x200), 0, 0, 0, 0
        ),
        "enter a namespace": lambda: asked("setns", -1, 0),
        # the kernel
        "io_uring": lambda: asked("io_uring_setup", 0, none),
        "bpf": lambda: asked("bpf", 99, none, 0),
        "userfaultfd": lambda: os.close(call("userfaultfd", 1)),
        "perf": lambda: asked("perf_event_open", none, 0, -1, -1, 0),
        "type into a terminal": terminal,
        "kernel settings": lambda: write_into("/proc/sys/kernel/core_pattern"),
        "sysrq": lambda: write_into("/proc/sysrq-trigger"),
        "kernel memory": lambda: os.close(os.open("/proc/kcore", os.O_RDONLY)),
        "kernel log": lambda: os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)),
        "control groups": lambda: make_in("/sys/fs/cgroup"),
        "system files": lambda: write_into("/sys/kernel/mm/transparent_hugepage/enabled"),
        # what everybody uses
        "change the interpreter": lambda: write_into(system / "os.py"),
        "change kdbench": lambda: write_into(kdbench.__file__),
        "change a package": lambda: make_in(Path(sys.prefix, "lib")),
        "compiled files": lambda: make_in(Path(kdbench.__file__).parent),
        "change /dev/null": lambda: os.chmod("/dev/null", 0o666),
        "change /dev/null by its descriptor": lambda: os.fchmod(0, 0o666),
        "write /tmp": lambda: make_in("/tmp"),
        "write the root": lambda: make_in("/"),
        "passwords": lambda: Path("/etc/shadow").read_bytes(),
        "list /run": lambda: os.listdir("/run"),
        "execute what it wrote": lambda: execute(box),
        "memory in a file of no name": lambda: os.close(os.memfd_create("x")),
        "make a device": lambda: device(box),
    }


def attempt(channel, order, links):
    """Try everything and say what happened."""
    import json

    # A refused call may not end the process.
    signal.signal(signal.SIGSYS, signal.SIG_DFL)
    done = {}
    for name, action in table(order, order["box"]).items():
        try:
            action()
            done[name] = True
        except Exception as error:
            done[name] = f"{type(error).__name__}: {error}"
    channel.sendall(json.dumps(done).encode() + b"\n")
