"""Spec files: trees of TOML, and what editors and accidents make of them."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.options import ATTACKS, DATASETS, DEFENSES, DISTILLERS, KEYS, PAIRS
from tests.fuzz.values import words

RIGHT: dict[str, Any] = {"attacks": ["badnets"], "pairs": ["wrn10_1-wrn10_1"]}
_FIELDS = (
    *("attacks", "defenses", "distillers", "pairs", "datasets", "presets", "seeds", "data_dir"),
    *("teacher_from", "download", "image_size", "num_classes", "train_size", "test_size"),
    *("data_seed", "target_class", "transfer_fraction", "clean_fraction", "controls", "device"),
    *("unlabeled",),
    *("numerics", "threads", "also", "set", "paper", "seed", "attack", "x"),
)
_NUMBERS = (0, 1, 2, 3, 16, -1, 2**31, 2**62, 0.5, 1e300, float("inf"), float("nan"))


def values() -> st.SearchStrategy[Any]:
    """What TOML can hold."""
    names = st.sampled_from([*ATTACKS, *DEFENSES, *DISTILLERS, *PAIRS, *DATASETS, *KEYS])
    leaves = st.one_of(
        st.sampled_from(_NUMBERS),
        st.booleans(),
        names,
        words().filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text)),
    )
    return st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
        max_leaves=4,
    )


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def text(fields: dict[str, Any]) -> str:
    """A spec file."""
    return "".join(f"{json.dumps(key)} = {toml(value)}\n" for key, value in fields.items())


#: What an editor does to a text file, and the request stays the same.
EDITORS = (
    lambda text: text.encode(),
    lambda text: b"\xef\xbb\xbf" + text.encode(),
    lambda text: text.replace("\n", "\r\n").encode(),
    lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode(),
    lambda text: b"# a comment: caf\xc3\xa9\n\n" + text.encode(),
    lambda text: text.rstrip("\n").encode(),
)
_ACCIDENTS = (
    lambda text: text.encode("utf-16"),
    lambda text: text.encode("utf-32"),
    lambda text: text.encode()[:-4],
    lambda text: text.encode() + b"\xff",
    lambda text: text.encode() + b"\0",
    lambda text: text.encode() * 2,
    lambda text: b"",
    lambda text: text.replace("=", ":").encode(),
    lambda text: text.replace('"', "\u201d").encode(),
    lambda text: b"<!DOCTYPE html><html><body>404</body></html>",
    lambda text: b'{"attacks": ["badnets"]}',
)


@st.composite
def specs(draw: st.DrawFn, hostile: bool) -> bytes:
    """The content of a spec file."""
    fields = dict(RIGHT)
    if hostile:
        fields |= draw(st.dictionaries(st.sampled_from(_FIELDS), values(), max_size=3))
        for name in draw(st.lists(st.sampled_from(sorted(fields)), max_size=1)):
            del fields[name]
    written = draw(st.sampled_from(EDITORS + _ACCIDENTS if hostile else EDITORS))(text(fields))
    if hostile and draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(written)))
        written = written[:at] + draw(st.binary(max_size=4)) + written[at:]
    return written
