"""How the page looks, and whether everybody can use it. Each check is also made of a page that is
broken on purpose, where it must fail."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.page.browser import pages
from tests.page.browser.pages import broken
from tests.page.runs import many
from tests.report.report_rows import cell

WIDTHS, SCHEMES = (360, 768, 1280), ("light", "dark")

# -- looks -----------------------------------------------------------------------------------------


SCROLLS = "return document.documentElement.scrollWidth > innerWidth"


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_does_not_scroll_sideways(show, text, width):
    assert show(text, width=width).run(SCROLLS) is False
    wrong = text.replace(".scroll{overflow-x:auto", ".scroll{overflow-x:visible")
    assert wrong != text
    if width == 360:
        assert show(wrong, width=width).run(SCROLLS) is True


#: Boxes that hold more than they show, and boxes that say so.
WIDE = """
const boxes = [...document.querySelectorAll(".scroll")].filter(box => box.checkVisibility());
const said = box => getComputedStyle(box, "::before").content.includes("scroll sideways");
return [boxes.filter(box => box.scrollWidth > box.clientWidth + 1).length,
  boxes.filter(box => box.scrollWidth > box.clientWidth + 1 && !said(box)).length,
  boxes.filter(box => box.scrollWidth <= box.clientWidth + 1 && said(box)).length];
"""


DRAWN = """const done = arguments[0];
requestAnimationFrame(() => requestAnimationFrame(() => done()));"""


@pytest.mark.parametrize("width", WIDTHS)
def test_a_box_that_scrolls_sideways_says_so(show, text, width):
    chrome = show(text, width=width)
    chrome.run("document.querySelectorAll('details').forEach(part => part.open = true)")
    # What is seen is looked at when the page is drawn.
    chrome.driver.execute_async_script(DRAWN)
    wide, silent, wrong = chrome.run(WIDE)
    assert (silent, wrong) == (0, 0)
    if width == 360:
        assert wide > 0
        assert show(broken(text, "sizes.observe(part)", "0"), width=width).run(WIDE)[1] > 0


FITS = """return [...document.querySelectorAll(arguments[0])].filter(
  part => part.closest(".scroll").scrollWidth > part.closest(".scroll").clientWidth + 1).length"""


def test_nine_defenses_fit_a_phone(show, tmp_path):
    names = ("none", "robustkd.raterandom", *(f"defense{n}" for n in range(7)))
    rows = [cell(defense=name, student_asr=700 + n) for n, name in enumerate(names)]
    text = pages.page(tmp_path / "run", rows)
    chrome = show(text, width=360)
    assert chrome.run(FITS, ".matrix") == chrome.run(FITS, ".plot") == 0
    small = "return Math.min(...[...document.querySelectorAll('.plot text')].map(" + (
        "t => t.getBoundingClientRect().height))"
    )
    assert chrome.run(small) > 8
    names_shown = [item.text for item in chrome.all(".key li")]
    assert names_shown == list(names)
    assert show(broken(text, ".plot{", ".plot{min-width:34rem;"), width=360).run(FITS, ".plot") == 1


ALIGNED = """
const heads = [...document.querySelectorAll("#all thead th")];
return [...document.querySelectorAll("#all tbody tr")].flatMap(row => [...row.cells].filter(
  (cell, at) => (getComputedStyle(cell).textAlign === "right") !== heads[at].matches(".num")));
