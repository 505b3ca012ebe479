"""What is said of an imported teacher that seems to be read wrongly, and the command that mends
it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdbench.untrusted.text import command_line

if TYPE_CHECKING:
    from kdbench.bench.plan.prepare import Prepared
    from kdbench.bench.store.artefacts import Store
    from kdbench.bench.store.teacher_record import Imported


def remarks_of_run(
    prepared: Prepared, store: Store, out: Path, options: Sequence[str]
) -> Iterator[str]:
    """The lines under a run's table.

    Args:
        out: takes a file with an order of classes, where a teacher has one without a name.
        options: further ones of the command that mends it.
    """
    seen = set()
    for cell in prepared.plan.cells:
        kind, _, name = cell.names["attack"].partition(":")
        key = cell.measured["teacher"]
        if kind != "imported" or not name or key in seen:
            continue
        seen.add(key)
        part, manifest = prepared.parts[cell.part], store.find(key)
        if manifest is not None:
            names = part.dataset.class_names
            yield from remarks(part.imported[name], manifest.facts, names, out, options)


def remarks(
    teacher: Imported,
    facts: Mapping[str, Any],
    names: Sequence[str],
    out: Path | None,
    options: Sequence[str],
) -> Iterator[str]:
    """What the measurement of a teacher says of how it is read, as lines.

    Args:
        facts: of the measurement.
        names: the classes as they were counted.
    """
    from kdbench.report.remarks import OPTIONS, remark_of

    hits, total = facts["acc"]
    word, sentence = remark_of((hits, total), facts.get("outputs", {}))
    if word is None:
        return
    yield f"WARNING: {teacher.name}: {sentence}"
    if word == "near_chance":
        yield "  To read it otherwise:"
        mended = {"--mean": "R,G,B", "--std": "R,G,B", "--class-order": "FILE"}
    elif word == "other_order":
        mended = {"--class-order": _order_file(teacher, facts, names, out)}
        if out is None:
            yield "  A run writes FILE to the folder of its results:"
    else:
        given = OPTIONS[word]
        mended = dict(zip(given[::2], given[1::2], strict=True))
        if word == "dataset_input":
            mended = {"--mean": "", "--std": ""}
    yield f"  {import_command(teacher, mended, options)}"


def _order_file(
    teacher: Imported, facts: Mapping[str, Any], names: Sequence[str], out: Path | None
) -> str:
    """The name of a file with the classes as the outputs were found to count them."""
    if out is None:
        return "FILE"
    order = [""] * len(names)
    for place, output in enumerate(facts["outputs"]["assigned"]):
        order[output] = names[place]
    path = out / f"class-order-{teacher.name}.json"
    try:
        # Not one name a line: a name may hold any character.
        path.write_text(json.dumps(order, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except (OSError, UnicodeError):
        return "FILE"
    return str(path)


def import_command(
    teacher: Imported, changed: Mapping[str, str], options: Sequence[str] = ()
) -> str:
    """The command that imports a teacher once more, read otherwise.

    Args:
        changed: options and their values. An empty value leaves an option out.
        options: further ones.
    """
    from kdbench.bench.plan.suspects import dataset_of
    from kdbench.bench.store.teacher_record import channels_text

    data = dataset_of(teacher)
    values = {
        "--model": teacher.model,
        "--dataset": data["datasets"][0],
        "--data-dir": str(data.get("data_dir", "")),
        "--num-classes": str(teacher.num_classes) if teacher.basis.get("num_classes") else "",
        "--image-size": str(teacher.image_size),
    }
    if teacher.basis.get("num_classes") == "dataset":
        values["--num-classes"] = ""
    if teacher.own_normalization and teacher.mean is not None and teacher.std is not None:
        values |= {"--mean": channels_text(teacher.mean), "--std": channels_text(teacher.std)}
    if teacher.class_order in ("text", "number"):
        values["--class-order"] = teacher.class_order
    elif teacher.class_order == "file":
        values["--class-order"] = "FILE"
    file = str(teacher.origin.get("hub") or teacher.file or teacher.origin.get("file") or "FILE")
    words = [
        word for option, value in {**values, **changed}.items() if value for word in (option, value)
    ]
    command = ["kdbench", "import-teacher", file, *words, "--name", teacher.name, "--replace"]
    return command_line([*command, *options])
