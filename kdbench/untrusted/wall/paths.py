"""The files and folders that a Python process with torch needs."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

# Single files and folders, since all of /proc, /dev, /sys and /etc would be too much: root reads
# other processes, disks and password hashes there.
_PROC = "self cpuinfo meminfo stat version filesystems devices driver sys/vm"
_DEV = "null zero full random urandom"
_SYS = "devices bus class module fs/cgroup kernel/mm"
_ETC = "ld.so.cache ld.so.conf ld.so.conf.d ld.so.preload localtime timezone passwd group"
_ETC += " nsswitch.conf hosts mime.types fonts"
_ETC += " ssl/openssl.cnf pki/tls/openssl.cnf crypto-policies"
_PRIVATE = ("/home", "/root", "/tmp", "/var/tmp", "/dev/shm")

#: What downloads need of /etc besides.
_NETWORK = "resolv.conf ssl/certs ssl/cert.pem pki ca-certificates services protocols gai.conf"


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
    paths = readable_paths(paths)
    paths += [Path(sys.executable)]
    paths += [Path(folder) for folder in ("/usr", "/bin", "/lib", "/lib32", "/lib64")]
    for folder, names in (("/proc", _PROC), ("/dev", _DEV), ("/sys", _SYS), ("/etc", _ETC)):
        paths += [Path(folder, name) for name in names.split()]
    return [path for path in dict.fromkeys(paths) if os.path.exists(path)]


def readable_paths(paths: Iterable[str | Path]) -> list[Path]:
    """Those of the paths that exist and neither are nor hold a home or temporary folder."""
    return [path for path in map(Path, paths) if path.exists() and not _holds_private(path)]


def network_paths() -> list[Path]:
    """What a process that downloads has to read besides."""
    return [path for name in _NETWORK.split() if (path := Path("/etc", name)).exists()]


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
