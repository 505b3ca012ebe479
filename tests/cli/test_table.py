"""Tables and lines that fit, and whose words stay whole."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from kdbench.cli.lines import fitted, shortened
from kdbench.cli.table import PlainTable, column_widths

SPANS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 60)).map(lambda pair: (pair[0], sum(pair))),
    min_size=1,
    max_size=9,
)


@given(SPANS, st.integers(9, 200))
def test_columns_fit_and_have_their_longest_word_where_that_is_possible(spans, width):
    widths = column_widths(spans, width)
    assert sum(widths) <= max(width, len(spans))
    assert all(own <= max(1, natural) for own, (_, natural) in zip(widths, spans, strict=True))
    if sum(max(1, word) for word, _ in spans) <= width:
        assert all(own >= word for own, (word, _) in zip(widths, spans, strict=True))
    if sum(max(1, natural) for _, natural in spans) <= width:
        assert widths == [max(1, natural) for _, natural in spans]


def printed(table, width):
    console = Console(width=width)
    with console.capture() as capture:
        console.print(table)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_column_gets_room_for_its_words_before_another_gets_it_for_its_lines():
    table = PlainTable("a title that is longer than the table")
    table.add_column("what")
    table.add_column("method")
    table.add_row("many small words " * 4, "adaptive_sim")
    lines = printed(table, 30)
    assert lines[0] == "a title that is longer than"
    assert "adaptive_sim" in "\n".join(lines)
    assert max(map(len, lines)) <= 30


def test_the_column_with_the_longest_lines_gives_way_first():
    assert column_widths([(5, 60), (4, 12), (3, 7)], 50) == [31, 12, 7]
    assert column_widths([(5, 60), (4, 60), (3, 7)], 50) == [22, 21, 7]
    assert column_widths([(20, 20), (30, 30), (3, 7)], 40) == [19, 18, 3]


def test_a_word_that_is_too_long_breaks_at_a_separator():
    table = PlainTable()
    table.add_column("path")
    table.add_row("[bold]not markup[/] /data/experiments/first/of-many.csv".replace("[", r"\["))
    lines = printed(table, 20)
    assert max(map(len, lines)) <= 20
    assert "/data/experiments/" in lines
    assert "first/of-many.csv" in lines
    assert "[bold]not" in "".join(lines)


@given(
    st.text("ab c", max_size=60),
    st.lists(st.text("xyz ", min_size=1, max_size=20), max_size=3),
    st.integers(1, 90),
)
def test_a_line_drops_parts_and_words_until_it_fits(start, parts, width):
    line = fitted(width, start, parts, parts)
    least = len(start.split(" ")[0]) + len(" ...")
    assert cell_len(line) <= max(width, least)
    assert line.split(" ")[0] == start.split(" ")[0]


def test_the_time_left_stays_in_a_line_that_is_too_long():
    title, left = "now: [7/13] distill wrn10_1 from wrn10_1 with badnets by fkd", "about 10 s left"
    parts = ["epoch 3/7", "loss 0.64", left]
    assert fitted(200, title, parts) == " | ".join([title, *parts])
    assert fitted(80, title, parts, ["loss 0.64", "epoch 3/7"]) == f"{title} | {left}"
    assert fitted(60, title, parts, ["loss 0.64", "epoch 3/7"]) == (
        f"now: [7/13] distill wrn10_1 from ... | {left}"
    )


def test_shortened():
    assert shortened("one two", 7) == "one two"
    assert shortened("one two three", 10) == "one ..."
    assert shortened("indivisible", 4) == "indivisible ..."
