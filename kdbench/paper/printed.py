"""Our numbers beside those that RobustKD's authors printed, and where the printed numbers
contradict each other.

``kdbench.paper.requests`` holds what was printed. ``printed.csv`` has one row for each number of
Tables 2-7. Each table and figure has a request with a section ``[paper]``.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from kdbench._intervals import wilson
from kdbench.bench.request.preset_files import preset_remarks
from kdbench.errors import ConfigError, UnknownMethodError, unknown
from kdbench.report.columns import RATES, Row, hits_of
from kdbench.report.noise import t_interval
from kdbench.report.paired import grouped
from kdbench.report.settings import dataset_family
from kdbench.report.tables import write_csv

PACKAGE = "kdbench.paper.requests"
COLUMNS = (
    "dataset",
    "teacher",
    "student",
    "preset",
    "attack",
    "method",
    "metric",
    "ours",
    "ours_low",
    "ours_high",
    "n_seeds",
    "paper",
    "difference",
    "contradicted",
    "note",
    "credibility",
)
#: Our rows with these names in common are averaged over seeds.
_AVERAGED = ("dataset", "teacher", "student", "preset", "attack", "defense")
#: Points. Two prints of one number may differ by this much, from rounding.
_ROUNDING = 0.005


class Number(NamedTuple):
    """What a printed number measures, in the words of printed.csv."""

    table: str
    dataset: str
    teacher: str
    student: str
    attack: str
    method: str
    metric: str


class Target(BaseModel):
    """Section ``[paper]`` of a request: the table or figure that it answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    #: The number of the table. None: it is a figure.
    table: int | None = None
    #: What the table prints.
    metrics: tuple[Literal["acc", "asr"], ...] = ()
    #: Our attacks, each with its name in the table.
    attacks: dict[str, str] = {}
    #: Our defenses, each with its name in the table.
    methods: dict[str, str] = {}
    #: What the figure draws, see kdbench.paper.figures.
    figure: Literal["variance", "defenses"] | None = None
    #: What the defenses of the figure differ in.
    axis: str = ""
    #: Our defenses, each with its value on the axis.
    labels: dict[str, str] = {}
    #: What the paper concludes from the figure.
    claim: str = ""

    @model_validator(mode="after")
    def _table_or_figure(self) -> Target:
        if (self.table is None) == (self.figure is None):
            raise ValueError("a target is either a table or a figure")
        return self


def target_names() -> list[str]:
    """Names of what can be reproduced, tables first."""
    names = [
        Path(entry.name).stem
        for entry in resources.files(PACKAGE).iterdir()
        if entry.name.endswith(".toml")
    ]
    return sorted(names, key=lambda name: (not name.startswith("table"), name))


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
    """Every printed number that another one, or the text, contradicts, with the reasons. They do
    not say which of the two is right."""
    reasons: dict[Number, list[str]] = defaultdict(list)
    for number, reason in (
        *_printed_twice(numbers),
        *_same_teacher(numbers),
        *_above_their_teacher(numbers),
        *_text(numbers),
        *_singular(numbers),
    ):
        if reason not in reasons[number]:
            reasons[number].append(reason)
    return dict(reasons)


def _printed_twice(numbers: Mapping[Number, float]) -> Iterator[tuple[Number, str]]:
    """Two tables print the same student, attack and method."""
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
    """A teacher's number differs between tables, or between rows of one table. The text knows only
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
    """A student has more of the backdoor, or a better accuracy, than its teacher in the same
    table."""
    for number, value in numbers.items():
        # An undefended student, or in Table 7 the accuracy of a defended one.
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


#: What no rule above detects: (which numbers, the reason). Heo et al. is the paper of the distiller
#: (ICCV 2019).
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
        for names, reason in _SINGULAR:
            if all(getattr(number, name) == value for name, value in names.items()):
                yield number, reason


def beside_the_paper(target: Target, rows: Iterable[Row]) -> list[Row]:
    """A record for each number that we measured, with the number that the table prints.

    ours: mean over the seeds, %.
    ours_low, ours_high: Student's 95 % interval. For one seed it is Wilson's of the test images.
    paper, difference (ours - paper), contradicted (the reasons): empty where the table has no such
        number.
    credibility: what the preset says of how far its numbers, and those of this method, may be
        believed.
    """
    values = printed()
    doubts = contradictions(values)
    records: list[Row] = []
    groups = grouped((row for row in rows if row.get("status") == "ok"), _AVERAGED)
    for key, members in groups.items():
        names = dict(zip(_AVERAGED, key, strict=True))
        defense = names.pop("defense")
        about, remark = preset_remarks(names["preset"]).about, members[0].get("preset_remark")
        credibility = "; ".join(filter(None, [about, remark]))
        for metric in target.metrics:
            for role, number, note in _printed_numbers(target, names, defense, metric):
                method = "teacher" if role == "teacher" else defense
                ours = _ours(members, f"{role}_{metric}")
                paper = values.get(number)
                known = paper is not None and not math.isnan(ours["ours"])
                records.append(
                    {
                        **names,
                        "method": method,
                        "metric": metric,
                        **ours,
                        "paper": paper,
                        "difference": ours["ours"] - paper if known else None,
                        "contradicted": "; ".join(doubts.get(number, [])),
                        "note": note if paper is not None else "not in the paper's table",
                        "credibility": credibility,
                    }
                )
    return records


def _printed_numbers(
    target: Target, names: Row, defense: str, metric: str
) -> Iterator[tuple[str, Number, str]]:
    """What of the table a setting of ours answers: (teacher or student, the printed number, a
    note)."""
    ours: str = names["dataset"]
    dataset = dataset_family(ours)
    attack = target.attacks.get(names["attack"], "")
    subset = "a subset of the paper's dataset" if dataset != ours else ""
    number = Number(
        str(target.table), dataset, names["teacher"], names["student"], attack, "", metric
    )
    if defense == "none":
        # Tables 3-6 print one teacher and do not say of which attack. Table 7 prints that of the
        # adaptive attack.
        unspecified = target.table != 7 and attack != ""
        note = "the paper does not say of which attack" if unspecified else ""
        teacher = number._replace(attack="unspecified" if unspecified else attack, method="teacher")
        yield "teacher", teacher, "; ".join(filter(None, [subset, note]))
    yield "student", number._replace(method=target.methods.get(defense, "")), subset


def _ours(members: Sequence[Row], name: str) -> Row:
    """The mean over the seeds that have a number, with its interval."""
    good = [row for row in members if row.get(name) is not None]
    mean, low, high = t_interval([row[name] for row in good])
    if len(good) == 1:
        low, high = wilson(hits_of(good[0], name), good[0][RATES[name]])
    return {"ours": mean, "ours_low": low, "ours_high": high, "n_seeds": len(good)}


def coverage(target: Target, records: Iterable[Row]) -> tuple[int, int]:
    """(how many of the table's printed numbers have one of ours beside them, how many it
    prints)."""
    total = sum(number.table == str(target.table) for number in printed())
    return len({_place(target, r) for r in records if r["paper"] is not None}), total


def _place(target: Target, record: Row) -> tuple[Any, ...]:
    """What tells one printed number from another. A teacher's number is one number, whichever
    attack of ours it stands beside."""
    attack = "" if record["method"] == "teacher" and target.table != 7 else record["attack"]
    return (
        *(record[name] for name in ("dataset", "teacher", "student", "method", "metric")),
        attack,
    )


def write_beside_the_paper(records: Iterable[Row], path: Path) -> None:
    """Write :func:`beside_the_paper` as CSV."""
    write_csv(list(COLUMNS), records, path)
