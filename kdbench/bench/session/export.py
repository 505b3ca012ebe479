"""A row's networks and trigger as files that others can use."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench._files import save_tensors, write_record
from kdbench.bench.session.artefacts import ROLES, load_network, load_trigger, plain_weights
from kdbench.errors import ConfigError, unknown
from kdbench.models.files import save_module
from kdbench.report.columns import Row
from kdbench.report.read import CELL, cell_key, in_words
from kdbench.report.words import shown_verdict
from kdbench.untrusted.text import strip_control

if TYPE_CHECKING:
    from torch import Tensor

    from kdbench.bench.store.artefacts import Store

_TRIGGER = "trigger"
_WHAT = (*ROLES, _TRIGGER, "all")
#: Columns that say where a network is from.
_ORIGIN = (*CELL, "teacher_sha256", "student_sha256", "config_digest", "setting_digest")


def export_row(store: Store, row: Row, what: str, to: Path, trust: Iterable[str]) -> Path:
    """See :func:`kdbench.api.export`."""
    if what not in _WHAT:
        raise ConfigError(unknown("part of a row", what, _WHAT))
    parts = [part for part in _WHAT[:-1] if what in (part, "all")]
    # Everything is read before anything is written.
    networks = {part: load_network(store, row, part, trust) for part in parts if part in ROLES}
    weights = {part: _weights(row, part, plain_weights(of)) for part, of in networks.items()}
    trigger = load_trigger(store, row, trust) if _TRIGGER in parts else None
    try:
        to.mkdir(parents=True, exist_ok=True)
        if any(to.iterdir()):
            raise ConfigError(f"{to} is not empty; name another folder")
        for part, network in networks.items():
            (to / part).mkdir()
            save_tensors(weights[part], to / part / "model.safetensors", {})
            write_record(_config(row, part, network), to / part / "config.json")
        if trigger is not None:
            (to / _TRIGGER).mkdir()
            save_module(trigger.eval(), to / _TRIGGER / "trigger.safetensors")
        (to / "README.md").write_text(_card(row, parts), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{to} cannot be written ({error.strerror or error}); name another folder"
        ) from error
    return to


def _weights(row: Row, part: str, weights: dict[str, Tensor] | None) -> dict[str, Tensor]:
    if weights is None:
        raise ConfigError(
            f"the {part} of {in_words(cell_key(row))} was edited or pruned by a defense, so it is "
            "no plain network; kdbench.network(...) gives it"
        )
    return weights


def _config(row: Row, part: str, network: Any) -> dict[str, Any]:
    """What ``kdbench import-teacher`` and timm read of a network."""
    return {
        "architecture": row[part],
        "num_classes": network.num_classes,
        "pretrained_cfg": {
            "mean": network.pixel_mean.flatten().tolist(),
            "std": network.pixel_std.flatten().tolist(),
        },
        "kdbench": {name: row[name] for name in _ORIGIN},
    }


def _card(row: Row, parts: Iterable[str]) -> str:
    """A page that says what the files are, before anything else that they may harm."""
    names = {name: strip_control(row[name]) for name in CELL}
    warning = (
        "**The teacher of this folder was attacked on purpose. It, and each student of it, may "
        "carry a backdoor. Do not deploy them.**"
    )
    lines = [f"- {name}: `{value}`" for name, value in names.items()]
    rates = [
        f"- {name}: {row[name]} %"
        for name in ("teacher_acc", "teacher_asr", "student_acc", "student_asr")
        if row[name] is not None
    ]
    verdict = [f"- verdict: {word}"] if (word := shown_verdict(row)) else []
    title = f"# {', '.join(parts)} of one cell of kdbench {strip_control(row['kdbench_version'])}"
    return "\n".join([title, "", warning, "", *lines, *rates, *verdict, ""])
