"""What a stranger's pip installs."""

import configparser
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import kdbench

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(
    path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").exists()
)


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_plugin_folder_is_packaged_mapped_and_has_its_entry_point(setup_cfg):
    packages = setup_cfg["options"]["packages"].split()
    mapped = setup_cfg["options"]["package_dir"]
    points = setup_cfg["options.entry_points"]["kdbench"]
    assert len(FOLDERS) >= 9
    for folder in FOLDERS:
        assert folder in packages
        assert f"{folder} = plugins/{folder}" in mapped
        assert f"{folder.removeprefix('kdbench_')} = {folder}" in points


def test_every_package_of_the_core_is_listed(setup_cfg):
    found = {
        str(p.parent.relative_to(ROOT)).replace("/", ".")
        for p in (ROOT / "kdbench").rglob("__init__.py")
    }
    assert found == {
        name for name in setup_cfg["options"]["packages"].split() if not name.startswith("kdbench_")
    }


def test_every_dependency_is_pinned():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    names = {
        line.split(">=")[0].strip()
        for line in parser["options"]["install_requires"].split("\n")
        if line.strip()
    }
    pins = {
        line.split("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    assert names <= pins


def test_one_version_and_one_licence_everywhere(setup_cfg):
    cited = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {kdbench.__version__}\n" in cited
    assert f"\nlicense: {setup_cfg['metadata']['license']}\n" in cited
    assert (ROOT / "LICENSE").read_text().startswith(f"{setup_cfg['metadata']['license']} License")
    assert f"## {kdbench.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_wheel_holds_core_plugins_and_presets_and_nothing_called_plugins(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("kdbench", "plugins"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(source),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.startswith(("plugins/", "tests/"))]
    assert {"kdbench/paper/requests/table4.toml", "kdbench/paper/requests/printed.csv"} <= set(
        names
    )
    assert {
        "kdbench/bench/request/presets/quick.toml",
        "kdbench/cli/run.py",
        "kdbench_lba/method.py",
        "kdbench/page/templates/page.html",
        "kdbench/page/templates/page.js",
    } <= set(names)
    assert [name for name in names if name.endswith("dist-info/licenses/LICENSE")]
    (metadata,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "lba = kdbench_lba" in zipfile.ZipFile(wheel).read(metadata).decode()


def test_the_installed_command_runs_a_cell(tmp_path):
    command = [
        *(
            str(Path(sys.executable).with_name("kdbench")),
            "run",
            "--attack",
            "badnets",
            "--pair",
            "wrn10_1-wrn10_1",
        ),
        *(
            "--no-controls",
            "--train-size",
            "64",
            "--test-size",
            "40",
            "--out",
            str(tmp_path / "run"),
        ),
        *(
            word
            for key in ("clean", "poison", "distill")
            for word in ("--set", f"{key}.min_steps=0")
        ),
        *(word for key in ("clean", "poison", "distill") for word in ("--set", f"{key}.epochs=1")),
        *("--set", "min_teacher_acc=0"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "wrn10_1" in done.stdout
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "leaderboard.csv",
        "report.html",
        "results.csv",
        "run.json",
        "trigger-badnets-wrn10_1-seed0.png",
    ]
