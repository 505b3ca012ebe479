"""What the process of a job may say, and how much of it.

A plugin runs in that process, so whatever it says may be a plugin's. It says lines of JSON: first a
greeting, then steps, and at last one outcome for each of its tasks. A line that is anything else is
nonsense, and ends the job. The process itself uses the same models, so that what an honest plugin
does wrong is an error of its own stage.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic_core
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from kdbench._counted import counted
from kdbench._files import jsonable
from kdbench._progress import Step
from kdbench.bench.kinds import Kind
from kdbench.bench.work.job import Outcome
from kdbench.untrusted.text import strip_control

#: Bytes of a line at most. Only the outcomes may be longer than a few numbers.
LINE_BYTES, SHORT_BYTES = 8 << 20, 4096
#: Levels of lists and dictionaries in the facts of a stage, the facts themselves among them.
DEPTH = 6
#: Names, numbers, texts, lists and dictionaries in the facts of a stage.
VALUES = 20_000
#: Characters of all texts and names in the facts of a stage. The hits of a million test images
#: take a sixth of it.
CHARACTERS = 1 << 20
#: Characters of a reason.
REASON = 2000
#: Facts that the coordinator knows by itself. What a job says of them is not kept.
KNOWN = ("device", "confinement", "cohort", "profile")

_LARGEST_COUNT = 2**53  # every float up to it is exact
_LARGEST_NUMBER = 2**63


_R = TypeVar("_R", bound="BaseModel")


class NonsenseError(ValueError):
    """A job said what no job says. The text says what is wrong with it."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds control characters")
    return text


