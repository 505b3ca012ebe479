"""``kdbench list``."""

from __future__ import annotations

import json
import re
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import click

from kdbench.cli.choice import plugin_options
from kdbench.cli.details import METHODS, Entry, details
from kdbench.cli.request import store_option
from kdbench.errors import UsageError, nearest
from kdbench.untrusted.text import command_line

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.table import Table

    from kdbench.loading.answers import Registered
    from kdbench.loading.catalogue import Catalogue
    from kdbench.loading.choice import PluginChoice
    from kdbench.loading.facts import DatasetFacts, MethodFacts

_FROM_PLUGINS = {*METHODS, "models", "datasets"}
_KINDS = (*METHODS, "models", "datasets", "presets", "teachers")


class _Kind(click.Choice[str]):
    """One of the kinds. ``attack`` means the same as ``attacks``.

    Any other word is let through: the command knows what has that name.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        plural = f"{value}s"
        return plural if plural in _KINDS else str(value)


@click.command("list")
@click.argument("kind", required=False, type=_Kind(_KINDS))
@click.argument("name", required=False)
@click.option(
    "--image-size",
    type=click.IntRange(8, 512),
    default=32,
    show_default=True,
    help="Of a model's images, pixels.",
)
@plugin_options
@store_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def list_command(
    kind: str | None,
    name: str | None,
    image_size: int,
    choice: PluginChoice,
    store_dir: Path | None,
    as_json: bool,
) -> None:
    """Show what can be run, all of it or one KIND, and which plugins could not be loaded.

    attack means the same as attacks. With the NAME of a method its parameters, with that of a model
    its feature groups.
    """
    if kind is not None and kind not in _KINDS:
        raise UsageError(_no_kind(kind, choice, store_dir))
    if name is not None:
        tables = details(str(kind), name, image_size, choice)
    else:
        tables = _collect([kind] if kind else list(_KINDS), choice, store_dir)
    if as_json:
        click.echo(json.dumps(tables, indent=1, sort_keys=True, allow_nan=False))
        return
    from kdbench.cli.display import make_console, safe

    console = make_console()
    for title, entries in tables.items():
        if title != "broken" and entries:
            console.print(_table(title, entries))
        elif title != "broken":
            console.print(f"[bold]{safe(title)}[/]: none")
    if tables.get("broken"):
        console.print(_table("plugins that could not be loaded", tables["broken"]))


def _no_kind(word: str, choice: PluginChoice, store_dir: Path | None) -> str:
    """What to say of a word that is no kind: the kind that is near, or else what has a name like
    it, and the kinds that exist."""
    near = [f"kdbench list {kind}" for kind in nearest(word, _KINDS)]
    if not near:
        commands: dict[str, str] = {}
        for kind, entries in _collect(list(_KINDS), choice, store_dir).items():
            for name in (str(entry["name"]) for entry in entries if kind in _KINDS):
                # Only these have more to show than their line in the list.
                own = f"{kind.removesuffix('s')} {name}" if kind in (*METHODS, "models") else kind
                commands.setdefault(name, command_line(["kdbench", "list", *own.split(" ")]))
        near = list(dict.fromkeys(commands[name] for name in nearest(word, list(commands))))
    meant = f"; did you mean {' or '.join(f'`{command}`' for command in near)}?" if near else ";"
    return f"unknown kind {word!r}{meant} known: {', '.join(_KINDS)}"


def _collect(
    kinds: list[str], choice: PluginChoice, store_dir: Path | None
) -> dict[str, list[Entry]]:
    """What there is of each kind. Where plugins define one of the kinds, ``broken`` has those that
    could not be loaded."""
    tables: dict[str, list[Entry]] = {}
    if not set(kinds) & _FROM_PLUGINS and not choice.files:
        return {kind: _of_kdbench(kind, store_dir) for kind in kinds}
    from kdbench.cli.processes import catalogue

    with catalogue(choice) as known:
        for kind in kinds:
            plugins = kind in _FROM_PLUGINS
            tables[kind] = (
                list(_of_plugins(kind, known)) if plugins else _of_kdbench(kind, store_dir)
            )
        tables["broken"] = [
            {"plugin": plugin, "cause": cause} for plugin, cause in sorted(known.broken.items())
        ]
    return tables


def _of_kdbench(kind: str, store_dir: Path | None) -> list[Entry]:
    """What no plugin brings: presets and imported teachers."""
    if kind == "teachers":
        return _teachers(store_dir)
    from kdbench.bench.request.preset_files import preset_names, preset_remarks

    return [
        {"name": name, "about": _about(name), "credibility": preset_remarks(name).about}
        for name in preset_names()
    ]


def _of_plugins(kind: str, known: Catalogue) -> Iterator[Entry]:
    if kind == "models":
        yield from _models(known)
    elif kind == "datasets":
        for name, entry in known.registered_datasets.items():
            yield _dataset(name, entry)
    else:
        for name, item in sorted(known.methods[METHODS[kind]].items()):
            yield from _method(name, item)


def _method(name: str, item: Registered[MethodFacts]) -> Iterator[Entry]:
    """A method, and after it its variants. A variant has a text and parameters instead of a
    publication."""
    info = item.value.info
    plugin = {"plugin": item.plugin.name, "version": item.plugin.version}
    yield {
        "name": name,
        "title": info.title,
        "venue": info.venue,
        "year": info.year,
        "evidence": info.evidence or "none yet",
        **plugin,
    }
    for word, variant in item.value.variants.items():
        yield {
            "name": f"{name}.{word}",
            "title": variant.text,
            "venue": "",
            "year": "",
            "evidence": "",
            **plugin,
            "params": variant.params,
        }


def _teachers(store_dir: Path | None) -> list[Entry]:
    """The imported teachers of a store. One whose entry is damaged is listed as that."""
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.store.teacher_record import SUMMARY
    from kdbench.bench.store.teachers import read_entry, teacher_names
    from kdbench.errors import IntegrityError

    store, entries = Store(store_dir), []
    for name in teacher_names(store):
        try:
            entries.append(read_entry(store, name).summary())
        except IntegrityError as error:
            entries.append({**dict.fromkeys(SUMMARY, ""), "name": name, "model": str(error)})
    return entries


def _models(known: Catalogue) -> Iterator[Entry]:
    from kdbench._libraries import LIBRARIES

    for name, entry in known.registered_models.items():
        yield {"name": name, "about": _about_source(entry)}
    for library in LIBRARIES:
        yield {"name": f"{library}/NAME", "about": f"a classification model of {library}"}


def _dataset(name: str, entry: Registered[DatasetFacts]) -> Entry:
    """A dataset and the numbers of all of it, None where they are not known."""
    source = entry.value
    return {
        "name": name,
        "about": _about_source(entry, *source.options),
        "classes": source.num_classes,
        "pixels": source.image_size,
        "train": source.train_size,
        "test": source.test_size,
    }


def _about_source(entry: Registered[Any], *options: str) -> str:
    """The description of a network or a dataset, the options that it needs, and its plugin."""
    plugin = "" if entry.is_built_in else f"plugin {entry.plugin.name}"
    return ", ".join(filter(None, [entry.value.about, *options, plugin]))


def _about(preset: str) -> str:
    """What a preset is for: the first sentence of the comment at the top of its file."""
    from kdbench.bench.request.preset_files import preset_text

    lines = takewhile(lambda line: line.startswith("#"), preset_text(preset).splitlines())
    comment = " ".join(line.lstrip("# ") for line in lines)
    return re.split(r"(?<=\.) (?=[A-Z])", comment)[0]


def _venue(entry: Entry) -> str:
    """With its year. Empty: the method was not published."""
    return "" if entry["venue"] == "-" else f"{entry['venue']} {entry['year']}".strip()


def _table(title: str, entries: list[Entry]) -> Table:
    from kdbench.cli.display import plain_table, safe

    shown = [{**e, "venue": _venue(e)} if "venue" in e else e for e in entries]
    columns = [name for name in (shown[0] if shown else {"name": ""}) if name != "year"]
    table = plain_table(title, columns)
    for entry in shown:
        values = (entry[column] for column in columns)
        table.add_row(*(safe("" if value is None else value) for value in values))
    return table
