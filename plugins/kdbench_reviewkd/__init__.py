"""Knowledge review (Chen et al. 2021) for kdbench."""

from kdbench.hookspecs import hookimpl

kdbench_api = ">=1.4,<2"


@hookimpl
def kdbench_distillers() -> list[type]:
    from kdbench_reviewkd.method import ReviewKD  # lazy: listing plugins must not import torch

    return [ReviewKD]
