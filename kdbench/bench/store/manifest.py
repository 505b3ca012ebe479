"""What an artefact says of itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

MANIFEST = "manifest.json"
FORMAT = 2


@dataclass(frozen=True)
class Manifest:
    """What an artefact says of itself.

    kind: of stage. title: in words. facts: numbers of the stage. files: name -> {sha256, bytes}.
    seconds: of wall time.
    peak_mb: peak memory, MiB. made: seconds since 1970. ingredients: what the key is the digest of.
    """

    key: str
    kind: str
    title: str
    facts: dict[str, Any]
    files: dict[str, dict[str, Any]]
    seconds: float
    peak_mb: float
    made: float
    ingredients: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of the files, the manifest left out."""
        return sum(entry["bytes"] for entry in self.files.values())

    def encoded(self) -> bytes:
        """Canonical JSON with a seal: SHA-256 of the same with an empty seal."""
        body = {"format": FORMAT, **vars(self), "seal": ""}
        return _canonical({**body, "seal": hashlib.sha256(_canonical(body)).hexdigest()})

    @classmethod
    def decoded(cls, data: bytes) -> Manifest:
        """The inverse; ValueError unless every byte is as it was written."""
        fields = json.loads(data)
        seal = fields.pop("seal")
        unsealed = data.replace(b'"seal":"%b"' % seal.encode(), b'"seal":""', 1)
        if hashlib.sha256(unsealed).hexdigest() != seal:
            raise ValueError("the seal does not fit")
        if fields.pop("format") != FORMAT:
            raise ValueError("written by another version of the store")
        return cls(**fields)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
