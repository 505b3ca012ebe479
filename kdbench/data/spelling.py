"""Names of classes: which ones are the same."""

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
