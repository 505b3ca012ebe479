"""The page as a whole: the same bytes, its size, and foreign text in every place."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kdbench.errors import ConfigError
from kdbench.page import build
from kdbench.page.build import head_of, page_of, write_page
from kdbench.page.source import Log, Run, Source, read_source
from kdbench.page.tasks import tasks_of
from kdbench.untrusted.text import strip_control
from tests.page.hostile import INJECTIONS
from tests.page.runs import many, mixed, source
from tests.report.report_rows import cell

#: The tables of runs that come with kdbench.
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


class Elements(HTMLParser):
    """Counts the elements of a page, and keeps its attributes and texts."""

    def __init__(self, page):
        super().__init__()
        self.count, self.attributes, self.text = Counter(), [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.count[tag] += 1
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.text += data


def test_the_same_rows_give_the_same_bytes():
    assert page_of(source(mixed(), {"started": 1.0})) == page_of(source(mixed(), {"started": 1.0}))


def test_a_page_asks_nobody_for_anything():
    page = page_of(source(mixed(), {"command": ["run"]}))
    elements = Elements(page)
    assert not {"link", "iframe", "object", "embed", "form", "base"} & set(elements.count)
    names = ("src", "href", "srcset", "action")
    addresses = [value for _, name, value in elements.attributes if name in names]
    assert addresses
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []


def test_the_policy_allows_this_script_only():
    page = page_of(source(mixed()))
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; ")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not [name for _, name, _ in Elements(page).attributes if name.startswith("on")]


def test_the_script_is_small():
    page = page_of(source(mixed()))
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(script.encode()) <= 4500


@pytest.mark.parametrize(("count", "most"), [(136, 150_000), (1500, 1_500_000)])
def test_the_size_of_a_page(count, most):
    assert len(page_of(source(many(count))).encode()) <= most


def test_the_size_of_the_page_of_three_runs_of_four_tasks():
    names = ("wrn28_4-wrn16_2", "wrn28_4-resnet56", "wrn16_2-wrn16_1")
    merged = read_source([RESULTS / f"gtsrb-{name}" for name in names])
    assert len(merged.rows) == 136
    assert len(tasks_of(merged.rows)) == 4
    # Three runs have three origins.
    assert len(page_of(merged).encode()) <= 152_000


def test_a_page_of_many_settings_stays_small():
    rows = [
        cell(defense=f"d{n}", defense_digest=f"{n:064x}", setting_digest=f"{n:064x}")
        for n in range(3000)
    ]
    assert len(page_of(source(rows)).encode()) <= 2_000_000


def test_a_page_that_nobody_can_open_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "_MOST_BYTES", 10_000)
    with pytest.raises(ConfigError, match="name fewer runs"):
        write_page(source(mixed()), tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def hostile_source(text):
    """A run with a stranger's text wherever a run has text."""
    names = ("dataset", "attack", "distiller", "teacher", "student", "preset", "preset_remark")
    said = ("reason", "plugins", "software", "device", "changed", "numerics")
    rows = [row | dict.fromkeys((*names, *said), text) for row in mixed()]
    for row in rows:
        if row["defense"] != "none":
            row["defense"] = f"{row['defense']}{text}"
    paper = {"title": text, "authors": text, "venue": text, "year": 2000, "link": text}
    record = {
        "command": ["run", text],
        "spec": text,
        "device": text,
        "note": text,
        "datasets": [{"name": text, "note": text, "digest": text, "train": 3}],
        "plugins": {text: text},
        "versions": {text: text},
        "papers": {text: paper},
        "stages": [{"kind": text, "title": text, "key": text, "status": "ok", "seconds": 3.0}],
    }
    logs = (Log(text, text, (text, text)),)
    return Source(rows, (Run(text, record, logs),))


@pytest.mark.parametrize("text", INJECTIONS, ids=range(len(INJECTIONS)))
def test_foreign_text_stays_text(text):
    """The page has the elements and attributes that it has with harmless text of the same words."""
    harmless = strip_control(text).translate(str.maketrans("<>\"'&", "xxxxx"))
    plain, page = (Elements(page_of(hostile_source(words))) for words in (harmless, text))
    assert page.count == plain.count
    shapes = [Counter((tag, name) for tag, name, _ in each.attributes) for each in (plain, page)]
    assert shapes[0] == shapes[1]
    assert all(character.isprintable() or character == "\n" for character in page.text)


def test_the_head_for_another_page_brings_no_script_and_styles_itself_only():
    head = head_of(source(mixed(), {"command": ["run"]}))
    count = Elements(head).count
    assert count["script"] == count["nav"] == 0
    assert (count["h1"], count["table"], count["svg"] > 1) == (1, 1, True)
    (style,) = re.findall(r"<style>(.*?)</style>", head, re.DOTALL)
    assert style.startswith("@scope (.kdbench){")
    assert style.count("{") == style.count("}")
    assert not re.search(r":root|\bbody\b|\bmain\b", style)


def test_a_text_of_any_length_is_cut():
    assert len(page_of(hostile_source("x" * 100_000))) < 600_000
