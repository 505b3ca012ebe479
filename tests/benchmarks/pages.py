"""The pages under benchmarks/ and their renderer, for the tests."""

import importlib.util
import re
import sys
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
FINDINGS = sorted((BENCHMARKS / "findings").glob("*.md"))
RESULTS = sorted(path.parent for path in BENCHMARKS.glob("results/*/results.csv"))


def _load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # a dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


render = _load(BENCHMARKS / "render.py")
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