"""


def test_numbers_stand_below_their_headings(show, text):
    assert show(text).run(ALIGNED) == []
    assert show(broken(text, "nth-last-child(10)", "nth-last-child(9)")).run(ALIGNED) != []


CONTRASTS = """
const parse = text => {
  const numbers = (text.match(/[0-9.e-]+/g) || []).map(Number);
  return text.startsWith("color(") ? [...numbers.slice(0, 3).map(n => 255 * n), numbers[3] ?? 1]
    : [numbers[0], numbers[1], numbers[2], numbers[3] ?? 1];
};
const light = ([r, g, b]) => {
  const [x, y, z] = [r, g, b].map(n => n / 255).map(
    n => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4);
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const low = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let node; node = walk.nextNode();) {
  const element = node.parentElement, style = getComputedStyle(element);
  if (!node.textContent.trim() || !element.getClientRects().length) continue;
  if (["SCRIPT", "STYLE", "title"].includes(element.tagName)) continue;
  const ink = parse(element.namespaceURI.includes("svg") ? style.fill : style.color);
  let behind = element, paper = [0, 0, 0, 0];
  while (behind && paper[3] === 0) {
    paper = parse(getComputedStyle(behind).backgroundColor);
    behind = behind.parentElement;
  }
  const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x), ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) low.push(`${ratio.toFixed(2)} ${node.textContent.trim().slice(0, 40)}`);
}
return low;
"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_text_has_contrast(show, text, scheme):
    assert show(text, scheme=scheme).run(CONTRASTS) == []
    old = {"light": "--soft:#57606a", "dark": "--soft:#a0a9b4"}[scheme]
    new = {"light": "--soft:#9aa0a6", "dark": "--soft:#5a6068"}[scheme]
    assert show(broken(text, old, new), scheme=scheme).run(CONTRASTS) != []


def test_dark_and_light_are_not_the_same(show, text):
    paper = "return getComputedStyle(document.body).backgroundColor"
    assert len({show(text, scheme=scheme).run(paper) for scheme in SCHEMES}) == 2


HIDDEN_ON_PAPER = """
return [...document.querySelectorAll(".scroll")].filter(
  box => box.scrollHeight > box.clientHeight + 1 && getComputedStyle(box).overflowY !== "visible"
).length + [...document.querySelectorAll("nav, .controls, .copy")].filter(
  part => part.getClientRects().length).length
"""


def test_on_paper_nothing_is_cut_and_nothing_waits_for_a_click(show, tmp_path):
    text = pages.page(tmp_path / "run", many(136))

    def hidden(text):
        chrome = show(text)
        chrome.printed()
        with chrome.media("print"):
            closed = chrome.run("return document.querySelectorAll('details:not([open])').length")
            return chrome.run(HIDDEN_ON_PAPER), closed

    assert hidden(text) == (0, 0)
    wrong = text.replace("max-height:none", "max-height:9rem").replace(
        ".scroll{overflow:visible", ".scroll{overflow:auto"
    )
    assert hidden(wrong)[0] > 0
    assert hidden(broken(text, "onbeforeprint=", "window.x ="))[1] > 0


# -- for everybody ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing(show, text, scheme, width):
    assert show(text, width=width, scheme=scheme).violations() == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (' alt="Test images', ' title="" data-alt="Test images', "image-alt"),
        ('<html lang="en">', "<html>", "html-has-lang"),
        ("--soft:#57606a", "--soft:#9aa0a6", "color-contrast"),
        ('aria-label="Search the cells" placeholder="search"', "", "label"),
    ],
)
def test_axe_finds_what_was_broken(show, text, old, new, rule):
    assert rule in [found for found, _, _ in show(broken(text, old, new)).violations()]


NAMED = ("button", "image", "heading", "link", "table", "textbox", "searchbox")


def unnamed(chrome):
    return [role for role, name in chrome.tree() if role in NAMED and not name.strip()]


def test_everything_has_a_name(show, text):
    chrome = show(text)
    assert unnamed(chrome) == []
    roles = Counter(role for role, _ in chrome.tree())
    assert roles["image"] == 1
    assert roles["heading"] > 10
    assert roles["button"] > 20
    wrong = broken(text, 'ariaLabel:"All columns",', "")
    assert "button" in unnamed(show(broken(wrong, '"button","+"', '"button",""')))


def test_the_keyboard_goes_down_the_page(show, text):
    script = """return [...document.querySelectorAll("a[href], button, input, summary, [tabindex]")]
        .filter(part => part.tabIndex > 0).length"""
    assert show(text).run(script) == 0
    assert show(broken(text, 'tabindex="0"', 'tabindex="3"', 1)).run(script) == 1


def test_a_copy_button_copies_its_command(show, text):
    chrome = show(text)
    script = "arguments[0].click(); return [getSelection().toString(), arguments[0].textContent]"
    (first, *_) = chrome.all("#origin .copy")
    selected, said = chrome.run(script, first)
    assert selected.strip() == "kdbench run --attack lba"
    assert said in ("copied", "Ctrl-C")
