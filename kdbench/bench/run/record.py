"""run.json: what a run was asked, with what it computed, and how each stage ended."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Collection, Mapping
from typing import Any

from kdbench.bench.keys import digest
from kdbench.bench.kinds import Kind
from kdbench.bench.plan.images import description_of
from kdbench.bench.plan.machine import software
from kdbench.bench.plan.plan import Plan
from kdbench.bench.plan.prepare import Prepared
from kdbench.bench.request.specfile import write_spec
from kdbench.bench.store.artefacts import Store
from kdbench.bench.work.job import Outcome
from kdbench.errors import ConfigError
from kdbench.loading.answers import Answers, base_name
from kdbench.method import METHOD_KINDS
from kdbench.numerics import device_name
from kdbench.report.columns import SCHEMA


def record_of(prepared: Prepared, registry: Answers) -> dict[str, Any]:
    request = prepared.spec.model_dump(mode="json")
    config = {"request": request, "parts": prepared.numbers()}
    return {
        "schema": SCHEMA,
        "started": time.time(),
        "command": sys.argv[1:],
        "config": config,
        "spec": _spec(prepared),
        "cells": len(prepared.plan.cells),
        "papers": _papers(request, registry),
        "config_digest": digest(config),
        "datasets": [
            {
                "name": part.dataset.name,
                "digest": part.dataset.digest,
                "note": part.dataset.note,
                "train": len(part.dataset.train),
                "test": len(part.dataset.test),
                "image_size": part.dataset.image_size,
                "num_classes": part.dataset.num_classes,
                "images": description_of(part).as_dict(),
            }
            for part in prepared.parts
        ],
        "teachers": [
            teacher.model_dump(mode="json") for teacher in prepared.parts[0].imported.values()
        ],
        "versions": {**software(), "python": platform.python_version()},
        "plugins": registry.origins(),
        "broken_plugins": registry.broken,
        "device": device_name(prepared.numerics.device),
        "numerics": str(prepared.numerics),
        "threads": prepared.numerics.threads,
    }


def _spec(prepared: Prepared) -> str | None:
    """The request as a spec file. None: it has a name that no such file can hold."""
    try:
        return write_spec(prepared.spec)
    except ConfigError:
        return None


def _papers(request: Mapping[str, Any], registry: Answers) -> dict[str, dict[str, Any]]:
    """Where each method of a request comes from, by its name."""
    return {
        f"{kind}.{name}": registry.facts(kind, name).info.model_dump(
            mode="json", exclude={"evidence"}
        )
        for kind in METHOD_KINDS
        for name in dict.fromkeys(map(base_name, _asked(request, f"{kind}s")))
    }


def _asked(request: Mapping[str, Any], axis: str) -> list[str]:
    blocks = [request, *request["also"]]
    return [name for block in blocks for name in block[axis] or ()]


def stages_of(
    plan: Plan, failed: Mapping[str, Outcome], computed: Collection[str], store: Store
) -> list[dict[str, Any]]:
    """The stages of the plan, as run.json keeps them.

    A stage that no row needed may still be there: the record says how it was made, whoever made it.
    """
    entries = []
    for key, stage in plan.stages.items():
        entry = {"kind": stage.kind, "title": stage.title, "key": key, "seed": stage.seed}
        if key in failed:
            outcome = failed[key]
            entry |= {"status": outcome.status, "reason": outcome.reason}
            entry["facts"] = _short(outcome.facts)
        elif (manifest := store.find(key)) is not None:
            entry |= {
                "status": "ok" if key in computed else "cached",
                "seconds": manifest.seconds,
                # where an imported teacher's weights are from is nowhere else in the record
                "facts": manifest.facts if stage.kind is Kind.IMPORTED else _short(manifest.facts),
                "files": {name: file["sha256"] for name, file in manifest.files.items()},
            }
        else:
            entry |= {"status": "not needed", "facts": {}}
        entries.append(entry)
    return entries


def _short(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts that are one number or word. The rest, such as the hits of a measurement image by
    image, is in the store under the stage's key."""
    return {
        name: value
        for name, value in facts.items()
        if value is None or isinstance(value, bool | int | float | str)
    }
