"""``kdbench new-plugin``: what it writes installs, appears, runs and passes the kit, unedited."""

import ast
import json
import re
from collections import Counter

import pandas
import pytest
from click.testing import CliRunner

from kdbench.cli import main
from kdbench.loading.scaffold import KINDS, write_plugin
from tests.loading.strangers import SMALL, kdbench, own_tests, pip_install

NAMES = {kind: f"my_{kind}" for kind in KINDS}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The packages as they were written, and the folder in which pip installed them."""
    folder = tmp_path_factory.mktemp("mine")
    for kind, name in NAMES.items():
        ran = CliRunner().invoke(main, ["new-plugin", kind, name, "--out", str(folder / name)])
        assert ran.exit_code == 0, ran.output
        assert f"kdbench check {name}" in ran.output
    pip_install(folder / "site", [folder / name for name in NAMES.values()])
    return folder


def test_they_are_listed(packages):
    ran = kdbench(packages / "site", "plugins", "--json")
    found = {p["name"]: p for p in json.loads(ran.stdout)["plugins"]}
    for kind, name in NAMES.items():
        plugin = found[name]
        assert (plugin["status"], plugin["defines"], plugin["api"]) == (
            "ok",
            [f"{'model' if kind == 'network' else kind} {name}"],
            ">=1,<2",
        ), plugin["cause"]
        assert plugin["distribution"] == f"kdbench-my-{kind}"


def test_their_own_tests_pass(packages):
    """The kit is among them."""
    ran = own_tests(packages / "site", [packages / name for name in NAMES.values()])
    assert ran.returncode == 0, ran.stdout
    assert int(re.search(r"(\d+) passed", ran.stdout)[1]) >= 75


def test_the_command_finds_them(packages):
    names = [NAMES[kind] for kind in ("distiller", "dataset", "network")]
    ran = kdbench(packages / "site", "check", *names, "--json")
    assert ran.returncode == 0, ran.stdout
    assert json.loads(ran.stdout)["failed"] == 0


def test_they_run_in_a_matrix(packages, tmp_path):
    ran = kdbench(
        packages / "site",
        "run",
        "--attack",
        "my_attack",
        "--defense",
        "my_defense",
        "--distiller",
        "my_distiller",
        "--dataset",
        "my_dataset",
        "--pair",
        "my_network-my_network",
        *SMALL[2:],
        "--set",
        "poison.epochs=1",
        "--out",
        tmp_path / "o",
        "--quiet",
    )
    assert ran.returncode == 0, ran.stderr
    (row,) = pandas.read_csv(tmp_path / "o" / "results.csv").to_dict("records")
    assert row["status"] == "ok"
    assert (
        "kdbench-my-attack 0.1.0; kdbench-my-dataset 0.1.0; kdbench-my-defense 0.1.0; "
        "kdbench-my-distiller 0.1.0; kdbench-my-network 0.1.0" in row["plugins"]
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["attack", "My"], "'My' is no name for a plugin"),
        (["attack", "../x"], "no name for a plugin"),
        (["network", "9"], "no name for a plugin; use a-z and, after the first, 0-9 and _\n"),
        (
            ["network", "last-group"],
            "did you mean 'last_group'? The package is then kdbench-last-group",
        ),
        (["attack", "My"], "did you mean 'my'?\n"),
        (["attak", "x"], "attak"),
        (["attack", "x", "--out", "."], "exists already"),
    ],
)
def test_a_wrong_request_writes_nothing(tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    ran = CliRunner().invoke(main, ["new-plugin", *arguments])
    assert ran.exit_code == 2
    assert says in ran.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["attack", "square", "params", "feature_model", "dataset", "my_own"]
)
def test_no_name_is_used_twice(tmp_path, kind, name):
    """A class called as one that the file imports would derive from itself."""
    for path in write_plugin(kind, name, tmp_path / "package"):
        if path.suffix != ".py":
            continue
        nodes = ast.parse(path.read_text()).body
        imported = [a.name for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names]
        defined = [n.name for n in nodes if isinstance(n, ast.ClassDef | ast.FunctionDef)]
        assert [name for name, count in Counter([*imported, *defined]).items() if count > 1] == []
