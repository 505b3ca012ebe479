"""What is recorded of an imported teacher: its network, and how its input and output are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from kdbench._counted import counted
from kdbench.errors import ConfigError

#: Where a fact is from. given: an option said it. hub: the description of a repository on the hub.
#: dataset: the dataset that was there. assumed: nobody said it, and it follows from a default.
Basis = Literal["given", "hub", "dataset", "assumed"]
#: How the order of the classes was stated. own: it was not, so it is the dataset's own.
ClassOrder = Literal["own", "text", "number", "file"]
#: One number for each channel, for images in [0, 1].
Channels = tuple[float, float, float]
#: The columns of ``kdbench list teachers``.
SUMMARY = (
    *("name", "model", "dataset", "side", "classes", "order", "mean/std", "sha256", "imported"),
)
#: The smallest standard deviation: that of a network which takes pixels from 0 to 255 has 0.004.
_LEAST_STD = 1e-4


def check_normalization(mean: Channels, std: Channels) -> None:
    """Raise ConfigError unless these can be the mean and the standard deviation of images in
    [0, 1]."""
    for option, values in (("--mean", mean), ("--std", std)):
        # A comparison with NaN is false.
        if not all(abs(value) < float("inf") for value in values):
            raise ConfigError(f"{option} {_text(values)}: each must be a number")
    large = [option for option, values in (("--mean", mean), ("--std", std)) if max(values) > 1]
    if large:
        scaled = " ".join(
            f"{option} {_text([value / 255 for value in values])}"
            for option, values in (("--mean", mean), ("--std", std))
        )
        raise ConfigError(
            f"{' and '.join(large)} must be at most 1, since kdbench's images are in 0 to 1; if "
            f"the network was trained on pixels of 0 to 255, divide both by 255: {scaled}"
        )
    if min(mean) < 0:
        raise ConfigError(f"--mean {_text(mean)}: each must be from 0 to 1")
    if min(std) < _LEAST_STD:
        raise ConfigError(f"--std {_text(std)}: each must be above 0, at least {_LEAST_STD}")


def _text(values: Any) -> str:
    return ",".join(f"{value:.4g}" for value in values)


def _normalization(values: Channels) -> Channels:
    if not all(0 <= value <= 1 for value in values):
        raise ValueError("each must be from 0 to 1")
    return values


_Channels = Annotated[Channels, AfterValidator(_normalization)]


class Reading(BaseModel):
    """How the input and the output of an imported teacher are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None = None
    """Where the file of weights lay, as a full path. None: it came from the hub, or an older
    kdbench did not record it."""
    folder: str | None = None
    """Where the dataset lay, as a full path. None: it has no folder, or none was named."""
    class_names: tuple[str, ...] | None = None
    """The class that each output stands for. None: not known."""
    class_order: ClassOrder | None = None
    """How the order was stated. None: not recorded."""
    reordered: bool = False
    """The order is not the dataset's own."""
    dataset_classes: int | None = None
    """Classes of the whole dataset. None: not known."""
    mean: _Channels | None = None
    """Its input is normalised with it. None: not known here, it is the dataset's."""
    std: _Channels | None = None
    """As ``mean``."""
    basis: dict[str, Basis] = Field(default_factory=dict)
    """Where ``image_size``, ``num_classes``, ``class_names`` and ``normalization`` are from.

    An entry of an older kdbench has none of them.
    """

    @model_validator(mode="after")
    def _has_its_normalization(self) -> Self:
        if self.own_normalization and (self.mean is None or self.std is None):
            raise ValueError("no mean and std, although somebody stated them")
        return self

    @property
    def own_normalization(self) -> bool:
        """Whether the network has a normalisation of its own, which is kept with it."""
        return self.basis.get("normalization") in ("given", "hub")


class Imported(Reading):
    """An imported teacher."""

    name: str
    """What ``--teacher-from`` calls it."""
    key: str
    """Of its artefact in the store."""
    model: str
    """Name of its network."""
    dataset: str
    """The dataset that it was imported for."""
    num_classes: int = Field(ge=2)
    """Classes that it tells apart."""
    image_size: int = Field(ge=1)
    """Pixels a side."""
    origin: dict[str, Any]
    """Where the weights are from, see kdbench.untrusted.weights."""
    code: str = ""
    """Digest of the code of its network if a plugin makes it, else empty."""
    imported: float | None = None
    """When, in seconds since 1970."""

    @model_validator(mode="after")
    def _one_name_a_class(self) -> Self:
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"{counted(len(self.class_names), 'name')} for {counted(self.num_classes, 'class')}"
            )
        return self

    @property
    def is_described(self) -> bool:
        """Whether it is recorded how the teacher is read. Older versions recorded nothing."""
        return bool(self.basis)

    def summary(self) -> dict[str, Any]:
        """One line of ``kdbench list teachers``."""
        values = (
            self.name,
            self.model,
            self.dataset,
            f"{self.image_size}{self._mark('image_size')}",
            self.num_classes,
            self.order_text(),
            self.normalization_text(),
            str(self.origin.get("sha256", ""))[:12],
            "" if self.imported is None else day(self.imported),
        )
        return dict(zip(SUMMARY, values, strict=True))

    def _mark(self, fact: str) -> str:
        return " (assumed)" if self.basis.get(fact) == "assumed" else ""

    def order_text(self) -> str:
        """The order of the classes in a word or two."""
        if self.class_order is None:
            return "not recorded"
        return "the dataset's (assumed)" if self.class_order == "own" else self.class_order

    def normalization_text(self) -> str:
        """Mean and standard deviation, and where they are from."""
        basis = self.basis.get("normalization")
        if basis is None:
            return "not recorded"
        if self.mean is None or self.std is None:
            return "the dataset's (assumed)"
        where = {"given": "given", "hub": "from the hub"}.get(basis, "assumed")
        return f"{channels_text(self.mean)} / {channels_text(self.std)} ({where})"


def channels_text(values: Sequence[float]) -> str:
    """Mean or standard deviation as the option takes it."""
    return ",".join(f"{value:.6g}" for value in values)


def day(seconds: float) -> str:
    """A time as a date and the minute."""
    import time

    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


#: What two imports of one name can differ in, as people call it.
_COMPARED = {
    "model": "network",
    "dataset": "dataset",
    "num_classes": "classes",
    "image_size": "side",
    "class_names": "order of classes",
    "mean": "mean",
    "std": "std",
    "code": "code of the network",
}


def differences(before: Imported, after: Imported) -> Iterator[str]:
    """What differs between two teachers, as ``side 224, now 32``."""
    old, new = _compared(before), _compared(after)
    for name, word in _COMPARED.items():
        # What an older version did not record is no difference.
        if old[name] != new[name] and old[name] is not None:
            yield f"{word} {_short(old[name])}, now {_short(new[name])}"


def _compared(teacher: Imported) -> Mapping[str, Any]:
    return {name: getattr(teacher, name) for name in _COMPARED}


def _short(value: Any) -> str:
    if value is None:
        return "not known"
    if isinstance(value, tuple):
        shown = ", ".join(f"{part:.4g}" if isinstance(part, float) else part for part in value[:6])
        return shown + (", ..." if len(value) > 6 else "")
    return str(value) or "none"
