"""Hints of an intermediate layer (Romero et al. 2015) for kdbench."""

from kdbench.hookspecs import hookimpl

kdbench_api = ">=1,<2"


@hookimpl
def kdbench_distillers() -> list[type]:
    from kdbench_fitnet.method import FitNet  # lazy: listing plugins must not import torch

    return [FitNet]
