"""Activation boundaries (Heo et al. 2019) for kdbench."""

from kdbench.hookspecs import hookimpl

kdbench_api = ">=1.4,<2"


@hookimpl
def kdbench_distillers() -> list[type]:
    from kdbench_ab.method import AB  # lazy: listing plugins must not import torch

    return [AB]
