"""A plugin whose import does not end."""

from __future__ import annotations

import time

HINTS = {}
while True:
    time.sleep(1)
