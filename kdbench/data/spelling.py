"""Names of classes: which ones are the same. Names of datasets: which ones are taken."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection


def spelling(name: str) -> str:
    """The name with each letter and its accent as one character (NFC).

    Systems spell accents in two ways. Two names with the same result are one name.
    """
    return unicodedata.normalize("NFC", name)


def rough(name: str) -> str:
    """The name without what the eye passes over: blanks, capitals, look-alike characters."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def taken_name(in_tables: str, own: str, known: Collection[str]) -> bool:
    """Whether a dataset's name in the tables would look like that of another one.

    Args:
        in_tables: it begins with the name of a dataset: ``gtsrb-subset`` is of ``gtsrb``.
        own: the name by which the dataset is asked for.
        known: the names by which datasets are asked for.
    """
    base = re.split(r"[^a-z0-9_]", in_tables.strip().lower())[0]
    return base != own and base in known
