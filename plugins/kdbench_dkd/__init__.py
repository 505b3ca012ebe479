"""Decoupled knowledge distillation (Zhao et al. 2022) for kdbench."""

from kdbench.hookspecs import hookimpl

kdbench_api = ">=1.4,<2"


@hookimpl
def kdbench_distillers() -> list[type]:
    from kdbench_dkd.method import DKD  # lazy: listing plugins must not import torch

    return [DKD]
