"""The control without a defense, for kdbench."""

from kdbench.hookspecs import hookimpl

kdbench_api = ">=1,<2"


@hookimpl
def kdbench_defenses() -> list[type]:
    from kdbench_none.method import NoDefense  # lazy: listing plugins must not import torch

    return [NoDefense]
