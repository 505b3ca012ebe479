"""Fetching a teacher from the Hugging Face hub, pinned to a commit.

Only files are fetched, and no code of the repository is run. The weights are then read like those
of any other stranger, by :func:`kdbench.untrusted.weights.read_foreign`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdbench.errors import ConfigError, IntegrityError, UsageError
from kdbench.untrusted.header import shown

PREFIX = "hf:"
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_REFERENCE = r"hf:(?P<repository>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})"
_MOST_CONFIG = 1 << 20  # bytes


@dataclass(frozen=True)
class Hints:
    """What the description of a repository says of how its network is used. It may say nothing."""

    num_classes: int | None = None
    """Classes."""
    image_size: int | None = None
    """Pixels a side."""
    mean: tuple[float, float, float] | None = None
    """Of each channel, for images in [0, 1]. Its input is normalised with it."""
    std: tuple[float, float, float] | None = None
    """As ``mean``. Both are there, or none."""
    labels: tuple[str, ...] = ()
    """Names of the classes by index."""


@dataclass(frozen=True)
class Fetched:
    """What a repository on the hub holds."""

    file: Path
    """The weights."""
    model: str | None
    """The network that the repository names, as ``timm/NAME``; None if it names none."""
    num_classes: int | None
    """As the repository says; None if it does not."""
    hints: Hints
    """What else it says of the network's use."""
    origin: dict[str, str]
    """Where the weights are from, for the record beside them."""


def plain_reference(reference: str) -> str:
    """A reference as kdbench spells it. timm and others write ``hf-hub:`` or ``hf_hub:``."""
    return re.sub(r"^(timm/)?hf[-_]hub:", PREFIX, reference)


def fetch(reference: str) -> Fetched:
    """Download the weights and the description of ``hf:OWNER/NAME@COMMIT``.

    Raises:
        ConfigError: the reference has another form, or names a branch or a tag, which may move.
        UsageError: there is no such repository or commit, or it cannot be fetched.
        IntegrityError: its config.json is too large or not JSON.
    """
    repository, revision, config = _describe(reference)
    # safetensors first: it cannot hold code, and a repository often has both.
    file, missing = None, []
    for name in _WEIGHTS:
        file = _download(repository, name, revision)
        if file is not None:
            break
        missing.append(name)
    if file is None:
        raise UsageError(
            f"{repository} at {revision} has none of {', '.join(missing)}; fetch its weights "
            "yourself"
        )
    model, classes = _model(config), config.get("num_classes")
    # True is an int in Python, and a description may say anything.
    known = (
        classes
        if isinstance(classes, int) and not isinstance(classes, bool) and 2 <= classes <= 1_000_000
        else None
    )
    hints = replace(_hints(config), num_classes=known)
    return Fetched(file, model, known, hints, {"hub": f"hf:{repository}@{revision}"})


def architecture(reference: str) -> str:
    """The network that ``hf:OWNER/NAME@COMMIT`` describes, as ``timm/NAME``.

    Only its structure is used, to be trained from fresh weights.

    Raises:
        UsageError: the repository names no network of timm, or one with changed arguments.
        ConfigError, IntegrityError: as for :func:`fetch`.
    """
    repository, revision, config = _describe(reference)
    model = _model(config)
    if model is None or config.get("model_args"):
        what = "changes the network that it names" if model else "names no network of timm"
        raise UsageError(
            f"{repository} at {revision} {what}, so it cannot be built here; name a network with "
            "timm/NAME"
        )
    return model


def _describe(reference: str) -> tuple[str, str, dict[str, Any]]:
    """The repository, the commit, and its config.json as a table."""
    match = re.fullmatch(_REFERENCE, reference)
    if match is None:
        raise ConfigError(
            f"{shown(reference)} is not hf:OWNER/NAME@COMMIT with the 40 hexadecimal digits of a "
            "commit; a branch or a tag may "
            "name other weights tomorrow, the page of the repository's files shows the commit"
        )
    repository, revision = match["repository"], match["revision"]
    return repository, revision, _config(_download(repository, "config.json", revision))


def _hints(config: dict[str, Any]) -> Hints:
    """What timm writes into config.json. A value that no network has is passed over."""
    values = config.get("pretrained_cfg")
    values = values if isinstance(values, dict) else {}
    mean, std = _channels(values.get("mean"), 0), _channels(values.get("std"), 1e-4)
    both = mean is not None and std is not None
    labels: Any = config.get("label_names")
    if not isinstance(labels, list) or not all(isinstance(name, str) for name in labels):
        labels = []
    return Hints(
        image_size=_side(values.get("input_size")),
        mean=mean if both else None,
        std=std if both else None,
        labels=tuple(labels),
    )


def _side(size: Any) -> int | None:
    """The side of square images of three channels, or None."""
    if not isinstance(size, list) or len(size) != 3 or size[0] != 3 or size[1] != size[2]:
        return None
    side = size[1]
    return side if type(side) is int and 8 <= side <= 512 else None


def _channels(value: Any, least: float) -> tuple[float, float, float] | None:
    """Three numbers from ``least`` to 1, or None."""
    if not isinstance(value, list) or len(value) != 3:
        return None
    if not all(type(part) in (int, float) and least <= part <= 1 for part in value):
        return None
    red, green, blue = (float(part) for part in value)
    return red, green, blue


def _model(config: dict[str, Any]) -> str | None:
    name = config.get("architecture")
    return f"timm/{name}" if isinstance(name, str) and re.fullmatch(r"\w{1,100}", name) else None


def _download(repository: str, name: str, revision: str) -> Path | None:
    """The file, or None where the repository has none of that name."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        raise UsageError(
            f"{repository} cannot be fetched and is not in the cache; is there a network?"
        ) from error
    except errors.EntryNotFoundError:
        return None
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise UsageError(
            f"there is no {repository} at {revision} on the hub that may be read from here"
        ) from error
    except (OSError, ValueError, errors.HfHubHTTPError) as error:
        raise UsageError(f"{repository} cannot be fetched: {shown(str(error))}") from error


def _config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    if path.stat().st_size > _MOST_CONFIG:
        raise IntegrityError("its config.json is larger than 1 MiB, and was not read")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise IntegrityError("its config.json is not JSON") from error
    return config if isinstance(config, dict) else {}
