"""Names of classes and files: which ones are the same, and how they are shown."""

from __future__ import annotations

import unicodedata


def spelling(name: str) -> str:
    """The name with each letter and its accent as one character (NFC).

    Systems spell accents in two ways. Two names with the same result are one name.
    """
    return unicodedata.normalize("NFC", name)


def rough(name: str) -> str:
    """The name without what the eye passes over: blanks, capitals, look-alike characters."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def shown(name: str) -> str:
    """The name for a message, with quotes and escapes where it would be read wrongly."""
    return name if name and name.isprintable() and name == name.strip() else ascii(name)
