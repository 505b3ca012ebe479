"""Our numbers beside those that RobustKD's authors printed, and where the printed ones contradict
each other.

What was printed lies in ``kdbench.paper.requests``: ``printed.csv``, one row a number of Tables
2-7, and for each table and figure a request with a section ``[paper]``.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from kdbench.errors import ConfigError, UnknownMethodError, unknown
from kdbench.report.columns import RATES, hits_of
from kdbench.report.noise import t_interval, wilson
from kdbench.report.paired import grouped
from kdbench.report.tables import write_csv

PACKAGE = "kdbench.paper.requests"
COLUMNS = (
    *(
        "dataset",
        "teacher",
        "student",
        "attack",
        "method",
        "metric",
        "ours",
        "ours_low",
        "ours_high",
        "n_seeds",
    ),
    *("paper", "difference", "contradicted", "note"),
)
_SETTING = ("dataset", "teacher", "student", "attack", "defense")
#: A dataset of ours and the one it stands for.
_STANDS_FOR = {"gtsrb-subset": "gtsrb"}
#: Points by which two printings of one number may differ as by rounding.
_ROUNDING = 0.005


class Number(NamedTuple):
    """What a printed number is of."""

    table: str
    dataset: str
    teacher: str
    student: str
    attack: str
    method: str
    metric: str


class Target(BaseModel):
    """Section ``[paper]`` of a request: what of the paper it answers.

    table, metrics: the printed table, and which of ``acc`` and ``asr`` it has. attacks, methods:
    our attacks and defenses and
    what they are called there. figure: ``variance`` or ``defenses`` (see kdbench.paper.figures).
    axis: what the defenses differ in; labels: defense -> value of the axis. claim: what the paper
    concludes from the figure.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    table: int | None = None
    metrics: tuple[Literal["acc", "asr"], ...] = ()
    attacks: dict[str, str] = {}
    methods: dict[str, str] = {}
    figure: Literal["variance", "defenses"] | None = None
    axis: str = ""
    labels: dict[str, str] = {}
    claim: str = ""

    @model_validator(mode="after")
    def _one_of_them(self) -> Target:
        if (self.table is None) == (self.figure is None):
            raise ValueError("a target is either a table or a figure")
        return self


def target_names() -> list[str]:
    """Names of what can be reproduced, tables first."""
    found = [
        Path(entry.name).stem
        for entry in resources.files(PACKAGE).iterdir()
        if entry.name.endswith(".toml")
    ]
    return sorted(found, key=lambda name: (not name.startswith("table"), name))


def target_path(name: str) -> Path:
    """The request of a table or figure.

    Raises:
        UnknownMethodError: there is none of that name.
    """
    if name not in target_names():
        raise UnknownMethodError(unknown("table or figure", name, target_names()))
    return Path(str(resources.files(PACKAGE) / f"{name}.toml"))


def read_target(path: Path) -> Target:
    """The section ``[paper]`` of a request."""
    try:
        return Target(**tomllib.loads(path.read_text(encoding="utf-8"))["paper"])
    except (KeyError, ValidationError) as error:
        raise ConfigError(f"{path} has no section [paper] that can be read: {error}") from error


def printed() -> dict[Number, float]:
    """Every number of Tables 2-7."""
    text = (resources.files(PACKAGE) / "printed.csv").read_text(encoding="utf-8")
    return {
        Number(*(row[name] for name in Number._fields)): float(row["value"])
        for row in csv.DictReader(text.splitlines())
    }


def contradictions(numbers: Mapping[Number, float]) -> dict[Number, list[str]]:
    """For every printed number that another one, or the text, contradicts: with what. Nothing is
    said about which is right."""
    found: dict[Number, list[str]] = defaultdict(list)
    for number, reason in (
        *_printed_twice(numbers),
        *_same_teacher(numbers),
        *_above_their_teacher(numbers),
        *_text(numbers),
        *_singular(numbers),
    ):
        if reason not in found[number]:
            found[number].append(reason)
    return dict(found)


