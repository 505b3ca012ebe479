"""On which device and in which arithmetic a run computes."""

from __future__ import annotations

import os
import re
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from kdbench.errors import ConfigError

#: oneDNN caches the kernels that it generates, by default 1024 of them. A deep pair needs more in
#: each step: Pyramid-200 in training needs about 1,200. The cache drops what was used longest ago,
#: so it would never hit, and each step would generate every kernel again. oneDNN reads the variable
#: at its first convolution. Results are the same bit for bit.
_PRIMITIVE_CACHE = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class Numerics:
    """Device and arithmetic of a run."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where it computes."""
    bf16: bool = False
    """Autocast matrix work to bfloat16. Parameters and losses stay float32."""
    threads: int = field(default_factory=torch.get_num_threads)
    """Threads on a CPU."""

    def autocast(self) -> torch.autocast:
        """A context in which matrix work has the arithmetic of the run."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def place(self, module: _Module) -> _Module:
        """Move a module to the device, in channels-last layout.

        Convolutions are faster in that layout on every device.
        """
        module.to(self.device)
        return module.to(memory_format=torch.channels_last)

    def __str__(self) -> str:
        layout = f"{'bf16' if self.bf16 else 'fp32'}+channels_last"
        # On a CPU the number of threads changes the order of sums, and so the last bits of results.
        return f"{layout}, {self.threads} threads" if self.device.type == "cpu" else layout


def choose_numerics(device: str, numerics: str, threads: int | None = None) -> Numerics:
    """Turn ``auto`` into what this machine has.

    bf16 is chosen if the hardware multiplies it: a CPU with AVX512-BF16 or AMX, or a CUDA card of
    capability 8 or more.

    Args:
        device: ``auto`` or as torch names it.
        numerics: ``auto``, ``fp32`` or ``bf16``.
        threads: of a stage on a CPU. None: torch's default, one a core.

    Raises:
        ConfigError: there is no such device.
    """
    chosen = _device(device)
    os.environ.setdefault(*_PRIMITIVE_CACHE)
    if numerics == "auto":
        bf16 = (
            torch.cuda.get_device_capability(chosen)[0] >= 8
            if chosen.type == "cuda"
            else _cpu_multiplies_bf16()
        )
    else:
        bf16 = numerics == "bf16"
    if chosen.type == "cuda" and not bf16:
        # By default torch multiplies float32 in TF32 on a GPU. A row that says fp32 would be wrong.
        torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]  # exists only at run time
    return Numerics(chosen, bf16=bf16, threads=threads or torch.get_num_threads())


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"--device {name!r} is not a device; use auto, cpu, cuda or cuda:NUMBER")
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if count == 0:
            raise ConfigError(
                f"--device {name} asked for, but torch sees no CUDA device here; use --device cpu "
                "or auto"
            )
        if (device.index or 0) >= count:
            raise ConfigError(
                f"--device {name} asked for; torch sees {count} CUDA device(s), numbered from 0"
            )
    return device


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.backends.cpu.get_cpu_capability()
    if not capabilities.startswith("AVX512"):
        return False
    path = Path("/proc/cpuinfo")
    flags = path.read_text("ascii", "replace") if path.exists() else ""
    return any(flag in flags for flag in ("avx512_bf16", "amx_bf16"))


def device_name(device: torch.device) -> str:
    """``cpu``, or the name of the card."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_mib(device: torch.device) -> float:
    """Largest memory of this process so far, MiB: reserved on a GPU, or resident on a CPU."""
    if device.type == "cuda":
        # The memory that CUDA graphs hold counts as reserved, but not as allocated.
        return torch.cuda.max_memory_reserved(device) / 2**20
    # macOS counts it in bytes, Linux in KiB.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
