"""Every command that a page shows is one that kdbench takes. Those that compute nothing are run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from kdbench.cli import main
from kdbench.models import create_model
from tests.data.pictures import save
from tests.docs.shown import PAGES, ROOT, commands, files
from tests.loading.strangers import GOOD

#: Words that stand for something of the reader's.
PLACEHOLDER = re.compile(r"\b([A-Z]|DATA|RUN|SPEC|FILE|NAME|KIND|FIELD|VALUE|COMMIT|VARIANT)\b")
#: What packages have that are not installed here.
ELSEWHERE = {"faint", "clp", "mine", "mine-mine"}
SHOWN = sorted({tuple(words) for page in PAGES for words in commands(page.read_text())})


def leaf(words: tuple[str, ...]) -> tuple[click.Command, list[str]]:
    """The command that the words name, and its arguments."""
    command: click.Command = main
    rest = list(words)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        inner = command.get_command(click.Context(command), rest[0])
        assert inner is not None, f"no command {rest[0]}"
        command = inner
        del rest[0]
    return command, rest


def parse(words: tuple[str, ...]) -> None:
    """Raise click's error where an option does not exist, or lacks its value."""
    command, rest = leaf(words)
    command.make_parser(click.Context(command)).parse_args(rest)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_that_kdbench_takes(page):
    for words in commands(page.read_text()):
        try:
            parse(tuple(words))
        except click.UsageError as error:
            pytest.fail(f"kdbench {' '.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_that_a_sentence_names_exists(page):
    known = {"--import-mode"}  # pytest's
    for name in main.list_commands(click.Context(main)):
        command = main.get_command(click.Context(main), name)
        inner = command.commands.values() if isinstance(command, click.Group) else [command]
        for one in [main, *inner]:
            for option in one.get_params(click.Context(one)):
                known |= {*option.opts, *option.secondary_opts}
    named = set(re.findall(r"(?<=`)--[a-z0-9-]+", page.read_text()))
    assert named <= known


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """The folder of somebody who follows the pages: pictures, a teacher, a spec file, plugins."""
    folder = tmp_path_factory.mktemp("reader")
    for part, count in (("train", 6), ("test", 3)):
        for name in ("cats", "dogs"):
            for number in range(count):
                save(folder / "photos" / part / name / f"{number}.png", number)
    shutil.make_archive(str(folder / "photos"), "zip", folder / "photos")
    torch.save(create_model("timm/resnet18", 2).state_dict(), folder / "teacher.pth")
    (folder / "mine.py").write_text(GOOD.replace("NAME", "mine"))
    for page in PAGES:
        for path, text in files(page.read_text()).items():
            if "/" not in path:
                (folder / path).write_text(text)
    (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
    return folder


def harmless(words: tuple[str, ...]) -> tuple[str, ...] | None:
    """The command as one that computes nothing, in seconds; None where there is none."""
    if PLACEHOLDER.search(" ".join(words)) or len(words) < 2:
        return None
    if ELSEWHERE & set(words) and not {"--plugin-file", "--teacher-from", "--name"} & set(words):
        return None
    reading = ("list", "plugins", "leaderboard", "report", "compare", "store", "plan")
    if words[0] in (*reading, "import-teacher"):
        return words
    if words[0] == "run" and {"--pair", "--student", "--spec"} & set(words):
        return words if "--dry-run" in words else (*words, "--dry-run")
    return None


@pytest.mark.slow
def test_the_commands_that_compute_nothing_run(reader, tmp_path, monkeypatch, signs_once):
    monkeypatch.chdir(reader)
    monkeypatch.setenv("KDBENCH_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("KDBENCH_CACHE", str(tmp_path / "cache"))
    run = [words for shown in SHOWN if (words := harmless(shown))]
    # first what others build on
    run.sort(key=lambda words: (words[0] != "import-teacher", "--toml" not in words))
    assert len(run) > 25
    for words in run:
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, f"kdbench {' '.join(words)}\n{done.output}"
        if "--toml" in words:
            Path("matrix.toml").write_text(done.output)


def test_the_first_table_is_what_the_command_prints(capsys):
    """The rows are those of the run whose table the pages show."""
    from kdbench.cli.display import make_console, print_results
    from kdbench.report.read import read_results

    print_results(make_console(), read_results(Path(__file__).with_name("first_run.csv")).rows, "")
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()][:-1]
    shown = "\n".join(f"    {line}" for line in lines)
    for page in ("README.md", "docs/first-run.md"):
        assert shown in (ROOT / page).read_text(), page
