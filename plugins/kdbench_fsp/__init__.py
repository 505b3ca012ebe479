"""Flow of the solution procedure (Yim et al. 2017) for kdbench."""

from kdbench.hookspecs import hookimpl

kdbench_api = ">=1.4,<2"


@hookimpl
def kdbench_distillers() -> list[type]:
    from kdbench_fsp.method import FSP  # lazy: listing plugins must not import torch

    return [FSP]