def _printed_twice(numbers: Mapping[Number, float]) -> Iterator[tuple[Number, str]]:
    """One student, one attack, one method, two tables."""
    same: dict[tuple[str, ...], list[Number]] = defaultdict(list)
    for number in numbers:
        if number.table != "2" and number.method != "teacher":
            same[number[1:]].append(number)
    for group in same.values():
        for number in group:
            for other in group:
                if abs(numbers[other] - numbers[number]) > _ROUNDING:
                    yield number, f"Table {other.table} prints {numbers[other]:.2f}"


def _same_teacher(numbers: Mapping[Number, float]) -> Iterator[tuple[Number, str]]:
    """A teacher's number differs between tables, or between the rows of one, though the text knows
    one teacher of each kind."""
    same: dict[tuple[str, ...], list[Number]] = defaultdict(list)
    for number in numbers:
        if number.method == "teacher":
            same[number.dataset, number.teacher, number.attack, number.metric].append(number)
    for group in same.values():
        for number in group:
            others = {
                f"Table {o.table} prints {numbers[o]:.2f}"
                for o in group
                if abs(numbers[o] - numbers[number]) > _ROUNDING
            }
            for reason in sorted(others):
                yield number, f"{reason} for this teacher"


def _above_their_teacher(numbers: Mapping[Number, float]) -> Iterator[tuple[Number, str]]:
    """A student has more of the backdoor, or a better accuracy, than the teacher that the same
    table gives it."""
    for number, value in numbers.items():
        if number.method != "fkd" and not (
            number.table == "7" and number.method == "robustkd" and number.metric == "acc"
        ):
            continue
        attack = number.attack if number.table == "7" else "unspecified"
        teacher = numbers.get(number._replace(attack=attack, method="teacher"))
        if teacher is not None and value > teacher:
            yield number, f"above its own teacher, {teacher:.2f} in the same table"


def _text(numbers: Mapping[Number, float]) -> Iterator[tuple[Number, str]]:
    for number, value in numbers.items():
        if (
            number.method == "robustkd"
            and number.metric == "asr"
            and number.table in ("4", "6")
            and value >= 10
        ):
            yield number, "the text says below 10 % in all cases"
        if number.dataset == "imagenet1k" and number.metric == "acc":
            yield (
                number,
                "implausible on ImageNet-1k for networks made for 32x32 images (ResNet-152 in Heo "
                "et al.: 78.31)",
            )


#: What no rule finds: (which number, with what). Heo et al. is the paper of the distiller (ICCV
#: 2019).
_SINGULAR: tuple[tuple[dict[str, str], str], ...] = (
    (
        {
            "table": "3",
            "dataset": "cifar100",
            "student": "wrn16_2",
            "teacher": "wrn28_4",
            "method": "fkd",
        },
        "within 0.06 of Table 6's WRN-16-4 for CKD and LBA: probably that student; Heo et al.: "
        "75.92 for WRN-16-2",
    ),
    (
        {
            "table": "4",
            "dataset": "cifar100",
            "teacher": "wrn28_4",
            "method": "teacher",
            "metric": "asr",
        },
        "equals the ASR of Table 3's first student under CKD",
    ),
    (
        {"table": "5", "dataset": "cifar100", "student": "wrn16_2", "method": "fkd"},
        "above Heo et al.'s student of a clean teacher, 75.92",
    ),
    (
        {"table": "5", "dataset": "cifar100", "student": "resnet56", "method": "fkd"},
        "above Heo et al.'s student of a clean teacher, 75.56",
    ),
    (
        {
            "table": "5",
            "dataset": "cifar100",
            "teacher": "pyramid200",
            "student": "wrn28_4",
            "method": "fkd",
        },
        "above Heo et al.'s student of a clean teacher, 82.20",
    ),
    (
        {
            "table": "5",
            "dataset": "cifar100",
            "teacher": "pyramid200",
            "student": "pyramid110",
            "method": "fkd",
        },
        "above Heo et al.'s student of a clean teacher, 81.11",
    ),
    (
        {"table": "6", "student": "wrn28_2", "method": "teacher"},
        "the row above prints another ACC and ASR for the same teacher",
    ),
)


