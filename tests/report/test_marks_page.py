"""Tests of the page of recurring marks in a browser: pictures, outlines, buttons."""

from __future__ import annotations

from pathlib import Path

import pytest

from semattn import report
from tests import marked
from tests.report.pages import NASTY
from tests.report.test_browser import Browser, browser, pytestmark  # noqa: F401 — shared


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path, Path]:
    folder = tmp_path_factory.mktemp("pages")
    some = marked.discovery(
        marked.mark(NASTY), marked.mark("cat", examples=12), marked.mark("dog", significant=False)
    )
    counted = marked.discovery(marked.counted_mark(), classes={"": 36}, skipped=(), notes=())
    return (
        report.write(folder / "some.html", marks=some),
        report.write(folder / "none.html", marks=marked.discovery(notes=(NASTY,))),
        report.write(folder / "counted.html", marks=counted),
    )


def inks(browser: Browser, *points: tuple[float, float]) -> list[list[int]]:  # noqa: F811
    """Return the colours of the first overlay at points of its picture, in pixels."""
    return browser.js(
        """const canvas = document.querySelector('.mark .shot canvas');
        const times = canvas.width / 80;
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return arguments[0].map(([x, y]) => {
          const at = 4 * (Math.round(y * times) * canvas.width + Math.round(x * times));
          return [...pixels.data.slice(at, at + 4)];
        });""",
        points,
    )


def test_a_card_shows_a_mark_and_outlines_its_places(browser, files):  # noqa: F811
    browser.open(files[0])
    cards = browser.all(".mark")
    assert len(cards) == 2 and "significant" in cards[0].text
    assert "In 9 images of the class (75 %), 1 of others (4 %), p < .001." in cards[0].text
    assert NASTY in browser.text(".mark h3") and browser.js("return window.hacked === undefined")
    assert len(cards[0].find_elements("css selector", ".shot")) == 3
    assert len(cards[1].find_elements("css selector", ".shot")) == 8
    assert "2 places" in cards[0].text
    first, second, outside, line = inks(browser, (18, 13), (50, 45), (35, 13), (18, 8.5))
    assert first[3] == second[3] == 0, "the mark stays as it is, at both places"
    assert outside[3] == 158, "the rest is faded"
    assert line[:3] == [255, 197, 61], "a yellow line around the mark"
    sizes = browser.js(
        "return [...document.querySelectorAll('.mean-picture img')].map((shown) => shown.width)"
    )
    assert sizes == [40, 40]
    assert browser.complaints() == []


def test_outlines_are_switched_off_and_on(browser, files):  # noqa: F811
    browser.open(files[0])
    states = (
        "return [...document.querySelectorAll('.mark')[0].querySelectorAll('.shot')]"
        ".map((shot) => shot.getAttribute('aria-pressed'))"
    )
    assert browser.js(states) == ["true"] * 3
    everything = browser.all(".mark .row button")[0]
    everything.click()
    assert everything.text == "Show the location of the mark"
    assert browser.js(states) == ["false"] * 3
    browser.all(".mark .shot")[1].click()
    assert browser.js(states) == ["false", "true", "false"]
    assert browser.complaints() == []


def test_pages_without_a_significant_mark(browser, files):  # noqa: F811
    browser.open(files[1])
    assert browser.text("#marks-outcome").startswith("No mark recurs in the images;")
    assert browser.text("#headline") == "Recurring marks in 36 images"
    assert not browser.all(".mark") and NASTY in browser.text("#marks-notes")
    assert "broken.png cannot be read" in browser.text("#marks-skipped")
    browser.open(files[2])
    assert browser.text(".mark h3").split() == ["1", "mark"]
    assert "In 9 images (25 %)." in browser.text(".mark")
    assert browser.complaints() == []
