"""``kdbench cite``."""

from __future__ import annotations

import re
from pathlib import Path

import kdbench
from tests.cli.calls import call

ROOT = Path(__file__).parents[2]


def test_kdbench_is_cited_as_the_citation_file_says():
    text = call("cite").output
    cited = (ROOT / "CITATION.cff").read_text()
    title = re.search('^title: "(.*)"$', cited, re.MULTILINE)[1]
    author = re.search("^  - name: (.*)$", cited, re.MULTILINE)[1]
    assert text.startswith("@software{kdbench,\n")
    assert f"title = {{{title}}}" in text
    assert f"author = {{{{{author}}}}}" in text
    assert f"version = {{{kdbench.__version__}}}" in text
    assert text.count("@") == 1


def test_methods_are_cited_by_their_papers():
    result = call("cite", "robustkd", "attack.lba", "robustkd.eq15", "none")
    assert result.exit_code == 0
    assert re.findall("^@.*{(.*),", result.stdout, re.MULTILINE) == ["kdbench", "robustkd", "lba"]
    assert "url = {https://arxiv.org/abs/2406.03409}" in result.stdout
    assert result.stderr == "none has no paper\n"
    assert call("cite", "robustk").exit_code == 2