Line = Annotated[str, Field(max_length=REASON), AfterValidator(_printable)]
Count = Annotated[int, Field(ge=0, le=_LARGEST_COUNT)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Mebibytes = Annotated[float, Field(ge=0, le=1e9)]


class _Report(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class HelloReport(_Report):
    """The process is confined and begins. No plugin has been imported yet."""

    hello: Annotated[str, Field(max_length=200), AfterValidator(_printable)]
    """The device that it computes on, as :func:`kdbench.numerics.device_name` says."""


class StepReport(_Report):
    """A step of a training. The fields but the first are those of :class:`Step`."""

    place: Count
    """Of the task among those of the process, from 0."""
    epoch: Count
    epochs: Count
    done: Count
    total: Count
    images: Count
    loss: float | None

    @classmethod
    def of(cls, place: int, step: Step) -> Self:
        """The report of a step.

        Raises:
            ValueError: no step can have such values.
        """
        return cls(place=place, **jsonable(vars(step)))

    def step(self) -> Step:
        return Step(**self.model_dump(exclude={"place"}))


class OutcomeReport(_Report):
    """How one task ended, as its process says."""

    status: Literal["ok", "failed", "diverged", "not learned", "out of memory"]
    """A process that crashed, or was too slow or too large, cannot say so."""
    reason: Line = ""
    """Why the status is not ok."""
    facts: dict[str, Any] = {}
    """Numbers for the record."""
    device_peak_mb: Mebibytes | None = None
    """Largest memory on a GPU, which nobody else can tell. None on a CPU."""
    profile: dict[Line, Seconds] | None = None
    """Where the time went, see kdbench.training.profiling."""

    def outcome(
        self, seconds: float, peak_mb: float, known: Mapping[str, Any], log: str = ""
    ) -> Outcome:
        """The outcome of the task.

        Args:
            seconds: by the coordinator's clock.
            peak_mb: as the kernel counted.
            known: see :func:`known_facts`.
            log: what the process printed.
        """
        facts = {name: value for name, value in self.facts.items() if name not in KNOWN}
        if self.status == "ok":
            facts |= known
        else:
            facts = {"confinement": known["confinement"]}
        if self.profile is not None:
            facts["profile"] = self.profile
        return Outcome(self.status, self.reason, seconds, peak_mb, facts, log)


class OutcomesReport(_Report):
    """How the tasks of the process ended, in their order. Nothing may follow."""

    outcomes: list[OutcomeReport]


Report = HelloReport | StepReport | OutcomesReport


def parse(line: bytes, tasks: int) -> Report:
    """What a process that computes so many tasks says in a line.

    Raises:
        NonsenseError: it is no report.
    """
    try:
        value = pydantic_core.from_json(line, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        raise NonsenseError("a line is no JSON") from None
    if not isinstance(value, dict):
        raise NonsenseError("a line is no report")
    if value.keys() == {"outcomes"}:
        reports = value["outcomes"]
        if not isinstance(reports, list) or len(reports) != tasks:
            raise NonsenseError(f"it must report the outcomes of {counted(tasks, 'task')}")
        return OutcomesReport(outcomes=[_validate(OutcomeReport, each) for each in reports])
    if len(line) > SHORT_BYTES:
        raise NonsenseError("a line is too long")
    if "hello" in value:
        return _validate(HelloReport, value)
    step = _validate(StepReport, value)
    if step.place >= tasks:
        raise NonsenseError(f"it has {counted(tasks, 'task')}, and reports a step of another")
    return step


def _validate(model: type[_R], value: object) -> _R:
    # Measured first, since a model would list each of a million errors.
    _measure(value, 1 + DEPTH)
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise NonsenseError(_first(error)) from None


def encode(report: Report) -> bytes:
    """The line of a report."""
    return report.model_dump_json().encode() + b"\n"


def known_facts(device: str, confinement: str, together: int) -> dict[str, Any]:
    """Facts of a stage that are not its job's to say.

    Args:
        together: how many tasks shared the process.
    """
    facts = {"device": device, "confinement": confinement}
    return facts | {"cohort": together} if together > 1 else facts


def check_facts(kind: Kind, roles: Collection[str], facts: Mapping[str, Any]) -> None:
    """Refuse facts of a stage that a row, the record or the store could not hold.

    Args:
        kind: of the stage.
        roles: of its inputs.

    Raises:
        NonsenseError: why.
    """
    _measure(facts, DEPTH)
    if kind is Kind.BACKDOOR:
        _validate(BackdoorFacts, facts)
    if kind in (Kind.CLEANSE, Kind.DISTILL, Kind.REPAIR):
        _validate(DefenderFacts, facts)
    if kind not in (Kind.CHECK, Kind.EVALUATE):
        return
    measurement = _validate(Measurement, facts)
    if (measurement.asr is not None) != ("trigger" in roles):
        raise NonsenseError("asr is measured with a trigger, and with one only")


def clean_facts(facts: Mapping[str, Any]) -> Any:
    """Facts as strict JSON, each text on one line, from what a plugin returned."""
    return _clean(jsonable(dict(facts)))


def _clean(value: Any) -> Any:
    if isinstance(value, dict):
        return {strip_control(name): _clean(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_clean(part) for part in value]
    return strip_control(value) if isinstance(value, str) else value


# -- facts of a measurement ------------------------------------------------------------------------

#: [hits, total]
RateReport = Annotated[list[Count], Field(min_length=2, max_length=2)]
Variances = Annotated[list[float], Field(min_length=1)]


class VarianceReport(_Report):
    """Feature variance of some test images, one by one."""

    clean: Variances
    triggered: Variances


class OutputsReport(_Report):
    """Test images that would be right if outputs were read otherwise, see
    :mod:`kdbench.bench.work.outputs`."""

    largest: Count = 0
    best: Count = 0
    by_chance: Count = 0
    assigned: list[Count] = []
    orders: dict[Line, Count] = {}
    normalizations: dict[Line, Count] = {}
    sample: RateReport | None = None
    """Right as it is read now, of the images on which normalisations were tried."""

    def check(self, images: int) -> None:
        """Raise ValueError where more images are right than there are."""
        right, sample = self.sample or (0, 0)
        tried = [right, *self.normalizations.values()]
        counts = [self.largest, self.best, self.by_chance, sample, *self.orders.values()]
        if max(counts) > images or max(tried) > sample or (self.sample and not sample):
            raise ValueError("more images are right under another reading than there are")


class Measurement(BaseModel):
    """The facts from which rows are made, see :class:`kdbench.metrics.Evaluation`.

    Without a trigger there is ``acc`` alone, and of an imported teacher ``outputs``.
    """

    model_config = _Report.model_config | {"extra": "ignore"}

    acc: RateReport
    asr: RateReport | None = None
    ra: RateReport | None = None
    base: RateReport | None = None
    asr_hits: str | None = None
    """Base64 of packed bits, one an image that the trigger is for."""
    variance: VarianceReport | None = None
    outputs: OutputsReport | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not all(0 <= hits <= total and total for hits, total in self._rates()):
            raise ValueError("a rate has more hits than images, or no images")
        if self.outputs is not None:
            self.outputs.check(self.acc[1])
        if (self.asr_hits, self.asr, self.ra, self.base, self.variance) == (None,) * 5:
            return self
        if None in (self.asr_hits, self.asr, self.ra, self.base, self.variance):
            raise ValueError("asr, ra, base, asr_hits and variance come together")
        assert self.asr is not None
        assert self.asr_hits is not None
        if len({total for _, total in self._rates()[1:]}) != 1 or self.asr[1] > self.acc[1]:
            raise ValueError("asr, ra and base are of the same images, which are test images")
        try:
            bits = base64.b64decode(self.asr_hits, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("asr_hits is no base64") from None
        hits, total = self.asr
        ones = int.from_bytes(bits) >> (-total % 8)
        if len(bits) != -(-total // 8) or ones.bit_count() != hits:
            raise ValueError("asr_hits are not the hits of asr")
        return self

    def _rates(self) -> list[list[int]]:
        return [rate for rate in (self.acc, self.asr, self.ra, self.base) if rate is not None]


class BackdoorFacts(BaseModel):
    """The facts of an attack from which a row is made."""

    model_config = _Report.model_config | {"extra": "ignore"}

    universal: Annotated[float, Field(ge=0, le=100)] = 0.0
    """See :class:`kdbench.attack.Backdoor`. An attack need not state it."""


class DefenderFacts(BaseModel):
    """The facts of a defense from which a row is made."""

    model_config = _Report.model_config | {"extra": "ignore"}

    flagged: list[Annotated[int, Field(ge=0)]] | None = None
    """See :class:`kdbench.defense.Finding`. None: it reported nothing."""


def misfit(
    measurements: Sequence[Mapping[str, Any]], images: int, what: str = "test"
) -> str | None:
    """Why measurements with one trigger on a set of ``images`` cannot all be true, or None.

    Each has passed :func:`check_facts`.

    Args:
        what: the set is called.
    """
    if any(facts["acc"][1] != images for facts in measurements):
        return f"its networks were not measured on the {images} {what} images"
    if len({"asr" in facts and facts["asr"][1] for facts in measurements}) > 1:
        return "its networks were not measured on the same triggered images"
    return None


# -- limits ----------------------------------------------------------------------------------------


def _measure(value: object, depth: int) -> None:
    """Refuse what is too deep, too much, or holds a number or a text that is none for a record."""
    values, characters = VALUES, CHARACTERS
    left: list[tuple[object, int]] = [(value, 1)]
    while left:
        part, level = left.pop()
        inside: Sequence[object] = ()
        if isinstance(part, dict):
            inside = [*part.keys(), *part.values()]
        elif isinstance(part, list):
            inside = part
        elif isinstance(part, str):
            characters -= len(part)
            if not part.isprintable():
                raise NonsenseError("a text holds control characters")
        elif isinstance(part, int) and abs(part) > _LARGEST_NUMBER:
            raise NonsenseError("a number is too large")
        values -= len(inside)
        if values < 0 or characters < 0:
            raise NonsenseError("it says too much")
        if inside and level > depth:
            raise NonsenseError("it is nested too deep")
        left.extend((each, level + 1) for each in inside)


def _first(error: ValidationError) -> str:
    """The first of the errors in words, cut short: names in it may be a plugin's."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:80]
    return strip_control(f"{where}: {first['msg']}" if where else first["msg"])[:200]
