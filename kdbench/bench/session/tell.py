"""How whoever works with kdbench is told something beside the result."""

from __future__ import annotations

from collections.abc import Callable

#: Takes one line, without control characters. A command prints it, the Python API logs it.
Tell = Callable[[str], None]
