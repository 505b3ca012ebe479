"""The pages hang together: links, commands, and the index."""

import re
import shlex

import pytest

from kdbench.cli import _COMMANDS, main
from tests.benchmarks.pages import BENCHMARKS, FINDINGS, ROOT

PAGES = sorted(BENCHMARKS.rglob("*.md"))
INDEX = BENCHMARKS / "README.md"
NOTEBOOK = BENCHMARKS / "notebook"


def links(page):
    targets = re.findall(r"\]\(([^)#]+)", page.read_text())
    return {(page.parent / target).resolve() for target in targets if "://" not in target}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(page):
    assert [target for target in links(page) if not target.exists()] == []


def test_the_index_is_one_screen_and_leads_to_every_page():
    assert len(INDEX.read_text().splitlines()) <= 60
    reached = links(INDEX) | links(NOTEBOOK / "README.md") | {INDEX}
    assert [page for page in PAGES if page not in reached] == []
    folders = {path for path in (BENCHMARKS / "results").iterdir() if path.is_dir()}
    assert folders <= links(INDEX)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent != NOTEBOOK], ids=lambda path: path.stem
)
def test_the_notebook_is_reached_by_its_index_only(page):
    inside = {target for target in links(page) if target.parent == NOTEBOOK}
    assert inside <= {NOTEBOOK / "README.md"}


@pytest.mark.parametrize("page", FINDINGS, ids=lambda path: path.stem)
def test_a_finding_has_all_its_parts(page):
    text = page.read_text()
    for part in ("**Claim**", "**Claim.**"):
        if part in text:
            break
    else:
        pytest.fail("no claim")
    for part in (
        "**Does it hold?**",
        "**Measured.**",
        "## What it means",
        "## Limits",
        "Results: ",
    ):
        assert part in text
    assert "repeated at standard length" in " ".join(text.split())


def commands(page):
    text = page.read_text().replace("\\\n", " ")
    return re.findall(r"^ {4}(kdbench .*)$", text, re.MULTILINE)


@pytest.mark.parametrize("page", FINDINGS, ids=lambda path: path.stem)
def test_a_finding_can_be_repeated(page):
    shown = commands(page)
    assert shown
    for line in shown:
        _, name, *arguments = shlex.split(line.replace("SEED", "0"))
        context = main.make_context("kdbench", [name], resilient_parsing=True)
        main.get_command(context, name).make_context(name, arguments)
        for path in re.findall(r"--spec (\S+)", line):
            assert (ROOT / path).is_file()
    assert {line.split()[1] for line in shown} <= set(_COMMANDS)
