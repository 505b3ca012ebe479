"""The environment variables of a process that runs code of a plugin."""

from __future__ import annotations

import os
import re
from pathlib import Path

from kdbench.untrusted.processes.search import search_variables

#: Families in which programs of other kinds have variables, too, some with a secret: by full name.
_NAMES = frozenset(
    (
        *("PATH", "LANG", "LANGUAGE", "TZ", "HOME", "VIRTUAL_ENV"),
        *("LC_ALL", "LC_CTYPE", "LC_COLLATE", "LC_MESSAGES", "LC_NUMERIC", "LC_TIME"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD", "LD_BIND_NOW"),
        *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_TF32_OVERRIDE"),
    )
)
#: Families of what computes.
_PREFIXES = (
    *("CUDA", "OMP_", "GOMP_", "KMP_", "MKL_", "ATEN_", "ONEDNN_", "DNNL_"),
    *("PYTORCH_", "TORCH_", "TIMM_"),
)
#: Parts of the name of a secret. Nothing that computes has one.
_SECRET = re.compile("KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)


def allowed_environment() -> dict[str, str]:
    """What such a process needs of this process's environment.

    Nothing in it could say where a run's results or its store are.
    """
    kept = {
        name: value
        for name, value in os.environ.items()
        if name in _NAMES or (name.startswith(_PREFIXES) and not _SECRET.search(name))
    }
    kept |= search_variables()
    kept["PYTHONUTF8"] = "1"  # names of files are what they are in this process
    kept["OPENBLAS_NUM_THREADS"] = "1"  # numpy's threads would be lost in a fork
    kept.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")
    return kept


def temporary_environment(folder: Path) -> dict[str, str]:
    """Variables that send temporary files, caches and the home folder into one folder."""
    names = ("TMPDIR", "HOME", "MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    return dict.fromkeys(names, str(folder))
