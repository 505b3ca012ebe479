"""The page in a real browser. Each check is also made of a page that is broken on purpose, where it
must fail: otherwise it would say nothing."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import re
from collections import Counter

import pytest

from kdbench.report.columns import COLUMNS
from tests.page.browser import pages
from tests.page.browser.pages import broken
from tests.page.hostile import INJECTIONS
from tests.report.report_rows import cell

TYPE = """const find = document.getElementById("find");
find.value = arguments[0]; find.dispatchEvent(new Event("input"))"""
LINK = "a[href^='#n']"
CLICKED = ("summary", "#all thead button", "#all .more", ".chip", "#reset", LINK, ".copy")


def rows_of(text):
    """The rows of results.csv in the file that a page carries."""
    (packed,) = re.findall(r'gzip;base64,([^"]*)"', text)
    content = gzip.decompress(base64.b64decode(packed)).decode()
    return list(csv.DictReader(io.StringIO(content)))


# -- requests and console --------------------------------------------------------------------------


def disturbances(chrome):
    """What was asked for beside the page, and what the console says, after everything was clicked
    and the page was printed."""
    for selector in CLICKED:
        chrome.click(selector)
    chrome.run(TYPE, "nad")
    assert chrome.printed().startswith(b"%PDF")
    address = chrome.driver.current_url.partition("#")[0]
    asked = [request.partition("#")[0] for request in chrome.requests()]
    return Counter(asked) - Counter([address]), chrome.console()


def test_a_page_asks_for_itself_only_and_says_nothing(show, text):
    assert disturbances(show(text)) == (Counter(), [])


@pytest.mark.parametrize(
    "mistake",
    [
        '<img src="http://127.0.0.1:9/x.png" alt="x">',
        '<link rel="stylesheet" href="http://127.0.0.1:9/x.css">',
        "<script>console.error(1)</script>",
        '<p style="background: url(http://127.0.0.1:9/x.png)">x',
        '<details><summary onclick="fetch(`http://127.0.0.1:9/`)">x</summary></details>',
    ],
)
@pytest.mark.parametrize("policy", [True, False])
def test_whatever_it_would_ask_for_is_noticed(show, text, mistake, policy):
    wrong = text.replace("</header>", f"{mistake}</header>", 1)
    if not policy:
        wrong = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", wrong)
    assert disturbances(show(wrong)) != (Counter(), [])


# -- the numbers -----------------------------------------------------------------------------------


HEADINGS = {
    "teacher ASR": "teacher_asr",
    "ACC": "student_acc",
    "ASR": "student_asr",
    "C1 ASR": "c1_asr",
    "C3 ACC": "c3_acc",
    "C3 ASR": "c3_asr",
    "transferred": "transferred",
    "removed": "removed",
    "seed": "seed",
}


def shown_numbers(chrome):
    """The numbers of the table by heading, a list a row."""
    return chrome.run(
        """const heads = [...document.querySelectorAll("#all thead th.num")];
        return [...document.querySelectorAll("#all tbody tr")].map(row => Object.fromEntries(
            row.dataset.v.split(" ").map((exact, at) => [heads[at].textContent, exact])));"""
    )


def wrong_numbers(chrome, rows):
    shown = shown_numbers(chrome)
    assert len(shown) == len(rows)
    return [
        (heading, line[heading], row[name])
        for line, row in zip(shown, rows, strict=True)
        for heading, name in HEADINGS.items()
        if line[heading] != row[name]
    ]


def test_the_numbers_of_the_page_are_those_of_the_file(show, text):
    rows = rows_of(text)
    assert wrong_numbers(show(text), rows) == []
    wrong = broken(text, " 33.3333 ", " 33.3334 ", 1)
    assert wrong_numbers(show(wrong), rows) == [("ASR", "33.3334", "33.3333")]


def opened(chrome):
    """What the page shows of its second row: (column, value, meaning)."""
    chrome.run("document.querySelectorAll('#all .more')[1].click()")
    script = """const done = arguments[0], look = () => {
        const parts = [...document.querySelectorAll(".detail dl > div")];
        parts.length ? done(parts.map(part => [...part.children].map(c => c.textContent)))
            : setTimeout(look, 20);
    }; look()"""
    return chrome.driver.execute_async_script(script)


def test_a_row_opens_to_every_column_with_its_meaning(show, text):
    row = rows_of(text)[1]
    chrome = show(text)
    parts = opened(chrome)
    assert [(name, value) for name, value, _ in parts] == [(n, v or "–") for n, v in row.items()]
    assert all(meaning for _, _, meaning in parts)
    assert ["status", "ok", "how the measurement ended: measured"] in parts
    assert ["teacher_remark", "–", COLUMNS["teacher_remark"].about] in parts
    assert chrome.all(".more")[1].get_attribute("aria-expanded") == "true"
    chrome.run("document.querySelectorAll('#all .more')[1].click()")
    assert chrome.all(".detail") == []
    # A page that takes the next row shows other values.
    wrong = broken(text, "rows.indexOf(row)+1", "rows.indexOf(row)+2")
    assert opened(show(wrong)) != parts


def test_without_its_script_every_number_is_there(show, text):
    shown = {
        number
        for row in re.findall(r"<tr[^>]* data-v=.*", text)
        for number in re.findall(r"<td>([0-9.\u2212]+)\s*(?=<|$)", row)
    }
    assert {"33.3", "80.0"} <= shown

    def missing(text):
        words = Counter(name.strip() for _, name in show(text, script=False).tree())
        return {number for number in shown if words[number.strip()] < 1}

    try:
        assert missing(text) == set()
        assert missing(text.replace('<table id="all">', '<table id="all" hidden>')) != set()
    finally:
        show("", script=True)


# -- sorting and filters ---------------------------------------------------------------------------


def expected_order(rows, name, down):
    """Numbers by value, texts by their letters, what is missing last. Equal ones keep their
    order."""
    value = float if name in HEADINGS.values() else str
    known = [row for row in rows if row[name] != ""]
    values = sorted({value(row[name]) for row in known}, reverse=down)
    in_order = [row for each in values for row in known if value(row[name]) == each]
    return in_order + [row for row in rows if row[name] == ""]


def seen(chrome):
    """The visible rows, by what no two rows have in common."""
    return chrome.run(
        """return [...document.querySelectorAll("#all tbody tr")].filter(row => !row.hidden)
        .map(row => [...row.cells].map(cell => cell.lastChild.textContent).slice(0, 3).join(" "))"""
    )


def label(row):
    return f"{row['attack']} {row['defense']} {row['seed']}"


def wrongly_sorted(chrome, rows):
    wrong = []
    for heading, name in {"attack": "attack", "defense": "defense", **HEADINGS}.items():
        for down in (False, True):
            buttons = chrome.all("#all thead button")
            (button,) = [b for b in buttons if b.get_attribute("textContent") == heading]
            chrome.run("arguments[0].click()", button)
            sort = button.find_element("xpath", "..").get_attribute("aria-sort")
            right = "descending" if down else "ascending"
            if seen(chrome) != list(map(label, expected_order(rows, name, down))) or sort != right:
                wrong.append((heading, down))
    return wrong


def test_every_column_sorts_as_python_does(show, text):
    rows = rows_of(text)
    assert wrongly_sorted(show(text), rows) == []
    for old, new in (
        ("(x>y)-(x<y)", "(x<y)-(x>y)"),
        ("(x==null)-(y==null)", "0"),
        ("?+exact", "?exact"),
    ):
        assert wrongly_sorted(show(broken(text, old, new)), rows) != []


def filtered(chrome, rows):
    """Whether search, chips and links show the rows that they should, and the address keeps it."""
    problems = []

    def check(what, wanted):
        if seen(chrome) != [label(row) for row in rows if wanted(row)]:
            problems.append(what)
        address = chrome.driver.current_url
        chrome.driver.get("about:blank")
        chrome.driver.get(address)
        if seen(chrome) != [label(row) for row in rows if wanted(row)]:
            problems.append(f"{what}, opened again")

    chrome.run(TYPE, "CKD")
    check("search", lambda row: row["attack"] == "ckd")
    chrome.run("document.getElementById('reset').click()")
    check("reset", lambda row: True)
    chrome.run("document.querySelector('.chip[data-v=m-failed]').click()")
    check("chip", lambda row: row["status"] == "ok")
    chrome.run("document.querySelector('.chip[data-v=m-failed]').click()")
    check("chip again", lambda row: True)
    chrome.run("document.querySelectorAll('.matrix a')[3].click()")
    check("matrix", lambda row: (row["attack"], row["defense"]) == ("ckd", "nad"))
    chrome.run(
        "document.querySelectorAll('.plot a')[1].dispatchEvent("
        "new MouseEvent('click', {bubbles: true, cancelable: true}))"
    )
    check("drawing", lambda row: (row["attack"], row["defense"]) == ("lba", "nad"))
    return problems


def test_filters_show_what_they_say_and_the_address_keeps_it(show, text):
    rows = rows_of(text)
    assert filtered(show(text), rows) == []
    for old, new, problem in (
        ("!row.textContent", "row.textContent", "search"),
        ("s!==settings[n]", "s===settings[n]", "matrix"),
        ('history.replaceState(0,0,"#"+state)', "0", "search, opened again"),
        ("gone.delete(chip.dataset.v)||", "", "chip again"),
    ):
        assert problem in filtered(show(broken(text, old, new)), rows)


# -- columns ---------------------------------------------------------------------------------------


def visible_columns(chrome):
    """The headings that are visible, and how many cells of each row and of the first open one."""
    return chrome.run(
        """const seen = part => part.getClientRects().length > 0;
        const heads = [...document.querySelectorAll("#all thead th")].filter(seen);
        return [heads.map(head => head.textContent),
            [...new Set([...document.querySelectorAll("#all tbody tr:not(.detail)")].map(
                row => [...row.cells].filter(seen).length))]]"""
    )


def toggled(chrome, *names):
    """Open the list of columns and press some of them by the keyboard."""
    from selenium.webdriver.common.keys import Keys

    if chrome.all(".controls details:not([open])"):
        chrome.all(".controls summary")[0].send_keys(Keys.ENTER)
    for button in chrome.all("#shown button"):
        if button.text in names:
            button.send_keys(Keys.SPACE)
    pressed = {b.text: b.get_attribute("aria-pressed") for b in chrome.all("#shown button")}
    return pressed, visible_columns(chrome)


def test_columns_are_hidden_and_shown_again_by_the_keyboard(show, text):
    chrome = show(text)
    before, _ = visible_columns(chrome)
    # The first column has the button of the row, and stays.
    assert [b.get_attribute("textContent") for b in chrome.all("#shown button")] == before[1:]
    pressed, (names, cells) = toggled(chrome, "ACC", "verdict")
    assert {name for name, state in pressed.items() if state == "false"} == {"ACC", "verdict"}
    assert names == [name for name in before if name not in ("ACC", "verdict")]
    assert cells == [len(names)]
    assert chrome.violations() == []
    # Sorting and filters are of all columns, and a row opens as before.
    chrome.run("document.querySelector('#all thead button').click()")
    assert len(opened(chrome)) == len(COLUMNS)
    assert visible_columns(chrome) == [names, cells]
    pressed, (names, _) = toggled(chrome, "ACC", "verdict")
    assert (set(pressed.values()), names) == ({"true"}, before)
    wrong = broken(text, "row.cells[at])].forEach", "row.cells[0])].forEach")
    _, (names, cells) = toggled(show(wrong), "ACC", "verdict")
    assert cells != [len(names)]


def test_nothing_is_kept_of_the_columns(show, text):
    chrome = show(text)
    before = visible_columns(chrome)
    toggled(chrome, "ACC")
    address = chrome.driver.current_url
    chrome.driver.refresh()
    assert visible_columns(chrome) == before
    assert "ACC" not in address
    assert chrome.run("try { return localStorage.length } catch { return 0 }") == 0


# -- foreign text ----------------------------------------------------------------------------------


def intruders(chrome, plain):
    """Elements beyond those of a page with harmless text, and whether a foreign script ran."""
    script = "return [...document.querySelectorAll('*')].map(e => e.tagName)"
    elements = Counter(chrome.run(script)) - plain
    return elements, chrome.run("return window.touched === undefined"), chrome.console()


def foreign_rows(texts):
    return [
        cell(attack=f"{text}{n}", defense="nad", reason=text, device=text, student_asr=400)
        for n, text in enumerate(texts)
    ]


def test_foreign_text_adds_no_element_and_runs_nothing(show, tmp_path):
    assert len(INJECTIONS) >= 40
    # A name may be broken at its dots.
    harmless = [re.sub(r"[^.]", "x", text) for text in INJECTIONS]
    chrome = show(pages.page(tmp_path / "plain", foreign_rows(harmless)))
    plain = Counter(chrome.run("return [...document.querySelectorAll('*')].map(e => e.tagName)"))
    text = pages.page(tmp_path / "foreign", foreign_rows(INJECTIONS))
    elements, untouched, lines = intruders(show(text), plain)
    elements.pop("text", None)  # a longer name may have its label in the drawing
    assert (elements, untouched, lines) == (Counter(), True, [])
    for other in INJECTIONS[:3]:
        wrong = text.replace("&lt;script&gt;", "<script>").replace("&lt;/script&gt;", "</script>")
        assert intruders(show(wrong), plain)[0]["SCRIPT"] > 0, other
