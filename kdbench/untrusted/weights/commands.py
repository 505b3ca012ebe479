"""Commands for the user, who runs them outside kdbench: each makes a file that the door takes."""

from __future__ import annotations

import re

FILE = "'FILE'"
"""Stands for the name of the file. Only the parent process knows it."""
TARGET = "weights"
"""What the new file is called, without its suffix."""
#: What a command may hold. A name out of the file must not end a quotation of the shell.
_HARMLESS = re.compile(r"[\w .,:;=(){}\[\]'/*-]*", re.ASCII)


def command(code: str) -> str:
    """The command that runs a line of Python, if a shell takes nothing in it for its own."""
    return f'python -c "{code}"' if _HARMLESS.fullmatch(code) else "do that in Python"


def merge(stem: str, suffix: str) -> str:
    """The command that makes one file of the parts ``STEM-00001-of-00002SUFFIX``, and so on."""
    parts = f"for f in glob('{stem}-*-of-*{suffix}')"
    if suffix == ".safetensors":
        return command(
            "from glob import glob; from safetensors.torch import load_file, save_file; "
            f"save_file({{k: v {parts} for k, v in load_file(f).items()}}, '{TARGET}.safetensors')"
        )
    load = "torch.load(f, map_location='cpu', weights_only=True)"
    return command(
        "from glob import glob; import torch; "
        f"torch.save({{k: v {parts} for k, v in {load}.items()}}, '{TARGET}.pth')"
    )
