"""A process gives up what it does not need: files, network, memory and time.

Files and the network are given up with Landlock, the Linux kernel's unprivileged sandbox
(https://docs.kernel.org/userspace-api/landlock.html). It is called through ctypes. Memory and time
are given up with resource limits.

No version of Landlock that is handled here stops the following:

- ``stat`` of any file, and ``chmod`` of files that the process's user owns;
- UDP, and connecting to a socket that has a path;
- descriptors that were open before.

So Landlock is a second wall. The code behind it should not need one.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

# The numbers are the same on every architecture but alpha.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITIES_VERSION = 0x20080522
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1 << 1, 1 << 2
_NEWEST = 7
"""The newest ABI that is handled. From a newer kernel no more than its rights are asked for."""

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << i for i in range(6))
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (
    1 << i for i in range(6, 13)
)
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

_READ = _EXECUTE | _READ_FILE | _READ_DIR
# Written files may not be executed. Device nodes may not be made, since root could read the disk by
# means of one.
_WRITE = (
    _READ_FILE
    | _READ_DIR
    | _WRITE_FILE
    | _REMOVE_DIR
    | _REMOVE_FILE
    | _MAKE_DIR
    | _MAKE_REG
    | _MAKE_SOCK
    | _MAKE_FIFO
)
_WRITE |= _MAKE_SYM | _REFER | _TRUNCATE | _IOCTL_DEV
# The kernel refuses a rule for a file that names any other right.
_FILE_RIGHTS = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
_BIND_AND_CONNECT_TCP = 0b11
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 0b11

# Single files and folders, since all of /proc, /dev, /sys and /etc would be too much: root reads
# other processes, disks and password hashes there.
_PROC = "self cpuinfo meminfo stat version filesystems devices driver sys/vm"
_DEV = "null zero full random urandom"
_SYS = "devices bus class module fs/cgroup kernel/mm"
_ETC = "ld.so.cache ld.so.conf ld.so.conf.d ld.so.preload localtime timezone passwd group"
_ETC += " nsswitch.conf hosts mime.types fonts"
_ETC += " ssl/openssl.cnf pki/tls/openssl.cnf crypto-policies"
_PRIVATE = ("/home", "/root", "/tmp", "/var/tmp", "/dev/shm")


def confine(read: Iterable[Path], write: Iterable[Path]) -> str:
    """Restrict this process, and all that it starts, to the files named. This cannot be undone.

    TCP and signals to other processes are forbidden, too. Root loses the capabilities that lead
    around the restriction, such as loading kernel modules and raw sockets. It keeps the one to
    reach files of any owner, within the files named.

    Call it while there is one thread only, so before numpy or torch is imported. They start
    threads, and these would stay unrestricted. Libraries expect a folder for temporary files, so
    let ``TMPDIR`` name one that may be written. Paths that cannot be reached are skipped.

    Args:
        read: files and folders that may be read, listed and executed, with all below them.
        write: files and folders in which anything may be read, made, changed and removed. Nothing
            in them may be executed or made a device node. A device that is named here may be
            controlled (``ioctl``). /dev/null is always one of them.

    Returns:
        How it is confined: ``landlock N`` with N the ABI used (1 to 7), or ``none`` where the
        kernel has no Landlock. Truncating is covered from ABI 3 on, binding and connecting TCP
        sockets from 4, ``ioctl`` of devices from 5, abstract sockets and signals from 6.

    Raises:
        RuntimeError: several threads are running.
        OSError: the kernel has Landlock but refused a step.
    """
    if not sys.platform.startswith("linux"):
        return "none"
    libc = ctypes.CDLL(None, use_errno=True)
    # With no ruleset, size 0 and this flag the call returns the ABI. It is negative without
    # Landlock, and where a container forbids the call.
    abi = min(
        libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION), _NEWEST
    )
    if abi < 1:
        return "none"
    if _threads() != 1:
        raise RuntimeError(
            "confine() restricts the calling thread only, and there are others; call it before "
            "they start"
        )
    handled = _file_rights(abi)
    attributes = struct.pack("=Q", handled)
    if abi >= 4:
        attributes += struct.pack("=Q", _BIND_AND_CONNECT_TCP)
    if abi >= 6:
        attributes += struct.pack("=Q", _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS)
    ruleset = _call(libc, _CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    try:
        # subprocess.DEVNULL opens /dev/null for reading and writing, even as an input.
        for paths, rights in ((read, _READ), ((Path(os.devnull), *write), _WRITE)):
            for path in paths:
                _allow(libc, ruleset, path, rights & handled)
        if (
            libc.prctl(_PR_SET_NO_NEW_PRIVS, *(ctypes.c_ulong(value) for value in (1, 0, 0, 0)))
            != 0
        ):
            raise OSError(ctypes.get_errno(), "no_new_privs was refused")
        # The kernel demands no_new_privs: a set-uid program must not get out of the restriction.
        _call(libc, _RESTRICT_SELF, ruleset, 0)
        _drop_capabilities(libc)
    finally:
        os.close(ruleset)
    return f"landlock {abi}"


def import_paths() -> list[str]:
    """``sys.path`` for a process in another folder.

    It holds absolute paths only. The current folder is left out where Python itself put it there.
    """
    entries = sys.path
    if entries and not sys.flags.safe_path and entries[0] in ("", os.getcwd()):
        entries = entries[1:]
    return [entry for entry in dict.fromkeys(entries) if os.path.isabs(entry)]


def interpreter_paths() -> list[Path]:
    """What a Python process with torch has to read.

    These are the interpreter, the packages, shared libraries and facts about the machine. The rest
    of /proc, /dev, /sys and /etc is left out, and so are home, temporary and current folders. An
    entry of ``sys.path`` that is, or holds, a home or temporary folder is dropped.

    Call it in the process that is confined, because /proc/self is that process's own. A process
    that it starts has to do without. GPUs are not included: a process that computes on one also has
    to write :func:`device_paths`.
    """
    import kdbench

    paths = [
        Path(entry) for entry in (*import_paths(), sys.prefix, sys.base_prefix, sys.exec_prefix)
    ]
    paths += [
        Path(folder)
        for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":")
        if os.path.isabs(folder)
    ]
    paths += [Path(kdbench.__file__).parent, *_editable_packages()]
    paths = [path for path in paths if not _holds_private(path)]
    paths += [Path(sys.executable)]
    paths += [Path(folder) for folder in ("/usr", "/bin", "/lib", "/lib32", "/lib64")]
    for folder, names in (("/proc", _PROC), ("/dev", _DEV), ("/sys", _SYS), ("/etc", _ETC)):
        paths += [Path(folder, name) for name in names.split()]
    return [path for path in dict.fromkeys(paths) if os.path.exists(path)]


def device_paths() -> list[Path]:
    """What a process has to write in order to compute on an NVIDIA or AMD GPU; empty without a GPU.

    These are the devices and, for NVIDIA, the folder of the process's own threads. NVIDIA's driver
    names the threads that it starts. Where it may not, it fails (cuInit: 304, "OS call failed").
    """
    names = ("nvidia*", "nvidia-caps/*", "kfd", "dri/render*")
    devices = [
        path for name in names for path in sorted(Path("/dev").glob(name)) if path.is_char_device()
    ]
    return devices + [Path("/proc/self/task")] * any(
        path.name.startswith("nvidia") for path in devices
    )


def limit(
    memory_bytes: int | None = None,
    cpu_s: int | None = None,
    file_bytes: int | None = None,
    *,
    address_space: bool = False,
) -> None:
    """Limit this process and whatever it starts. Each process has the limits for itself.

    A lower limit that the process already has stays. The process writes no core dump from now on.

    Args:
        memory_bytes: private memory, in bytes. Beyond it an allocation fails: ``MemoryError``, or
            ``RuntimeError`` in torch. Importing torch takes about 0.8 GB of it, and touches a few
            hundred MB.
        cpu_s: seconds of processor time over all threads, from the start of the process. Beyond it
            the process is killed.
        file_bytes: the largest file that can be written, in bytes. Beyond it a write fails
            (``OSError``).
        address_space: count shared memory and mapped files, too. What is mapped now and not
            resident stays allowed on top. Use it only after the libraries are imported: torch maps
            3 GB that it hardly touches. Never use it with a GPU, whose driver reserves far more.
    """
    import resource

    def lower(which: int, value: int) -> None:
        known = resource.getrlimit(which)[1]
        value = value if known == resource.RLIM_INFINITY else min(value, known)
        resource.setrlimit(which, (value, value))

    lower(resource.RLIMIT_CORE, 0)
    if memory_bytes is not None:
        lower(resource.RLIMIT_DATA, memory_bytes)
        if address_space:
            # Outside Linux there is no /proc to ask: everything mapped counts, which is stricter.
            lower(
                resource.RLIMIT_AS,
                memory_bytes + (_mapped_but_idle() if sys.platform.startswith("linux") else 0),
            )
    if cpu_s is not None:
        lower(resource.RLIMIT_CPU, cpu_s)
    if file_bytes is not None:
        lower(resource.RLIMIT_FSIZE, file_bytes)


def _file_rights(abi: int) -> int:
    """Every right about files that an ABI knows. Landlock forbids those that no rule allows."""
    rights = (1 << 13) - 1
    for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV)):
        rights |= right if abi >= since else 0
    return rights


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, rights: int) -> None:
    try:
        # O_PATH opens a place without reading it, so it needs no right to the file.
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            rights &= _FILE_RIGHTS
        _call(libc, _ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", rights, handle), 0)
    finally:
        os.close(handle)


def _call(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    answer = int(libc.syscall(number, *arguments))
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"Landlock: {os.strerror(error)}")
    return answer


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    # For good: after no_new_privs a program that this process starts gains none of them back.
    header, held = struct.pack("=Ii", _CAPABILITIES_VERSION, 0), ctypes.create_string_buffer(24)
    if libc.capget(header, held) != 0:
        raise OSError(ctypes.get_errno(), "the capabilities cannot be read")
    keep = _CAP_DAC_OVERRIDE | _CAP_DAC_READ_SEARCH
    effective, permitted, *_ = struct.unpack("=6I", held.raw)
    if libc.capset(header, struct.pack("=6I", effective & keep, permitted & keep, 0, 0, 0, 0)) != 0:
        raise OSError(ctypes.get_errno(), "the capabilities cannot be dropped")


def _threads() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()


def _editable_packages() -> Iterator[Path]:
    """Folders of packages that are installed in editable mode and not found through ``sys.path``.

    setuptools keeps a table of them in a module of its own.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("__editable__"):
            yield from (Path(folder) for folder in getattr(module, "MAPPING", {}).values())


def _holds_private(path: Path) -> bool:
    """Whether a home or temporary folder lies at or below a path, so that a rule would open it."""
    real = path.resolve()
    folders = {os.path.expanduser("~"), tempfile.gettempdir(), *_PRIVATE}
    return any(Path(folder).resolve().is_relative_to(real) for folder in folders)


def _mapped_but_idle() -> int:
    pages = [int(value) for value in Path("/proc/self/statm").read_text().split()[:2]]
    return (pages[0] - pages[1]) * os.sysconf("SC_PAGE_SIZE")
