"""What a file is that holds no weights as kdbench reads them, and what to do with it."""

from __future__ import annotations

import re

from kdbench.untrusted.header import shown
from kdbench.untrusted.weights.commands import merge

HOW = "save a state_dict() with torch.save, or as safetensors, where the network was trained"
_UNPACK = "unpack it, and name the file of weights in it"
_AGAIN = "download it again, and look at what comes"
#: The first bytes -> what it is, and what to do.
_MAGIC = {
    b"\x80": ("a bare pickle, which runs whatever it says when it is read", HOW),
    b"\x89HDF": ("an HDF5 file, as Keras writes it", HOW),
    b"\x93NUMPY": ("a NumPy array", HOW),
    b"GGUF": ("a GGUF file", HOW),
    b"\x1f\x8b": ("compressed with gzip", f"{_UNPACK} (gunzip, or tar -xzf)"),
    b"BZh": ("compressed with bzip2", _UNPACK),
    b"\xfd7zXZ": ("compressed with xz", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", _UNPACK),
    b"7z\xbc\xaf": ("a 7z archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"PK": ("an empty or split zip archive", HOW),
    b"\x00\x05\x16\x07": (
        "a companion file of macOS, which holds no weights",
        "name the file without ._ before its name",
    ),
    b"\x89PNG": ("a picture", "name the file of weights"),
    b"\xff\xd8\xff": ("a picture", "name the file of weights"),
    b"%PDF": ("a PDF document", "name the file of weights"),
}
_LFS = "version https://git-lfs"
_HTML = re.compile(r"\s*(<!--.*?-->\s*)?<(!doctype|html|head|\?xml)", re.IGNORECASE | re.DOTALL)
_PART = re.compile(r"([\w.]+)-\d+-of-\d+(\.\w+)", re.ASCII)


def describe(start: bytes, size: int) -> tuple[str, str]:
    """(what a file is, what to do), by its first bytes.

    Args:
        start: some thousands of them.
        size: of the whole file.
    """
    if not size:
        return "empty", HOW
    if start[257:262] == b"ustar":
        return (
            "a tar archive",
            f"{_UNPACK}; files that torch.save wrote before 2018 are tar archives, too, and are "
            "not read",
        )
    if start[4:8] == b"TFL3":
        return "a TensorFlow Lite file", HOW
    if start[:1] == b"\x08" and (b"pytorch" in start[:64] or b"onnx" in start[:400].lower()):
        return "an ONNX file", HOW
    if not start.strip(b"\0"):
        return "only zeros as far as was read: a download that was not finished", _AGAIN
    # Texts first: a text may begin like an archive.
    if text := _text(start):
        return _of_text(text)
    return next(
        (words for magic, words in _MAGIC.items() if start.startswith(magic)),
        ("in no known format", HOW),
    )


def of_members(names: list[str]) -> tuple[str, str] | None:
    """What a zip archive is that torch.save did not write, by the names of its members."""
    files = [name for name in names if not name.endswith("/") and "__MACOSX" not in name]
    if files and all(name.endswith(".npy") for name in files):
        return "a NumPy archive (.npz)", HOW
    if any(name.endswith((".weights.h5", "saved_model.pb")) for name in files):
        return "a network of Keras or TensorFlow", HOW
    endings = (".pth", ".pt", ".bin", ".safetensors", ".ckpt", ".tar")
    if weights := [name for name in files if name.lower().endswith(endings)]:
        return f"a zip archive around {shown(weights[0])}", _UNPACK
    return None


def _text(start: bytes) -> str:
    """The beginning as text. Empty: it is none."""
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return start.decode("utf-16", "ignore")
    # The last character may be cut.
    try:
        text = start.decode("utf-8", "strict" if len(start) < 4 else "ignore").lstrip("\ufeff")
    except UnicodeDecodeError:
        return ""
    lost = len(start) - len(text.encode())
    odd = sum(not (c.isprintable() or c in "\r\n\t") for c in text)
    return "" if lost > 6 or odd else text


def _of_text(text: str) -> tuple[str, str]:
    if text.startswith(_LFS):
        return (
            "a Git LFS pointer: a note of where the weights are, in the place of them",
            "run git lfs pull in its repository, or download the file itself",
        )
    if _HTML.match(text):
        return (
            "a page of HTML (of a site that asks or refuses, most often)",
            "download the file itself: open the address in a browser and see",
        )
    begins = f"a text that begins with {shown(text[:80])}"
    if text.lstrip()[:1] in ("{", "["):
        if "weight_map" in text:
            part = _PART.search(text)
            how = f": {merge(part[1], part[2])}" if part else ""
            return ("the index of weights that are in several files", f"make one file of them{how}")
        if re.search(r'"(error|message|detail)s?"\s*:', text):
            return f"the answer of a server and no file: {shown(text[:80])}", _AGAIN
        return f"JSON and no weights, {begins}", "name the file of weights beside it"
    return f"in no known format, {begins}", f"if it was downloaded, {_AGAIN}; else {HOW}"
