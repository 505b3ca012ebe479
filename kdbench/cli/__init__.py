"""The command line. Subcommands are imported when they are called, so that ``kdbench --help`` costs nothing."""

from __future__ import annotations

import importlib
from typing import Any

import click

from kdbench import __version__
from kdbench.errors import KdbenchError, UsageError
from kdbench.text import strip_control

#: name: (module, attribute, help in one line)
_COMMANDS = {
    "list": ("kdbench.cli.list", "list_command", "Show attacks, defenses, distillers, models, datasets and presets."),
    "run": ("kdbench.cli.run", "run_command", "Run attacks against defenses and write the results to a folder."),
}


class LazyGroup(click.Group):
    """A group that knows its subcommands by name and imports them on demand; the one place where errors are worded."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in sorted(_COMMANDS.items())])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KdbenchError as error:
            click.echo(f"Error: {strip_control(error)}", err=True)
            ctx.exit(2 if isinstance(error, UsageError) else 1)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(130)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kdbench")
def main() -> None:
    """Backdoor attacks, distillers and defenses in knowledge distillation on one honest field.

    \b
    Try:
      kdbench list
      kdbench run --attack badnets --defense robustkd --pair wrn16_2-wrn16_1
    """
