"""Plugins in the orders of processes that load them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.loading.candidates import Plugin


def plugin_order(plugin: Plugin) -> dict[str, Any]:
    """A plugin that is not loaded yet, as JSON can hold it."""
    content = plugin.content
    return {
        "name": plugin.name,
        "module": plugin.module,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "path": None if plugin.path is None else str(plugin.path),
        "content": None if content is None else base64.b64encode(content).decode(),
    }


def ordered_plugin(values: Mapping[str, Any]) -> Plugin:
    """The plugin that :func:`plugin_order` described."""
    path, content = values["path"], values["content"]
    changed = {
        "path": None if path is None else Path(path),
        "content": None if content is None else base64.b64decode(content),
    }
    return Plugin(**{**values, **changed})
