"""Whether a Ray cluster asks for a token, and whether this machine has the right one.

Ray finds out late: it tries for half a minute to connect, and then does not say why. It sends a
token that lies in its usual file only to a cluster of this machine, and there always. So the head
is asked first, in a process of its own: Ray ends the process that it does not like.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from kdbench.errors import UsageError

_MODE = "RAY_AUTH_MODE"
#: Seconds after which the question is given up. Ray itself gives up within one minute.
_PATIENCE_S = 120.0
#: Seconds for one answer of the head.
_ANSWER_S = 5.0

#: The head lets everybody in.
OPEN = "open"
#: It asks for a token, and this machine's is the right one.
KNOWN = "known"
#: It asks for a token, and this machine has none, or Ray cannot read it.
NONE = "none"
#: It asks for a token, and RAY_AUTH_MODE says that none be sent.
FORBIDDEN = "forbidden"
#: It asks for a token, and this machine has another one.
WRONG = "wrong"
#: Nobody could be asked: Ray says the rest when it connects.
UNKNOWN = "unknown"

_HOW = (
    "Copy the token of its head, which `ray get-auth-token` prints there, to ~/.ray/auth_token, or "
    "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
)
_REFUSED = {
    NONE: f"and there is none here. {_HOW}",
    WRONG: f"and the one here is another. {_HOW}",
    FORBIDDEN: f"and {_MODE} says that none be sent. Unset it",
}


def choose_mode(address: str) -> str | None:
    """What RAY_AUTH_MODE has to be for a cluster, so that it gets the token of this machine if it
    asks for one, and does not see it else.

    Args:
        address: ``HOST:PORT`` of its head, or ``auto``.

    Returns:
        ``token``, ``disabled`` where the cluster lets everybody in, or None: nobody could be asked.

    Raises:
        UsageError: the token that it asks for is not here.
    """
    found = _ask(address)
    if found in _REFUSED:
        raise UsageError(f"--on ray: the cluster asks for a token, {_REFUSED[found]}")
    return {KNOWN: "token", OPEN: "disabled"}.get(found)


@contextlib.contextmanager
def in_mode(mode: str | None) -> Iterator[None]:
    """Let Ray connect as :func:`choose_mode` says. Then the variable is the user's again."""
    given = os.environ.get(_MODE)
    if mode is not None:
        os.environ[_MODE] = mode
        _read_settings()
    try:
        yield
    finally:
        os.environ.pop(_MODE, None)
        if given is not None:
            os.environ[_MODE] = given


def _ask(address: str) -> str:
    """What :func:`main` finds out."""
    command = [sys.executable, "-P", "-m", __name__, address]
    try:
        asked = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    return asked.stdout.strip() or UNKNOWN


def main(address: str) -> str:
    """Ask the head of a cluster, first without a token, so that no other cluster gets to see it."""
    given = os.environ.get(_MODE, "").lower()
    try:
        from ray._private.services import canonicalize_bootstrap_address
        from ray.exceptions import AuthenticationError

        tokens = _inside_ray().AuthenticationTokenLoader.instance()
        head = canonicalize_bootstrap_address(address)
        if not head or "://" in head:
            return UNKNOWN
        if _answers(head, "disabled"):
            return OPEN
        if given == "disabled":
            return FORBIDDEN
        try:
            if not tokens.has_token(ignore_auth_mode=True):
                return NONE
        except AuthenticationError:  # the file that RAY_AUTH_TOKEN_PATH names
            return NONE
        return KNOWN if _answers(head, "token") else WRONG
    except Exception:  # these names are no promise of Ray's
        return UNKNOWN


def _answers(head: str, mode: str) -> bool:
    """Whether the head lets in who comes in a mode of Ray's."""
    from ray.exceptions import AuthenticationError

    os.environ[_MODE] = mode
    _read_settings()
    try:
        client = _inside_ray().GcsClient(address=head)
        client.internal_kv_get(b"kdbench", namespace=b"kdbench", timeout=_ANSWER_S)
    except AuthenticationError:
        return False
    return True


def _read_settings() -> None:
    """Let Ray read its variables once more."""
    _inside_ray().Config.initialize("")


def _inside_ray() -> Any:
    """Its part that is not Python, whose names no checker knows."""
    return importlib.import_module("ray._raylet")


if __name__ == "__main__":
    print(main(sys.argv[1]))
