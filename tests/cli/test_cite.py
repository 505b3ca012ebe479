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
    said = dict(re.findall(r'^([a-z-]+): "?(.*?)"?$', cited, re.MULTILINE))
    author = re.search("^  - name: (.*)$", cited, re.MULTILINE)[1]
    assert text.startswith("@software{kdbench,\n")
    assert text.count("@") == 1
    assert said["version"] == kdbench.__version__
    expected = {
        "title": said["title"],
        "author": f"{{{author}}}",
        "year": said["date-released"].partition("-")[0],
        "version": said["version"],
        "license": said["license"],
    }
    # The project has no public address yet. Once the file has one, the entry must have it.
    if address := said.get("url") or said.get("repository-code"):
        expected["url"] = address
    assert dict(re.findall("^  ([a-z]+) = {(.*)},$", text, re.MULTILINE)) == expected


def test_methods_are_cited_by_their_papers():
    result = call("cite", "robustkd", "attack.lba", "robustkd.eq15", "none")
    assert result.exit_code == 0
    assert re.findall("^@.*{(.*),", result.stdout, re.MULTILINE) == ["kdbench", "robustkd", "lba"]
    assert "url = {https://arxiv.org/abs/2406.03409}" in result.stdout
    assert result.stderr == "none has no paper\n"
    assert call("cite", "robustk").exit_code == 2
