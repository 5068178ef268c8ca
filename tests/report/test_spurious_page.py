"""Tests of the page of a cue search in a browser: pictures, buttons, keyboard, narrow screens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from semattn import report
from tests.discoveries import NONE, cue, discovery, mark_cue
from tests.report.pages import NASTY
from tests.report.test_browser import Browser, browser, pytestmark  # noqa: F401 — shared


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pages")
    with_cues = discovery(
        cue(NASTY), cue("cat", number=0, removal=NONE, groups=(), examples=3),
        cue("dog", confirmed=False, number=1),
    )  # fmt: skip
    without_cues = discovery(cue(NASTY, confirmed=False), accuracy=None, skipped=(), notes=(NASTY,))
    return (
        report.write(folder / "some.html", discovery=with_cues),
        report.write(folder / "none.html", discovery=without_cues),
    )


@pytest.fixture
def opened(browser, files) -> Iterator[Browser]:  # noqa: F811
    yield browser.open(files[0])
    assert browser.complaints() == []


def shown(browser: Browser, card: int = 0) -> list[bool]:  # noqa: F811
    """Return, for each picture of a card, true if its patches are shown."""
    return browser.js(
        """const card = document.querySelectorAll('.cue')[arguments[0]];
        return [...card.querySelectorAll('.shot')].map((one) => {
          const seen = getComputedStyle(one.querySelector('canvas')).display !== 'none';
          if (String(seen) !== one.getAttribute('aria-pressed')) throw new Error('not of one mind');
          return seen;
        })""",
        card,
    )


def test_a_card_describes_its_cue(opened):
    cards = opened.all(".cue")
    assert len(cards) == 2
    text = cards[1].text
    for part in ("2 cat", "confirmed", "same place", "keypoint-rich",
                 "on 17 % of an image, 50 % of it off the object", "92 % of the images of cat",
                 "3.0 % of other classes", "not tested",
                 "0.75 [0.50, 1.00] nats, 24 images"):  # fmt: skip
        assert part in text or part in opened.js("return arguments[0].textContent", cards[1])
    rows = [row.text for row in cards[0].find_elements("css selector", "table tbody tr")]
    assert len(rows) == 4 and rows[2].endswith("24 42 % 79 % +37")
    assert NASTY in opened.text(".cue h3"), "names are escaped"
    assert opened.js("return window.hacked === undefined")
    assert "2 cues confirmed at level .05" in opened.text("#spurious-outcome").lower()
    assert [note.text for note in opened.all("#spurious-notes .note")] == ["A note."]
    ranks = [row.text for row in opened.all("#ranks tbody tr")]
    assert ranks[1] == "cat 40 none confirmed" and ranks[0].endswith("40 1.20")


def test_examples_show_their_probabilities(opened):
    first = opened.all(".cue")[0].find_elements("css selector", ".example")
    assert len(first) == 8
    assert first[0].text.split() == ["0.png", "with", "cue", "90", "%", "removed", "25", "%"]
    assert first[1].text.split() == ["1.png", "not", "tested"]
    sizes = opened.js(
        "return [...document.querySelectorAll('.shot img')].map((one) => one.naturalWidth)"
    )
    assert set(sizes) == {64}
    ink = opened.js(
        """const canvas = document.querySelector('.shot canvas');
        const all = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const at = (i, j) => {
          const x = Math.floor((j + .5) / 4 * canvas.width);
          const y = Math.floor((i + .5) / 3 * canvas.height);
          const start = 4 * (y * canvas.width + x);
          return [...all.data.subarray(start, start + 4)];
        };
        return [at(2, 3), at(0, 1), at(0, 0)]"""
    )
    cue, not_removed, rest = (pixel[3] / 255 for pixel in ink)
    assert cue == 0 and rest > 0.5, "the cue is clear and the rest is dimmed"
    assert not_removed == pytest.approx(rest / 2, abs=0.01), "patches like it on the object, half"


def test_a_button_toggles_all_pictures_and_a_click_toggles_one(opened):
    assert shown(opened) == [True] * 8
    button = opened.one(".cue .row button")
    opened.js("arguments[0].click()", button)
    assert shown(opened) == [False] * 8 and shown(opened, 1) == [True] * 3
    assert button.text == "Show the location of the cue"
    opened.js("document.querySelectorAll('.shot')[2].click()")
    assert shown(opened) == [False, False, True, *[False] * 5]
    opened.js("arguments[0].click()", button)
    assert shown(opened) == [True] * 8


def test_pictures_can_be_operated_by_keyboard(opened):
    opened.js("document.querySelector('.cue .row button').focus()")
    opened.press("TAB", "ARROW_RIGHT", "ENTER")
    assert shown(opened)[:3] == [True, False, True]
    opened.press("END", "ARROW_RIGHT", "SPACE")
    assert shown(opened) == [True, False, *[True] * 5, False]
    opened.press("HOME", "ARROW_LEFT", "SPACE")
    assert shown(opened)[0] is False
    opened.press("TAB")
    assert opened.js("return document.activeElement.closest('.gallery') === null")
    outline = opened.js(
        """const shot = document.querySelector('.shot'); shot.focus();
        return getComputedStyle(shot).outlineStyle"""
    )
    assert outline == "solid"


def test_the_location_map_shows_the_patches(opened):
    label = opened.one(".location").get_attribute("aria-label")
    assert "95 %, in row 3 of 3, column 4 of 4" in label
    light = opened.js(
        """const pen = document.querySelector('.location').getContext('2d');
        return [...pen.getImageData(0, 0, 4, 3).data].filter((_, i) => i % 4 === 1)"""
    )
    assert max(light) == light[11] > 200 and len(set(light[:11])) == 1


def test_candidates_are_folded_and_next_steps_have_code(opened):
    tried = opened.one("#spurious-unconfirmed details")
    assert tried.get_attribute("open") is None
    opened.js("arguments[0].open = true", tried)
    assert "transplanting it into images of other classes has no effect" in tried.text
    assert "broken.png" in opened.text("#spurious-skipped")
    assert len(opened.all("#next li")) == 4
    assert "with prompter.steer(cue):" in opened.text("#next")


@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("which", [0, 1])
def test_the_page_fits_narrow_screens(browser, files, width, which):  # noqa: F811
    browser.open(files[which], width, dark=width == 390)
    browser.js("for (const one of document.querySelectorAll('details')) one.open = true")
    browser.frame()
    assert browser.js("return document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.complaints() == []


def test_a_search_without_confirmed_cues(browser, files):  # noqa: F811
    browser.open(files[1])
    text = browser.text("#spurious-outcome")
    assert text.startswith(
        "No cue confirmed at level .05 among 57 candidates, 1 tested; this does no"
    )
    assert not browser.all(".cue")
    assert len(browser.all("#next li")) == 3
    assert browser.js("return window.hacked === undefined")
    assert all(url.startswith(("file:", "data:")) for url in browser.requests())
    assert browser.complaints() == []


def test_a_card_of_a_mark_shows_its_picture_and_exact_outlines(browser, tmp_path):  # noqa: F811
    found = discovery(mark_cue(NASTY), cue("cat", number=0))
    browser.open(report.write(tmp_path / "mark.html", discovery=found))
    cards = browser.all(".cue")
    text = cards[0].text
    assert (
        "Frequency of the mark: in 9 images of the class (75 %), 1 of others (4 %), p < .001. "
        "Mean probability of the class in the pictures below: 90 % → 25 % after erasing."
    ) in text
    assert "Mean of 10 images" in text and "a mark at any place" in text
    assert "Hide the location of the mark" in text
    examples = cards[0].find_elements("css selector", ".example")
    matches = "2 places: 9 and 9 matched keypoints"
    assert [example.text.split("\n", 1)[1].replace("\n", " ") for example in examples] == [
        f"{matches} mark 90 % erased 25 %", f"{matches} not tested", f"{matches} not tested",
    ]  # fmt: skip
    inks = browser.js(
        """const canvas = document.querySelector('.shot canvas');
        const times = canvas.width / 80;
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return [[18, 13], [50, 45], [35, 13]].map(([x, y]) =>
          pixels.data[4 * (Math.round(y * times) * canvas.width + Math.round(x * times)) + 3]);"""
    )
    assert inks == [0, 0, 158], "clear at both places, faded elsewhere"
    widths = "return [...arguments[0].querySelectorAll('.mean-picture img')].map((e) => e.width)"
    assert [browser.js(widths, card) for card in cards] == [[40], []]
    assert "of the images of cat contain the cue" in cards[1].text
    assert "Hide the location of the cue" in cards[1].text
    assert browser.js("return window.hacked === undefined")
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [320, 1280])
def test_a_card_of_a_mark_fits_narrow_screens(browser, tmp_path, width):  # noqa: F811
    shown = mark_cue()
    small = tuple(replace(example, without=1e-5) for example in shown.examples)
    found = discovery(replace(shown, examples=small))
    page = report.write(tmp_path / "mark.html", discovery=found)
    browser.open(page, width)
    assert browser.js("return document.documentElement.scrollWidth <= window.innerWidth")
    labels = "return [...document.querySelectorAll('.probability span')].map((e) => e.clientHeight)"
    assert max(browser.js(labels)) < 25, "labels of probabilities take one line"
    assert browser.complaints() == []
