"""Neural attention distillation (Li et al. 2021) for kdbench."""

from kdbench.hookspecs import hookimpl

kdbench_api = ">=1,<2"


@hookimpl
def kdbench_defenses() -> list[type]:
    from kdbench_nad.method import NAD  # lazy: listing plugins must not import torch

    return [NAD]
