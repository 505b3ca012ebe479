"""kdbench: backdoors in knowledge distillation, attacks and defenses measured with controls.

The functions of :mod:`kdbench.api` are here by name, and are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdbench.api import compare as compare
    from kdbench.api import export as export
    from kdbench.api import load as load
    from kdbench.api import measure as measure
    from kdbench.api import methods as methods
    from kdbench.api import network as network
    from kdbench.api import plan as plan
    from kdbench.api import run as run
    from kdbench.api import trigger as trigger
    from kdbench.api import verify as verify
    from kdbench.results import Results as Results

__version__ = "0.2.0"

#: The functions of the Python API.
_FUNCTIONS = (
    *("compare", "export", "load", "measure", "methods"),
    *("network", "plan", "run", "trigger", "verify"),
)
#: What may be asked of the package -> the module that has it.
_LATE = {**dict.fromkeys(_FUNCTIONS, "kdbench.api"), "Results": "kdbench.results"}
__all__ = ["Results", "__version__", *_FUNCTIONS]


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
