"""What kind of file it is, by its content and never by its name.

This is plain Python, so that a file can be refused without importing torch. Three kinds are
weights: ``safetensors``, ``torch zip`` (torch.save since 1.6) and ``torch legacy`` (torch.save
before). Whether a pickle is harmless is not judged here. torch's weights-only reader executes
nothing from it.
"""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from kdbench._counted import counted
from kdbench.errors import IntegrityError
from kdbench.untrusted.header import checked_header, shown
from kdbench.untrusted.text import strip_control
from kdbench.untrusted.weights.formats import HOW, describe, of_members

FILE_KINDS = ("safetensors", "torch zip", "torch legacy")

# torch.save before 1.6 begins with this number, pickled with protocol 2. That is also the only
# protocol that torch still reads safely.
_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"
_ZIP = b"PK\x03\x04"
_MEMBERS = 100_000
"""The most members of a zip archive. torch.save writes about one for each tensor."""
_ZIP_MEMBER = re.compile(
    r"data\.pkl|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id|data/\d+"
)
_TORCHSCRIPT = re.compile(r"constants\.pkl|code/|model\.json|bytecode\.pkl")
_EXPORTED = re.compile(
    r"archive_format|archive_version|models/|data/(weights|constants|sample_inputs|aotinductor)/|serialized_"
)
_START = 4096


def kind_of(path: Path) -> str:
    """One of ``FILE_KINDS``.

    Raises:
        IntegrityError: the file is of no such kind, its outer structure is damaged, or it holds
            more than weights need.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_START)
        if start.startswith(_ZIP):
            _check_zip(file, size)
            return "torch zip"
        if start.startswith(_LEGACY):
            return "torch legacy"
        # A safetensors header begins with its length, 8 bytes, and a brace. The length may look
        # like the beginning of another format, so this is asked before the others.
        if start[8:9] == b"{" and start[:4] not in (b"\x89HDF", b"GGUF"):
            _check_safetensors(file, size)
            return "safetensors"
    what, how = describe(start, size)
    raise IntegrityError(f"it is {what}; {how}")


def _check_zip(file: BinaryIO, size: int) -> None:
    """Refuse archives that torch.save did not write.

    Their members have other names, are compressed, overlap, or are there twice.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
    except (
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        OSError,
        ValueError,
        struct.error,
        NotImplementedError,
    ) as error:
        raise IntegrityError(
            f"it is a damaged or cut off zip archive ({strip_control(error)[:80]}); copy it once "
            "more"
        ) from None
    if not 1 <= len(members) <= _MEMBERS:
        raise IntegrityError(
            f"it is a zip archive of {counted(len(members), 'member')}, where 1 to {_MEMBERS} "
            f"are allowed; {HOW}"
        )
    # Not filename: zipfile cuts that at a NUL byte, and another reader may not.
    names = [member.orig_filename for member in members]
    root, _, _ = names[0].partition("/")
    inner = [name[len(root) + 1 :] for name in names]
    if any(_TORCHSCRIPT.match(name) for name in inner):
        raise IntegrityError(f"it is a TorchScript archive, which is a program; {HOW}")
    if any(_EXPORTED.match(name) for name in inner):
        raise IntegrityError(f"it is an exported program (.pt2), not weights; {HOW}")
    for name, rest in zip(names, inner, strict=True):
        if (
            not name.startswith(f"{root}/")
            or root in ("", ".", "..")
            or not _ZIP_MEMBER.fullmatch(rest)
        ):
            what, how = of_members(names) or ("a zip archive that torch.save did not write", HOW)
            raise IntegrityError(f"it is {what}: member {shown(name)}; {how}")
    if len(set(names)) != len(names):
        raise IntegrityError(
            f"a member of the zip archive is there twice, so that two readers may disagree; {HOW}"
        )
    if "data.pkl" not in inner:
        raise IntegrityError(f"it is a zip archive without data.pkl; {HOW}")
    if any(
        m.compress_type != zipfile.ZIP_STORED or m.flag_bits & 1 or m.file_size != m.compress_size
        for m in members
    ):
        raise IntegrityError(
            "a member of the zip archive is compressed or encrypted, which torch.save does not "
            f"do; {HOW}"
        )
    if sum(member.file_size for member in members) > size:
        raise IntegrityError(
            f"the members of the zip archive overlap: together they are larger than the file; {HOW}"
        )


def _check_safetensors(file: BinaryIO, size: int) -> None:
    """Refuse headers that are too large or damaged, or whose tensors do not fill the file without
    gaps and overlaps."""
    try:
        checked_header(file, size)
    except IntegrityError as error:
        raise IntegrityError(f"{error}; {HOW}") from None
