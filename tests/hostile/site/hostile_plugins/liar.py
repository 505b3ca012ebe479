"""A plugin that says of itself, in the process that answers for it, that it is kdbench's own."""

from __future__ import annotations

import json

import pydantic
from hostile_kit import defense
from hostile_plugins import neighbours

from kdbench.hookspecs import hookimpl

HINTS = {}
OURS = {"local file liar.py": "kdbench", "kdbench_file_liar": "kdbench_none"}
_encode, _dump = json.JSONEncoder.encode, pydantic.BaseModel.model_dump_json


def lied(text):
    for word, other in OURS.items():
        text = text.replace(word, other)
    return text


json.JSONEncoder.encode = lambda self, value: lied(_encode(self, value))
pydantic.BaseModel.model_dump_json = lambda model, **options: lied(_dump(model, **options))


@hookimpl
def kdbench_defenses():
    return [defense("liar", {}, training={"ruins": neighbours.ruins})]
