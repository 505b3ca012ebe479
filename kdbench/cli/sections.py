"""The help of a command with many options, which stand under headings."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

import click

#: Heading -> parameters of click under it.
SECTIONS: Mapping[str, list[str]] = {
    "What is run": [
        "spec",
        "attacks",
        "teacher_from",
        "defenses",
        "distillers",
        "pairs",
        "teacher",
        "student",
        "presets",
        "seed",
        "seeds",
        "target_class",
        "controls",
        "overrides",
    ],
    "On which images": [
        "datasets",
        "data_dir",
        "download",
        "image_size",
        "num_classes",
        "train_size",
        "test_size",
        "data_seed",
        "transfer_fraction",
        "clean_fraction",
        "unlabeled",
    ],
    "How it is computed": [
        "device",
        "numerics",
        "threads",
        "executor",
        "on",
        "jobs",
        "mixed",
        "sockets_open",
        "cohort",
        "time_limit",
        "stall_limit",
        "memory_limit",
        "checkpoint_every",
        "fail_fast",
    ],
    "Plugins": ["without", "files", "reporter"],
    "Where the results go, and what is shown": [
        "out",
        "store_dir",
        "dry_run",
        "junit",
        "profile",
        "as_toml",
        "quiet",
        "as_json",
    ],
}
#: The heading of all others.
OTHERS = "Options"
_REQUEST = {name for heading in ("What is run", "On which images") for name in SECTIONS[heading]}
_DEFAULT = re.compile(r"\s*\[default: [^\]]*\]")


class SectionedCommand(click.Command):
    """A command whose help has its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for param in self.get_params(ctx):
            if (record := param.get_help_record(ctx)) is not None:
                lines[section_of(str(param.name))].append(self.line(param, *record))
        for heading in (*SECTIONS, OTHERS):
            if heading in lines:
                with formatter.section(heading):
                    formatter.write_dl(lines[heading])

    def line(self, param: click.Parameter, name: str, text: str) -> tuple[str, str]:
        """An option as the help shows it."""
        return name, text


class TargetCommand(SectionedCommand):
    """The same where each target has a request of its own, so that usual defaults do not hold."""

    def line(self, param: click.Parameter, name: str, text: str) -> tuple[str, str]:
        return name, _DEFAULT.sub("", text) if param.name in _REQUEST else text


def section_of(name: str) -> str:
    """The heading of a parameter."""
    return next((heading for heading, names in SECTIONS.items() if name in names), OTHERS)
