"""Folders of images, most of them as somebody really has them."""

from __future__ import annotations

import functools
import io
import os
import tarfile
import zipfile
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.case import File
from tests.fuzz.values import is_name, names

CLASSES = ("ant", "bee", "cat")
#: Images of a class.
COUNTS = {"train": 2, "test": 1}


@functools.cache
def picture(number: int = 0, kind: str = "PNG", size: tuple[int, int] = (16, 16)) -> bytes:
    """An image file of one colour, which is short."""
    colour = np.random.default_rng(number).integers(0, 255, 3).astype("uint8")
    file = io.BytesIO()
    Image.fromarray(np.broadcast_to(colour, (size[1], size[0], 3))).save(file, kind)
    return file.getvalue()


def tree(
    root: str = "photos", classes: Sequence[str] = CLASSES, test: Sequence[str] | None = None
) -> tuple[File, ...]:
    """A sound folder of images."""
    return tuple(
        File(f"{root}/{part}/{name}/{at}.png", picture(10 * label + at))
        for part, wanted in (("train", classes), ("test", test or classes))
        for label, name in enumerate(wanted)
        for at in range(COUNTS[part])
    )


#: Paths in a class folder, and what lies there beside the images without being meant.
HARMLESS = {
    "a picture of macOS": ("._0.png", b"\0\5\26\7\0\2\0\0Mac OS X"),
    "a table of macOS": (".DS_Store", b"\0\0\0\1Bud1"),
    "thumbnails of Windows": ("Thumbs.db", b"\xd0\xcf\x11\xe0"),
    "the checkpoints of a notebook": (".ipynb_checkpoints/0-checkpoint.png", picture(1)),
    "a text": ("readme.txt", b"ours"),
    "a table": ("labels.csv", b"a,b\n"),
    "a hidden file": (".hidden.png", b""),
    "a folder in it": ("more/7.png", picture(7)),
    "a capital suffix": ("8.PNG", picture(8)),
    "no suffix": ("9", picture(9)),
    "another format": ("1.gif", b"GIF89a"),
    "a jpeg": ("1.jpg", picture(3, "JPEG")),
    "an empty folder": ("nothing/.keep", b""),
}
#: The same, and nothing that one can take for an image.
BROKEN = {
    "no image": ("x.png", b"no image"),
    "an empty image": ("x.png", b""),
    "half an image": ("x.png", picture(2)[:60]),
    "another format by its suffix": ("x.tiff", picture(2)),
    "a page": ("x.jpg", b"<!DOCTYPE html><html></html>"),
    "a pointer": ("x.png", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"),
    "one pixel": ("x.png", picture(2, size=(1, 1))),
    "a long image": ("x.png", picture(2, size=(4000, 1))),
}


def additions(root: str, harmless: bool) -> st.SearchStrategy[File]:
    """Something more in a folder of images."""
    # In each tree drawn, classes but the first may be others.
    places = st.sampled_from(["", "train/", "test/", "train/ant/", "test/ant/", "train/cat/"])
    deep = st.sampled_from(["train/ant/", "test/ant/"])
    known = st.builds(
        lambda where, item: File(f"{root}/{where}{item[0]}", item[1]),
        deep,
        st.sampled_from(sorted((HARMLESS if harmless else HARMLESS | BROKEN).values())),
    )
    named = st.builds(
        lambda where, name: File(f"{root}/{where}{name}.png", picture(5)),
        deep,
        names().filter(lambda name: is_name(f"{name}.png")),
    )
    if harmless:
        beside = st.sampled_from([".git/config", "README.txt", "train/.DS_Store", "test/list.txt"])
        return st.one_of(known, named, beside.map(lambda path: File(f"{root}/{path}", b"x")))
    kinds = st.sampled_from(
        [
            ("pipe", b""),
            ("folder", b""),
            ("link", b"nowhere"),
            ("link", b"."),
            ("link", b".."),
            ("link", b"/dev/zero"),
            ("link", b"/proc/self/mem"),
            ("link", b"x.png"),
        ]
    )
    strange = st.builds(
        lambda where, name, kind, mode: File(f"{root}/{where}{name}", kind[1], kind[0], mode),
        places,
        st.one_of(st.just("x.png"), st.just("x"), names()),
        kinds,
        st.none(),
    )
    return st.one_of(known, named, strange)


@st.composite
def folders(draw: st.DrawFn, harmless: bool) -> tuple[str, tuple[File, ...]]:
    """(path of a folder of images, its files)."""
    # A path that begins with ~ is that of the user's home.
    named = names().filter(lambda name: name[0] != "~")
    root = draw(named) if draw(st.integers(0, 4)) == 0 else "photos"
    classes, test = list(CLASSES), list(CLASSES)
    if draw(st.integers(0, 3)) == 0:
        name = draw(names().filter(lambda name: name not in CLASSES and name[0] != "."))
        # Not one of the classes that get additions.
        classes[1] = test[1] = name
    if not harmless and draw(st.integers(0, 9)) == 0:
        test[1] = draw(names().filter(lambda name: name not in CLASSES))
    files = {file.path: file for file in tree(root, classes, test)}
    taken = {os.path.dirname(path) for path in files}
    least = draw(st.integers(0, 1))
    for file in draw(st.lists(additions(root, harmless), min_size=least, max_size=3)):
        parents = [file.path]
        while os.path.dirname(parents[-1]):
            parents.append(os.path.dirname(parents[-1]))
        clash = any(parent in files for parent in parents) or file.path in taken
        if not clash:
            files[file.path] = file
            taken.update(parents[1:])
    return root, tuple(files.values())


def _is_text(name: str) -> bool:
    """Whether a zip can hold the name: it has no byte that is not UTF-8."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def archive(files: Sequence[File], kind: str) -> bytes:
    """The files in a zip or a tar."""
    content = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(content, "w") as packed:
            for file in files:
                if file.kind == "file" and _is_text(file.path):
                    packed.writestr(file.path, file.content)
    else:
        with tarfile.open(fileobj=content, mode="w") as packed:
            for file in files:
                if file.kind == "file":
                    entry = tarfile.TarInfo(file.path)
                    entry.size = len(file.content)
                    packed.addfile(entry, io.BytesIO(file.content))
    return content.getvalue()
