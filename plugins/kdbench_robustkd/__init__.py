"""RobustKD feature detoxification (Chen et al. 2024) for kdbench."""

from kdbench.hookspecs import hookimpl

kdbench_api = ">=1,<2"


@hookimpl
def kdbench_defenses() -> list[type]:
    from kdbench_robustkd.method import RobustKD  # lazy: listing plugins must not import torch

    return [RobustKD]
