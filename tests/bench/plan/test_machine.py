"""What computes is in the digest of the code, or is named here as harmless."""

from __future__ import annotations

import re

import pytest

from kdbench.bench.plan import machine
from kdbench.bench.plan.machine import ROW_CODE, STAGE_CODE, code_digest, code_files
from tests.test_layout import MODULES, ROOT, ours

#: Modules that a stage imports and that cannot change a number.
HARMLESS = {
    "kdbench._files": "JSON of facts that are computed already",
    "kdbench._libraries": "names of libraries, whose versions are in the key",
    "kdbench._progress": "what is shown of a training",
    "kdbench.bench": "empty",
    "kdbench.bench.keys": "names of files; another digest gives another key by itself",
    "kdbench.bench.work": "empty",
    "kdbench.bench.work.executors": "empty",
    "kdbench.bench.work.executors.child": "sets the threads of numerics, which are in the key",
    "kdbench.bench.work.job": "what a process is told and says",
    "kdbench.bench.work.report": "limits of what a process says; it refuses and changes nothing",
    "kdbench.data": "finds datasets; the pixels are in the dataset's digest",
    "kdbench.data.common": "loads datasets; the pixels are in the dataset's digest",
    "kdbench.data.left_out": "counts for people; what is left out is not in the dataset's digest",
    "kdbench.data.spelling": "finds class folders; the names are in the dataset's digest",
    "kdbench.data.glyphs": "draws the built-in dataset; the pixels are in its digest",
    "kdbench.data.signs": "draws the built-in dataset; the pixels are in its digest",
    "kdbench.errors": "messages",
    "kdbench.hookspecs": "what a plugin may implement",
    "kdbench.loading": "empty",
    "kdbench.loading.candidates": "finds plugins; their own source is in the key",
    "kdbench.loading.choice": "finds plugins; their own source is in the key",
    "kdbench.loading.plugin": "loads plugins; their own source is in the key",
    "kdbench.loading.registry": "finds plugins; their own source is in the key",
    "kdbench.loading.source": "digests code; another digest gives another key by itself",
    "kdbench.report": "empty",
    "kdbench.untrusted": "empty",
    "kdbench.untrusted.files": "opens files with limits; it refuses and changes nothing",
    "kdbench.untrusted.header": "reads headers with limits; it refuses and changes nothing",
    "kdbench.untrusted.text": "text for people",
    "kdbench.report.pictures": "draws a trigger for people; a picture is no number",
}

#: The same for what makes a row.
HARMLESS_FOR_ROWS = {
    **HARMLESS,
    "kdbench.bench.plan": "empty",
    "kdbench.bench.plan.plan": "names of roles; which stages a cell needs is in its key",
    "kdbench.bench.request": "empty",
    "kdbench.bench.run": "empty",
    "kdbench.report.columns": "names of columns; the schema is in the key",
}

#: What is computed: the stages, and the networks, which they find by name. Plugins are asked below.
STAGE_ROOTS = (
    "kdbench.bench.work.executors.child",
    "kdbench.bench.work.stages",
    *(name for name in MODULES if name.startswith("kdbench.models.")),
)


def covered(names: tuple[str, ...]) -> set[str]:
    files = {file for name in names for file in code_files(ROOT / name)}
    return {module for module, path in MODULES.items() if path in files}


def used(roots: set[str], stop: set[str]) -> set[str]:
    """Everything of kdbench that some modules import, and what that imports, and its packages;
    what is harmless may import what it likes."""
    seen: set[str] = set()
    left = set(roots)
    while left:
        module = left.pop()
        seen.add(module)
        package = module.rpartition(".")[0]
        more = {package} if package in MODULES else set()
        more |= set(ours(MODULES[module])) if module not in stop else set()
        left |= {name for name in more if name in MODULES and name != "kdbench"} - seen
    return seen


def of_plugins() -> set[str]:
    files = sorted((ROOT.parent / "plugins").rglob("*.py"))
    return {name for path in files for name in ours(path) if name in MODULES}


def test_what_the_stages_import_is_in_the_digest_or_harmless():
    unnamed = used({*STAGE_ROOTS, *of_plugins()}, set(HARMLESS) - set(STAGE_ROOTS)) - covered(
        STAGE_CODE
    )
    unnamed -= set(HARMLESS)
    assert not unnamed, (
        f"{', '.join(sorted(unnamed))}: can it change a number? Then add it to STAGE_CODE in "
        "kdbench/bench/plan/machine.py; else to HARMLESS here, with the reason"
    )


def test_what_makes_a_row_is_in_its_digest_or_in_the_stages_or_harmless():
    """What the stages' digest covers is in the keys of the measurements, and so in the row's."""
    unnamed = used({"kdbench.bench.run.rows"}, set(HARMLESS_FOR_ROWS))
    unnamed -= covered(ROW_CODE) | covered(STAGE_CODE) | set(HARMLESS_FOR_ROWS)
    assert not unnamed, f"{', '.join(sorted(unnamed))}: into ROW_CODE, or HARMLESS_FOR_ROWS"


def test_no_module_is_both_and_none_is_gone():
    for harmless, code in ((HARMLESS, STAGE_CODE), (HARMLESS_FOR_ROWS, ROW_CODE)):
        assert not set(harmless) & covered(code)
        assert set(harmless) <= set(MODULES)
    assert all((ROOT / name).exists() for name in (*STAGE_CODE, *ROW_CODE))
    assert all(HARMLESS_FOR_ROWS.values())


AS_IT_IS = code_digest(STAGE_CODE), code_digest(ROW_CODE)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """The digest of a copy of the code, one of whose files was edited."""

    def digests(name, edit):
        for file in {f for n in (*STAGE_CODE, *ROW_CODE) for f in code_files(ROOT / n)}:
            copy = tmp_path / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
        path = tmp_path / name
        path.write_text(edit(path.read_text()))
        monkeypatch.setattr(machine.kdbench, "__file__", str(tmp_path / "__init__.py"))
        return tuple(code_digest.__wrapped__(names) for names in (STAGE_CODE, ROW_CODE))

    return digests


def test_an_edit_of_words_keeps_what_was_computed(copied):
    def reword(text):
        text, count = re.subn(r'^( *)"""(?=[A-Z])', r'\1"""Well: ', text, flags=re.MULTILINE)
        assert count > 1
        return f"# A remark.\n{text}"

    for name in ("bench/work/stages.py", "report/verdict.py"):
        assert copied(name, reword) == AS_IT_IS


def test_another_rule_of_the_verdict_changes_rows_and_no_stage(copied):
    def higher(text):
        assert "TRANSFER_FLOOR = 30.0" in text
        return text.replace("TRANSFER_FLOOR = 30.0", "TRANSFER_FLOOR = 29.0")

    stage, row = copied("report/verdict.py", higher)
    assert (stage == AS_IT_IS[0], row == AS_IT_IS[1]) == (True, False)


def test_other_arithmetic_changes_stages(copied):
    def other(text):
        assert "recipe.momentum > 0" in text
        return text.replace("recipe.momentum > 0", "recipe.momentum >= 0")

    assert copied("training/state.py", other)[0] != AS_IT_IS[0]
