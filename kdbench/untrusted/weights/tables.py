"""Finding the one table of tensors in what a file holds.

A training checkpoint is tables in tables. The table that fits the network is taken, wherever it is.
Where several fit, those under the usual names count: a file that holds an average of the weights
beside the weights (``ema_state_dict``) is read for the weights. Two usual ones are refused.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdbench.errors import IntegrityError
from kdbench.untrusted.header import shown
from kdbench.untrusted.weights.names import Expected, Naming, best_naming

USUAL = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "state_dict_ema",
    "model_ema",
)
"""The names under which training scripts put a state_dict into a larger table."""
MOST_KEY = 60
"""The longest key of a table that is looked into."""
_MOST_STEPS = 3
"""How many tables may be around the weights."""
_MOST_TABLES = 300
"""How many tables are looked into. A checkpoint has a few, and an optimizer's state one for each
parameter."""
_MOST_BESIDE = 20
#: What THOP, a profiler, adds to every module: one number each.
_PROFILED = ("total_ops", "total_params")


@dataclass(frozen=True)
class Table:
    """A table of tensors, and how its names are those of the network."""

    keys: tuple[str, ...]
    """Of the tables around it, outermost first."""
    tensors: dict[str, Tensor]
    """By their names in the file."""
    others: dict[Any, Any]
    """What is in the table besides tensors and tables."""
    counters: tuple[str, ...]
    """Names of a profiler's counters, which are no weights."""
    naming: Naming
    """How its names are read."""
    misshapen: int
    """How many tensors have another shape than the network's."""

    @property
    def fits(self) -> bool:
        """Whether these are the weights of the network, by names and shapes."""
        return not self.naming.wrong and not self.misshapen

    @property
    def is_usual(self) -> bool:
        """Whether it is where training scripts put weights."""
        return all(key in USUAL for key in self.keys)


@dataclass(frozen=True)
class Choice:
    """The table that is read."""

    table: Table
    """It."""
    beside: tuple[str, ...]
    """Places of other tables that would fit as well, and are left out."""


def choose(loaded: Any, expected: Expected) -> Choice:
    """The table to read, or the one that comes closest.

    Raises:
        IntegrityError: there is no table of tensors, several fit, or they are nested too deeply.
    """
    if type(loaded) not in (dict, OrderedDict):
        what = f"a {shown(type(loaded).__name__)}"
        raise IntegrityError(
            f"it holds {what} where a table of tensors by name is expected; save a state_dict()"
        )
    tables = [_table(keys, table, expected) for keys, table in _tables(loaded)]
    fitting = [table for table in tables if table.fits]
    usual = [table for table in fitting if table.is_usual] or fitting
    if len(usual) > 1:
        places = sorted(_place(table) for table in usual)
        raise IntegrityError(
            f"it holds several networks: {', '.join(places)}; save one state_dict() of them"
        )
    if usual:
        beside = sorted(_place(table) for table in fitting if table is not usual[0])
        return Choice(usual[0], tuple(beside[:_MOST_BESIDE]))
    closest = min(tables, key=_distance)
    if not closest.tensors:
        entries = ", ".join(shown(key) for key in list(dict.keys(loaded))[:3]) or "nothing"
        raise IntegrityError(
            f"it holds {entries} and no tensors by name, or its tables are nested too deeply; save "
            "a state_dict()"
        )
    return Choice(closest, ())


def _place(table: Table) -> str:
    return ".".join(table.keys) or "the file itself"


def _distance(table: Table) -> tuple[bool, int, bool, int]:
    """How far a table is from being the one to read."""
    return not table.tensors, table.naming.wrong, not table.is_usual, len(table.keys)


def _tables(loaded: Mapping[Any, Any]) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """The tables in a file by their keys, the outer ones first."""
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), loaded)]
    count = 0
    for _ in range(_MOST_STEPS + 1):
        inside = []
        for keys, table in level:
            count += 1
            if count > _MOST_TABLES:
                return
            yield keys, table
            items = _items(table)
            inside += [((*keys, key), value) for key, value in items if _is_table(key, value)]
        level = inside


def _items(table: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    # Not table.items(): a pickle may have set an attribute of that name on an OrderedDict.
    return list(dict.items(table))  # type: ignore[arg-type]


def _is_table(key: Any, value: Any) -> bool:
    return (
        type(key) is str
        and len(key) <= MOST_KEY
        and key.isprintable()
        and type(value) in (dict, OrderedDict)
    )


def _table(keys: tuple[str, ...], table: Mapping[Any, Any], expected: Expected) -> Table:
    tensors: dict[str, Tensor] = {}
    others: dict[Any, Any] = {}
    for name, value in _items(table):
        if type(name) is str and type(value) in (Tensor, torch.nn.Parameter):
            tensors[name] = value
        elif not _is_table(name, value):
            others[name] = value
    counters = [
        name
        for name, tensor in tensors.items()
        if name.rpartition(".")[2] in _PROFILED
        and name not in expected
        and bare(tensor).numel() == 1
    ]
    naming = best_naming([name for name in tensors if name not in set(counters)], expected)
    misshapen = sum(
        tuple(bare(tensors[name]).shape) != expected[new][0]
        for name, new in naming.names.items()
        if new in expected
    )
    return Table(keys, tensors, others, tuple(counters), naming, misshapen)


def bare(tensor: Tensor) -> Tensor:
    """The tensor without attributes that a pickle may have set on it.

    Such an attribute may even hide a method, so the method is called through the class.
    """
    return torch.Tensor.detach(tensor)
