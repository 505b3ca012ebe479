"""What ``kdbench list KIND NAME`` shows of one method or one model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdbench.bench.session.networks import spelled
from kdbench.cli.tell import tell
from kdbench.errors import UsageError

if TYPE_CHECKING:
    from kdbench.loading.choice import PluginChoice
    from kdbench.loading.facts import MethodFacts
    from kdbench.loading.groups import NetworkGroups

#: The kinds of methods, by the words of the command line.
METHODS = {"attacks": "attack", "defenses": "defense", "distillers": "distiller"}

#: The title of the table of what makes no sense in a network's groups.
NOTES = "what makes little sense in these groups"
#: A line of a table: values by the headings of their columns.
Entry = dict[str, Any]


def details(kind: str, name: str, image_size: int, choice: PluginChoice) -> dict[str, list[Entry]]:
    """The lines of each table, by its title.

    Raises:
        UsageError: there is nothing of that name, or nothing more to show of that kind.
    """
    from kdbench.cli.processes import catalogue
    from kdbench.loading.answers import base_name

    with catalogue(choice) as known:
        if kind in METHODS:
            of_kind, base, variant = known.identify(f"{METHODS[kind]}.{name}")
            title = f"{name}, --set {METHODS[kind]}.{base_name(name)}.FIELD=VALUE"
            return {title: _parameters(known.facts(of_kind, base), variant)}
        if kind == "models":
            name = spelled(name, tell)
            return _groups(name, known.groups(name, image_size))
    raise UsageError(
        f"nothing more is known of {kind} than `kdbench list {kind}` tells; NAME goes with methods "
        "and models"
    )


def _parameters(facts: MethodFacts, variant: str) -> list[Entry]:
    """Every parameter of a method: its default or the variant's value, the presets that differ, and
    its meaning."""
    return [
        {
            "field": name,
            "value": field.variants.get(variant, field.default),
            "presets": "; ".join(f"{preset} {value}" for preset, value in field.presets.items()),
            "what": field.description,
        }
        for name, field in facts.fields.items()
    ]


def _groups(name: str, network: NetworkGroups) -> dict[str, list[Entry]]:
    """The groups of a network at an image size, and what its taps are."""
    entries = [
        {
            "group": f"G{number}",
            "channels x height x width": group.group,
            "tap": group.tap,
            "module": group.module,
            "tap's batch norm": "yes" if group.tap_norm else "none",
        }
        for number, group in enumerate(network.groups, 1)
    ]
    size = f"{network.image_size}x{network.image_size}"
    tables = {f"{name} at {size}, {network.parameters:,} parameters with 10 classes": entries}
    if network.notes:
        tables[NOTES] = [{"note": note} for note in network.notes]
    return tables
