"""Running a method in a process that has never loaded it, as every stage of a run does."""

from __future__ import annotations

import importlib
import multiprocessing
import sys
from pathlib import Path
from typing import Any

from kdbench.loading.plugin import FILE_MODULE, describe_file, load
from kdbench.method import Method

_PRELOAD = ["torch", "torch._dynamo", "kdbench.testing.method_run"]
_TIMEOUT_S = 300


def digest(cls: type[Method], params: dict[str, Any]) -> str:
    """The digest of the method's run under seed 0 in a new process."""
    # A fork would inherit the modules that are loaded here, the plugin among them.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    file = sys.modules[cls.__module__].__file__ if cls.__module__.startswith(FILE_MODULE) else None
    with context.Pool(1) as pool:
        return pool.apply_async(_compute, (cls.__module__, cls.__qualname__, file, params)).get(
            _TIMEOUT_S
        )


def _compute(module: str, qualname: str, file: str | None, params: dict[str, Any]) -> str:
    from kdbench.testing.method_run import run_method

    if file is not None:
        load(describe_file(Path(file)))
    # The class may be defined inside another one: follow its qualified name part by part.
    cls: Any = importlib.import_module(module)
    for part in qualname.split("."):
        cls = getattr(cls, part)
    return run_method(cls(cls.Params(**params)), 0).digest()
