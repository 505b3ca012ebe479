"""Failures, cost and origin of a page."""

from __future__ import annotations

from pathlib import Path

from kdbench.page.cite import kdbench_entry, paper_entry, tex
from kdbench.page.cost import cost_of
from kdbench.page.failures import failures_of
from kdbench.page.head import facts_of
from kdbench.page.origin import origins_of
from kdbench.page.source import Log, Run, Source
from tests.page.runs import mixed, source
from tests.report.report_rows import cell


def stage(kind, key, status, seconds, title="train"):
    return {
        "kind": kind,
        "key": key,
        "status": status,
        "seconds": seconds,
        "title": title,
        "seed": 3,
    }


def test_failures_are_grouped_with_their_log_and_the_command():
    reason = "distill x: RuntimeError: boom"
    rows = [cell(status="failed", reason=reason, seed=seed) for seed in range(7)]
    rows += [cell(status="timeout", reason="repair y: too slow", seed=9), cell(seed=10)]
    logs = (
        Log("logs/7-distill.txt", "distill x", ("boom",)),
        Log("logs/8-repair.txt", "other", ()),
    )
    run = Run("a", {"command": ["run", "--attack", "lba", "--out", "a b"]}, logs)
    failures = failures_of(Source(rows, (run,)))
    assert failures.cells == 8
    first, second = failures.shown
    assert (first.status, first.reason, first.count) == ("failed", reason, 7)
    assert len(first.cells) == 5
    assert [log.name for log in first.logs] == ["logs/7-distill.txt"]
    assert (second.status, second.count, second.logs) == ("timeout", 1, [])
    assert failures.commands == ["kdbench run --attack lba --out 'a b'"]


def test_nothing_failed():
    failures = failures_of(source([cell()], {"command": ["run"]}))
    assert (failures.cells, failures.shown, failures.commands) == (0, [], [])


def test_cost_counts_a_stage_once():
    first = Run("a", {"stages": [stage("clean", "k1", "ok", 60), stage("distill", "k2", "ok", 30)]})
    stages = [stage("clean", "k1", "cached", 60), stage("distill", "k3", "cached", 20)]
    stages += [stage("distill", "k4", "failed", None), stage("distill", "k5", "not needed", None)]
    cost = cost_of(Source(mixed(), (first, Run("b", {"stages": stages}))))
    clean, distill, total = cost.lines
    assert (clean.name, clean.computed, clean.seconds, clean.cached) == ("clean", 1, 60, 0)
    assert (distill.computed, distill.seconds, distill.cached, distill.saved) == (1, 30, 1, 20)
    assert distill.failed == 1
    assert (total.computed, total.seconds) == (2, 90)
    assert cost.longest[0] == ("train", "3", 60.0, False)
    assert (cost.memory, cost.devices) == (900.0, ["cpu"])


def test_what_was_run():
    record = {
        "command": ["run", "--attack", "lba"],
        "spec": 'attacks = ["lba"]\n',
        "started": 1795777964.7,
        "device": "cpu",
        "datasets": [
            {"name": "signs", "train": 1500, "test": 1000, "note": "a part", "digest": "d"}
        ],
        "plugins": {"attack.lba": "kdbench 1.0 abc"},
        "versions": {"torch": "2.15"},
        "papers": {
            "attack.lba": {
                "title": "Latent",
                "authors": "Yao, Li",
                "venue": "CCS",
                "year": 2019,
                "link": "https://doi.org/1",
            }
        },
    }
    record["datasets"] *= 2
    origins = origins_of(source(mixed(), record))
    (run,) = origins.runs
    # Two parts of a run may have the same images.
    assert len(dict(run.facts)) == len(run.facts)
    assert (run.command, run.spec) == ("kdbench run --attack lba", 'attacks = ["lba"]\n')
    facts = dict(run.facts)
    assert facts["started"] == "2026-11-27 11:12 UTC"
    assert facts["dataset signs"] == "1,500 training, 1,000 test images, a part"
    assert facts["software"] == "torch 2.15"
    assert run.plugins == [("attack.lba", "kdbench 1.0 abc")]
    assert ("software numpy", "2.0") in origins.shared
    assert "@software{kdbench," in origins.bibtex
    assert "author = {Yao and Li}" in origins.bibtex


def test_a_record_that_somebody_wrote_by_hand():
    record = {"command": ["kdbench run --spec a.toml"], "date": "2026-11-27", "machine": "2 cores"}
    (run,) = origins_of(source(mixed(), record)).runs
    assert run.command == "kdbench run --spec a.toml"
    assert ("machine", "2 cores") in run.facts
    assert ("started", "2026-11-27") in facts_of(source(mixed(), record))


def test_facts_name_a_few_values():
    rows = [cell(attack=f"a{n}", seed=n) for n in range(6)]
    facts = dict(facts_of(source(rows)))
    assert facts["attacks"] == "a0, a1, a2, a3, 2 more"
    assert (facts["defenses"], facts["seeds"]) == ("none", "6")


def test_the_entry_of_kdbench_is_that_of_the_citation_file():
    cited = (Path(__file__).parents[2] / "CITATION.cff").read_text(encoding="utf-8")
    entry = kdbench_entry()
    for line in entry.splitlines()[1:-1]:
        name, _, value = line.strip().rstrip(",").partition(" = ")
        assert value.strip("{}") in cited, name


def test_entries_of_papers():
    paper = {
        "title": "A & B_{x}",
        "authors": "Chen et al.",
        "venue": "CCS",
        "year": 2024,
        "link": "",
    }
    assert paper_entry("ckd", paper) == (
        "@misc{ckd,\n  title = {{A \\& B\\_\\{x\\}}},\n  author = {Chen and others},\n"
        "  howpublished = {CCS},\n  year = {2024},\n}"
    )
    # The control is no paper.
    assert paper_entry("none", paper | {"venue": "-"}) == ""
    assert paper_entry("x}{", {}) == ""
    assert (
        tex("\\^~\x1b") == r"\textbackslash{}\textasciicircum{}\textasciitilde{}\textbackslash{}x1b"
    )
