"""Similarity-preserving distillation (Tung and Mori 2019) for kdbench."""

from kdbench.hookspecs import hookimpl

kdbench_api = ">=1,<2"


@hookimpl
def kdbench_distillers() -> list[type]:
    from kdbench_sp.method import SP  # lazy: listing plugins must not import torch

    return [SP]
