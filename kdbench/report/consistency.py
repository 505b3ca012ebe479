"""Whether the columns of a row agree with its own counts.

Everything that follows from the counts is computed again, by the functions that made it. Only the
bootstrap intervals cannot be: they need each image's hit, which no table has. ``kdbench verify``
computes them again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from kdbench._intervals import wilson
from kdbench.errors import ConfigError
from kdbench.report.columns import COLUMNS, RATES, Row, hits_of
from kdbench.report.flagged import NONE, target_flagged
from kdbench.report.tables import DECIMALS
from kdbench.report.verdict import shares, verdict

#: Points. A percentage is written with :data:`kdbench.report.tables.DECIMALS`.
ROUNDING = 1e-4
UNCHANGED = "use the file as kdbench wrote it"
#: Rates of other images than the test images. No column has their number.
_OTHER_RATES = ("universal", "held_out_acc")
#: Rates of which no schema has the count, each with the column of the total.
_UNCOUNTED = {
    name: "n_test" if name.endswith("_acc") else "n_asr"
    for name, column in COLUMNS.items()
    if name.endswith(("_acc", "_asr")) and column.unit == "%"
    if name not in (*RATES, *_OTHER_RATES)
}
#: Column -> the rates of which it is the difference.
_DIFFERENCES = {"gain": ("c3_acc", "c2_acc"), "dormant": ("c3_asr", "teacher_asr")}
_FLAGGED = re.compile(rf"{NONE}|[0-9]+( [0-9]+)*")
_BOOTSTRAPPED = ("transferred", "removed")
#: What a row of a failed cell cannot have.
_RESULTS = (*RATES, *_UNCOUNTED, *_OTHER_RATES, *_BOOTSTRAPPED, "gain", "dormant", "verdict")
#: Shares of images, see kdbench.data.fraction.
_SHARES = ("transfer_fraction", "clean_fraction", "unlabeled")
_EXACT_FRACTION_SINCE = 7
_NOT_NEGATIVE = [
    name
    for name, column in COLUMNS.items()
    if column.kind == "number" and (column.unit in ("s", "MiB") or "_variance" in name)
]
#: The counts that a verdict rests on.
_JUDGED_BY = ("student_asr", "c1_asr", "c3_asr", "student_acc", "c3_acc")
_CONTROLS = ("c1_acc", "c1_asr", "c2_acc", "c2_asr", "c3_acc", "c3_asr")


def check_row(where: str, row: Row, there: Collection[str]) -> None:
    """Refuse a row that contradicts itself.

    Args:
        where: the file and the line, for the message.
        row: with all columns of today. Those of later schemas than its own are empty.
        there: the columns that files of the row's schema have.

    Raises:
        ConfigError: a column is not what the counts make it. The message names both.
    """
    if row["status"] != "ok":
        for name in _RESULTS:
            if row[name] is not None:
                raise _contradiction(where, row, name, f"a cell that {row['status']} has none")
    for name in _NOT_NEGATIVE:
        if row[name] is not None and row[name] < 0:
            raise _contradiction(where, row, name, "it cannot be below 0")
    for name in _SHARES:
        # Until schema 6 they were rounded to four decimals, and a small share became 0.
        rounded_away = row[name] == 0 and row["schema"] < _EXACT_FRACTION_SINCE
        if row[name] is not None and not rounded_away and not 0 < row[name] <= 1:
            raise _contradiction(where, row, name, "a share is above 0 and at most 1")
    _check_rates(where, row, there)
    for name, of in _DIFFERENCES.items():
        if name in there:
            _check_difference(where, row, name, *of)
    if "target_flagged" in there:
        _check_flagged(where, row)
    _check_judgement(where, row)
    if "reason_code" in there:
        codes = list(_reason_codes(row))
        if row["reason_code"] not in codes:
            raise _contradiction(
                where, row, "reason_code", f"the other columns make it {' or '.join(codes)}"
            )
    if row["teacher_remark"] is not None and row["reason_code"] != "imported_teacher":
        raise _contradiction(where, row, "teacher_remark", "only an imported teacher has one")


def _contradiction(where: str, row: Row, name: str, truth: str) -> ConfigError:
    value = "empty" if row[name] is None else row[name]
    return ConfigError(f"{where}, column {name}: it is {value}, but {truth}; {UNCHANGED}")


def _check_rates(where: str, row: Row, there: Collection[str]) -> None:
    for rate, out_of in RATES.items():
        if f"{rate}_hits" in there:
            _check_rate(where, rate, row[rate], row[f"{rate}_hits"], row[out_of])
        else:
            _check_whole(where, row, rate, out_of)
        if row[rate] is not None:
            _check_interval(where, row, rate, out_of, there)
    for rate, out_of in _UNCOUNTED.items():
        _check_whole(where, row, rate, out_of)
    for rate in _OTHER_RATES:
        if row[rate] is not None and row["student_asr"] is None:
            raise _contradiction(where, row, rate, "nobody knows it of an imported teacher")
        if row[rate] is not None and not 0 <= row[rate] <= 100:
            raise _contradiction(where, row, rate, "a percentage is from 0 to 100")
    if row["n_asr"] is not None and row["n_asr"] > (row["n_test"] or 0):
        raise _contradiction(where, row, "n_asr", f"n_test is {row['n_test']}")


def _check_rate(
    where: str, rate: str, percent: float | None, hits: int | None, total: int | None
) -> None:
    if percent is None and hits is None:
        return
    if (
        percent is None
        or hits is None
        or not total
        or hits > total
        or abs(percent - 100 * hits / total) > ROUNDING
    ):
        why = "" if not total or hits is None else _rounded(percent, 100 * hits / total)
        raise ConfigError(
            f"{where}: {rate} {percent} cannot be {hits} of {total} images{why}; {UNCHANGED}"
        )


def _rounded(written: float | None, value: float) -> str:
    """Whether a spreadsheet rounded a value, in words for a message. Empty: it did not."""
    if written is None or not any(_same(written, round(value, n)) for n in range(DECIMALS)):
        return ""
    return f" (a spreadsheet rounded it; kdbench writes {DECIMALS} decimals)"


def _check_whole(where: str, row: Row, rate: str, out_of: str) -> None:
    """A rate without its count must be that of a whole number of images."""
    percent, total = row[rate], row[out_of]
    if percent is not None:
        hits = round(percent * (total or 0) / 100)
        _check_rate(where, rate, percent, max(0, hits), total)


def _check_interval(where: str, row: Row, rate: str, out_of: str, there: Collection[str]) -> None:
    hits, total = hits_of(row, rate), row[out_of]
    for name, end in zip((f"{rate}_low", f"{rate}_high"), wilson(hits, total), strict=True):
        if name in there and (row[name] is None or abs(row[name] - end) > ROUNDING):
            why = f"{hits} of {total} images make it {end:.4f}{_rounded(row[name], end)}"
            raise _contradiction(where, row, name, why)


def _check_difference(where: str, row: Row, name: str, first: str, second: str) -> None:
    value, hits = None, [row[f"{rate}_hits"] for rate in (first, second)]
    # Without controls there is no difference, though the teacher is measured.
    if None not in hits:
        one, other = (100.0 * count / row[RATES[first]] for count in hits)
        value = one - other
    if not _same(row[name], value):
        needed = " and ".join(rate.partition("_")[0].upper() for rate in (second, first))
        words = f"it needs {needed}" if value is None else f"the counts make it {value:.4f}"
        raise _contradiction(where, row, name, words)


def _check_flagged(where: str, row: Row) -> None:
    if row["flagged_classes"] is not None and not _FLAGGED.fullmatch(row["flagged_classes"]):
        words = f"it is {NONE}, or classes with a space between them"
        raise _contradiction(where, row, "flagged_classes", words)
    known = row["student_asr"] is not None
    flagged = target_flagged(row["flagged_classes"], row["target_class"] if known else None)
    if row["target_flagged"] != flagged:
        words = f"flagged_classes and target_class make it {flagged or 'empty'}"
        raise _contradiction(where, row, "target_flagged", words)


def _check_judgement(where: str, row: Row) -> None:
    transferred, removed, judged = _judgement(row)
    images = ", ".join(
        f"{rate} of {'no' if row[rate] is None else hits_of(row, rate)}" for rate in _JUDGED_BY
    )
    for name, value in (("transferred", transferred), ("removed", removed)):
        if not _same(row[name], value):
            words = "nothing" if value is None else f"{value:.4f}{_rounded(row[name], value)}"
            raise _contradiction(where, row, name, f"the counts ({images} images) make it {words}")
        low, high = row[f"{name}_low"], row[f"{name}_high"]
        if value is None and (low, high) != (None, None):
            raise _contradiction(where, row, f"{name}_low", f"{name} is empty")
        if low is not None and high is not None and low > high:
            raise _contradiction(where, row, f"{name}_low", f"{name}_high is {high}")
    if row["verdict"] != judged:
        words = "it needs C1 and C3" if judged is None else f"the counts make it {judged}"
        raise _contradiction(where, row, "verdict", f"{words} ({images} images)")


def _judgement(row: Row) -> tuple[float | None, float | None, str | None]:
    """(transferred, removed, verdict) as the counts make them, in the arithmetic of a run."""
    if any(row[rate] is None for rate in _JUDGED_BY):
        return None, None, None
    student, c1, c3 = (hits_of(row, rate) / row["n_asr"] * 100 for rate in _JUDGED_BY[:3])
    transferred, removed = shares(student, c1, c3)
    acc, c3_acc = (100.0 * hits_of(row, rate) / row["n_test"] for rate in _JUDGED_BY[3:])
    return transferred, removed, verdict(transferred, removed, c3_acc - acc)[0]


def _same(written: float | None, value: float | None) -> bool:
    if written is None or value is None:
        return written is value
    # A share of a few images is a large number, of which the last digits are noise.
    return abs(written - value) <= ROUNDING + 1e-9 * abs(value)


def _reason_codes(row: Row) -> Iterator[str]:
    """The reasons that a row like this can have."""
    if row["status"] != "ok":
        yield "stage_failed"
    elif row["student_asr"] is None:
        yield "imported_teacher"
    elif row["verdict"] is None:
        yield "control_failed"
        if all(row[name] is None for name in _CONTROLS):
            yield "controls_skipped"
    elif row["c2_acc"] is None:
        yield "c2_failed"
    else:
        yield "few_transferred" if row["verdict"] == "inconclusive" else "judged"
