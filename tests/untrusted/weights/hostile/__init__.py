"""More than sixty files that must not be imported. A few lines build each of them.

A payload that runs creates the canary. ``HOSTILE[name].why`` is part of the message that refuses
the file. So a file is refused for what is wrong with it, and not for a flaw of these modules.
"""

from __future__ import annotations

from tests.untrusted.weights.hostile import (
    archives,
    others,
    payloads,
    pickles,
    safetensors_files,
    tensors,
)
from tests.untrusted.weights.hostile.family import Family

#: Every hostile file by its name.
HOSTILE = Family()
for _module in (payloads, pickles, archives, safetensors_files, tensors, others):
    HOSTILE.include(_module.FILES)
