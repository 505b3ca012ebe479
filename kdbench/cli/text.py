"""What the locale decides of the program's text: the names of files, and what a terminal shows."""

from __future__ import annotations

import io
import locale
import os
import sys


def prepare_text() -> None:
    """Let every name of a file and every message be told, whatever the locale is.

    Names of files are UTF-8, as on nearly every disk. Where Python takes them for something else,
    the program starts again. A character that standard output cannot hold becomes an escape.
    """
    # With the option -X utf8 somebody has decided. This is so after a restart, too.
    if sys.getfilesystemencoding() != "utf-8" and "utf8" not in sys._xoptions and sys.executable:
        _start_again()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _start_again() -> None:
    """The same command in Python's UTF-8 mode. The terminal's own encoding stays."""
    os.environ.setdefault("PYTHONIOENCODING", locale.getencoding())
    os.environ["PYTHONUTF8"] = "1"  # of processes that it starts
    arguments = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
    os.execv(sys.executable, arguments)
