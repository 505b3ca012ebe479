"""What a page says of the strength of a trigger."""

from __future__ import annotations

import hashlib

import pytest
from PIL import Image

from kdbench.page.build import page_of
from kdbench.page.source import read_source
from kdbench.page.triggers import strengths_of
from tests.page.runs import mixed, source, write_run

NAME = "trigger-lba-wrn16_2-seed0.png"


def said(facts):
    stages = [{"kind": "picture", "files": {"trigger.png": "abc"}, "facts": facts}]
    return strengths_of(source(mixed(), {"stages": stages})).get("abc")


def test_both_numbers_in_words():
    words = "PSNR 31.3 dB. The largest change of a value (L-inf) is 8.0 of 255."
    assert said({"psnr_db": 31.26, "linf": 8 / 255, "images": 6}) == words
    assert said({"psnr_db": None, "linf": 0.0, "images": 6}) == "The images do not change."


@pytest.mark.parametrize(
    "facts",
    [
        None,
        {},
        {"psnr_db": 31.25},
        {"linf": 0.1},
        {"psnr_db": "31", "linf": "0.1"},
        {"psnr_db": 1e308, "linf": 0.1},
        {"psnr_db": float("nan"), "linf": 0.1},
        {"psnr_db": 31.25, "linf": -0.1},
        {"psnr_db": 31.25, "linf": True},
    ],
)
def test_a_record_that_says_something_else_says_nothing(facts):
    assert said(facts) is None


def test_the_numbers_stand_below_the_picture_that_they_are_of(tmp_path):
    run = write_run(tmp_path / "run", mixed())
    Image.new("RGB", (30, 20), "red").save(run / NAME)
    digest = hashlib.sha256((run / NAME).read_bytes()).hexdigest()
    facts = {"psnr_db": 20.0, "linf": 0.2, "images": 2}

    def page(digest):
        stages = [{"kind": "picture", "files": {"trigger.png": digest}, "facts": facts}]
        write_run(run, mixed(), {"stages": stages})
        return page_of(read_source([run]))

    assert "Grey means no change. PSNR 20.0 dB." in page(digest)
    # Of another picture, which was drawn again since.
    assert "PSNR" not in page("0" * 64)
    assert "PSNR" not in page([digest])
