"""The command line. A subcommand is imported when it is called, so that ``kdbench --help`` is
fast."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import click

from kdbench import __version__
from kdbench.cli.here import check_current_folder
from kdbench.cli.streams import lenient_streams
from kdbench.cli.tell import in_words
from kdbench.cli.text import prepare_text
from kdbench.errors import ContractError, IntegrityError, KdbenchError, UsageError
from kdbench.untrusted.text import shown

#: name: (module, attribute, help in one line)
_COMMANDS = {
    "check": (
        "kdbench.cli.check",
        "check_command",
        "Check that a method, network or dataset keeps its contract.",
    ),
    "cite": ("kdbench.cli.cite", "cite_command", "Print BibTeX of kdbench and of methods' papers."),
    "compare": (
        "kdbench.cli.compare",
        "compare_command",
        "Say what changed between two results.csv, and whether it is noise.",
    ),
    "doctor": (
        "kdbench.cli.doctor",
        "doctor_command",
        "Look at this machine: what is slow or missing, and how long runs take.",
    ),
    "import-teacher": (
        "kdbench.cli.import_teacher",
        "import_teacher_command",
        "Read foreign weights, confined, and keep them as safetensors.",
    ),
    "leaderboard": (
        "kdbench.cli.leaderboard",
        "leaderboard_command",
        "Merge runs into one ranking.",
    ),
    "plan": (
        "kdbench.cli.plan",
        "plan_command",
        "Show what a request comes to: stages, what is cached, time and disk.",
    ),
    "new-plugin": (
        "kdbench.cli.new_plugin",
        "new_plugin_command",
        "Write a package for a method, network or dataset of your own.",
    ),
    "plugins": (
        "kdbench.cli.plugins",
        "plugins_command",
        "Show the plugins, and why one could not be loaded.",
    ),
    "report": (
        "kdbench.cli.report",
        "report_command",
        "Show runs as one page, and as figures for a paper.",
    ),
    "reproduce": (
        "kdbench.cli.reproduce",
        "reproduce_command",
        "Run the paper's tables and figures, ours beside the printed.",
    ),
    "slurm": (
        "kdbench.cli.slurm",
        "slurm_command",
        "Print a script that runs a command on the nodes of a Slurm cluster.",
    ),
    "store": ("kdbench.cli.store", "store_command", "List, verify and tidy what was computed."),
    "teacher": (
        "kdbench.cli.teacher",
        "teacher_command",
        "Show, rename and remove imported teachers.",
    ),
    "verify": (
        "kdbench.cli.verify",
        "verify_command",
        "Check a run's digests and run some of its cells again.",
    ),
    "list": (
        "kdbench.cli.list",
        "list_command",
        "Show attacks, defenses, distillers, models, datasets and presets.",
    ),
    "run": (
        "kdbench.cli.run",
        "run_command",
        "Run attacks against defenses and write the results to a folder.",
    ),
}


#: What another path in the request would mend.
_OF_A_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR)


def _exit_code(error: KdbenchError) -> int:
    if isinstance(error, UsageError | ContractError):
        return 2
    return 4 if isinstance(error, IntegrityError) else 1


@contextlib.contextmanager
def _shown_words() -> Iterator[None]:
    """Words of the command line that a message of click repeats are shown with escapes."""
    try:
        yield
    except click.ClickException as error:
        # click declares it final, and has no other way to change a message.
        vars(error)["message"] = "\n".join(map(shown, error.message.split("\n")))
        raise


@contextlib.contextmanager
def _here() -> Iterator[None]:
    """An error of the machine that has the current folder as its cause says that."""
    try:
        yield
    except OSError:
        check_current_folder()
        raise


class LazyGroup(click.Group):
    """A group that knows its subcommands by name and imports them on demand.

    It is also the only place where errors become messages and exit codes.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _shown_words():
            return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in sorted(_COMMANDS.items())])

    def main(self, *arguments: Any, **options: Any) -> Any:
        # A program or a test that calls this with arguments has streams of its own.
        if not arguments and "args" not in options:
            prepare_text()
        with lenient_streams():
            return super().main(*arguments, **options)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _shown_words(), _here():
                return super().invoke(ctx)
        except KdbenchError as error:
            click.echo(in_words(f"Error: {shown(error)}", sys.stderr), err=True)
            ctx.exit(_exit_code(error))
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except OSError as error:
            # The machine's doing, at a place that nothing better is said of: a full disk, a folder
            # that is gone, too many open files.
            place = "" if error.filename is None else f": {os.fsdecode(error.filename)}"
            text = f"Error: {shown(f'{error.strerror or error}{place}')}"
            click.echo(in_words(text, sys.stderr), err=True)
            ctx.exit(2 if error.errno in _OF_A_PATH else 1)
        except Exception:  # a defect of kdbench: its traceback is what we need to see
            traceback.print_exc()
            click.echo(
                "This is a defect of kdbench; please report it with the lines above.", err=True
            )
            ctx.exit(3)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kdbench")
def main() -> None:
    """Measure whether a backdoor travels from teacher to student, and what stops it.

    \b
    Try:
      kdbench list
      kdbench run --attack badnets --defense robustkd --pair wrn16_2-wrn16_1
    """
