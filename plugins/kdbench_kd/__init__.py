"""Logit distillation (Hinton et al. 2015) for kdbench."""

from kdbench.hookspecs import hookimpl

kdbench_api = ">=1,<2"


@hookimpl
def kdbench_distillers() -> list[type]:
    from kdbench_kd.method import KD  # lazy: listing plugins must not import torch

    return [KD]
