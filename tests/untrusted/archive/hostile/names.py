"""Names that neither a zip nor a tar may hold."""

from __future__ import annotations

#: Name of the case, the member's name, what refuses it, and whether it escapes.
NAMES: list[tuple[str, str, str, bool]] = [
    ("dotdot", "../outside/new", r"'\.\.'", True),
    ("dotdot below", "train/../../outside/new", r"'\.\.'", True),
    ("dotdot at the end", "train/a/..", r"'\.\.'", False),
    ("dot", "train/./0.png", r"'\.' for one", False),
    ("empty part", "train//0.png", "empty part", False),
    ("drive", "C:/outside/new", "drive letter", False),
    ("drive below", "train/c:new", "drive letter", False),
    ("backslash", "..\\outside\\new", "backslash", False),
    ("escape", "train/\x1b]0;x\x07.png", r"control character U\+001B", False),
    ("newline", "train/a\n0.png", r"control character U\+000A", False),
    ("wide dots", "train/\uff0e\uff0e/new", r"'\.\.'", False),
    ("reversed", "train/a\u202egnp.0", r"U\+202E", False),
    ("deep", "d/" * 17 + "0.png", "16 folders deep", False),
    ("long part", "n" * 256, "more than 255 bytes", False),
]

#: Name of the case, names of two members, and what refuses the second of them.
PAIRS: list[tuple[str, tuple[str, str], str]] = [
    ("twice", ("train/a/0.png", "train/a/0.png"), "twice"),
    ("case", ("train/a/0.png", "train/A/1.png"), "same name as"),
    ("normalisation", ("train/\u00e9/0.png", "train/e\u0301/1.png"), "same name as"),
    ("last dot", ("train/a/0.png", "train/a/0.png."), "same name as"),
    ("file as folder", ("train/a", "train/a/0.png"), "needs a folder"),
    ("folder as file", ("train/a/0.png", "train/a"), "file where another member needs a folder"),
]
