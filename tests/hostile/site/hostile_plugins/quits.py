"""A plugin that ends the process that imports it."""

from __future__ import annotations

import os

HINTS = {}
os._exit(0)
