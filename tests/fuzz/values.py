"""Words and numbers of a command line: right, nearly right and hostile."""

from __future__ import annotations

import os

from hypothesis import strategies as st

#: What people and programs write where a number belongs, by what is odd with it.
NUMBERS = {
    "small": ("0", "1", "2", "3", "7", "8", "16", "31", "512", "513", "1024", "1025"),
    "negative": ("-1", "-0", "-0.5"),
    "no whole number": ("0.1", "1.0", "1.", ".5", "1e3", "1E+05", "1e-320"),
    "not finite": ("nan", "inf", "-inf", "1e999", "Infinity"),
    "large": ("2147483648", "4294967296", "9007199254740993", "1000000"),
    "too large": ("9223372036854775807", "9223372036854775808", "9" * 20, "9" * 5000),
    "written otherwise": ("+5", "1_000", "0x10", "1,5", " 4 ", "", "½", "٣", "007"),
}
#: Names that some program takes for more than a name, by what is odd with them.
WORDS = {
    "nothing": ("", " ", "\u00a0", "\u200b"),
    "places": (".", "..", "/", "~", "/dev/null", "/proc/self/mem", "/dev/full", "a/../b"),
    "options": ("-", "--", "-x", "--help", "-1"),
    "of a shell": ("*", "$HOME", "`id`", "%s", "%", "a'b", "a;b", "#a", "@a", "!!"),
    "markup": ("[bold]x[/]", "[/]", "[red", "$x^2$", "<b>&amp;", "{0}", "\\x"),
    "of a table": ("a,b", 'a"b', "=1+1", "a=b", "a:b", "a\tb"),
    "control": ("a\nb", "a\rb", "\x1b[2J", "\x07", "\x7f", "\x85", "a\u202eb"),
    "letters": ("é", "e\u0301", "日本", "😀", "ı", "ß"),
    "blanks and points": ("a ", "a.", " a", ".a", "a..b", "two words"),
    "reserved": ("train", "test", "all", "none", "None", "null", "true", "nan", "1", "01", "CON"),
    "not UTF-8": (os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff\xfe")),
    "long": ("x" * 255, "x" * 256, "a/" * 3000),
}


def numbers() -> st.SearchStrategy[str]:
    """A text where a number belongs."""
    return st.one_of(
        *map(st.sampled_from, NUMBERS.values()), st.integers(-3, 600).map(str), words()
    )


def words() -> st.SearchStrategy[str]:
    """A text that a command line can hold."""
    letters = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
    raw = st.binary(max_size=6).filter(lambda b: b"\0" not in b).map(os.fsdecode)
    known = map(st.sampled_from, WORDS.values())
    return st.one_of(*known, st.text(letters, max_size=8), raw)


def often(
    right: st.SearchStrategy[str], other: st.SearchStrategy[str], tenths: int = 8
) -> st.SearchStrategy[str]:
    """The first so many times of ten, else the second."""
    return st.integers(0, 9).flatmap(lambda at: right if at < tenths else other)


def is_name(text: str) -> bool:
    """Whether a file can have the name."""
    size = len(os.fsencode(text))
    return 0 < size <= 255 and text not in (".", "..") and "/" not in text and "\0" not in text


def names() -> st.SearchStrategy[str]:
    """Names of files. Some of them no person would choose."""
    return words().filter(is_name)
