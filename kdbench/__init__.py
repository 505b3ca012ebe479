"""kdbench: backdoors in knowledge distillation, attacks and defenses measured with controls.

The functions of :mod:`kdbench.api` are here by name, and are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbench.api import load as load
    from kdbench.api import run as run
    from kdbench.results import Results as Results

__version__ = "0.2.0"

#: What may be asked of the package -> the module that has it.
_LATE = {**dict.fromkeys(("load", "run"), "kdbench.api"), "Results": "kdbench.results"}
__all__ = ["Results", "__version__", "load", "run"]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
