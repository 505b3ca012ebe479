"""The pages under benchmarks/ and the scripts that write them, for the tests."""

import importlib
import re
import sys
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
FINDINGS = sorted((BENCHMARKS / "findings").glob("*.md"))
RESULTS = sorted(path.parent for path in BENCHMARKS.glob("results/*/results.csv"))

# The scripts import each other, as they do where they are run.
sys.path.insert(0, str(BENCHMARKS))
render = importlib.import_module("render")
agreement = importlib.import_module("agreement")
agreement_tables = importlib.import_module("agreement_tables")
results = lru_cache(render.results)


def prose(text):
    """The text without tables, comments, commands and folded parts, on one line."""
    text = re.sub(r"<details>.*?</details>|<!--.*?-->", "", text, flags=re.DOTALL)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "    "))]
    return " ".join(" ".join(lines).split())


def rows(folder, **kept):
    """The measured rows of a folder of results that have the values of ``kept``, or one of them."""
    return [
        row
        for row in results(folder)
        if all(row[k] in (v if isinstance(v, tuple) else (v,)) for k, v in kept.items())
    ]
