"""Broken plugins, as installed packages: each is named with its cause, and nobody else is
harmed."""

import json

import pytest

from tests.docs.shown import ROOT
from tests.loading.strangers import BROKEN, GOOD, SMALL, install, kdbench


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """A folder in which every broken package is installed, beside a good one that prints."""
    folder = tmp_path_factory.mktemp("installed")
    for name, (source, _) in BROKEN.items():
        install(folder, name, source, version="0.3")
    install(folder, "good", f"print('hello')\n{GOOD.replace('NAME', 'good')}")
    for maker in "ab":
        install(
            folder, f"rival_{maker}", GOOD.replace("NAME", "rival"), distribution=f"maker-{maker}"
        )
        install(
            folder, "same", GOOD.replace("NAME", f"same_{maker}"), distribution=f"owner-{maker}"
        )
    return folder


@pytest.fixture(scope="module")
def listed(crowd):
    ran = kdbench(crowd, "plugins", "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)["plugins"]


def test_there_are_more_than_twelve_kinds():
    assert len(BROKEN) >= 12


@pytest.mark.parametrize("name", BROKEN)
def test_each_is_named_with_its_cause_and_distribution(listed, name):
    (found,) = [p for p in listed if p["distribution"] == f"kdbench-{name}"]
    assert (found["name"], found["version"], found["status"], found["defines"]) == (
        name,
        "0.3",
        "broken",
        [],
    )
    assert BROKEN[name][1] in found["cause"]


def test_a_cause_names_the_line(listed):
    causes = {p["name"]: p["cause"] for p in listed if p["distribution"] != "kdbench"}
    assert causes["missing"].endswith("kdbench_missing_missing.py:1)")
    assert causes["hook_raises"].endswith("kdbench_hook_raises_hook_raises.py:4)")


def test_of_two_strangers_with_one_name_neither_is_loaded(listed):
    found = {(p["name"], p["distribution"]): p["cause"] for p in listed}
    for a, b in ("ab", "ba"):
        assert (
            f"the attack 'rival' is also defined by rival_{b} of maker-{b};"
            in found[f"rival_{a}", f"maker-{a}"]
        )
        assert (
            f"the entry point 'same' is also defined by owner-{b};" in found["same", f"owner-{a}"]
        )


def test_the_others_are_there(listed):
    good = {p["name"]: p["defines"] for p in listed if p["status"] == "ok"}
    assert good["good"] == ["attack good"]
    assert (good["badnets"], good["lba"]) == (["attack badnets"], ["attack lba"])
    assert set(good) == {"good"} | {
        path.parent.name.removeprefix("kdbench_")
        for path in (ROOT / "plugins").glob("kdbench_*/__init__.py")
    }


def test_words_for_people(crowd):
    ran = kdbench(crowd, "plugins")
    assert ran.returncode == 0
    said = " ".join(ran.stdout.split())
    assert "exits (kdbench-exits 0.3) is broken: SystemExit: 3" in said
    assert "\x1b[2J" not in ran.stdout


def test_a_run_that_needs_none_of_them_is_as_ever(crowd, tmp_path):
    ran = kdbench(
        crowd,
        "run",
        "--attack",
        "good",
        *SMALL,
        "--set",
        "poison.epochs=1",
        "--no-controls",
        "--quiet",
        "--out",
        tmp_path / "o",
    )
    assert (ran.returncode, ran.stdout) == (0, f"{tmp_path / 'o'}\n"), ran.stderr
    record = json.loads((tmp_path / "o" / "run.json").read_text())
    assert "SystemExit" in record["broken_plugins"]["exits (kdbench-exits 0.3)"]


def test_a_run_that_needs_one_says_why_it_cannot(crowd):
    ran = kdbench(crowd, "run", "--attack", "exits", "--pair", "wrn10_1-wrn10_1")
    assert ran.returncode == 2
    assert "unknown attack 'exits'" in ran.stderr
    assert "exits (kdbench-exits 0.3) [SystemExit: 3" in ran.stderr
