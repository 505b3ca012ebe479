"""The store as one run reads it."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from kdbench.bench.store.artefacts import Store
from kdbench.bench.store.manifest import Manifest

_LATELY = 4096  # manifests that a run holds in memory; about 10 KB each


class CachedStore(Store):
    """A manifest that was read lately is not read again, until damage is found or its files are
    compared: another run may have put the artefact aside and made it anew."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._lately: OrderedDict[str, Manifest] = OrderedDict()

    def find(self, key: str) -> Manifest | None:
        manifest = self._lately.pop(key, None) or super().find(key)
        if manifest is not None:  # what is not there is looked for again: it may be there soon
            self._lately[key] = manifest
            if len(self._lately) > _LATELY:
                self._lately.popitem(last=False)
        return manifest

    def verified(self, key: str) -> Manifest | None:
        self._lately.pop(key, None)
        return super().verified(key)

    def copy_out(self, key: str, name: str, target: Path, mode: int = 0o444) -> None:
        self._lately.pop(key, None)
        super().copy_out(key, name, target, mode)

    def put_aside(self, key: str) -> None:
        self._lately.pop(key, None)
        super().put_aside(key)
