"""What ``kdbench verify`` and a folder used before say of a run that is not what it was."""

from __future__ import annotations

import copy
import json

import pytest
from click.testing import CliRunner

from kdbench._files import read_record, write_record
from kdbench.bench.plan import prepare
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run import verify
from kdbench.bench.run.earlier import MAY_DIFFER, differences, read_earlier
from kdbench.bench.run.origin import stated_columns
from kdbench.bench.run.record import record_of
from kdbench.bench.session.execution import tell_differences
from kdbench.bench.store.artefacts import Store
from kdbench.cli import main
from kdbench.errors import ConfigError
from kdbench.report.columns import COLUMNS
from kdbench.report.read import ResultsFile, read_results
from kdbench.report.software import made_by
from kdbench.report.tables import write_results
from tests.runs import ANY_TEACHER, go

BRIEF = {f"{stage}.epochs": "1" for stage in ("clean", "poison", "distill")} | ANY_TEACHER
#: Columns in which an edited row is not noticed before it is computed again, each with the reason.
UNNOTICED = {
    "device": "another card may have made the row; nothing but its name is known of it here",
    "confinement": "a wall changes no number, and another machine may have had another",
    "wall_s": "times of another machine",
    "peak_mem_mb": "memory of another machine",
    "preset_remark": "it changes no number, and another version of kdbench knows more or less",
}


class Run:
    """A run that was made here, and its plan."""

    def __init__(self, folder, registry):
        self.folder, self.registry = folder, registry
        self.store = Store(folder.parent / "store")
        spec = RunSpec(
            attacks=("badnets",), pairs=(("wrn10_1", "wrn10_1"),), numerics="fp32", overrides=BRIEF
        )
        go(spec, registry, folder, self.store)
        self.prepared = prepare.prepare(spec, registry, self.store)
        self.plan = self.prepared.plan
        self.stated = {
            cell.key: stated_columns(cell, self.prepared, registry) for cell in self.plan.cells
        }

    def edited(self, **changes):
        file = read_results(self.folder)
        return ResultsFile(file.path, [row | changes for row in file.rows], file.lines)


@pytest.fixture(scope="module")
def made(registry, tmp_path_factory):
    return Run(tmp_path_factory.mktemp("verify") / "run", registry)


def other(name, value):
    column = COLUMNS[name]
    if column.kind == "digest":
        return "9" * 64
    if column.kind == "word":
        return next(word for word in column.words if word != value)
    return f"other-{value}" if column.kind == "text" else (value or 0) + 1


def said(run, results):
    """Everything that ``verify`` says against the rows of a table."""
    others = verify.other_keys(results, run.plan, run.stated)
    found = {
        "key": others.machine + others.older + others.strangers + list(others.numbers),
        "stated": verify.misnamed(results, run.plan, run.stated),
        "weights": verify.check_weights(results, run.plan, run.store)[1],
        "numbers": [d.line for d in verify.check_numbers(results, run.plan, run.store)[1]],
    }
    return {what for what, lines in found.items() if lines}


def test_an_honest_run_has_nothing_said_against_it(made):
    assert said(made, made.edited()) == set()
    assert verify.missing(made.edited(), made.plan) == 0
    assert verify.check_numbers(made.edited(), made.plan, made.store)[0] == 1


@pytest.mark.parametrize("name", COLUMNS)
def test_an_edited_row_is_noticed_before_anything_is_computed(made, name):
    value = made.edited().rows[0][name]
    found = said(made, made.edited(**{name: other(name, value)}))
    assert bool(found) == (name not in UNNOTICED), (name, found)


def test_the_command_names_the_numbers_that_somebody_edited(made, tmp_path):
    row = made.edited().rows[0]
    write_record(read_record(made.folder / "run.json"), tmp_path / "run.json")
    write_results([row | {"clean_variance": 1.5}], tmp_path / "results.csv")
    called = ["verify", str(tmp_path), "--store", str(made.store.root), "--cells", "0"]
    refused = CliRunner().invoke(main, called)
    assert refused.exit_code == 4, refused.output
    assert "line 2: clean_variance is 1.5 in the table and" in refused.output
    assert "in the store" in refused.output


def test_rows_of_another_machine_say_by_what_they_were_made(made, tmp_path):
    row = made.edited().rows[0] | {"config_digest": "9" * 64, "torch_version": "1.0"}
    software = row["software"].replace("numpy=", "numpy=0.")
    results = made.edited(**(row | {"software": software}))
    others = verify.other_keys(results, made.plan, made.stated)
    assert others.machine == [2]
    here = dict(made_by(made.edited().rows[0]))
    assert others.made_by == {
        "torch_version": ["1.0", here["torch_version"]],
        "software numpy": [f"0.{here['software numpy']}", here["software numpy"]],
    }
    write_record(read_record(made.folder / "run.json"), tmp_path / "run.json")
    write_results(results.rows, tmp_path / "results.csv")
    called = ["verify", str(tmp_path), "--store", str(made.store.root), "--cells", "0"]
    answer = CliRunner().invoke(main, called)
    assert answer.exit_code == 1, answer.output
    text = f"made by other software: torch_version 1.0; here {here['torch_version']}"
    assert text in " ".join(answer.output.split())


def test_rows_that_nobody_asked_for_and_rows_that_are_missing_are_told(made):
    stranger = made.edited(config_digest="9" * 64, seed=7)
    others = verify.other_keys(stranger, made.plan)
    assert (others.strangers, others.machine) == ([2], [])
    assert verify.missing(stranger, made.plan) == 1


def test_a_request_of_another_version_is_named_as_that(made, tmp_path):
    record = read_record(made.folder / "run.json")
    record["config"]["request"]["colour"] = "red"
    record["versions"]["kdbench"] = "9.0"
    write_record(record, tmp_path / "run.json")
    with pytest.raises(ConfigError, match=r"take its colour, and it is from kdbench 9\.0"):
        verify.read_request(tmp_path)


def leaves(value, *place):
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from leaves(inner, *place, key)
    else:
        yield place, value


def test_whatever_differs_in_the_record_of_a_folder_used_before_is_said(made):
    """The request is the same: what differs is the code, the machine, the data, the numbers."""
    now = json.loads(json.dumps(record_of(made.prepared, made.registry)))
    assert differences(read_earlier(made.folder), now) == []
    tried = 0
    for place, value in leaves(now):
        earlier = copy.deepcopy(now)
        inner = earlier
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = "other"
        told = differences(earlier, now)
        name = ".".join(map(str, place))
        if place[0] in MAY_DIFFER:
            assert told == [], name
        elif place[-1] != "name":
            assert [text for text in told if text.endswith(f"other, now {value}")], name
            tried += 1
    assert tried > 50
    assert differences({}, now) == []


def test_the_fields_of_a_record_that_may_differ_have_a_reason(made):
    assert all(MAY_DIFFER.values())
    assert set(MAY_DIFFER) <= set(read_record(made.folder / "run.json"))


def test_a_run_into_a_folder_used_before_says_what_it_replaces(made):
    lines = []
    now = record_of(made.prepared, made.registry)
    earlier = copy.deepcopy(read_earlier(made.folder))
    tell_differences(made.folder, earlier, now, lines.append)
    assert lines == []
    earlier["versions"]["torch"] = "1.0"
    earlier["datasets"][0]["digest"] = "9" * 64
    tell_differences(made.folder, earlier, now, lines.append)
    (text,) = lines
    assert "this run replaces them: datasets.signs.digest 9999" in text
    assert f"versions.torch 1.0, now {now['versions']['torch']}" in text
    assert "\n" not in text
