"""Distillation by correlations of predictions (Huang et al. 2022) for kdbench."""

from kdbench.hookspecs import hookimpl

kdbench_api = ">=1,<2"


@hookimpl
def kdbench_distillers() -> list[type]:
    from kdbench_dist.method import DIST  # lazy: listing plugins must not import torch

    return [DIST]
