"""What a walled process reads of the folders that Python searches."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdbench.untrusted.processes.client import Zygote
from kdbench.untrusted.wall.paths import importable, interpreter_paths
from tests.untrusted.processes.run import ended, start

MODULES = {
    "project_module": "project_module.py",
    "project_package.part": "project_package/part.py",
    "project_space.inner.part": "project_space/inner/part.py",
}
#: What somebody may have beside them.
PRIVATE = [
    "notes.txt",
    ".env",
    "out/run.json",
    "store/vault.0123/objects/01/trigger.safetensors",
    "store/jobs/abcdef/plugins/mine.py",
    "linked/secret.py",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder that Python searches, as that of a plugin that is installed in editable mode."""
    folder, elsewhere = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("elsewhere")
    for name in (*MODULES.values(), "project_package/__init__.py", *PRIVATE[:-1]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    (folder / "project_package" / "data.txt").write_text("")
    (elsewhere / "secret.py").write_text("")
    (folder / "linked").symlink_to(elsewhere)
    return folder


@pytest.fixture(scope="module")
def zygote(project, _walled_acts):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(project))
        zygote = Zygote()
    yield zygote
    zygote.close()


@pytest.mark.parametrize("without", [(), ("landlock",), ("namespaces",)])
def test_of_a_project_that_python_searches_only_modules_are_read(zygote, project, without):
    order = {
        "folder": str(project),
        "modules": list(MODULES),
        "files": ["project_package/data.txt", *PRIVATE],
    }
    walled = start(zygote, "look_around", order, without=without)
    ((imported, opened, names),) = ended(walled)
    if not {"namespaces", "landlock"} & set(walled.report.text.replace(",", "").split()):
        pytest.skip("this kernel has neither namespaces nor Landlock")
    assert imported == order["modules"]
    assert opened == ["project_package/data.txt"]
    if "namespaces" in walled.report.text:
        assert {*names} == {"project_module.py", "project_package", "project_space"}


def test_installed_packages_are_read_whole(tmp_path):
    """Libraries of theirs lie beside them, under names that no module has."""
    (tmp_path / "target" / "torch-2.dist-info").mkdir(parents=True)
    (tmp_path / "lib" / "site-packages").mkdir(parents=True)
    (tmp_path / "packages.zip").write_bytes(b"")
    (tmp_path / "project").mkdir()
    whole = [tmp_path / name for name in ("target", "lib/site-packages", "packages.zip")]
    software = importable([*whole, sys.prefix, tmp_path / "project", tmp_path / "nowhere"])
    assert software.read == (*whole, Path(sys.prefix))
    assert software.listed == (tmp_path / "project",)


@pytest.mark.parametrize("name", ["pip.conf", "conda-meta/state", "envs/other/bin/python"])
def test_settings_of_an_environment_are_not_read(tmp_path, monkeypatch, name):
    """A package index may have a password there, and conda keeps variables."""
    for path in ("bin/python", "lib/python3/os.py", name):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    for prefix in ("prefix", "exec_prefix"):
        monkeypatch.setattr(sys, prefix, str(tmp_path))
    paths = interpreter_paths()
    assert {tmp_path / "bin", tmp_path / "lib"} <= {*paths}
    assert not [path for path in paths if (tmp_path / name).is_relative_to(path)]
