"""The drawings: where their marks are, and what they say."""

from __future__ import annotations

import pytest

from kdbench.page.bars import bars_of
from kdbench.page.scatter import MOST_MARKS, PAGE, scatter_of
from kdbench.page.tasks import tasks_of
from tests.page.runs import mixed, outcome
from tests.report.report_rows import cell, imported_cell


def drawn(rows):
    return scatter_of(tasks_of(rows)[:1])


def test_one_mark_for_each_setting_and_the_controls():
    drawing = drawn(mixed())
    assert [dot.setting for dot in drawing.dots] == [None, None, 0, 1, 2, 3, 4, 5]
    styles = [dot.style for dot in drawing.dots[2:]]
    assert styles == ["base", "partly", "not", "base", "stopped", "not"]
    # The attack is the shape.
    assert [dot.shape for dot in drawing.dots[2:]] == [0] * 3 + [1] * 3
    assert drawing.shapes == [("lba", 0), ("ckd", 1)]


def test_c3_is_drawn_where_nobody_asked_for_the_undefended_student():
    names = [dot.about.partition(":")[0] for dot in drawn([cell(defense="nad")]).dots]
    assert names == ["C1", "C3", "lba, nad"]


def test_where_a_mark_is():
    """ASR 10 and 80, so x is from 0 to 80; ACC 95 and 96, so y has at least 5 points."""
    drawing = drawn([cell(defense="nad", student_asr=90, c1_asr=0)])
    assert [label for _, label in drawing.x_ticks] == ["0", "20", "40", "60", "80"]
    dot = drawing.dots[-1]
    assert dot.x == pytest.approx(60 + 400 * 10 / 80, abs=0.1)
    assert drawing.y_ticks[0][0] > dot.y > drawing.y_ticks[-1][0]
    assert dot.about == "lba, nad: ASR 10.0, ACC 95.0, partly"


def test_labels_cover_neither_marks_nor_each_other():
    drawing = drawn([cell(defense=f"d{n}", student_asr=100 + 3 * n) for n in range(40)])
    labels = [dot.label for dot in drawing.dots]
    assert len({(label.x, label.y) for label in labels}) == len(labels) == 42
    boxes = [box(label) for label in labels]
    boxes += [(dot.x - 5, dot.y - 5, dot.x + 5, dot.y + 5) for dot in drawing.dots]
    for label, (left, top, right, bottom) in zip(labels, boxes, strict=False):
        others = [other for other in boxes if other != box(label)]
        assert not [
            o for o in others if left < o[2] and o[0] < right and top < o[3] and o[1] < bottom
        ]


def box(label):
    """Left, top, right and bottom of a label's letters."""
    width = len(label.text) * PAGE.letter
    left = label.x - {"start": 0, "middle": width / 2, "end": width}[label.anchor]
    return left, label.y - 9, left + width, label.y + 3


LONG = "robustkd.raterandom [lr=0.1; offset=shuffled; m_max=1.0]"


def test_every_mark_can_be_told_where_many_lie_together():
    names = [LONG, *(f"defense{n}" for n in range(8))]
    drawing = drawn([cell(defense=name, student_asr=700 + n) for n, name in enumerate(names)])
    assert list(drawing.key) == names
    assert [dot.label.text for dot in drawing.dots] == ["C1", "C3", *map(str, range(1, 10))]
    far = [dot for dot in drawing.dots if dot.label.is_far]
    assert far
    assert all(dot.leader.startswith(f"M{dot.x} {dot.y}L") for dot in far)


def test_a_number_is_the_defense_and_the_shape_is_the_attack():
    rows = [cell(defense=f"defense{n}", attack=a, student_asr=700) for a in "xy" for n in range(9)]
    drawing = drawn(rows)
    assert list(drawing.key) == [f"defense{n}" for n in range(9)]
    settings = [dot for dot in drawing.dots if dot.setting is not None]
    assert len({(dot.shape, dot.label.text) for dot in settings}) == 18


def test_names_have_the_attack_where_attacks_share_a_shape():
    rows = [cell(defense="nad", attack=f"a{n}", student_asr=700) for n in range(9)]
    drawing = drawn(rows)
    assert list(drawing.key) == [f"a{n}, nad" for n in range(9)]


def test_where_all_names_have_room_there_is_no_key():
    drawing = drawn([cell(defense="nad"), cell(defense="anp", student_asr=90)])
    assert drawing.key == []
    assert [dot.label.text for dot in drawing.dots] == ["C1", "C3", "nad", "anp"]


def test_a_drawing_of_several_tasks_tells_them_apart():
    rows = [cell(defense="nad", student_asr=400), cell(defense="nad", distiller="kd")]
    drawing = scatter_of(tasks_of(rows))
    names = {*drawing.key} or {dot.label.text for dot in drawing.dots}
    assert {"nad, fkd", "nad, kd", "C1, fkd", "C1, kd"} <= names


def test_a_drawing_has_so_many_marks_and_says_how_many_are_left():
    rows = [
        cell(defense=f"d{n}", setting_digest=f"{n:064x}", defense_digest=f"{n:064x}")
        for n in range(MOST_MARKS + 7)
    ]
    drawing = drawn(rows)
    assert drawing.left_out == 7
    assert len(drawing.dots) == MOST_MARKS + 2


def test_nothing_measured_is_no_drawing():
    assert drawn([outcome("failed")]) is None


def test_bars():
    ((attack, bars), _) = bars_of(tasks_of(mixed())[0])
    assert attack == "lba"
    assert [bar.setting.defense for bar in bars] == ["none", "nad", "anp"]
    none, nad, anp = bars
    assert none.words == "79.0 points travelled"
    # (720 - 300) / (720 - 9) is 59 %. One of three seeds failed.
    assert nad.words == "59 % removed in 2 of 3 seeds (59 to 59)"
    assert (nad.c1, nad.c3, nad.asr) == pytest.approx((1, 80, 100 / 3))
    assert nad.numbers == "C1 1.0, C3 80.0, ASR 33.3"
    assert anp.words.startswith("3 % removed in 2 of 3 seeds")


def test_a_bar_of_which_nothing_can_be_said():
    names = ("inconclusive", "no verdict", "failed")
    rows = [
        outcome(name, defense=f"d{n}", setting_digest=f"{n:064x}") for n, name in enumerate(names)
    ]
    ((_, bars),) = bars_of(tasks_of(rows)[0])
    words = [bar.words for bar in bars]
    assert words == ["10.0 points travelled, 30 are needed", "no verdict", "not measured"]


def test_an_attack_without_any_number_has_no_bars():
    (task,) = tasks_of([outcome("failed", attack="lba"), cell(attack="ckd")])
    assert [attack for attack, _ in bars_of(task)] == ["ckd"]
    assert bars_of(tasks_of([imported_cell()])[0]) == []
