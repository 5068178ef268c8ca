"""Tests of the report page in a browser: interaction, sliders, layout, no network requests."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semattn import report
from semattn.report.attention_rows import attention
from semattn.report.render import as_json, joined
from tests.report.pages import NASTY, Analysed, compared, content_of, explained, model_of, rows_of

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no chromium or no chromedriver: on Debian, apt install chromium chromium-driver",
)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--force-color-profile=srgb",
)  # fmt: skip


class Browser:
    """Chromium with one page, and the queries of the tests."""

    def __init__(self, profile: Path) -> None:
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def open(self, file: Path, width: int = 1280, dark: bool = False) -> Browser:
        """Load the page in a window of this width."""
        phone = width < 600
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": phone}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[theme])
        self.logs = {"browser": [], "performance": []}
        for name in self.logs:
            self.driver.get_log(name)
        self.driver.get(file.as_uri())
        self.frame()
        return self

    def command(self, name: str, **arguments: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, arguments)

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def frame(self) -> None:
        """Wait until layout and drawing are finished."""
        self.driver.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
        )

    def all(self, selector: str) -> list[Any]:
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def one(self, selector: str) -> Any:
        return self.all(selector)[0]

    def text(self, selector: str) -> str:
        return self.js("return document.querySelector(arguments[0]).textContent", selector)

    def picture(self, selector: str = "#patches") -> str:
        return self.js("return document.querySelector(arguments[0]).toDataURL()", selector)

    def slide(self, label: str, value: int, section: str = "main") -> None:
        """Move the slider with this label, with the events of a user's drag."""
        self.js(
            """const [label, value, section] = arguments;
            const named = [...document.querySelectorAll(`${section} .slider`)]
              .find((one) => one.querySelector('label').textContent === label);
            const range = named.querySelector('input');
            range.value = value;
            range.dispatchEvent(new Event('input', { bubbles: true }));""",
            label, value, section,
        )  # fmt: skip

    def show(self, mode: str) -> None:
        self.js("document.querySelector(`input[value=${arguments[0]}]`).click()", mode)

    def pixel(self, patch: int, canvas: str = "#patches") -> list[int]:
        """Return the RGBA values at the center of a patch of the 3 x 4 grid."""
        return self.js(
            """const canvas = document.querySelector(arguments[1]);
            const [row, column] = [Math.floor(arguments[0] / 4), arguments[0] % 4];
            const copy = document.createElement('canvas');
            [copy.width, copy.height] = [canvas.width, canvas.height];
            const pen = copy.getContext('2d', { willReadFrequently: true });
            pen.drawImage(canvas, 0, 0);
            const x = ((column + 0.5) / 4) * canvas.width, y = ((row + 0.5) / 3) * canvas.height;
            return [...pen.getImageData(x, y, 1, 1).data]""",
            patch, canvas,
        )  # fmt: skip

    def centre(self, patch: int) -> tuple[int, int]:
        """Scroll to a patch of the 3 x 4 grid and return its center in window coordinates."""
        box = self.js(
            """const canvas = document.querySelector('#patches');
            canvas.scrollIntoView({ block: 'center' });
            const box = canvas.getBoundingClientRect();
            return [box.left, box.top, box.width, box.height]"""
        )
        return (
            round(box[0] + (patch % 4 + 0.5) / 4 * box[2]),
            round(box[1] + (patch // 4 + 0.5) / 3 * box[3]),
        )

    def move(self, patch: int, kind: str = "mouse", press: bool = False) -> None:
        from selenium.webdriver.common.actions.action_builder import ActionBuilder
        from selenium.webdriver.common.actions.pointer_input import PointerInput

        pointer = PointerInput(kind, f"a {kind}")
        actions = ActionBuilder(self.driver, mouse=pointer)
        actions.pointer_action.move_to_location(*self.centre(patch))
        if press:
            actions.pointer_action.pointer_down().pointer_up()
        actions.perform()

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains
        from selenium.webdriver.common.keys import Keys

        for key in keys:
            ActionChains(self.driver).send_keys(getattr(Keys, key)).perform()

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        events = (json.loads(entry["message"]) for entry in self.driver.get_log("performance"))
        return [
            event["message"]["params"]["request"]["url"]
            for event in events
            if event["message"]["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    pytest.importorskip("selenium", reason="no selenium: pip install 'semattn[test]'")
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.driver.quit()


@pytest.fixture(scope="module")
def page() -> str:
    model = model_of()
    explanation = explained(model)
    return report.html(
        explanation, model=model, comparison=compared(explanation), analysis=Analysed()
    )


@pytest.fixture(scope="module")
def file(page, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "page.html"
    path.write_text(page, encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, file) -> Iterator[Browser]:
    yield browser.open(file)
    assert browser.complaints() == []


def strongest(page: str, token: int, layer: int, head: int | None, *, column: bool = False) -> str:
    """Return the label of the patch that a token attends to most, or that attends to it most."""
    _, layers = rows_of(content_of(page)["attention"], "heads")
    rows = layers[layer].mean(0) if head is None else layers[layer][head]
    patch = int((rows[:, token] if column else rows[token])[1:].argmax())
    return f"row {patch // 4 + 1}, column {patch % 4 + 1}"


@pytest.mark.parametrize("pointer", ["mouse", "click", "tap"])
def test_a_patch_shows_its_attention(opened, page, pointer):
    before = opened.picture()
    opened.move(2, "touch" if pointer == "tap" else "mouse", press=pointer != "mouse")
    assert opened.text("#readout").startswith("Row 1, column 3")
    first = opened.picture()
    opened.move(7, "touch" if pointer == "tap" else "mouse", press=pointer != "mouse")
    text = opened.text("#readout")
    assert text.startswith("Row 2, column 4")
    assert f"Strongest key {strongest(page, 8, *shown_layer_and_head(opened))}" in text
    assert len({before, first, opened.picture()}) == 3


def shown_layer_and_head(browser: Browser) -> tuple[int, int | None]:
    """Return the layer and the head (None: the mean) that the page shows."""
    layer, head = (
        slider.get_property("valueAsNumber") for slider in browser.all("#explorer .slider input")
    )
    return int(layer), None if head < 0 else int(head)


def test_leaving_the_grid_restores_the_selected_patch(opened):
    opened.move(5, press=True)
    selected = opened.text("#readout"), opened.picture()
    opened.move(10)
    assert opened.text("#readout") != selected[0]
    opened.js("document.querySelector('#patches').dispatchEvent(new PointerEvent('pointerleave'))")
    assert (opened.text("#readout"), opened.picture()) == selected


def test_the_keyboard_moves_the_patch_and_stops_at_the_border(opened):
    opened.move(0, press=True)
    pictures = {opened.picture()}
    for key, place in (
        ("ARROW_RIGHT", "Row 1, column 2"), ("ARROW_DOWN", "Row 2, column 2"),
        ("END", "Row 2, column 4"), ("ARROW_RIGHT", "Row 2, column 4"),
        ("ARROW_DOWN", "Row 3, column 4"), ("ARROW_DOWN", "Row 3, column 4"),
        ("HOME", "Row 3, column 1"), ("ARROW_LEFT", "Row 3, column 1"),
        ("ARROW_UP", "Row 2, column 1"),
    ):  # fmt: skip
        opened.press(key)
        assert opened.text("#readout").startswith(place), key
        pictures.add(opened.picture())
    assert len(pictures) == 7


def drawn_opacity(values: Any) -> np.ndarray:
    """Return the opacity of values in [0, 1]: 0.88 at most, and 0.30 on average at most."""
    alpha = 0.88 * np.asarray(values, dtype=float) ** 0.7
    return alpha * min(1.0, 0.30 / alpha.mean())  # type: ignore[no-any-return]


def test_the_opacity_shows_the_attention(opened, page):
    """The opacity increases with the attention value, in both directions."""
    opened.js("for (const box of document.querySelectorAll('#explorer-toggles input')) box.click()")
    _, layers = rows_of(content_of(page)["attention"], "heads")
    opened.move(6, press=True)
    for layer, head in ((0, 0), (1, 1), (3, 0)):
        opened.slide("Layer", layer, "#explorer")
        opened.slide("Head", head, "#explorer")
        for mode, values in (
            ("attends", layers[layer][head][7, 1:]),
            ("attended", layers[layer][head][1:, 7]),
        ):
            opened.show(mode)
            alpha = [opened.pixel(patch)[3] / 255 for patch in range(12)]
            expected = drawn_opacity(values / values.max())
            assert alpha == pytest.approx(expected, abs=0.02)


def test_the_page_opens_with_the_answer(opened, page):
    answer = content_of(page)["explanation"]["answer"]
    first = opened.js("return document.querySelector('main section:not([hidden])').id")
    assert first == "answer"
    assert opened.text("#answer-title") == f"Evidence for {NASTY}"
    shares = opened.js(
        "return [...document.querySelectorAll('#answer-bars .share')].map((one) => one.textContent)"
    )
    assert shares == [entry["share"] for entry in answer["classes"]]
    assert f"on {answer['half']} of 12 patches" in opened.text("#answer-text")
    codes = np.frombuffer(base64.b64decode(answer["map"]), dtype=np.uint8).reshape(answer["size"])
    height, width = codes.shape
    expected = drawn_opacity(codes / 255)
    for patch in range(12):
        row, column = int((patch // 4 + 0.5) / 3 * height), int((patch % 4 + 0.5) / 4 * width)
        opacity = opened.pixel(patch, "#answer-map")[3] / 255
        assert opacity == pytest.approx(expected[row, column], abs=0.05)


def test_the_half_of_each_patch_is_explained(opened, page):
    image = content_of(page)["image"]
    texts = []
    for patch in range(12):
        opened.move(patch, press=True)
        stratum, name = image["strata"][patch], ("EMPTY", "LOW", "HIGH")[image["strata"][patch]]
        same = [
            other for other, lift in zip(image["strata"], image["lift"], strict=True)
            if lift == image["lift"][patch] and other
        ]  # fmt: skip
        if stratum and len(set(same)) == 2:
            expected = f"{name} drawn at random: {len(same)} patches"
        else:
            expected = f"{name} " + ("density 0", "the lower half", "the upper half")[stratum]
        texts.append(expected.split(":")[0])
        assert expected in opened.text("#readout")
    assert len(set(texts)) >= 3


def test_sliders_and_modes_change_the_picture_and_the_words(opened, page):
    opened.move(6, press=True)
    pictures = {opened.picture()}
    opened.slide("Head", -1, "#explorer")
    for layer in range(4):
        opened.slide("Layer", layer, "#explorer")
        pictures.add(opened.picture())
        text = opened.text("#readout")
        assert f"Strongest key {strongest(page, 7, layer, None)}" in text
    opened.slide("Head", 1, "#explorer")
    pictures.add(opened.picture())
    assert f"Strongest key {strongest(page, 7, 3, 1)}" in opened.text("#readout")
    opened.show("attended")
    asker = strongest(page, 7, 3, 1, column=True)
    assert f"Strongest query {asker}" in opened.text("#readout")
    pictures.add(opened.picture())
    for mode in ("relevance", "concentration"):
        opened.show(mode)
        pictures.add(opened.picture())
        assert not opened.one("#explorer-sliders").is_displayed()
    assert len(pictures) >= 8


def test_a_slider_can_be_operated_by_keyboard(opened):
    slider = opened.one("#explorer .slider input")
    opened.js("arguments[0].scrollIntoView(); arguments[0].focus()", slider)
    opened.press("HOME")
    first = opened.picture()
    assert slider.get_attribute("aria-valuetext") == "0 · blocks.0.attn"
    opened.press("ARROW_RIGHT", "ARROW_RIGHT")
    assert slider.get_attribute("aria-valuetext") == "2 · blocks.2.attn"
    assert opened.picture() != first


def test_the_class_token_and_the_heads_are_buttons(opened, page):
    opened.one("#class-token").click()
    assert opened.text("#readout").startswith("The class token")
    assert f"Strongest key {strongest(page, 0, *shown_layer_and_head(opened))}" in opened.text(
        "#readout"
    )
    assert opened.one("#class-token").get_attribute("aria-pressed") == "true"
    heads = opened.all("#strip-heads button")
    assert [button.text for button in heads] == ["mean", "0", "1"]
    pictures = set()
    for button, head in zip(heads, (None, 0, 1), strict=True):
        button.click()
        assert shown_layer_and_head(opened)[1] == head
        pictures.add(opened.picture())
    assert len(pictures) == 3
    opened.one("#class-token").click()
    assert opened.text("#readout").startswith("Row ")


def test_grid_and_keypoints_can_be_hidden(opened):
    pictures = {opened.picture()}
    for box in opened.all("#explorer-toggles input"):
        box.click()
        pictures.add(opened.picture())
    assert len(pictures) == 3


def test_the_prompting_slider_changes_the_bars_and_the_map(opened, page):
    part = content_of(page)["prompting"]
    canvas = "#prompting-stage canvas"
    states = set()
    for step, strength in enumerate(part["strengths"]):
        opened.slide("Strength", step, "#prompting")
        widths = opened.js(
            "return [...document.querySelectorAll('#bars .fill')].map((one) => one.style.width)"
        )
        assert [float(width.rstrip("%")) for width in widths] == pytest.approx(
            [100 * entry["probability"][step] for entry in part["classes"]], abs=0.01
        )
        assert f"At strength {strength:g}: " in opened.text("#prompting-status")
        states.add((*widths, opened.picture(canvas)))
    assert len(states) == len(part["strengths"])


def test_methods_are_blended(opened):
    both = {opened.picture("#blend")}
    opened.slide("A ↔ B", 50, "#methods")
    both.add(opened.picture("#blend"))
    opened.slide("A ↔ B", 100, "#methods")
    both.add(opened.picture("#blend"))
    assert len(both) == 3
    only_b = opened.picture("#blend")
    opened.js(
        """const select = document.querySelector('#method-a');
        select.value = select.options[1].value;
        select.dispatchEvent(new Event('change'));"""
    )
    opened.slide("A ↔ B", 0, "#methods")
    assert opened.picture("#blend") == only_b, "A shows the previous B"
    cards = opened.all("#cards .card")
    assert cards[0].find_element("css selector", "h3").text == "ours"
    assert "0.25 s" in cards[0].text and "12 MiB" in cards[0].text and "0.50" in cards[0].text
    assert "12 s" in cards[1].text or "13 s" in cards[1].text
    assert "model: expected less of" in cards[2].text


def test_the_image_slider_hides_the_map(opened):
    opened.slide("Image ↔ map", 0, "#methods")
    blank = opened.js(
        """const canvas = document.querySelector('#blend');
        return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
          .every((value) => value === 0)"""
    )
    assert blank
    image = opened.one("#methods-stage img")
    assert image.value_of_css_property("filter") == "grayscale(0) brightness(1)"


def test_a_cell_selects_its_head_in_all_parts(opened):
    before = opened.picture()
    cell = next(
        button for button in opened.all("#heat button")
        if button.get_attribute("aria-label").startswith("layer 1, head 0:")
    )  # fmt: skip
    opened.js("arguments[0].click()", cell)
    assert shown_layer_and_head(opened) == (1, 0)
    assert opened.picture() != before
    assert opened.text("#head-title") == "Layer 1, head 0"
    lift = [cell.text for cell in opened.all(".lift td b")]
    assert lift == [f"{1.5 + 0.01 * place:.2f}" for place in range(9)]
    opened.js("arguments[0].focus()", cell)
    opened.press("ARROW_RIGHT", "ARROW_DOWN")
    assert opened.text("#head-title") == "Layer 2, head 1"
    assert opened.one(".lift td b").text == "2.60*"
    label = opened.js("return document.activeElement.getAttribute('aria-label')")
    assert label.startswith("layer 2, head 1: alignment 1.21, z +3.5 shifted, z +3.5 other, z ")
    opened.press("ARROW_RIGHT")
    assert opened.text("#head-title") == "Layer 2, head 1", "the last head stays selected"


def test_all_head_values_are_shown_with_their_nulls(opened):
    opened.slide("Layer", 2, "#analysis")
    opened.slide("Head", 0, "#analysis")
    cells = [cell.text for cell in opened.all(".lift td")]
    assert len(cells) == 9
    for text in cells:
        for part in ("[1.10, 1.30]", "z +3.5 shifted", "z +3.5 other", "z −3.5 permuted"):
            assert part in text
    rows = [row.text for row in opened.all(".figures tbody tr")]
    assert "z +3.5 shifted" in rows[0] and "chance 1" in rows[0] and "[1.10, 1.30]" in rows[0]
    assert "no null" in rows[1]
    opened.slide("Head", -1, "#analysis")
    assert not opened.all(".lift td")
    assert "per head" in opened.text("#head-tables")


def test_points_of_the_charts_select_their_head(opened):
    points = opened.all("#depth circle")
    assert len(points) == len(opened.all("#scatter circle")) + 1 == 9, "one distance is undefined"
    marked = [point for point in points if "marked" in point.get_attribute("class")]
    assert len(marked) == 4, "head 1 of each layer differs from every null"
    opened.js("arguments[0].dispatchEvent(new MouseEvent('click', { bubbles: true }))", points[5])
    assert opened.text("#head-title") == "Layer 2, head 1"
    assert "chosen" in points[5].get_attribute("class")


def test_light_and_dark(browser, file):
    def paper() -> str:
        return browser.js("return getComputedStyle(document.body).backgroundColor")

    light = browser.open(file) and paper()
    browser.one("#theme").click()
    dark = paper()
    assert dark != light
    assert browser.open(file, dark=True) and paper() == dark
    assert browser.text("#theme") == "Light"
    browser.one("#theme").click()
    assert paper() == light
    assert browser.text("#theme") == "Dark"


@pytest.mark.parametrize("width", [360, 760, 1280])
@pytest.mark.parametrize("theme", [False, True], ids=["light", "dark"])
def test_nothing_is_wider_than_the_window(browser, file, width, theme):
    browser.open(file, width, theme)
    assert browser.js("return document.documentElement.scrollWidth") <= width
    wide = browser.js(
        """return [...document.querySelectorAll('main *')]
          .filter((one) => !one.closest('.scroll, svg, .skip') && !one.closest('[hidden]')
            && one.getBoundingClientRect().right > innerWidth + 1)
          .map((one) => one.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    assert browser.complaints() == []


def test_the_page_makes_no_requests(browser, file):
    browser.open(file)
    for mode in ("attended", "relevance"):
        browser.show(mode)
    browser.slide("Strength", 3)
    requested = [url for url in browser.requests() if not url.startswith("data:")]
    assert requested == [file.as_uri()]
    assert browser.complaints() == []


def test_names_are_not_executed(opened):
    assert opened.js("return window.hacked") is None
    assert opened.all("img[src='x']") == []
    assert len(opened.all("script")) == 2
    assert opened.driver.title == f"{NASTY.replace(chr(0x2028), ' ')} · semattn" or (
        opened.driver.title.startswith("<img src=x onerror=hacked=1></script>")
    )
    for place in (
        "#headline", "#subline", "#notes", "#bars", "#cards", "#findings", "#skipped",
        "#analysis-lead", "#methods-notes",
    ):  # fmt: skip
        assert "<img src=x onerror=hacked=1></script>" in opened.text(place), place


def test_the_policy_blocks_injected_html(browser, file, page, tmp_path):
    """The policy blocks scripts even if the escaping fails; only the script of the page runs."""
    planted = tmp_path / "planted.html"
    harm = "<img src=x onerror='hacked=1'><script>hacked=2</script><style>*{color:red}</style>"
    planted.write_text(page.replace('<main id="main"', f"{harm}<main id='main'"), encoding="utf-8")
    browser.open(planted)
    assert browser.all("img[src='x']"), "the element was injected"
    assert browser.js("return window.hacked") is None
    assert browser.text("#readout").startswith("Row "), "the script of the page runs"
    assert any("Content Security Policy" in message for message in browser.complaints())


def test_controls_have_names_and_headings_are_ordered(opened):
    assert opened.js("return [...document.images].every((one) => one.alt.length > 5)")
    nameless = opened.js(
        """return [...document.querySelectorAll('button, input, select, canvas:not([aria-hidden])')]
          .filter((one) => !(one.getAttribute('aria-label') || one.textContent.trim()
            || (one.labels && [...one.labels].some((label) => label.textContent.trim()))))
          .map((one) => one.outerHTML)"""
    )
    assert nameless == []
    levels = opened.js(
        "return [...document.querySelectorAll('h1, h2, h3')].map((h) => +h.tagName[1])"
    )
    assert levels[0] == 1 and all(b - a <= 1 for a, b in pairwise(levels))
    repeated = opened.js(
        """const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
        return ids.filter((id, at) => ids.indexOf(id) !== at)"""
    )
    assert repeated == []
    assert opened.one("#readout").get_attribute("aria-live") == "polite"


def test_the_tab_key_visits_the_controls(opened):
    opened.js("document.activeElement.blur(); window.scrollTo(0, 0)")
    visited = []
    for _ in range(12):
        opened.press("TAB")
        visited.append(
            opened.js(
                """const one = document.activeElement;
                const style = getComputedStyle(one.id === 'patches' ? one.parentElement
                  : one.type === 'radio' ? one.nextSibling : one);
                const name = one.id || one.name || one.className || one.textContent;
                return [name, style.outlineStyle]"""
            )
        )
    names = [name for name, _ in visited]
    assert names[:4] == ["skip", "theme", "patches", "mode"]
    assert "class-token" in names
    assert all(outline == "solid" for _, outline in visited), visited
    assert names.count("mode") == 1, "a radio group is one tab stop"


def test_reduced_motion_is_respected(opened):
    assert opened.one("#bars .fill").value_of_css_property("transition-duration") != "0s"
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    opened.command("Emulation.setEmulatedMedia", features=[still])
    fill = opened.one("#bars .fill")
    assert fill.value_of_css_property("transition-property") == "none" or (
        fill.value_of_css_property("transition-duration") == "0s"
    )


def test_a_page_of_a_folder_has_its_own_controls(browser, tmp_path):
    browser.open(report.write(tmp_path / "folder.html", None, analysis=Analysed()))
    assert browser.text("#headline") == "Attention and keypoints in 20 images"
    visible = [
        section.get_attribute("id")
        for section in browser.all("main > section")
        if section.is_displayed()
    ]
    assert visible == ["analysis", "about"]
    assert browser.text("#head-title") == "Layer 3, head 1", "most aligned of those that differ"
    browser.press("TAB", "TAB", "TAB", "TAB", "ARROW_RIGHT")
    assert browser.text("#head-title") == "Layer 3, head 2", "a layer with one head more"
    browser.press("ARROW_UP")
    assert browser.text("#head-title") == "Layer 3, head 2", "the layers above have no head 2"
    browser.slide("Layer", 1, "#analysis")
    assert browser.text("#head-title") == "Layer 1, head 1", "the sliders stay in range"
    assert browser.one(".lift td b").text == "1.60*"
    assert browser.complaints() == []


def test_one_image_has_no_interval(browser, tmp_path):
    browser.open(report.write(tmp_path / "one.html", None, analysis=Analysed(images=1)))
    text = browser.one(".lift td").text
    assert "[" not in text
    assert "z +4.5 shifted" in text
    assert "too few images for intervals" in browser.text("#analysis-lead")
    assert browser.complaints() == []


def test_a_patch_without_a_row_shows_a_note(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "semattn.report.builder.attention", lambda record, grid, room: attention(record, grid, 2200)
    )
    model = model_of()
    file = report.write(tmp_path / "few.html", explained(model), model=model)
    part = content_of(file.read_text(encoding="utf-8"))["attention"]
    heads, means = ([token - 1 for token in part[name]["rows"][1:]] for name in ("heads", "mean"))
    assert 0 < len(heads) < len(means) < 12
    browser.open(file)
    for head, patches_with_row in ((0, heads), (-1, means)):
        browser.show("attends")
        browser.slide("Head", head, "#explorer")
        for patch in range(12):
            browser.move(patch, press=True)
            text = browser.text("#readout")
            assert ("no row is stored for this patch" in text) == (patch not in patches_with_row)
            assert ("Strongest key" in text) == (patch in patches_with_row)
        browser.show("attended")
        assert f"of {len(patches_with_row)} patches with a row" in browser.text("#readout")
    notes = browser.text("#notes")
    assert f"{len(heads)} of 12 patches for single heads" in notes
    assert f"{len(means)} of 12 for the mean over heads" in notes
    assert browser.complaints() == []


def test_the_notebook_frame_works(browser, tmp_path, page):
    shell = tmp_path / "notebook.html"
    shell.write_text(f"<!doctype html><p>A notebook</p>{report.inline(page)}", encoding="utf-8")
    browser.open(shell)
    browser.driver.switch_to.frame(0)
    try:
        assert browser.text("#readout").startswith("Row ")
        before = browser.picture()
        browser.slide("Layer", 0, "#explorer")
        assert browser.picture() != before
    finally:
        browser.driver.switch_to.default_content()
    assert browser.complaints() == []


NOTEBOOK = """<!doctype html><meta charset="utf-8"><body><script type="module">
const { values, script } = JSON.parse(document.querySelector('#data').textContent);
const observers = {};
window.model = {
  values,
  get: (name) => values[name],
  set(name, value) {
    if (values[name] === value) return;
    values[name] = value;
    for (const run of observers[`change:${name}`] ?? []) run();
  },
  save_changes() { model.saved = true; },
  on(name, run) { (observers[name] ??= []).push(run); },
  off(name, run) { observers[name] = observers[name].filter((one) => one !== run); },
};
const address = URL.createObjectURL(new Blob([script], { type: 'text/javascript' }));
const { default: widget } = await import(address);
widget.render({ model, el: document.body });
</script><script type="application/json" id="data">DATA</script>"""


def test_the_widget_and_its_page_have_one_selection(browser, page, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    values = {"page": page, "height": 600, "patch": 2, "layer": -1, "head": -1}
    data = as_json({"values": values, "script": joined(("widget.js",))})
    harness = tmp_path / "notebook.html"
    harness.write_text(NOTEBOOK.replace("DATA", data), encoding="utf-8")
    browser.open(harness)
    wait = WebDriverWait(browser.driver, 20)
    wait.until(lambda _: browser.js("return window.model?.saved"))
    layers = len({layer["layer"] for layer in content_of(page)["attention"]["layers"]})
    assert browser.js("return model.values.layer") == layers - 1  # the page begins at the last

    def in_the_page(place: str) -> None:
        browser.driver.switch_to.frame(browser.one("iframe"))
        wait.until(lambda _: browser.text("#readout").startswith(place))

    try:
        in_the_page("Row 1, column 3")  # the selection from before the page was there
        browser.driver.switch_to.default_content()
        browser.js("model.set('patch', 5); model.set('head', 1)")
        in_the_page("Row 2, column 2")
        assert shown_layer_and_head(browser) == (layers - 1, 1)
        browser.js(
            "document.querySelector('#patches').dispatchEvent("
            "new KeyboardEvent('keydown', { key: 'ArrowRight', bubbles: true }))"
        )
    finally:
        browser.driver.switch_to.default_content()
    wait.until(lambda _: browser.js("return model.values.patch") == 6)
    assert browser.complaints() == []
