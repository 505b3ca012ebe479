"""The help of a command with many options."""

from __future__ import annotations

import click
import pytest

from kdbench.cli import main
from kdbench.cli.sections import OTHERS, SECTIONS, section_of
from tests.cli.calls import call


@pytest.mark.parametrize("command", ["run", "plan", "reproduce"])
def test_every_option_has_a_heading(command):
    context = click.Context(main)
    options = [
        param
        for param in main.get_command(context, command).params
        if isinstance(param, click.Option)
    ]
    assert {option.name for option in options if section_of(option.name) == OTHERS} == set()
    shown = call(command, "--help").stdout
    for option in options:
        assert max(option.opts, key=len) in shown
    headings = [line[:-1] for line in shown.splitlines() if line.endswith(":") and line[0] != " "]
    assert headings == [*SECTIONS, OTHERS]


def test_no_name_has_two_headings():
    names = [name for names in SECTIONS.values() for name in names]
    assert len(set(names)) == len(names)


def test_a_target_has_no_default_of_a_usual_request():
    assert "[default: quick]" in " ".join(call("run", "--help").stdout.split())
    shown = " ".join(call("reproduce", "--help").stdout.split())
    assert "[default: quick]" not in shown
    assert "[default: local]" in shown
