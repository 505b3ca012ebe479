"""The store as one run reads it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from kdbench.bench.store.artefacts import Manifest, Store

_LATELY = 4096  # manifests that a run holds in memory; about 10 KB each


class CachedStore(Store):
    """A manifest that was read lately is not read again, until damage is found."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._lately = lru_cache(maxsize=_LATELY)(self._read)

    def find(self, key: str) -> Manifest | None:
        try:
            return self._lately(key)
        except KeyError:  # which is not remembered: it may be there soon
            return None

    def _read(self, key: str) -> Manifest:
        manifest = super().find(key)
        if manifest is None:
            raise KeyError(key)
        return manifest

    def put_aside(self, key: str) -> None:
        super().put_aside(key)
        self._lately.cache_clear()
