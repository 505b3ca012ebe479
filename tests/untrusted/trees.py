"""Random folders as hostile code could leave them."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from hypothesis import strategies as st

#: Names that the coordinator asks for, and names that disturb whoever lists or prints them.
WANTED = ("model.safetensors", "trigger.safetensors", "fit-1.safetensors", "1.json", "out")
ODD = ("a\nb", "\x1b[2J", "x" * 255, "\udcff\udc80", "*", "-rf", "é", "manifest.json", "..b", " ")
LINKS = ("secret", "folder", ".", "..", "nowhere", "model.safetensors", "/dev/zero", "/proc/self")

_leaf = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=64)),
    st.tuples(st.just("holes"), st.sampled_from([1 << 20, 1 << 34, 1 << 40])),
    st.tuples(
        st.just("link"),
        st.sampled_from(
            [
                "secret",
                "folder",
                ".",
                "..",
                "nowhere",
                "model.safetensors",
                "/dev/zero",
                "/proc/self",
            ]
        ),
    ),
    st.tuples(st.just("hard link"), st.none()),
    st.tuples(st.just("pipe"), st.none()),
    st.tuples(st.just("socket"), st.none()),
    st.tuples(st.just("device"), st.none()),
)
_name = st.sampled_from(WANTED + ODD)
_mode = st.sampled_from([0o700, 0o000, 0o400, 0o555, 0o6777])


def _folder(children):
    return st.tuples(st.just("folder"), st.dictionaries(_name, children, max_size=4))


#: (what, content, mode)
_node = st.recursive(
    st.tuples(_leaf, _mode), lambda children: st.tuples(_folder(children), _mode), max_leaves=12
)
#: A folder of such things by name, at whose top the names that are asked for are frequent.
trees = st.dictionaries(st.one_of(st.sampled_from(WANTED), _name), _node, max_size=6)


def plant(folder: Path, tree, outside: Path) -> None:
    """Make a tree. Links lead to ``outside``, which holds a file ``secret`` and a ``folder``."""
    for name, ((what, content), mode) in tree.items():
        path = folder / name
        # Not every system lets its users do all of it.
        with contextlib.suppress(OSError):
            _PLANT[what](path, content, outside)
            if what == "folder":
                plant(path, content, outside)
            if what in ("file", "holes", "folder", "pipe"):
                path.chmod(mode)


def _holes(path, size, outside):
    path.touch()
    os.truncate(path, size)


def _link(path, to, outside):
    path.symlink_to(outside / to if to in ("secret", "folder") else to)


def _socket(path, content, outside):
    # Its address must be short.
    here = os.open(path.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(f"/proc/self/fd/{here}/{path.name}")
    finally:
        os.close(here)


_PLANT = {
    "file": lambda path, content, outside: path.write_bytes(content),
    "holes": _holes,
    "link": _link,
    "hard link": lambda path, content, outside: os.link(outside / "secret", path),
    "pipe": lambda path, content, outside: os.mkfifo(path),
    "socket": _socket,
    # /dev/zero never ends.
    "device": lambda path, content, outside: os.mknod(path, 0o20666, os.makedev(1, 5)),
    "folder": lambda path, content, outside: path.mkdir(),
}


def make_outside(folder: Path) -> Path:
    """A folder of the user that nobody may touch."""
    (folder / "folder" / "deep").mkdir(parents=True)
    (folder / "secret").write_text("of somebody else")
    (folder / "secret").chmod(0o600)
    (folder / "folder" / "kept").write_text("kept")
    (folder / "folder" / "deep" / "kept").write_text("kept, too")
    return folder


def state(folder: Path):
    """All that can be seen of a folder, except how many names its files have."""
    seen = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        facts = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        seen[path] = facts.st_mode, facts.st_uid, facts.st_mtime_ns, facts.st_size, content
    return seen
