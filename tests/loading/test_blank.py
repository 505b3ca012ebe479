"""A plugin's network as the coordinator gets it: numbers in a file that a process has left."""

from __future__ import annotations

import pytest

from kdbench.errors import ContractError, IntegrityError
from kdbench.loading.blank import _names

#: A network that is of kdbench. Its process leaves something else in its box.
LEAVES = """
import os, socket
from kdbench.hookspecs import hookimpl
from kdbench.loading import host
from kdbench.models.builtin import MODELS

def blank(registry, box, **_):
    path = f"{box}/blank.safetensors"
    WHAT

host.QUESTIONS["blank"] = blank

@hookimpl
def kdbench_models():
    return {"NAME": MODELS["wrn10_1"].make}
"""
LEFT = {
    "pipe": ("os.mkfifo(path)", IntegrityError, "is a pipe"),
    "link": ("os.symlink('/dev/zero', path)", IntegrityError, "is a link"),
    "nothing": ("pass", IntegrityError, "is missing"),
    "hole": ("open(path, 'w').truncate(1 << 30)", IntegrityError, "is larger than"),
    "error": ("1 / 0", ContractError, "model 'error' of local file error.py: ZeroDivisionError"),
}


def test_what_is_left_of_a_blank_network_is_a_file_of_its_size(load):
    known = load(
        {
            name: LEAVES.replace("NAME", name).replace("WHAT", what)
            for name, (what, _, _) in LEFT.items()
        }
    )
    for name, (_, error, says) in LEFT.items():
        with pytest.raises(error, match=says):
            known.blank_network(name, 10, 16)


def test_modules_inside_modules_of_several_names_are_no_endless_work():
    def module(**children):
        tables = {name: {} for name in ("plain", "parameters", "buffers")}
        return {"class": "x:X", "frozen": [], "transient": [], **tables, "modules": children}

    node, path = module(), [f"m{number}" for number in range(40)]
    for number in reversed(range(40)):
        same = {"same": ".".join(path[: number + 1])}
        node = module(**{f"m{number}": node, "again": same})
    with pytest.raises(ValueError, match="modules"):
        list(_names(node))
