"""Running a program as root and as an ordinary user."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

#: A user and a group that own nothing.
_NOBODY = 65534
#: It lets that user reach an interpreter that lies in root's home, and nothing else there.
_OPEN_HOME = """
set -e
place=$(mktemp -d)
mount --bind "$1" "$place"
mount -t tmpfs -o mode=755 none "$HOME"
mkdir -p "$1"
mount --bind "$place" "$1"
umount "$place"
rmdir "$place"
shift
export HOME=/nonexistent
exec "$@"
"""


def commands():
    """How to begin a command line, by the kind of user that it runs as."""
    users = {"myself": []}
    if os.geteuid() == 0 and shutil.which("setpriv") and shutil.which("unshare"):
        users["nobody"] = _as_nobody()
    return users


def _as_nobody():
    user = [f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    command = ["setpriv", *user]
    base = Path(sys.base_prefix).resolve()
    if base.is_relative_to(Path.home()):
        command = ["unshare", "-m", "sh", "-c", _OPEN_HOME, "sh", str(base), *command]
    return command


def works(command):
    """Whether such a user can run this interpreter at all."""
    ran = subprocess.run(
        [*command, sys.executable, "-c", "import torch.version"], capture_output=True
    )
    return ran.returncode == 0
