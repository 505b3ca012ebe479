"""Plugins that are kept out, and those that are the only ones wanted."""

import json

import pytest
from click.testing import CliRunner

from kdbench.cli import main
from tests.loading.strangers import GOOD, install, kdbench


@pytest.fixture
def good(tmp_path, monkeypatch):
    install(tmp_path, "good", GOOD.replace("NAME", "good"))
    monkeypatch.syspath_prepend(tmp_path)


def call(*arguments):
    return CliRunner().invoke(main, arguments)


def test_what_is_blocked_is_not_imported(tmp_path):
    install(tmp_path, "deadly", "import os\nos._exit(7)")
    for options, expected in (((), "broken"), (("-p", "no:deadly"), "blocked")):
        ran = kdbench(tmp_path, "plugins", "--json", *options)
        assert ran.returncode == 0, ran.stderr
        found = {p["name"]: p["status"] for p in json.loads(ran.stdout)["plugins"]}
        assert found.pop("deadly") == expected
        assert set(found.values()) == {"ok"}


@pytest.mark.parametrize(
    ("variable", "loaded"),
    [
        ("", set()),
        ("good", {"good"}),
        ("kdbench-good, fkd", {"good", "fkd"}),
        ("good nad", {"good", "nad"}),
    ],
)
def test_the_variable_names_the_only_ones(good, monkeypatch, variable, loaded):
    monkeypatch.setenv("KDBENCH_LOAD_PLUGINS", variable)
    found = {
        p["name"]: p["status"] for p in json.loads(call("plugins", "--json").output)["plugins"]
    }
    assert {name for name, status in found.items() if status == "ok"} == loaded
    assert {status for name, status in found.items() if name not in loaded} == {"blocked"}


def test_a_method_of_a_blocked_plugin_is_unknown():
    ran = call("run", "-p", "no:lba", "--attack", "lba", "--pair", "wrn10_1-wrn10_1")
    assert ran.exit_code == 2
    assert "unknown attack 'lba'" in ran.output


@pytest.mark.parametrize(
    ("arguments", "variable", "says"),
    [
        (["-p", "no:godo"], None, "unknown plugin 'godo'; did you mean 'good'?"),
        (["-p", "good"], None, "only no:NAME is known"),
        ([], "godo", "KDBENCH_LOAD_PLUGINS: unknown plugin 'godo'"),
    ],
)
def test_a_misspelt_choice_is_refused(good, monkeypatch, arguments, variable, says):
    if variable is not None:
        monkeypatch.setenv("KDBENCH_LOAD_PLUGINS", variable)
    ran = call("plugins", *arguments)
    assert ran.exit_code == 2
    assert says in ran.output
