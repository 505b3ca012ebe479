"""A process that is started imports the same code from the same places as its parent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import kdbench
from kdbench.untrusted.processes.search import SearchPath, program, search_variables

#: A module that says where the process imports from.
TELL = """
import json, sys
def main():
    import kdbench
    places = {name: __import__(name).__file__ for name in NAMES}
    print(json.dumps({"path": sys.path, "kdbench": kdbench.__file__, **places}))
"""
#: What this process's command line would be as a parent: it starts the module ``tell``.
PARENT = """
import json, os, subprocess, sys
import kdbench
from kdbench.untrusted.processes.environment import allowed_environment
from kdbench.untrusted.processes.search import program
places = {name: __import__(name).__file__ for name in NAMES}
print(json.dumps({"path": sys.path, "kdbench": kdbench.__file__, **places}), flush=True)
command = [sys.executable, "-P", "-c", program("tell")]
subprocess.run(command, env=allowed_environment(), cwd="/", check=True)
"""


def both(python, folder, names=(), *, cwd="/", **environment):
    """(what a parent imports, what the process that it starts imports)."""
    (folder / "tell.py").write_text(TELL.replace("NAMES", repr(tuple(names))))
    ran = subprocess.run(
        [python, "-P", "-c", PARENT.replace("NAMES", repr(tuple(names)))],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **environment},
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    parent, child = map(json.loads, ran.stdout.splitlines())
    # Python itself may process a .pth file twice.
    return parent | {"path": list(dict.fromkeys(parent["path"]))}, child


@pytest.fixture
def checkout(tmp_path):
    """A copy of what a started process needs of kdbench."""
    source = Path(kdbench.__file__).parent
    folder = tmp_path / "checkout" / "kdbench"
    folder.mkdir(parents=True)
    shutil.copy(source / "__init__.py", folder)
    shutil.copytree(source / "untrusted", folder / "untrusted")
    return folder.parent


@pytest.fixture
def thin(tmp_path):
    """The site-packages of a new environment, and its Python."""
    command = [sys.executable, "-m", "venv", "--without-pip", tmp_path / "thin"]
    subprocess.run(command, check=True)
    (packages,) = (tmp_path / "thin" / "lib").glob("python*/site-packages")
    return packages, tmp_path / "thin" / "bin" / "python"


def editable(packages, source):
    """kdbench as setuptools installs it from ``source`` in editable mode."""
    (packages / "__editable__.kdbench.pth").write_text(
        "import __editable__finder; __editable__finder.install()\n"
    )
    (packages / "__editable__finder.py").write_text(
        f"import sys\ndef install():\n    sys.path.insert(0, {str(source)!r})\n"
    )


def test_a_thin_environment_over_another_with_another_checkout(tmp_path, thin, checkout):
    """Its own editable install comes first, and a .pth adds the other's packages."""
    packages, python = thin
    other = tmp_path / "other-site"
    (other / "library").mkdir(parents=True)
    (other / "library" / "__init__.py").write_text("")
    editable(packages, checkout)
    editable(other, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "kdbench").mkdir(parents=True)
    (tmp_path / "elsewhere" / "kdbench" / "__init__.py").write_text("raise SystemExit('other')")
    (packages / "zz_other.pth").write_text(f"{other}\n")
    parent, child = both(python, packages, ["library"])
    assert parent["kdbench"].startswith(str(checkout))
    assert child == parent


def test_user_packages_before_those_of_the_system(tmp_path, checkout):
    """As with ``~/.local`` before an environment that sees the system's packages."""
    user, system = tmp_path / "user", tmp_path / "system"
    for folder in (user, system):
        folder.mkdir()
        (folder / "library.py").write_text("")
    order = os.pathsep.join(map(str, (checkout, user, system)))
    parent, child = both(sys.executable, user, ["library"], PYTHONPATH=order)
    assert parent["library"].startswith(str(user))
    assert child == parent


def test_blank_relative_and_empty_entries(tmp_path, checkout):
    for name in ("with blank", "relative"):
        (tmp_path / name).mkdir()
    (tmp_path / "relative" / "library.py").write_text("")
    order = f"{checkout}::relative:{tmp_path / 'with blank'}:{tmp_path / 'absent'}"
    parent, child = both(
        sys.executable, tmp_path / "with blank", ["library"], cwd=tmp_path, PYTHONPATH=order
    )
    assert child["library"] == parent["library"] == str(tmp_path / "relative" / "library.py")
    assert [entry for entry in parent["path"] if entry != str(tmp_path)] == child["path"]


def test_the_current_folder_is_left_out(tmp_path, checkout):
    """It may be full of results, and nobody meant its random.py for a library."""
    (tmp_path / "here").mkdir()
    order = os.pathsep.join(map(str, (tmp_path / "here", tmp_path)))
    (tmp_path / "library.py").write_text("")
    (tmp_path / "here" / "library.py").write_text("")
    shutil.move(checkout / "kdbench", tmp_path / "here" / "kdbench")
    parent, child = both(
        sys.executable, tmp_path, ["library"], cwd=tmp_path / "here", PYTHONPATH=order
    )
    assert parent["library"].startswith(str(tmp_path / "here"))
    assert child["library"] == str(tmp_path / "library.py")
    assert child["kdbench"] == parent["kdbench"] == str(tmp_path / "here/kdbench/__init__.py")


def test_a_process_is_not_told_the_name_of_the_current_folder(tmp_path, monkeypatch):
    """It stands in its command line, where a plugin can read it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert str(tmp_path) not in program("tell")
    assert str(tmp_path) not in json.dumps(SearchPath.here().as_json())
    assert str(tmp_path) not in SearchPath.here().inside(())
    assert SearchPath.here().inside(sys.path)[0] == str(tmp_path)


def test_a_current_folder_that_python_searches_by_itself_stays(tmp_path, thin, checkout):
    """As that of a package that is installed in editable mode by a path."""
    packages, python = thin
    (packages / "project.pth").write_text(f"{tmp_path / 'project'}\n{checkout}\n")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "library.py").write_text("")
    parent, child = both(python, packages, ["library"], cwd=tmp_path / "project")
    assert child == parent


def test_zipped_packages(tmp_path, checkout):
    with zipfile.ZipFile(tmp_path / "packages.zip", "w") as file:
        file.writestr("library.py", "")
    order = os.pathsep.join(map(str, (checkout, tmp_path / "packages.zip", tmp_path)))
    parent, child = both(sys.executable, tmp_path, ["library"], PYTHONPATH=order)
    assert child == parent


def test_no_user_packages_where_the_command_has_none(monkeypatch):
    monkeypatch.delenv("PYTHONNOUSERSITE", raising=False)
    given = "import sys, json; from kdbench.untrusted.processes.search import search_variables;"
    given += "print(json.dumps(search_variables()))"
    for options in (["-s"], ["-I"]):
        ran = subprocess.run(
            [sys.executable, *options, "-c", given], capture_output=True, text=True
        )
        assert json.loads(ran.stdout)["PYTHONNOUSERSITE"] == "1", ran.stderr


def test_a_current_folder_that_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert SearchPath.here().entries
    search_variables()
    program("tell")


@pytest.mark.parametrize("name", ["random.py", "torch.py", "click.py"])
def test_the_current_folder_holds_no_module_of_the_command(tmp_path, name):
    (tmp_path / name).write_text("raise SystemExit('shadowed')")
    command = [sys.executable, "-m", "kdbench", "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    assert (ran.returncode, ran.stderr) == (0, "")
