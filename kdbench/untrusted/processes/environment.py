"""The environment variables of a process that runs code of a plugin."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_LIST = ("PATH", "LANG", "LANGUAGE", "TZ", "HOME", "VIRTUAL_ENV")
_PREFIXES = (
    "LC_",
    "LD_",
    "CUDA",
    "NVIDIA_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "ATEN_",
    "ONEDNN_",
    "DNNL_",
    "PYTORCH_",
    "TORCH_",
    "TIMM_",
)


def allowed_environment() -> dict[str, str]:
    """What such a process needs of this process's environment.

    Nothing in it could say where a run's results or its store are.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _LIST or name.startswith(_PREFIXES)
    }
    inside = (sys.prefix, sys.base_prefix)
    entries = [
        entry
        for entry in sys.path
        if entry and os.path.isabs(entry) and not entry.startswith(inside)
    ]
    script = os.path.dirname(os.path.abspath(sys.argv[0])) if sys.argv and sys.argv[0] else ""
    kept["PYTHONPATH"] = os.pathsep.join(
        entry for entry in entries if entry not in (os.getcwd(), script)
    )
    kept["OPENBLAS_NUM_THREADS"] = "1"  # numpy's threads would be lost in a fork
    kept.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
    return kept


def temporary_environment(folder: Path) -> dict[str, str]:
    """Variables that send temporary files, caches and the home folder into one folder."""
    names = ("TMPDIR", "HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    return dict.fromkeys(names, str(folder))
