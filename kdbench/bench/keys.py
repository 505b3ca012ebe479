"""Digests, and the names of the files of an artefact."""

from __future__ import annotations

import hashlib
import json
from typing import Any

MODEL, TRIGGER, PICTURE = "model.safetensors", "trigger.safetensors", "trigger.png"

#: Made once: json.dumps would make an encoder at each call.
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def digest(value: Any) -> str:
    """SHA-256 of canonical JSON.

    The order of keys does not matter, and 1.0 is the same as 1. Everything else matters.
    """
    return hashlib.sha256(_encode(_canonical(value)).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    # First, since most values are of these types, and a plan makes millions of calls.
    if isinstance(value, str | int):
        return value
    if isinstance(value, dict):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
