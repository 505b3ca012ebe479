"""``kdbench list``."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any

import click

from kdbench.cli.choice import plugin_options
from kdbench.cli.details import METHODS, details

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from kdbench.data import DatasetSource
    from kdbench.loading.choice import PluginChoice
    from kdbench.loading.registry import Registered, Registry
    from kdbench.method import Method

_FROM_PLUGINS = {*METHODS, "models", "datasets"}
_KINDS = (*METHODS, "models", "datasets", "presets", "teachers")


@click.command("list")
@click.argument("kind", required=False, type=click.Choice(_KINDS))
@click.argument("name", required=False)
@click.option(
    "--image-size",
    type=click.IntRange(8, 512),
    default=32,
    show_default=True,
    help="Of a model's images, pixels.",
)
@plugin_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables.")
def list_command(
    kind: str | None, name: str | None, image_size: int, choice: PluginChoice, as_json: bool
) -> None:
    """Show what can be run, all of it or one KIND, and which plugins could not be loaded.

    With the NAME of a method its parameters, with that of a model its feature groups.
    """
    if name is not None:
        found = details(str(kind), name, image_size, choice)
    else:
        found = _collect([kind] if kind else list(_KINDS), choice)
    if as_json:
        click.echo(json.dumps(found, indent=1, sort_keys=True, allow_nan=False))
        return
    from kdbench.cli.display import make_console

    console = make_console()
    for name, entries in found.items():
        if name != "broken":
            console.print(_table(name, entries))
    if found.get("broken"):
        console.print(_table("plugins that could not be loaded", found["broken"]))


def _collect(kinds: list[str], choice: PluginChoice) -> dict[str, list[dict[str, Any]]]:
    """Kind -> what there is of it; ``broken`` beside them where methods are among the kinds."""
    from kdbench.bench.request.presets import preset_names
    from kdbench.loading.registry import Registry

    found: dict[str, list[dict[str, Any]]] = {}
    load = bool(set(kinds) & _FROM_PLUGINS)
    registry = Registry.load(choice=choice) if load else Registry()
    for kind in kinds:
        if kind == "models":
            found[kind] = list(_models(registry))
        elif kind == "datasets":
            found[kind] = [
                _dataset(name, entry) for name, entry in registry.registered_datasets.items()
            ]
        elif kind == "teachers":
            found[kind] = _teachers()
        elif kind == "presets":
            found[kind] = [{"name": name, "about": _about(name)} for name in preset_names()]
        else:
            found[kind] = [
                entry
                for name, item in sorted(registry.methods[METHODS[kind]].items())
                for entry in _method(name, item)
            ]
    if load:
        found["broken"] = [
            {"plugin": plugin, "cause": cause} for plugin, cause in sorted(registry.broken.items())
        ]
    return found


def _method(name: str, item: Registered[type[Method]]) -> Iterator[dict[str, Any]]:
    """A method and, after it, its variants; those have a text and parameters instead of a
    publication."""
    info = item.value.info
    of = {"plugin": item.plugin.name, "version": item.plugin.version}
    yield {"name": name, "title": info.title, "venue": info.venue, "year": info.year, **of}
    for word, variant in item.value.variants.items():
        yield {
            "name": f"{name}.{word}",
            "title": variant.text,
            "venue": "",
            "year": "",
            **of,
            "params": variant.params,
        }


def _teachers() -> list[dict[str, Any]]:
    """The imported teachers of the default store."""
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.store.teachers import load_teacher, teacher_names

    store = Store()
    found = [load_teacher(store, name) for name in teacher_names(store)]
    return [
        {
            "name": t.name,
            "model": t.model,
            "dataset": t.dataset,
            "sha256": str(t.origin.get("sha256", ""))[:12],
        }
        for t in found
    ]


def _models(registry: Registry) -> Iterator[dict[str, Any]]:
    from kdbench.models import LIBRARIES

    for name, entry in registry.registered_models.items():
        yield {"name": name, "about": _about_source(entry)}
    for library in LIBRARIES:
        yield {"name": f"{library}/NAME", "about": f"a classification model of {library}"}


def _dataset(name: str, entry: Registered[DatasetSource]) -> dict[str, Any]:
    """A dataset and the numbers of the whole of it, None where they are not known."""
    source = entry.value
    return {
        "name": name,
        "about": _about_source(entry, *source.options()),
        "classes": source.num_classes,
        "pixels": source.image_size,
        "train": source.train_size,
        "test": source.test_size,
    }


def _about_source(entry: Registered[Any], *options: str) -> str:
    """What a network or a dataset says of itself, the options that it needs, and its plugin."""
    plugin = "" if entry.is_built_in else f"plugin {entry.plugin.name}"
    return ", ".join(filter(None, [entry.value.about, *options, plugin]))


def _about(preset: str) -> str:
    """The comment on the first line of a preset's file."""
    lines = (
        (resources.files("kdbench.bench.request.presets") / f"{preset}.toml")
        .read_text(encoding="utf-8")
        .splitlines()
    )
    return lines[0].lstrip("# ") if lines and lines[0].startswith("#") else ""


def _table(title: str, entries: list[dict[str, Any]]) -> Table:
    from kdbench.cli.display import plain_table, safe

    shown = [
        {**e, "venue": f"{e['venue']} {e['year']}".strip()} if "venue" in e else e for e in entries
    ]
    columns = [name for name in (shown[0] if shown else {"name": ""}) if name != "year"]
    table = plain_table(title, columns)
    for entry in shown:
        values = (entry[column] for column in columns)
        table.add_row(*(safe("" if value is None else value) for value in values))
    return table
