"""Every number that a finding states in words is computed from the results."""

import csv
import re

import pytest

from kdbench.bench.request.preset_files import preset_remarks
from tests.benchmarks.claims import agreement, attacks, choices, defenses, length, presets
from tests.benchmarks.claims.common import CLAIMS
from tests.benchmarks.pages import BENCHMARKS, FINDINGS, prose

#: What may stand in the text without being a result.
NAMES = (
    r"`m_max` \d|`[^`]*`|\]\([^)]*\)|WRN-\d+-\d+|ResNet-56|Pyramid(Net)?-\d+|Eq\. \d+( to \d+)?"
    r"|seeds? \d( and \d)?|C[1-6]\b|Figure 2|Finding 2|\d+ points (travelled|of ASR)"
    r"|at least 30 % more|the 30 % of the claim|the paper's 0\.2|\d+ steps"
)
#: The modules that register claims.
CLAIMING = (agreement, attacks, choices, defenses, length, presets)


def test_the_variances_are_those_that_reproduce_wrote():
    with (BENCHMARKS / "results/fig2-signs/fig2.csv").open() as file:
        written = {(line["images"], line["teacher"]): line for line in csv.DictReader(file)}
    for attack in sorted({row["attack"] for row in attacks.TRAINED}):
        for images, name in (
            ("untriggered", "variance_ratio"),
            (f"triggered by {attack}", "variance_ratio_triggered"),
        ):
            line = written[images, attack]
            expected = [float(line[f"to_clean{end}"]) for end in ("", "_low", "_high")]
            assert list(attacks.ratios(attack, name)) == pytest.approx(expected, abs=2e-4)


def uncomputed(text, claims):
    """What states a number and is no claim."""
    for words in claims:
        text = text.replace(words.removesuffix("."), "")
    numbers = r"[^.]*(?<![\w.])\d+(?:\.\d+)?(?!\w)[^.]*"
    return re.findall(numbers, re.sub(NAMES, "", text))


@pytest.mark.parametrize(
    ("page", "index", "function"), CLAIMS, ids=lambda part: getattr(part, "__name__", None)
)
def test_a_claim_is_what_the_results_say(page, index, function):
    words = function()
    assert words in prose((BENCHMARKS / "findings" / f"{page}.md").read_text())
    if index:
        assert words.removesuffix(".") in verdicts()[page]


def verdicts():
    """What the index says of each page."""
    rows = [line.split(" | ") for line in (BENCHMARKS / "README.md").read_text().splitlines()]
    linked = [(re.search(r"findings/([\w-]+)\.md", row[3]), row[1]) for row in rows if len(row) > 3]
    return {match[1]: verdict for match, verdict in linked if match}


def test_the_readme_counts_runs_as_the_findings_do():
    """Every "9 of 15" under its findings is of one of the claims."""
    text = (BENCHMARKS.parent / "README.md").read_text()
    assert_counts_are_claimed(text.split("## Found so far")[1].split("\n## ")[0])


def test_a_preset_counts_runs_as_the_findings_do():
    """What ``kdbench list presets`` says of its credibility."""
    assert_counts_are_claimed(preset_remarks("quick").about)


def assert_counts_are_claimed(text):
    counts = set(re.findall(r"\d+ of \d+", text))
    claimed = " ".join(function() for *_, function in CLAIMS).replace(" of the ", " of ")
    assert counts
    assert {count for count in counts if not re.search(rf"\b{count}\b", claimed)} == set()


@pytest.mark.parametrize("path", FINDINGS, ids=lambda path: path.stem)
def test_no_number_is_stated_that_is_not_computed(path):
    text = path.read_text()
    verdict = re.search(r"\*\*Does it hold\?\*\*(.*?)\*\*Measured", text, re.DOTALL)[1]
    meaning = re.search(r"## What it means\n(.*?)\n## ", text, re.DOTALL)[1]
    claims = [function() for page, _, function in CLAIMS if page == path.stem]
    assert uncomputed(prose(verdict + "\n" + meaning), claims) == []
    assert uncomputed(verdicts()[path.stem], claims) == []
