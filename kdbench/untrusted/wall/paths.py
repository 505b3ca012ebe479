"""The files and folders that a Python process with torch needs."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.machinery import all_suffixes
from itertools import islice
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

#: Names of folders into which packages are installed.
_INSTALLED = {"site-packages", "dist-packages"}
#: What of a project's folder comes with its modules: metadata, and libraries of packages.
_BESIDE = (".dist-info", ".egg-info", ".libs")
#: What of an environment nobody imports, and where the password of a package index or the variables
#: and packages of other environments may stand.
_SETTINGS = {"pip.conf", "pip.ini", ".condarc", "conda-meta", "envs", "pkgs"}
#: Entries of a folder that are looked at, to see whether it is a package.
_MOST_ENTRIES = 10_000

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


@dataclass(frozen=True)
class Software:
    """What a process has to open, in order to import."""

    #: Files and folders to read.
    read: tuple[Path, ...]
    #: Folders whose names it has to list.
    listed: tuple[Path, ...] = ()


def importable(entries: Iterable[str | Path]) -> Software:
    """What Python imports from entries of its search path.

    A folder of installed packages is read whole. Any other one may be a project of somebody, with
    results, a store and keys. Of it only modules and packages are read. Entries that are, or hold,
    a home or temporary folder are dropped.
    """
    read: list[Path] = []
    listed = []
    for path in readable_paths(entries):
        if _installed(path):
            read.append(path)
        else:
            listed.append(path)
            read += readable_paths(_modules(path))
    return Software(tuple(read), tuple(listed))


def _installed(path: Path) -> bool:
    """Whether it is a folder of an installation, or a file, such as an archive of packages."""
    real = path.resolve()
    prefixes = {Path(p).resolve() for p in (sys.prefix, sys.base_prefix, sys.exec_prefix, "/usr")}
    if not path.is_dir() or any(real.is_relative_to(prefix) for prefix in prefixes):
        return True
    if _INSTALLED & {*path.parts, *real.parts}:
        return True
    return any(name.endswith(".dist-info") for name in _names(path))  # by pip install --target


def _without_settings(prefix: Path) -> list[Path]:
    """The folder of an environment; what lies in it, if that is not all for everybody."""
    names = {*_names(prefix)}
    return [prefix / name for name in sorted(names - _SETTINGS)] if names & _SETTINGS else [prefix]


def _modules(folder: Path) -> Iterator[Path]:
    """Modules and packages in a folder. A link that leads out of it is left out."""
    real = folder.resolve()
    for name in sorted(_names(folder)):
        path = folder / name
        if path.is_dir():
            wanted = name.endswith(_BESIDE) or (name.isidentifier() and _has_modules(path))
        else:
            wanted = name.endswith(tuple(all_suffixes()))
        if wanted and path.resolve().is_relative_to(real):
            yield path


def _has_modules(folder: Path, depth: int = 2) -> bool:
    """Whether it is a package. One without ``__init__.py`` may have its modules further down."""
    names = list(islice(_names(folder), _MOST_ENTRIES))
    if any(name.endswith(tuple(all_suffixes())) for name in names):
        return True
    inner = (folder / name for name in names if depth > 1 and name.isidentifier())
    return any(path.is_dir() and _has_modules(path, depth - 1) for path in inner)


def _names(folder: Path) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries)
    except OSError:  # nothing can be imported from it, then
        return


def interpreter_paths() -> list[Path]:
    """What a Python process with torch has to read.

    These are the interpreter, the packages, shared libraries and facts about the machine. The rest
    of /proc, /dev, /sys and /etc is left out, and so are home, temporary and current folders. Of
    ``sys.path`` it is what :func:`importable` says. Its folders to list are not among these paths.

    Call it in the process that is confined, because /proc/self is that process's own. A process
    that it starts has to do without. GPUs are not included: a process that computes on one also has
    to write :func:`device_paths`.
    """
    import kdbench

    prefixes = dict.fromkeys((sys.prefix, sys.base_prefix, sys.exec_prefix))
    paths = [path for prefix in prefixes for path in _without_settings(Path(prefix))]
    paths += [
        Path(folder)
        for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":")
        if os.path.isabs(folder)
    ]
    paths += [Path(kdbench.__file__).parent, *_editable_packages()]
    paths = [*importable(import_paths()).read, *readable_paths(paths)]
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
