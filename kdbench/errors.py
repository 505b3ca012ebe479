"""Every error kdbench raises on purpose.

KdbenchError
├── UsageError              the request names what does not exist or cannot be (exit code 2)
│   ├── UnknownMethodError  no attack, defense, distiller, model, dataset or preset of that name
│   ├── ConfigError         a parameter is unknown, of the wrong type or out of range
│   ├── DatasetError        a dataset is absent, empty, truncated or of the wrong layout
│   ├── PluginLoadError     the method lives in a plugin that could not be loaded
│   └── OtherCodeError      Python would give a process other code than the command has
├── IntegrityError          a file is damaged, hostile or not what it claims to be; it was not used
│                           (exit code 4)
├── ContractError           a plugin broke the contract of its interface (a defect of the plugin)
├── DivergedError           a loss became NaN or infinite
└── NotLearnedError         a teacher has not learned its task, so nothing can be said of a backdoor

Messages follow one formula: what was asked, what exists, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class KdbenchError(Exception):
    """Base of every error that kdbench raises on purpose."""


class UsageError(KdbenchError):
    """The request itself is wrong; nothing was run."""


class UnknownMethodError(UsageError):
    """A name that nothing answers to."""


class ConfigError(UsageError):
    """A parameter is unknown, of the wrong type or out of range."""


class DatasetError(UsageError):
    """A dataset is absent, empty, truncated or of the wrong layout."""


class PluginLoadError(UsageError):
    """The method asked for lives in a plugin that could not be loaded."""


class OtherCodeError(UsageError):
    """A process would run other code than the command that starts it."""


class IntegrityError(KdbenchError):
    """A file is damaged, hostile or not what it claims to be; nothing of it was used."""


class ContractError(KdbenchError):
    """A plugin broke the contract of its interface."""


class DivergedError(KdbenchError):
    """A loss became NaN or infinite."""


class NotLearnedError(KdbenchError):
    """A teacher has not learned its task, so nothing can be said of a backdoor in it."""


def unknown(
    what: str, name: str, existing: Iterable[str], hint: str = "", elsewhere: Iterable[str] = ()
) -> str:
    """Word an "unknown name" message: what was asked, what is close, what exists, what to do.

    Args:
        elsewhere: names that may be meant as well, and are too many to be listed.
    """
    names = sorted(existing)
    close = [repr(near) for near in nearest(name, [*names, *elsewhere])]
    suggestion = f"; did you mean {' or '.join(close)}?" if close else ";"
    text = f"unknown {what} {name!r}{suggestion} known: {', '.join(names) or 'none'}"
    return f"{text}; {hint}" if hint else text


def spelled_alike(name: str) -> str:
    """What is left of a name without case and signs: ``WRN16-2`` and ``wrn_16_2`` are alike."""
    return "".join(c for c in name.casefold() if c.isalnum())


def nearest(name: str, everything: Sequence[str]) -> list[str]:
    """The names that are most likely meant: those that are spelled alike, in whole or without what
    stands before a slash, or else the one that is closest."""
    for words in (100, 1):
        alike = spelled_alike(_last(name, words))
        same = [near for near in everything if spelled_alike(_last(near, words)) == alike]
        if alike and same:
            return list(dict.fromkeys(same))[:3]
    lower: dict[str, str] = {}
    for near in everything:
        for short in (near, _last(near, 1)):
            lower.setdefault(short.casefold(), near)
    close = difflib.get_close_matches(name.casefold(), lower, n=1, cutoff=0.6)
    return [lower[near] for near in close]


def _last(name: str, words: int) -> str:
    """The last words of a name with slashes."""
    return "/".join(name.split("/")[-words:])
