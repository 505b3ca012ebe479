"""Figures and tables for a paper."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from kdbench.page.figures import _figures, write_figures
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


LONG = "robustkd.raterandom [lr=0.1; offset=shuffled; m_max=1.0]"


def test_no_figure_cuts_a_name(tmp_path):
    """Marks that lie together have numbers, with a key of whole names."""
    names = [LONG, *(f"a-defense-of-a-long-name-{n}" for n in range(9))]
    attack = "an attack of a name that is longer than a line of a legend is"
    rows = [
        cell(defense=name, attack=attack, seed=seed, student_asr=700 + n)
        for n, name in enumerate(names)
        for seed in range(2)
    ]
    for name, figure in _figures(tasks_of(rows)):
        figure.canvas.draw()
        width, height = figure.canvas.get_width_height()
        texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
        shown = ["".join(text.get_text().split()) for text in texts]
        for part in (*names, attack):
            assert "".join(part.split()) in " ".join(shown), (name, part)
        for text in texts:
            box = text.get_window_extent()
            assert box.x0 >= 0, (name, text)
            assert box.x1 <= width, (name, text)
            assert box.y0 >= 0, (name, text)
            assert box.y1 <= height, (name, text)


def test_the_name_of_a_sweep_is_whole():
    rows = [row | {"attack": "an attack of a long name " * 4} for row in strengths()]
    figures = dict(_figures(tasks_of(rows)))
    (axes,) = figures["sweep"].axes
    assert "\n" in axes.get_xlabel()
    assert "an attack of a long name " * 3 in " ".join(axes.get_xlabel().split())


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


#: A stranger's name of an attack or a defense, with all that TeX would obey.
NASTY = r"[a_b%c&d#e^f~g\h{i}$j<k>|l [m=0.1]" + "\u2212 é"


def test_what_tex_would_obey_is_text():
    rows = [cell(attack=NASTY, defense=NASTY, seed=seed) for seed in range(2)]
    table = latex_table(tasks_of(rows))
    spelled = (
        r"[a\_b\%c\&d\#e\textasciicircum{}f\textasciitilde{}g\textbackslash{}h\{i\}\$j"
        r"\textless{}k\textgreater{}\textbar{}l [m=0.1]$-$ é"
    )
    # Behind a rule a bracket would be the rule's width.
    assert f"\\midrule\n{{}}{spelled} & {spelled} & " in table


def test_tables_of_several_tasks_are_named():
    rows = [cell(defense="nad"), cell(defense="nad", student="wrn_x")]
    table = latex_table(tasks_of(rows))
    assert table.count(r"\multicolumn{7}{l}{signs, wrn16\_2 to ") == 2
    assert r"\multicolumn" not in latex_table(tasks_of(rows[:1]))


def test_tex_compiles_the_table(tmp_path):
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex: apt-get install texlive-latex-base")
    rows = [cell(attack=NASTY, defense=name, seed=n) for name in ("none", NASTY) for n in (0, 1)]
    rows += [*mixed(), cell(student="wrn_x")]
    (tmp_path / "table.tex").write_text(latex_table(tasks_of(rows)), encoding="utf-8")
    (tmp_path / "paper.tex").write_text(
        r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table}\end{document}"
    )
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-draftmode", "paper"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, timeout=600, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]
