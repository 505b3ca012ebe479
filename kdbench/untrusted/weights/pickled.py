"""What a refused pickle refers to, and how its owner gets the weights out of it.

The pickle is scanned and not run. So all of its classes are known, the harmless ones and the
others.
"""

from __future__ import annotations

import pickletools
import re
import sys
import zipfile
from _compat_pickle import IMPORT_MAPPING
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from kdbench.untrusted.header import shown
from kdbench.untrusted.weights.commands import FILE, TARGET, command
from kdbench.untrusted.weights.tables import USUAL

_MOST_PICKLE = 64 << 20
_MOST_OPCODES = 2_000_000
#: Classes that only hold values, and the module to import. torch's safe reader takes them if its
#: user says so.
_HOLDERS = {"argparse.Namespace": "argparse", "types.SimpleNamespace": "types"}
#: What cannot run a stranger's code either, but takes more than a name to allow.
_VALUES = re.compile(
    r"numpy(\.\w+)*\.(scalar|dtype|_reconstruct|ndarray)|datetime\.\w+|decimal\.Decimal|uuid\.UUID|"
    r"collections\.(defaultdict|deque)|pathlib(\._local)?\.\w*Path|torch\.nn\.functional\.\w+|"
    r"torch\._C\._nn\.\w+|builtins\.(list|dict|tuple|frozenset|int|float|str|bool|slice|range)",
    re.ASCII,
)
_CLASS = re.compile(r"[A-Za-z_][\w.]*\.[A-Z]\w*", re.ASCII)


def why_refused(path: Path, kind: str, first: str) -> str:
    """Why the reader refuses a file that refers to ``first``, and what its owner can do."""
    text = f"it refers to {shown(first)}, which no weights need"
    again = "save a state_dict() only"
    try:
        names, words = _scan(path, kind)
    except Exception:  # whatever the scan makes of a hostile pickle, it gets no advice
        return f"{text}; {again}"
    foreign = sorted(names - _allowed())
    if not foreign or not all(map(_is_harmless, foreign)):
        return f"{text}; {again}"
    key = next((f"[{word!r}]" for word in USUAL if word in words), "")
    if all(name in _HOLDERS for name in foreign):
        modules = ", ".join(dict.fromkeys(_HOLDERS[name] for name in foreign))
        how = command(
            f"import torch, {modules}; torch.serialization.add_safe_globals([{', '.join(foreign)}])"
            f"; c = torch.load({FILE}, map_location='cpu', weights_only=True){key}; "
            f"torch.save(c, '{TARGET}.pth')"
        )
        return f"{text}; if you trust the file, take the weights out of it: {how}"
    how = command(
        f"import torch; c = torch.load({FILE}, map_location='cpu', weights_only=False){key}; "
        f"torch.save(c.state_dict() if hasattr(c, 'state_dict') else c, '{TARGET}.pth')"
    )
    return (
        f"{text}: an object was saved, perhaps the whole network; {again}. If you trust the file, "
        f"for this runs what it says: {how}"
    )


def _is_harmless(name: str) -> bool:
    """Whether it is a value, or a class that Python does not bring: a script's own, or a library's.

    Functions and Python's own classes may do anything, so a file with them gets no advice.
    """
    if name in _HOLDERS or _VALUES.fullmatch(name):
        return True
    return name.partition(".")[0] not in sys.stdlib_module_names - {"__main__"} and bool(
        _CLASS.fullmatch(name)
    )


def _allowed() -> set[str]:
    from torch._weights_only_unpickler import _get_allowed_globals

    return set(_get_allowed_globals())


def _scan(path: Path, kind: str) -> tuple[set[str], set[str]]:
    """(what a file's pickles refer to, short texts in them). ValueError: that cannot be known."""
    names: set[str] = set()
    words: set[str] = set()
    for opcode, argument in _opcodes(path, kind):
        if opcode in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
            # Old pickles, and those that torch writes, use the names of Python 2.
            names.add(f"{IMPORT_MAPPING.get(module, module)}.{name}")
        elif opcode in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            raise ValueError("what it refers to is put together when it is read")
        elif opcode == "BINUNICODE" and len(argument) < 60:
            words.add(argument)
    return names, words


def _opcodes(path: Path, kind: str) -> Iterator[tuple[str, Any]]:
    with path.open("rb") as file:
        if kind == "torch zip":
            with zipfile.ZipFile(file) as archive:
                (name,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
                if archive.getinfo(name).file_size > _MOST_PICKLE:
                    raise ValueError("it is too long")
                with archive.open(name) as member:
                    yield from _of_stream(member, 1)
        else:
            # A number, a version, facts, the object, the names of storages.
            yield from _of_stream(file, 5)


def _of_stream(file: IO[bytes], pickles: int) -> Iterator[tuple[str, Any]]:
    left = _MOST_OPCODES
    for _ in range(pickles):
        for opcode, argument, _ in pickletools.genops(file):
            left -= 1
            if not left:
                raise ValueError("it is too long")
            yield opcode.name, argument
