"""The command line as a whole: help, refusals, and what may not reach a terminal."""

from __future__ import annotations

import subprocess
import sys

import pytest

import kdbench
from kdbench.errors import ConfigError
from tests.cli.calls import RUN, call


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom kdbench.cli import main\nmain(['--help'], standalone_mode=False)\n"
        "heavy = [m for m in ('torch', 'pandas', 'numpy', 'pydantic', 'rich', 'kdbench_badnets') "
        "if m in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "list" in done.stdout
    assert "run" in done.stdout


def test_run_help_does_not_import_torch():
    code = (
        "import sys\nfrom kdbench.cli import main\nmain(['run', '--help'], standalone_mode=False)\n"
        "assert 'torch' not in sys.modules"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode
        == 0
    )


def test_version_and_module():
    assert kdbench.__version__ in call("--version").output
    done = subprocess.run(
        [sys.executable, "-m", "kdbench", "--version"], capture_output=True, text=True, check=False
    )
    assert done.stdout == f"kdbench, version {kdbench.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "--attack", "badnets", "--defense", "badnets", "--pair", "wrn16_2-wrn16_1"],
            "there is an attack of that name",
        ),
        (["run", "--attack", "badnet", "--pair", "wrn16_2-wrn16_1"], "did you mean 'badnets'"),
        (["run", "--attack", "badnets", "--pair", "wrn16_2-wrn16_9"], "unknown model 'wrn16_9'"),
        (["run", "--attack", "badnets", "--pair", "wrn16_2"], "--teacher and --student"),
        (["run", "--attack", "badnets"], "no pair given"),
        (["run", "--attack", "badnets", "--teacher", "wrn16_2"], "belong together"),
        (["run", "--pair", "wrn16_2-wrn16_1"], "--attack NAME or --teacher-from NAME"),
        ([*RUN, "--teacher-from", "stranger"], "unknown imported teacher 'stranger'"),
        ([*RUN, "--spec", "nowhere.toml"], "nowhere.toml cannot be read"),
        ([*RUN, "--dataset", "cifer10"], "did you mean 'cifar10'"),
        ([*RUN, "--preset", "quik"], "did you mean 'quick'"),
        ([*RUN, "--set", "clean.epochs"], "is not KEY=VALUE"),
        ([*RUN, "--set", "=3"], "is not KEY=VALUE"),
        ([*RUN, "--set", "clean.epoch=3"], "did you mean 'clean.epochs'"),
        ([*RUN, "--set", "clean.epochs=many"], "clean.epochs"),
        (
            [*RUN, "--clean-fraction", "3"],
            "--clean-fraction: input should be less than or equal to 1",
        ),
        ([*RUN, "--unlabeled", "0"], "--unlabeled: input should be greater than 0; got 0.0"),
        ([*RUN, "--unlabeled", "1.5"], "--unlabeled: input should be less than or equal to 1"),
        ([*RUN, "--unlabeled", "some"], "Invalid value for '--unlabeled': 'some' is not"),
        (
            [*RUN, "--unlabeled", "0.3", "--transfer-fraction", "1"],
            "--unlabeled 0.3: no image of signs is left without labels",
        ),
        ([*RUN, "--image-size", "2"], "--image-size"),
        ([*RUN, "--quiet", "--json"], "exclude each other"),
        (["rum"], "No such command"),
    ],
)
def test_usage_errors(arguments, message, fake_run):
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert fake_run.calls == []


def test_errors_carry_no_terminal_commands(fake_run, tmp_path):
    fake_run.answer = ConfigError("folder \x1b]0;owned\x07 is empty")
    result = call(*RUN, "--out", str(tmp_path / "o"))
    assert r"folder \x1b]0;owned\x07 is empty" in result.stderr


@pytest.mark.parametrize("arguments", [["verify", "a"], ["plan", "s.toml"], [*RUN, "--dry-run"]])
def test_a_current_folder_that_was_removed_is_named(tmp_path, monkeypatch, arguments):
    """Before, it said "No such file or directory", or torch's libraries ended the process."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    result = call(*arguments)
    assert result.exit_code == 2
    assert "the current folder cannot be used (No such file or directory)" in result.output
