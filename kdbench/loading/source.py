"""A digest of what source text means.

Docstrings, comments and layout do not change it. Anything that is computed does.

Python's own ``ast.dump`` differs between versions of Python. The one here does not, so that one
store serves them all. It imports nothing of kdbench, so that a test can run it under any Python.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import warnings
from collections.abc import Mapping

#: Fields without meaning. "ctx" says whether a name is read or written, which its place shows
#: already. "kind" is the u of u"text".
_REDUNDANT = ("ctx", "kind")


def source_digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the names of Python files and what each of them means.

    The texts of messages count: a rule that left them out would have to know which text is one.
    """
    digest = hashlib.sha256()
    for name, data in files.items():
        content = meaning(data)
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def meaning(source: bytes) -> bytes:
    """The syntax tree of a file as text, without docstrings.

    A file that is not Python is returned as it is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python shows them when it compiles the file
            tree = ast.parse(source)
        words: list[str] = []
        _write(tree, words)
        return "".join(words).encode()
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return source


def _write(value: object, words: list[str]) -> None:
    if isinstance(value, ast.AST):
        _write_node(value, words)
    elif isinstance(value, list):
        words.append("[")
        for part in value:
            if not _is_text(part):
                _write(part, words)
                words.append(",")
        words.append("]")
    elif type(value) is int:
        words.append(hex(value))  # decimals have a limit of length
    else:
        words.append(ascii(value))  # which letters repr shows depends on Python's version


def _write_node(node: ast.AST, words: list[str]) -> None:
    """``Name(field=...,)`` without empty fields, since later Pythons have more of them."""
    words.append(f"{type(node).__name__}(")
    for name, value in ast.iter_fields(node):
        if isinstance(node, ast.JoinedStr):
            value = _joined(node.values)
        if name not in _REDUNDANT and value is not None and value != []:
            words.append(f"{name}=")
            _write(value, words)
            words.append(",")
    words.append(")")


def _is_text(statement: object) -> bool:
    """Whether it is a docstring or a text under a field, which compute nothing."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _joined(parts: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string with neighbouring texts joined. Pythons cut them differently."""
    joined: list[ast.expr] = []
    for text, group in itertools.groupby(parts, lambda part: isinstance(part, ast.Constant)):
        if text:
            whole = "".join(str(part.value) for part in group if isinstance(part, ast.Constant))
            joined += [ast.Constant(whole)] if whole else []
        else:
            joined += group
    return joined
