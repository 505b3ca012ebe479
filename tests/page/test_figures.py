"""Figures and tables for a paper."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from kdbench.page.figures import write_figures
from kdbench.page.latex import latex_table
from kdbench.page.sweeps import sweeps_of
from kdbench.page.tasks import tasks_of
from tests.page.runs import mixed, outcome, source
from tests.report.rankings import setting
from tests.report.report_rows import cell


def strengths(name="nad", values=(1, 2, 4)):
    """One number of a defense at several values."""
    return [
        cell(
            defense=name,
            seed=seed,
            student_asr=100 * place + seed,
            changed=f"defense.{name}.beta={value}",
            setting_digest=f"{place:064x}",
            defense_digest=f"{place:064x}",
        )
        for place, value in enumerate(values)
        for seed in range(2)
    ]


def test_each_figure_is_a_pdf_and_a_png_one_column_wide(tmp_path):
    paths = write_figures(source(mixed()), tmp_path / "figures")
    names = [path.name for path in paths]
    assert names == ["table.tex", "scatter.pdf", "scatter.png", "transfer.pdf", "transfer.png"]
    for path in paths[1:]:
        if path.suffix == ".pdf":
            assert path.read_bytes().startswith(b"%PDF")
            continue
        with Image.open(path) as image:
            assert image.width == pytest.approx(3.33 * 300, abs=2)
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10


def test_nothing_is_cut_at_the_edges(tmp_path):
    rows = [
        row | {"defense": row["defense"].replace("nad", "robustkd.raterandom")} for row in mixed()
    ]
    for path in write_figures(source(rows), tmp_path):
        if path.suffix == ".png":
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("L"))
            edges = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
            assert all((edge == 255).all() for edge in edges), path.name


def test_the_same_rows_give_the_same_files(tmp_path):
    first, second = (write_figures(source(mixed()), tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_every_task_has_its_figures(tmp_path):
    rows = [*mixed(), *(cell(student="wrn10_1", seed=seed) for seed in range(2))]
    names = {path.stem for path in write_figures(source(rows), tmp_path)}
    assert "scatter-1-signs-wrn16_2-wrn16_1-fkd" in names
    assert "transfer-2-signs-wrn16_2-wrn10_1-fkd" in names


@pytest.mark.parametrize("name", ["failed", "inconclusive", "no verdict", "stopped"])
def test_a_run_of_one_cell_has_what_can_be_drawn(tmp_path, name):
    stems = {path.stem for path in write_figures(source([outcome(name, defense="nad")]), tmp_path)}
    assert stems == {"table"} | (set() if name == "failed" else {"scatter", "transfer"})


def test_names_are_no_formulas_and_no_paths(tmp_path):
    rows = [cell(attack="$x^2$", defense=r"\frac{", dataset="../../x", seed=n) for n in range(2)]
    rows += [cell(dataset="y")]
    paths = write_figures(source(rows), tmp_path / "figures")
    assert {path.parent for path in paths} == {tmp_path / "figures"}


def test_one_number_at_three_values_is_a_sweep(tmp_path):
    (task,) = tasks_of(strengths())
    (sweep,) = sweeps_of(task)
    assert (sweep.name, sweep.fixed) == ("defense.nad.beta", "lba")
    assert [value for value, _ in sweep.points] == [1, 2, 4]
    assert "sweep.pdf" in {path.name for path in write_figures(source(strengths()), tmp_path)}
    assert sweeps_of(tasks_of(strengths(values=(1, 2)))[0]) == []


def test_variants_that_are_numbers_are_a_sweep_too():
    rows = [
        cell(defense=name, setting_digest=f"{n:064x}", defense_digest=f"{n:064x}")
        for n, name in enumerate(("robustkd.m10", "robustkd.m50", "robustkd.m100", "robustkd.ce"))
    ]
    (sweep,) = sweeps_of(tasks_of(rows)[0])
    assert (sweep.name, [value for value, _ in sweep.points]) == ("robustkd.m", [10, 50, 100])


def test_a_table_for_latex():
    rows = [*setting("none", (720, 700, 710)), *setting("a_b", (90, 90, 180))]
    lines = latex_table(tasks_of(rows)).splitlines()
    assert r"\begin{tabular}{llrrrrl}" in lines
    body = [line for line in lines if line.endswith(r"\\")]
    assert body[0] == r"attack & defense & rank & ASR & ACC & removed & verdict \\"
    # ASR 10, 10 and 20: mean 13.3, and Student's interval 13.3 - 14.3 is cut at 0.
    assert body[1].startswith(r"lba & a\_b & 1 & \textbf{13.3 [0.0, 27.7]} & 95.0 [95.0, 95.0] & ")
    assert body[2].startswith(r" & none & 2 & 78.9 [")
    assert lines.count(r"\toprule") == lines.count(r"\bottomrule") == 1


def test_ties_share_their_rank_in_latex():
    rows = [*setting("nad", (300, 310, 320)), *setting("anp", (310, 300, 321))]
    body = [line for line in latex_table(tasks_of(rows)).splitlines() if " & 1 & " in line]
    assert len(body) == 2
    assert all(r"\textbf{" in line for line in body)
