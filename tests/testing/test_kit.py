"""The conformance kit: every built-in passes it, and every mutant is caught by the check that is
there for it."""

import json

import pytest
from click.testing import CliRunner
from kdbench_badnets.method import BadNets

from kdbench.cli import main
from kdbench.loading.registry import Registry
from kdbench.testing import (
    CheckFailedError,
    NotApplicableError,
    checks_for,
    parametrize_with_checks,
    run_checks,
)
from tests.testing.mutants import MUTANTS, NeverNothing

REGISTRY = Registry.load()
EVERY = [f"{kind}.{name}" for kind, methods in REGISTRY.methods.items() for name in sorted(methods)]
VARIANTS = [
    "ab.joint",
    "cc.paper",
    "ckd.release",
    "ckd.lowvar",
    "ckd.adaptive_sim",
    "dkd.standardised",
    "fitnet.release",
    "fsp.joint",
    "kd.standardised",
    "lba.yao",
    "lba.release",
    "htba.head",
    "blended.noise",
    "backweak.strong",
    "lc.plain",
    "scar.oscar",
    "scar.direct",
    "adba.kdbackdoor",
    "adba.noshadow",
    "wanet.plain",
    "inputaware.release",
    "lf.release",
    "robustkd.eq15",
    "robustkd.random",
]


@parametrize_with_checks([*EVERY, *VARIANTS])
def test_every_built_in_keeps_its_contract(check):
    check()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name):
    cls, catcher = MUTANTS[name]
    (bound,) = [bound for bound in checks_for(cls) if bound.check.name == catcher]
    with pytest.raises(CheckFailedError) as caught:
        bound()
    assert not isinstance(caught.value, NotApplicableError)


def test_there_are_more_than_ten_mutants():
    assert len(MUTANTS) >= 10


def results(cls):
    return {result.name: result for result in run_checks(cls)}


def test_a_known_failure_is_one_and_a_stale_one_is_not(monkeypatch):
    monkeypatch.setattr(
        NeverNothing,
        "known_failures",
        {"zero_strength_is_none": "for a test", "steps": "no longer"},
    )
    by_name = results(NeverNothing)
    assert (by_name["zero_strength_is_none"].status, by_name["zero_strength_is_none"].text) == (
        "known",
        "for a test",
    )
    assert by_name["steps"].status == "failed"
    assert "take it off the list" in by_name["steps"].text


def test_a_known_failure_of_no_check_is_refused(monkeypatch):
    monkeypatch.setattr(BadNets, "known_failures", {"lables": "misspelt"})
    with pytest.raises(
        CheckFailedError, match="known_failures names lables; there are parameters,"
    ):
        checks_for(BadNets)


def test_an_exception_is_a_failure(monkeypatch):
    monkeypatch.setattr(BadNets, "implant", lambda self, setting: 1 / 0)
    by_name = results(BadNets)
    assert by_name["parameters"].status == "ok"
    assert by_name["labels"].status == "failed"
    assert "ZeroDivisionError: division by zero" in by_name["same_seed"].text


FAILING = """
from kdbench.hookspecs import hookimpl
from kdbench_badnets.method import BadNets
from dataclasses import replace

class Failing(BadNets):
    info = replace(BadNets.info, name="failing")
    def implant(self, setting):
        1 / 0

@hookimpl
def kdbench_attacks():
    return [Failing]
"""


def test_the_command(tmp_path):
    ran = CliRunner().invoke(main, ["check", "none", "--json"])
    assert ran.exit_code == 0, ran.output
    report = json.loads(ran.output)
    assert report["failed"] == 0
    assert {result["name"] for result in report["checks"]["none"]} >= {
        "parameters",
        "same_seed",
        "zero_strength_is_none",
    }
    (tmp_path / "failing.py").write_text(FAILING)
    where = ["--plugin-file", str(tmp_path / "failing.py")]
    ran = CliRunner().invoke(main, ["check", "failing", *where])
    assert ran.exit_code == 1, ran.output
    assert "failed         labels" in ran.output


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lbaa", "unknown method, network or dataset 'lbaa'; did you mean 'lba'?"),
        ("lba.nope", "unknown variant of lba 'nope'"),
        ("defense.lba", "unknown defense 'lba'"),
    ],
)
def test_an_unknown_name_is_refused(name, says):
    ran = CliRunner().invoke(main, ["check", name])
    assert ran.exit_code == 2
    assert says in ran.output
