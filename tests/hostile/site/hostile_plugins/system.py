"""A job that reaches for the rest of the machine."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import resource
import signal
import socket
import struct
import time
from pathlib import Path

from hostile_kit import defense, libc, named, reached

from kdbench.hookspecs import hookimpl

HINTS = {}
MPTCP, FASTOPEN = 262, 0x20000000
PIDFD_OPEN, PIDFD_GETFD = 434, 438
KEYCTL = {"x86_64": 250, "aarch64": 219}.get(platform.machine(), -1)


def dial(name, kind=socket.SOCK_STREAM, protocol=0, fast=False):
    """A way to a server of the user."""

    def way():
        address = HINTS["addresses"].get(name)
        if address is None:
            return False
        family = socket.AF_UNIX
        if not isinstance(address, str | bytes):
            family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
        with socket.socket(family, kind, protocol) as caller:
            caller.settimeout(2)
            if fast or kind == socket.SOCK_DGRAM:
                caller.sendto(b"x", FASTOPEN if fast else 0, address)
            else:
                caller.connect(address)
                caller.send(b"x")
        return True

    return way


def network(student, setting):
    def serve():
        """A server that waits at a port of this machine, and not of a network of its own."""
        with socket.socket() as server:
            server.listen()
            return os.readlink("/proc/self/ns/net") == HINTS["network"]

    reached(
        tcp=dial("tcp"),
        mptcp=dial("tcp", protocol=MPTCP),
        fast_open=dial("tcp", fast=True),
        fast_open6=dial("tcp6", fast=True),
        tcp6=dial("tcp6"),
        udp=dial("udp", socket.SOCK_DGRAM),
        unix_socket=dial("unix"),
        abstract_socket=dial("abstract"),
        listen=serve,
    )


def memory_of_others(student, setting):
    def system_v():
        number = libc("shmget", HINTS["shm_key"], 0, 0)
        place = libc("shmat", number, None, 0, answer=ctypes.c_void_p)
        ctypes.memmove(place, b"hostile!!!", 10)
        return True

    def list_shm():
        return HINTS["segment"] in os.listdir("/dev/shm")

    def read_shm():
        return Path("/dev/shm", HINTS["segment"]).read_text()

    def delete_shm():
        Path("/dev/shm", HINTS["segment"]).unlink()
        return True

    def letter():
        """Left for another job of the same plugin, which has the same name for it."""
        path = Path("/dev/shm", f"{HINTS['segment']}-letter")
        with contextlib.suppress(FileExistsError):
            path.touch(exist_ok=False)
            return False
        return True

    reached(
        system_v=system_v, list_shm=list_shm, read_shm=read_shm, letter=letter, delete=delete_shm
    )


def letter(student, setting):
    """The other job."""
    path = Path("/dev/shm", f"{HINTS['segment']}-letter")
    reached(letter=path.exists)


def keyring(student, setting):
    def search(ring):
        def way():
            number = libc("syscall", KEYCTL, 10, ring, b"user", HINTS["key"].encode(), 0)
            held = ctypes.create_string_buffer(100)
            libc("syscall", KEYCTL, 11, number, held, 100)
            return held.value == b"secret"

        return way

    reached(user=search(-4), session=search(-3), user_session=search(-5))


def other_processes(student, setting):
    victim, parent = HINTS["victim"], os.getppid()

    def limits():
        resource.prlimit(victim, resource.RLIMIT_NOFILE, (4, 4))
        return True

    def cores():
        os.sched_setaffinity(victim, {min(os.sched_getaffinity(0))})
        return True

    def nice():
        os.setpriority(os.PRIO_PROCESS, victim, 19)
        return True

    def idle():
        os.sched_setscheduler(victim, os.SCHED_IDLE, os.sched_param(0))
        return True

    def signals():
        os.kill(victim, 0)
        return True

    def starve_parent():
        """Nobody can start a process after that."""
        if parent > 1:
            resource.prlimit(parent, resource.RLIMIT_NOFILE, (4, 4))
        return parent > 1

    def seen():
        return os.getpgid(victim)

    reached(
        limits=limits,
        cores=cores,
        nice=nice,
        idle=idle,
        signals=signals,
        seen=seen,
        starve_parent=starve_parent,
    )


def files_of_others(student, setting):
    private = f"{HINTS['user']}/private.key"

    def through_descriptor():
        number = os.open(private, os.O_PATH)
        try:
            os.chmod(f"/proc/self/fd/{number}", 0o666)
        finally:
            os.close(number)
        return True

    def done(function, *arguments):
        def way():
            function(*arguments)
            return True

        return way

    reached(
        chmod=done(os.chmod, private, 0o666),
        chmod_store=done(os.chmod, HINTS["store"], 0o777),
        chown=done(os.chown, private, os.getuid(), os.getgid()),
        utime=done(os.utime, private, (1, 1)),
        setxattr=done(os.setxattr, private, "user.hostile", b"x"),
        through_descriptor=through_descriptor,
        read=done(Path(private).read_bytes),
        stat=done(os.stat, private),
        enter=done(os.chdir, HINTS["user"]),
    )


def watch(student, setting):
    """Names of files that come and go elsewhere."""

    def names():
        watcher = libc("inotify_init1", os.O_NONBLOCK, answer=ctypes.c_int)
        added = 0
        for folder in HINTS["watched"], HINTS["store"]:
            with contextlib.suppress(OSError):
                libc("inotify_add_watch", watcher, folder.encode(), 0xFFF, answer=ctypes.c_int)
                added += 1
        end = time.monotonic() + 2
        while added and time.monotonic() < end:
            with contextlib.suppress(BlockingIOError):
                event = os.read(watcher, 65536)
                if b"coming-and-going" in event:
                    return True
            time.sleep(0.02)
        return False

    reached(names=names)


def about_the_machine(student, setting):
    def sockets():
        return HINTS["addresses"]["unix"] in Path("/proc/self/net/unix").read_text()

    def mounts():
        return HINTS["user"] in Path("/proc/self/mountinfo").read_text()

    def connections():
        port = HINTS["addresses"]["udp"][1]
        return f":{port:04X} " in Path("/proc/self/net/udp").read_text()

    def namespace():
        return libc("unshare", 0x10000000) == 0

    def processes():
        return str(HINTS["victim"]) in os.listdir("/proc")

    reached(
        sockets=sockets,
        mounts=mounts,
        connections=connections,
        namespace=namespace,
        processes=processes,
    )


def first_process(student, setting):
    """Whoever starts, ends and reports this process: the first of its namespace, and its parent."""
    if os.readlink("/proc/self/ns/pid") == HINTS["processes"]:
        return  # these would be the machine's
    above = {1, os.getppid()} - {0}

    def look(name):
        return lambda: [Path(f"/proc/{pid}", name).read_bytes() for pid in above]

    def write():
        for pid in above:
            with Path(f"/proc/{pid}/mem").open("r+b", buffering=0):
                return True
        return False

    def descriptors():
        return [os.listdir(f"/proc/{pid}/fd") for pid in above]

    def take():
        for pid in above:
            held = libc("syscall", PIDFD_OPEN, pid, 0)
            return [libc("syscall", PIDFD_GETFD, held, number, 0) for number in range(20)]

    def trace():
        return [libc("ptrace", 0x4206, pid, 0, 0) == 0 for pid in above]  # PTRACE_SEIZE

    def read():
        held = ctypes.create_string_buffer(8)
        place = (ctypes.c_void_p * 2)(ctypes.addressof(held), 8)
        return [libc("process_vm_readv", pid, place, 1, place, 1, 0) for pid in above]

    def end():
        for pid in above:
            os.kill(pid, signal.SIGKILL)
        return False  # seen from outside: the run goes on

    reached(
        environment=look("environ"),
        memory=write,
        descriptors=descriptors,
        take=take,
        trace=trace,
        read=read,
        end=end,
    )


def uncounted(student, setting):
    """Memory that belongs to no process, in files: more than the job may have."""

    def fill(make):
        taken, block = 0, bytes(1 << 20)
        with contextlib.ExitStack() as opened:
            for number in range(64):
                file = opened.enter_context(os.fdopen(make(number), "wb"))
                for _ in range(32):
                    taken += file.write(block) >> 20
        return taken >= 2048

    def in_shm(number):
        return os.open(f"/dev/shm/filling-{number}", os.O_WRONLY | os.O_CREAT)

    reached(shm=lambda: fill(in_shm), memfd=lambda: fill(lambda n: os.memfd_create(f"{n}")))


ACTS = [
    first_process,
    uncounted,
    network,
    memory_of_others,
    letter,
    keyring,
    other_processes,
    files_of_others,
    watch,
    about_the_machine,
]
assert struct.calcsize("P") == 8, "the numbers of calls are those of 64 bits"


@hookimpl
def kdbench_defenses():
    return [defense("system", named(ACTS))]
