"""Digests, and the names of the files of an artefact."""

from __future__ import annotations

import hashlib
import json
from typing import Any

MODEL, TRIGGER, PICTURE = "model.safetensors", "trigger.safetensors", "trigger.png"


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def digest(value: Any) -> str:
    """SHA-256 of canonical JSON.

    The order of keys does not matter, and 1.0 is the same as 1. Everything else matters.
    """
    return hashlib.sha256(_encode(_canonical(value)).encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, str | int):  # first: most values are, and a plan asks millions of times
        return value
    if isinstance(value, dict):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(v) for v in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value
