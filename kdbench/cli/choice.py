"""The options that say which plugins a command loads. Every command that loads plugins has
them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from kdbench.errors import UsageError
from kdbench.loading.choice import PluginChoice

_OPTIONS = (
    click.option(
        "-p",
        "without",
        multiple=True,
        metavar="no:NAME",
        help="Do not load the plugin NAME; repeatable.",
    ),
    click.option(
        "--plugin-file",
        "files",
        multiple=True,
        type=click.Path(path_type=Path),
        help="Load NAME.py as a plugin; repeatable.",
    ),
)


def same_options() -> list[str]:
    """The options of the present command that another one needs to see the same: its store and its
    plugins."""
    params = click.get_current_context().params
    words = ["--store", str(params["store_dir"])] if params.get("store_dir") is not None else []
    words += [word for path in params.get("files", ()) for word in ("--plugin-file", str(path))]
    return words + [word for name in params.get("without", ()) for word in ("-p", name)]


def plugin_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command these options. It gets them, and $KDBENCH_LOAD_PLUGINS, as the argument
    ``choice``, a :class:`kdbench.loading.choice.PluginChoice`."""

    @functools.wraps(command)
    def with_choice(
        *arguments: Any, without: tuple[str, ...], files: tuple[Path, ...], **options: Any
    ) -> Any:
        wrong = [word for word in without if not word.startswith("no:")]
        if wrong:
            raise UsageError(
                f"-p {wrong[0]!r}: only no:NAME is known, which keeps the plugin NAME from being "
                "loaded"
            )
        choice = PluginChoice.of((word.removeprefix("no:") for word in without), files)
        return command(*arguments, choice=choice, **options)

    for option in reversed(_OPTIONS):
        with_choice = option(with_choice)
    return with_choice
