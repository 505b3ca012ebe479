"""Overhaul of feature distillation (Heo et al. 2019) for kdbench."""

from kdbench.hookspecs import hookimpl

kdbench_api = ">=1,<2"


@hookimpl
def kdbench_distillers() -> list[type]:
    from kdbench_fkd.method import FKD  # lazy: listing plugins must not import torch

    return [FKD]
