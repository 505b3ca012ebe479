"""Every folder of results says where it comes from, and a finding shows all of it."""

import json
import re
import subprocess

import pytest

from kdbench.report.read import read_results
from tests.benchmarks.pages import BENCHMARKS, FINDINGS, RESULTS, ROOT

KEYS = ["command", "commit", "machine", "date", "preset", "missing", "note"]


def git(*arguments):
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def test_no_folder_is_without_results():
    folders = {path for path in (BENCHMARKS / "results").iterdir() if path.is_dir()}
    assert folders == set(RESULTS)


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.name)
def test_every_measured_student_is_in_a_finding_that_links_to_it(folder):
    pages = [path.read_text() for path in FINDINGS]
    linking = [page for page in pages if f"(../results/{folder.name}/)" in page]
    assert linking
    stated = set(re.findall(r"\d+(?:\.\d+)?", "\n".join(linking)))
    measured = {f"{row['student_asr']:.1f}" for row in read_results(folder).rows}
    assert measured - stated == set()


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.name)
def test_a_folder_says_how_it_was_made(folder):
    run = json.loads((folder / "run.json").read_text())
    assert list(run) == KEYS
    rows = read_results(folder).rows
    assert {row["preset"] for row in rows} == {run["preset"]}
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", run["date"])
    assert all(command.startswith("kdbench ") for command in run["command"])
    assert all(isinstance(text, str) for text in run["missing"])
    assert all(row["device"] in run["machine"] or "no GPU" in run["machine"] for row in rows)
    for path in re.findall(r"--spec (\S+)", "\n".join(run["command"])):
        assert (ROOT / path).exists()
    assert run["commit"] or "commit" in run["note"], "what is not known needs a note"


@pytest.mark.skipif(
    git("rev-parse", "--is-shallow-repository") != "false", reason="needs the whole history"
)
def test_the_commits_that_are_named_exist():
    runs = [json.loads((folder / "run.json").read_text()) for folder in RESULTS]
    for commit in (commit for run in runs for commit in run["commit"] or ()):
        assert git("cat-file", "-t", commit) == "commit", commit
