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
└── DivergedError           a loss became NaN or infinite

Messages follow one formula: what was asked, what exists, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


def unknown(what: str, name: str, existing: Iterable[str], hint: str = "") -> str:
    """Word an "unknown name" message: what was asked, what is close, what exists, what to do."""
    names = sorted(existing)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    suggestion = f"; did you mean {close[0]!r}?" if close else ";"
    text = f"unknown {what} {name!r}{suggestion} known: {', '.join(names) or 'none'}"
    return f"{text}; {hint}" if hint else text
