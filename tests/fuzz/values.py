"""Words and numbers of a command line: right, nearly right and hostile."""

from __future__ import annotations

import os

from hypothesis import strategies as st

#: What people and programs write where a number belongs.
NUMBERS = (
    *("0", "1", "2", "3", "4", "7", "8", "16", "31", "32", "512", "513", "1024", "1025"),
    *("-1", "-0", "+5", "0.1", "0.5", "1.0", "1.", ".5", "1e3", "1E+05", "1e-320", "1e999"),
    *("nan", "NaN", "inf", "-inf", "Infinity", "1_000", "0x10", "1,5", " 4 ", "", "½", "٣"),
    *("2147483647", "2147483648", "4294967295", "4294967296", "9007199254740993"),
    *("9223372036854775807", "9223372036854775808", "99999999999999999999", "9" * 5000),
)
#: Names that some program takes for more than a name.
WORDS = (
    *("", " ", ".", "..", "/", "~", "-", "--", "-x", "--help", "*", "%s", "%", "$HOME", "`id`"),
    *("[bold]x[/]", "[/]", "[red", "a,b", 'a"b', "a'b", "a;b", "=1+1", "a:b", "@a", "a=b", "#a"),
    *("a\nb", "a\tb", "a\rb", "\x1b[2J", "\x07", "\x7f", "\x85", "a\u202eb", "\u00a0", "\u200b"),
    *("é", "e\u0301", "日本", "😀", "ı", "ß", "a ", "a.", " a", "CON", "None", "nan", "1", "01"),
    *("train", "test", "all", "none", "null", "true", "/dev/null", "/proc/self/mem", "/dev/full"),
    *(os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff\xfe"), "x" * 255, "x" * 256, "a/" * 3000),
)


def numbers() -> st.SearchStrategy[str]:
    """A text where a number belongs."""
    return st.one_of(
        st.sampled_from(NUMBERS),
        st.integers(-3, 600).map(str),
        st.floats(allow_nan=True).map(repr),
        words(),
    )


def words() -> st.SearchStrategy[str]:
    """A text that a command line can hold."""
    letters = st.characters(blacklist_categories=("Cs",), blacklist_characters="\0")
    raw = st.binary(max_size=6).filter(lambda b: b"\0" not in b).map(os.fsdecode)
    return st.one_of(st.sampled_from(WORDS), st.text(letters, max_size=8), raw)


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
