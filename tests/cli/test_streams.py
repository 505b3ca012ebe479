"""Standard output and error that are closed, full, or a pipe that nobody reads any more."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kdbench import __version__
from kdbench.bench.run import runner as runner_module
from kdbench.cli.execute import elsewhere_command
from kdbench.cli.streams import Lenient
from kdbench.cli.watch import JsonDisplay, PlainDisplay, QuietDisplay
from tests.cli.calls import RUN, call, row

KDBENCH = f"{sys.executable} -m kdbench"
#: A command that prints a little, and one that prints much.
SHORT, LONG = "list presets", "run --help"


def shell(script):
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr
    assert "defect" not in ran.stderr
    return ran


@pytest.mark.parametrize("command", [SHORT, LONG, "list presets --json", "--version"])
def test_a_reader_that_has_read_enough(command):
    ran = shell(f"{KDBENCH} {command} | true")
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("redirected", "code", "says"),
    [
        (f"{SHORT} >&-", 0, ""),
        (f"{SHORT} <&- >&- 2>&-", 0, ""),
        ("list nothing 2>&-", 2, ""),
        ("list nothing 2>/dev/full", 2, ""),
        (f"{SHORT} >/dev/full", 1, "standard output cannot be written: No space left on device\n"),
        (f"{LONG} >/dev/full", 1, "standard output cannot be written: No space left on device\n"),
        (f"{SHORT} >/dev/full 2>/dev/full", 1, ""),
    ],
)
def test_what_is_closed_or_full(redirected, code, says):
    ran = shell(f"{KDBENCH} {redirected}")
    assert (ran.returncode, ran.stderr) == (code, says)


def test_files_do_not_get_the_number_of_a_closed_stream(tmp_path):
    """Or what a library prints would go into them."""
    (tmp_path / "opens.py").write_text(
        "from kdbench.cli.streams import lenient_streams\n"
        "with lenient_streams():\n"
        f"    file = open({str(tmp_path / 'results')!r}, 'w')\n"
        "    raise SystemExit(file.fileno())\n"
    )
    ran = shell(f"{sys.executable} {tmp_path / 'opens.py'} <&- >&- 2>&-")
    assert ran.returncode > 2


def test_writing_to_a_pipe_that_nobody_reads_succeeds():
    reader, writer = os.pipe()
    os.close(reader)
    stream = Lenient(writer)
    assert [stream.write(b"a line"), stream.write(b"another")] == [6, 7]
    assert (stream.closed_by_reader, stream.lost) == (True, "")
    os.close(writer)
    assert stream.write(b"a line") == 6
    assert stream.lost == ""


@pytest.mark.parametrize("number", [28, 122, 30, 5, 24])
def test_an_error_of_the_machine_is_no_defect(monkeypatch, number):
    def fails(*_, **__):
        raise OSError(number, os.strerror(number), "/somewhere")

    monkeypatch.setattr("kdbench.cli.list._of_kdbench", fails)
    ran = call("list", "presets")
    assert (ran.exit_code, ran.stderr) == (1, f"Error: {os.strerror(number)}: /somewhere\n")


class TestResultsThatCannotBeWritten:
    LOST = "results.csv could not be written to OUT (No space left on device)"

    @pytest.fixture
    def lost(self, monkeypatch, fake_run):
        """A run whose results could not be written."""
        run = runner_module.run

        def full(prepared, registry, out, reporter, *rest, **options):
            reporter.not_written(self.LOST)
            return run(prepared, registry, out, reporter, *rest, **options)

        monkeypatch.setattr(runner_module, "run", full)
        monkeypatch.setattr(sys, "argv", ["kdbench", *RUN, "--out", "o p", "--quiet"])
        return fake_run

    @pytest.mark.parametrize("options", [(), ("--json",), ("--quiet",)])
    def test_the_table_and_a_line_with_the_way_out(self, lost, tmp_path, options):
        ran = call(*RUN, "--out", str(tmp_path / "o"), *options)
        assert ran.exit_code == 1
        first = "" if options else f"kdbench {__version__}: reading plugins and data ...\n"
        assert ran.stderr == (
            f"{first}{self.LOST}. All that was computed is in the store: "
            f"kdbench {' '.join(RUN)} --quiet --out ANOTHER_FOLDER\n"
        )
        assert "results: " not in ran.stdout
        if not options:
            assert "results (%)" in ran.stdout

    def test_an_interrupted_run_does_not_promise_files(self, lost, tmp_path):
        lost.answer = KeyboardInterrupt()
        ran = call(*RUN, "--out", str(tmp_path / "o"))
        assert ran.exit_code == 130
        begun, _, rest = ran.stderr.partition("\n")
        assert begun.endswith("reading plugins and data ...")
        assert rest.startswith(f"Interrupted. {self.LOST}. To go on:")


def test_the_command_with_another_folder():
    command = elsewhere_command(["run", "--out", "x", "--seed", "1", "--out=y"])
    assert command == "kdbench run --seed 1 --out ANOTHER_FOLDER"


def test_displays_name_no_folder_without_results(capsys):
    for display in (PlainDisplay(), QuietDisplay()):
        display.not_written("results.csv could not be written")
        display.run_finished([row()], "a-folder")
    assert "a-folder" not in capsys.readouterr().out
    display = JsonDisplay()
    display.not_written("results.csv could not be written")
    display.run_finished([row()], "a-folder")
    assert '"not_written": "results.csv could not be written"' in capsys.readouterr().out
