"""The names of tensors in a file, held against those of a network.

Training scripts put words before or between the names that a network uses: a class of their own
(``model.``), DataParallel (``module.``), torch.compile (``_orig_mod.``). The words are found by
comparison with the network, not by a list. A word goes only where the names then are exactly those
of the network.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

#: For each name the shape and the dtype, without ``torch.``.
Expected = dict[str, tuple[tuple[int, ...], str]]

BODY = "body."
"""kdbench puts this before the names of a network from timm or torchvision."""
COUNTER = "num_batches_tracked"
"""Batch norms count the batches that they have seen. Old files lack this counter."""
_MOST_PREFIX = 8
"""The most words that are tried as a prefix."""


@dataclass(frozen=True)
class Naming:
    """One way to read the names of a file."""

    names: dict[str, str]
    """Name in the file -> name that the network may use."""
    missing: tuple[str, ...]
    """Names of the network that the file lacks, but for counters of batches."""
    extra: tuple[str, ...]
    """Names in the file that are none of the network."""
    prefixes: tuple[str, ...] = ()
    """Taken off every name, in this order; ``body.`` was added."""
    words: tuple[str, ...] = ()
    """Taken out of some names, wherever they stood."""

    @property
    def wrong(self) -> int:
        """How many names do not fit."""
        return len(self.missing) + len(self.extra)


def best_naming(names: Collection[str], expected: Expected) -> Naming:
    """The way to read the names that fits the network best. The plainest comes first."""
    best: Naming | None = None
    for naming in _namings(list(names), expected):
        if best is None or naming.wrong < best.wrong:
            best = naming
        if not best.wrong:
            break
    assert best is not None
    return best


def copies(names: Collection[str], expected: Expected) -> list[str]:
    """The prefixes behind which all names of the network are there. They may be more than one, as
    in a file that holds a network and its average."""
    plain = _plain(expected)
    needed = [name for name in plain if not name.endswith(COUNTER)]
    if not needed:
        return []
    rarest, there = max(needed, key=len), set(names)
    prefixes = [
        name.removesuffix(rarest) for name in names if name == rarest or name.endswith(f".{rarest}")
    ]
    return [prefix for prefix in prefixes if all(prefix + name in there for name in needed)]


def _plain(expected: Expected) -> dict[str, str]:
    """The network's names without kdbench's own prefix -> as they are."""
    if expected and all(name.startswith(BODY) for name in expected):
        return {name.removeprefix(BODY): name for name in expected}
    return {name: name for name in expected}


def _namings(names: list[str], expected: Expected) -> Iterator[Naming]:
    plain = _plain(expected)
    added = BODY if plain.keys() != expected.keys() else ""
    needed = [name for name in plain if not name.endswith(COUNTER)]
    parts = [name.split(".") for name in names]
    # Prefixes of all names come first, since they are the plainest reading.
    for in_between in (False, True):
        for count in range(_common(parts) + 1):
            short = [words[count:] for words in parts]
            out = _foreign(short, plain) if in_between else []
            removed = [*(parts[0][:count] if parts else []), *out]
            if (in_between and not out) or not all(map(_is_word, removed)):
                continue
            renamed = [".".join([*_without(words[:-1], out), words[-1]]) for words in short]
            # Two names that become one are names of two things.
            if len(set(renamed)) < len(renamed):
                continue
            pairs = list(zip(names, renamed, strict=True))
            yield Naming(
                names={name: plain.get(new, new) for name, new in pairs},
                missing=tuple(plain[name] for name in _without(needed, renamed)),
                extra=tuple(sorted(name for name, new in pairs if new not in plain)),
                prefixes=_steps([f"{word}." for word in parts[0][:count]] if parts else [], added),
                words=tuple(f"{word}." for word in out),
            )


def _foreign(parts: list[list[str]], plain: Collection[str]) -> list[str]:
    """The words of names that the network has in no name. Last words are names of parameters."""
    known = {word for name in plain for word in name.split(".")}
    return list(dict.fromkeys(word for words in parts for word in words[:-1] if word not in known))


def _is_word(word: str) -> bool:
    return len(word) <= 60 and word.isprintable()


def _without(words: list[str], others: Collection[str]) -> list[str]:
    out = set(others)
    return [word for word in words if word not in out]


def _common(parts: list[list[str]]) -> int:
    """With how many words all names begin, their last word left out."""
    if not parts:
        return 0
    first = min(len(words) for words in parts) - 1
    for count in range(min(first, _MOST_PREFIX)):
        if any(words[count] != parts[0][count] for words in parts):
            return count
    return min(first, _MOST_PREFIX)


def _steps(prefixes: list[str], added: str) -> tuple[str, ...]:
    """What was taken off and added, without a prefix that is taken off and added again."""
    if added and prefixes and prefixes[-1] == added:
        return tuple(prefixes[:-1])
    return (*prefixes, *filter(None, [added]))