def _singular(numbers: Mapping[Number, float]) -> Iterator[tuple[Number, str]]:
    for number in numbers:
        for wanted, reason in _SINGULAR:
            if all(getattr(number, name) == value for name, value in wanted.items()):
                yield number, reason


def beside_the_paper(target: Target, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One record for each number that the table has and we measured, and for each that we measured
    beside it.

    ours: mean over the seeds, %; ours_low, ours_high: Student's 95 % interval, for one seed
    Wilson's of its test images. paper, difference (ours - paper), contradicted (with what): empty
    where the paper has no such number.
    """
    assert target.table is not None
    known, doubts = printed(), contradictions(printed())
    groups = grouped((row for row in rows if row.get("status") == "ok"), _SETTING)
    found: list[dict[str, Any]] = []
    for (dataset, teacher, student, attack, defense), members in groups.items():
        stands_for = _STANDS_FOR.get(dataset, dataset)
        names = {"dataset": dataset, "teacher": teacher, "student": student, "attack": attack}
        called = target.attacks.get(attack, "")
        for metric in target.metrics:
            note = "a subset of the paper's dataset" if stands_for != dataset else ""
            of = Number(str(target.table), stands_for, teacher, student, called, "", metric)
            if defense == "none":
                # Tables 3-6 print one teacher and do not say of which attack; Table 7's is the
                # adaptive attack's.
                whose = called if target.table == 7 else "unspecified" if called else ""
                number = of._replace(attack=whose, method="teacher")
                which = "" if whose != "unspecified" else "the paper does not say of which attack"
                told = "; ".join(filter(None, [note, which]))
                found.append(
                    _record(
                        names, "teacher", metric, members, "teacher", number, known, doubts, told
                    )
                )
            method = target.methods.get(defense, "")
            number = of._replace(method=method)
            found.append(
                _record(names, defense, metric, members, "student", number, known, doubts, note)
            )
    return found


def _record(
    names: Mapping[str, Any],
    method: str,
    metric: str,
    members: list[Mapping[str, Any]],
    role: str,
    number: Number,
    known: Mapping[Number, float],
    doubts: Mapping[Number, list[str]],
    note: str,
) -> dict[str, Any]:
    name = f"{role}_{metric}"
    good = [row for row in members if row.get(name) is not None]
    mean, low, high = t_interval([row[name] for row in good])
    if len(good) == 1:
        low, high = wilson(hits_of(good[0], name), good[0][RATES[name]])
    paper = known.get(number)
    return {
        **names,
        "method": method,
        "metric": metric,
        "ours": mean,
        "ours_low": low,
        "ours_high": high,
        "n_seeds": len(good),
        "paper": paper,
        "difference": None if paper is None or math.isnan(mean) else mean - paper,
        "contradicted": "; ".join(doubts.get(number, [])),
        "note": note if paper is not None else "not in the paper's table",
    }


def coverage(target: Target, records: Iterable[Mapping[str, Any]]) -> tuple[int, int]:
    """(how many of the table's printed numbers we have one for, how many it prints)."""
    total = sum(number.table == str(target.table) for number in printed())
    return len({_place(target, r) for r in records if r["paper"] is not None}), total


def _place(target: Target, record: Mapping[str, Any]) -> tuple[Any, ...]:
    """A teacher's number is one number of the paper's, whichever attack of ours it stands
    beside."""
    attack = "" if record["method"] == "teacher" and target.table != 7 else record["attack"]
    return (
        *(record[name] for name in ("dataset", "teacher", "student", "method", "metric")),
        attack,
    )


def write_beside_the_paper(records: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write :func:`beside_the_paper` as CSV."""
    write_csv(list(COLUMNS), records, path)
