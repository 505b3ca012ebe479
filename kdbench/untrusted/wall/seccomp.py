"""System calls that a walled process may not make. The kernel answers them with EPERM.

The filter is a small program for the kernel's packet filter. It compares the call's number, and at
times an argument, with a list. It is the second wall behind namespaces, and the first where a
kernel gives none.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import socket
import struct
import sys
from collections.abc import Collection, Iterable, Iterator

from kdbench.untrusted.wall.calls import number
from kdbench.untrusted.wall.kernel import no_new_privileges, prctl

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2
#: The architectures, as the kernel's audit names them.
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32 = 0x40000000  # the bit of the 32-bit calls of x86_64

_LOAD, _EQUAL, _GREATER_OR_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KEEP_BITS = 0x54
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in the kernel's struct
_ALLOW, _ERROR = 0x7FFF0000, 0x00050000

#: Never needed, and each a way around a wall or into another process.
_ALWAYS = [
    "add_key",
    "request_key",
    "keyctl",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "bpf",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "process_madvise",
    "pidfd_getfd",
    "kcmp",
    "userfaultfd",
    "perf_event_open",
    "unshare",
    "setns",
    "mount",
    "umount2",
    "pivot_root",
    "chroot",
    "open_tree",
    "open_tree_attr",
    "move_mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "statmount",
    "listmount",
    "open_by_handle_at",
    "name_to_handle_at",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "reboot",
    "swapon",
    "swapoff",
    "acct",
    "quotactl",
    "quotactl_fd",
    "syslog",
    "settimeofday",
    "clock_settime",
    "clock_adjtime",
    "adjtimex",
    "sethostname",
    "setdomainname",
    "iopl",
    "ioperm",
    "fanotify_init",
    "fanotify_mark",
    "lookup_dcookie",
    "vhangup",
    "migrate_pages",
    "move_pages",
]

#: Files in memory. Nothing counts their size, and one may be executed. The driver of a GPU needs
#: them.
_WITHOUT_DEVICES = ["memfd_create", "memfd_secret"]

#: What namespaces would keep apart: files that are only looked at or marked, and memory by a key.
_WITHOUT_NAMESPACES = [
    "inotify_init",
    "inotify_init1",
    "inotify_add_watch",
    "chmod",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "chown",
    "lchown",
    "fchown",
    "fchownat",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "removexattr",
    "lremovexattr",
    "fremovexattr",
    "setxattrat",
    "removexattrat",
    "file_setattr",
    "utime",
    "utimes",
    "futimesat",
    "utimensat",
    "shmget",
    "shmat",
    "shmctl",
    "semget",
    "semop",
    "semctl",
    "semtimedop",
    "msgget",
    "msgsnd",
    "msgrcv",
    "msgctl",
    "mq_open",
    "mq_unlink",
]

#: Calls that may change another process. The argument at this place names it; 0 is the caller.
_OF_OTHERS = {
    "prlimit64": 0,
    "sched_setaffinity": 0,
    "sched_setscheduler": 0,
    "sched_setparam": 0,
    "sched_setattr": 0,
    "setpriority": 1,
    "ioprio_set": 1,
}
#: Calls that may change all processes of the user: this value of the first argument says so.
_OF_USER = {"setpriority": 2, "ioprio_set": 3}
_NEW_NAMESPACES = 0x7E020080
#: Commands that type into a terminal.
_TERMINAL = (0x5412, 0x541C)
_NETWORK = (socket.AF_INET, socket.AF_INET6, 16)  # 16 lists interfaces
#: The kind of a socket, without the flags beside it.
_KIND = 0xF
#: Two sockets that are connected to each other, and that reach no other one. A datagram names its
#: receiver, so a pair of these would reach every socket that has a path.
_CONNECTED = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)


def filter_calls(*, namespaces: bool, network: bool, devices: bool = False) -> bool:
    """Forbid calls to this process and all that it starts. False where the kernel has no filter.

    Args:
        namespaces: whether namespaces keep the process from everything else. Otherwise more calls
            are forbidden.
        network: whether it may use the network even without namespaces.
        devices: whether it computes on a GPU.
    """
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in _ARCHITECTURES:
        return False
    families = _NETWORK if namespaces or network else ()
    # Namespaces hide the sockets that were there before. Where there are none, a process gets no
    # socket that could be connected to one.
    families = (socket.AF_UNIX, *families) if namespaces else families
    denied = _ALWAYS + ([] if devices else _WITHOUT_DEVICES)
    denied += [] if namespaces else _WITHOUT_NAMESPACES
    program = b"".join(_program(machine, denied, families, others=not namespaces))
    held = ctypes.create_string_buffer(program)
    # The kernel's struct: how many instructions, and where.
    told = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(held))
    place = ctypes.create_string_buffer(told)
    no_new_privileges()
    try:
        prctl("seccomp", _PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(place))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return True


def _program(
    machine: str, denied: Iterable[str], families: Collection[int], *, others: bool
) -> Iterator[bytes]:
    """The filter's instructions. A forward jump counts the instructions that it leaves out.

    Args:
        others: whether the process sees others that it could change.
    """
    refuse = _step(_RETURN, _ERROR | errno.EPERM)
    load = _step(_LOAD, _NUMBER)
    yield _step(_LOAD, _ARCHITECTURE) + _step(_EQUAL, _ARCHITECTURES[machine], 1, 0) + refuse + load
    if machine == "x86_64":
        yield _step(_GREATER_OR_EQUAL, _X32, 0, 1) + refuse
    for name in denied:
        if (which := number(name, machine)) is not None:
            yield _step(_EQUAL, which, 0, 1) + refuse
    # Its arguments lie in memory, where a filter cannot look. The C library falls back to clone.
    yield _step(_EQUAL, _known("clone3", machine), 0, 1) + _step(_RETURN, _ERROR | errno.ENOSYS)
    yield _when(_known("clone", machine), 0, _step(_ANY_BIT, _NEW_NAMESPACES, 0, 1) + refuse)
    for command in _TERMINAL:
        yield _when(_known("ioctl", machine), 1, _step(_EQUAL, command, 0, 1) + refuse)
    yield _when(_known("socket", machine), 0, _unless(families) + refuse)
    if others:
        kind = _step(_KEEP_BITS, _KIND) + _unless(_CONNECTED) + refuse
        yield _when(_known("socketpair", machine), 1, kind)
        for name, argument in _OF_OTHERS.items():
            yield _when(_known(name, machine), argument, _step(_EQUAL, 0, 1, 0) + refuse)
        for name, whole in _OF_USER.items():
            yield _when(_known(name, machine), 0, _step(_EQUAL, whole, 0, 1) + refuse)
    yield _step(_RETURN, _ALLOW)


def _known(name: str, machine: str) -> int:
    which = number(name, machine)
    assert which is not None
    return which


def _unless(values: Collection[int]) -> bytes:
    """Instructions that leave out the next one if what is loaded is one of these values."""
    left = len(values)
    return b"".join(_step(_EQUAL, value, left - place, 0) for place, value in enumerate(values))


def _when(call: int, argument: int, then: bytes) -> bytes:
    """Instructions for one call, with an argument's low half loaded; then the number again."""
    body = _step(_LOAD, _ARGUMENTS + 8 * argument) + then + _step(_LOAD, _NUMBER)
    return _step(_EQUAL, call, 0, len(body) // 8) + body


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)
