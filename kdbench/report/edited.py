"""What a spreadsheet or an editor did to a table, in words for a message.

kdbench writes whole numbers without a point, numbers with a decimal point, digests of 64 digits and
fields with commas between them. A program that opens the table and saves it may change each of
these. The numbers are then often not the ones that were measured, so such a table is not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kdbench.report.column import Column
from kdbench.report.columns import COLUMNS

_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
#: Names of columns that a header of another table has, and what that table is.
_OTHER_TABLES = {
    "worst_attack": "a ranking over all attacks",
    "rank": "a ranking (leaderboard.csv)",
    "defense_a": "a table of defenses against each other (paired.csv)",
}
#: So many known names make a header one of results.csv.
_KNOWN_NAMES = 5
_MONTHS = "(?i:jan|feb|mar|mär|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez)[a-zä]*"
_EXPONENT = r"[+-]?[0-9]+([.,][0-9]+)?[eE][+-]?[0-9]+"
#: With a month in letters, or a year of four digits. No version looks like this.
_FULL_DATE = "|".join(
    (
        r"[0-9]{1,2}[-/.][0-9]{1,2}[-/.](19|20)[0-9]{2}( .*)?",
        r"(19|20)[0-9]{2}[-/][0-9]{1,2}[-/][0-9]{1,2}( .*)?",
        rf"[0-9]{{1,2}}[-. ]{{1,2}}{_MONTHS}([-. ]+[0-9]{{2,4}})?",
        rf"{_MONTHS}[-. ]+[0-9]{{2,4}}",
    )
)
_DATE = rf"{_FULL_DATE}|[0-9]{{1,4}}[-/.][0-9]{{1,2}}[-/.][0-9]{{1,4}}"
_SWITCH = "TRUE|FALSE|WAHR|FALSCH|VRAI|FAUX"
#: What a spreadsheet makes of a number -> what it is. The first that fits is said.
_NUMBERS = {
    r"#.*": "an error of a spreadsheet, or a column that was too narrow",
    _SWITCH: "a spreadsheet's switch",
    r"'.*": "it has an apostrophe before it",
    r".*%": "it has a percent sign",
    r"\s.*|.*\s": "there are blanks around it",
    _EXPONENT: "exponent notation of a spreadsheet, which loses digits",
    r"[0-9]{1,3}([ '\u2019\u00a0\u202f][0-9]{3})+([.,][0-9]+)?": "thousands are set apart",
    r"[0-9]{1,3}(\.[0-9]{3})+(,[0-9]+)?|[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?": (
        "thousands are set apart, or it became a fraction"
    ),
    r"[0-9]+\.0+": "a spreadsheet wrote a whole number as a fraction",
    r"[+-]?[0-9]+,[0-9]+": "it has a decimal comma",
    _DATE: "a spreadsheet took it for a date",
}
_NAMES = {
    _SWITCH: "a spreadsheet's switch",
    r"[0-9]+([.,][0-9]+)?E[+-]?[0-9]+": "a spreadsheet took it for a number",
    _DATE: "a spreadsheet took it for a date",
}
_DIGESTS = {
    rf"{_EXPONENT}|[0-9]+[.,][0-9]*|inf|INF": "a spreadsheet took it for a number",
    r"[0-9a-f]{1,63}": "it has lost digits; a spreadsheet drops zeros at the front",
    r"[0-9a-fA-F]{64}": "its letters became capitals",
}
_BY_KIND = {"whole": _NUMBERS, "number": _NUMBERS, "digest": _DIGESTS, "word": _NAMES}
#: Columns of text that only hold names of methods, networks and presets, and versions.
_NAMED = ("attack", "defense", "distiller", "teacher", "student", "preset")
_VERSIONS = ("kdbench_version", "torch_version")


def edited_value(column: Column, text: str) -> str:
    """What was done to a value that its column cannot have. Empty: nobody knows."""
    table = _BY_KIND.get(column.kind, {})
    if column.name in _NAMED:
        table = _NAMES
    elif column.name in _VERSIONS:
        table = {_FULL_DATE: _NAMES[_DATE]}
    return next((words for form, words in table.items() if re.fullmatch(form, text)), "")


def edited_header(first: str) -> str:
    """What was done to a table's first line, before it is taken apart. Empty: nobody knows."""
    if first.startswith("sep="):
        return f"a spreadsheet put {first[:5]!r} before the header"
    if first.startswith(("{", "[")):
        return "it is JSON, and results.csv is no JSON"
    if "\r" in first.removesuffix("\r"):
        return "its lines end with a lone carriage return"
    for separator, words in _SEPARATORS.items():
        names = [name.strip('"\r') for name in first.split(separator)]
        if len(names) > 1 and "schema" in names:
            return f"its fields are separated by {words}, as a spreadsheet saved it"
    return ""


def other_table(header: Sequence[str]) -> str:
    """Which other table of kdbench has this header. Empty: none."""
    if "schema" not in header or "status" in header:
        return ""
    return next((words for name, words in _OTHER_TABLES.items() if name in header), "")


def edited_names(header: Sequence[str]) -> str:
    """What was done to the names of the columns. Empty: nobody knows."""
    if "schema" in header:
        unnamed = len(header) - len([name for name in header if name.strip()])
        return f"{unnamed} columns have no name, as a spreadsheet adds them" if unnamed else ""
    if any(name.strip().lower() == "schema" for name in header):
        return "the names of its columns were changed"
    if len(set(header) & set(COLUMNS)) >= _KNOWN_NAMES:
        return "the column 'schema' was removed"
    if len(header) > _KNOWN_NAMES and re.fullmatch("[0-9]+", header[0]):
        return "the line with the names of the columns was removed"
    return ""


def edited_fields(fields: Sequence[str], header: Sequence[str], is_cut: bool) -> str:
    """What was done to a line that has not a value for each name. Empty: nothing.

    Args:
        is_cut: it is the last line, and the file ends in it.
    """
    if not any(fields):
        return "it is empty but for commas, as a spreadsheet leaves it"
    if len(fields) == len(header):
        return ""
    count = f"{len(fields)} fields under a header of {len(header)}"
    if is_cut and len(fields) < len(header):
        return f"{count}: the file was cut in the middle of this line"
    if len(fields) > len(header):
        return f"{count}: a number has a decimal comma, or a text with a comma has no quotes"
    return f"{count}: fields were removed"
