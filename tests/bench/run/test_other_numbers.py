"""Two runs whose names are the same and whose numbers are not: what the commands make of them."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from click.testing import CliRunner

from kdbench.bench.plan import prepare
from kdbench.bench.request.spec import RunSpec
from kdbench.bench.run.verify import misnamed, other_keys, read_request
from kdbench.bench.store.artefacts import Store
from kdbench.cli import main
from kdbench.report.read import read_results
from tests.runs import ANY_TEACHER, go

BRIEF = {f"{stage}.epochs": "1" for stage in ("clean", "poison", "distill")} | ANY_TEACHER


@pytest.fixture
def runs(registry, stripes, tmp_path, monkeypatch):
    """Folders of two runs that differ in FKD's alpha, and their store."""
    monkeypatch.setattr(prepare, "load", lambda spec, resolved, sources: stripes)
    store = Store(tmp_path / "store")
    folders = []
    for alpha in ("0.002", "0.004"):
        spec = RunSpec(
            attacks=("badnets",),
            pairs=(("wrn10_1", "wrn10_1"),),
            numerics="fp32",
            controls=False,
            overrides=BRIEF | {"distiller.fkd.alpha": alpha},
        )
        folders.append(tmp_path / alpha)
        go(spec, registry, folders[-1], store)
    return folders, store


def call(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_runs_with_other_numbers_are_refused_or_shown_apart(runs, tmp_path):
    folders, _ = runs
    rows = [read_results(folder).rows[0] for folder in folders]
    listed = "clean.epochs=1; distill.epochs=1; distiller.fkd.alpha={}; poison.min_steps=0"
    assert [row["changed"] for row in rows] == [listed.format(a) for a in ("0.002", "0.004")]
    assert rows[0]["setting_digest"] != rows[1]["setting_digest"]
    assert rows[0]["attack_digest"] == rows[1]["attack_digest"]
    out = tmp_path / "out" / "l.csv"
    out.parent.mkdir()
    for words in (["leaderboard", "--out", out], ["compare"]):
        refused = call(*words, *folders)
        assert refused.exit_code == 2
        for folder, alpha in zip(folders, ("0.002", "0.004"), strict=True):
            said = f"distiller.fkd.alpha={alpha} in {folder}/results.csv, line 2"
            assert said in refused.output
    assert not list(out.parent.iterdir())
    shown = call("leaderboard", "--split", "--out", out, *folders)
    assert shown.exit_code == 0, shown.output
    assert pd.read_csv(out)["n_seeds"].tolist() == [1, 1]
    apart = json.loads(call("compare", "--split", "--json", *folders).output)
    assert (apart["shared"], len(apart["only_in_a"]), len(apart["only_in_b"])) == (0, 1, 1)
    assert rows[0]["reason_code"] == "controls_skipped"
    assert rows[0]["confinement"] == "none (inline: both sides in one process)"


def test_verify_says_which_rows_were_made_with_other_numbers(runs, registry):
    """The request of one run, the table of the other."""
    folders, store = runs
    first, second = (read_results(folder) for folder in folders)
    plan = prepare.prepare(read_request(folders[0]), registry, store).plan
    assert other_keys(first, plan).numbers == {}
    assert misnamed(first, plan) == []
    others = other_keys(second, plan)
    assert (others.machine, others.older) == ([], [])
    assert others.numbers == {2: ("distiller.fkd.alpha=0.004", "distiller.fkd.alpha=0.002")}


def test_verify_finds_a_row_that_claims_other_numbers(runs, registry):
    folders, store = runs
    plan = prepare.prepare(read_request(folders[0]), registry, store).plan
    table = pd.read_csv(folders[0] / "results.csv", dtype=str, keep_default_na=False)
    for column, value in (("changed", ""), ("setting_digest", "f" * 64)):
        told = table.copy()
        told.loc[0, column] = value
        told.to_csv(folders[0] / "results.csv", index=False)
        assert misnamed(read_results(folders[0]), plan) == [2]
    refused = call("verify", folders[0], "--store", store.root, "--cells", "0")
    assert refused.exit_code == 4
    assert "the settings of 1 row (lines 2)" in refused.output
    # A row without its key would pass for one of another machine, which nothing is compared with.
    table.loc[0, "config_digest"] = ""
    table.to_csv(folders[0] / "results.csv", index=False)
    refused = call("verify", folders[0], "--store", store.root, "--cells", "0")
    assert refused.exit_code == 2
    assert "line 2: nothing in config_digest" in refused.output


def test_a_row_of_an_older_schema_or_of_another_machine_is_not_compared(runs, registry):
    folders, store = runs
    plan = prepare.prepare(read_request(folders[0]), registry, store).plan
    results = read_results(folders[0])
    results.rows[0] |= {"config_digest": "f" * 64}
    assert other_keys(results, plan).machine == [2]
    results.rows[0] |= {"setting_digest": None}
    assert other_keys(results, plan).older == [2]
