"""System calls that Python has no functions for. Linux only."""

from __future__ import annotations

import ctypes
import os

# These numbers are the same on every architecture but alpha.
OPEN_TREE, MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT, MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446

_CAPABILITIES_VERSION = 0x20080522
_CAP_DAC_OVERRIDE = 1 << 1
_PR_SET_NO_NEW_PRIVS = 38


def libc() -> ctypes.CDLL:
    """The C library, which keeps the number of the last error."""
    return ctypes.CDLL(None, use_errno=True)


def call(what: str, number: int, *arguments: object) -> int:
    """A system call by its number. OSError names ``what`` where the kernel refuses it."""
    return checked(what, libc().syscall(number, *arguments))


def checked(what: str, answer: int) -> int:
    """The answer of a function of the C library; OSError where it is negative."""
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")
    return int(answer)


def prctl(what: str, option: int, *values: int) -> int:
    """``prctl``; OSError names ``what`` where the kernel refuses it."""
    filled = (*values, 0, 0, 0, 0)[:4]
    return checked(what, libc().prctl(option, *(ctypes.c_ulong(value) for value in filled)))


def no_new_privileges() -> None:
    """From now on no program that is started gets more rights than this process has."""
    prctl("no_new_privs", _PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Root keeps one right: to read and write files of any owner. Nobody else keeps any.

    The right to read alone goes, too. With it root could open files by their numbers.

    Call :func:`no_new_privileges` too, or a program that is started gains them back.
    """
    header, held = ((ctypes.c_uint32 * 2)(_CAPABILITIES_VERSION, 0), (ctypes.c_uint32 * 6)())
    checked("the capabilities cannot be read", libc().capget(header, held))
    keep = _CAP_DAC_OVERRIDE if os.geteuid() == 0 else 0
    kept = (ctypes.c_uint32 * 6)(held[0] & keep, held[1] & keep, 0, 0, 0, 0)
    checked("the capabilities cannot be dropped", libc().capset(header, kept))
