"""Results in notebooks: a figure, what was found, and notes; one line in a shell."""

from __future__ import annotations

import base64
import io
import re
import sys
from dataclasses import replace
from html import escape

import pytest
import torch
from PIL import Image

import semattn
from semattn import viz
from semattn.prompting.strength_sweep import strength_sweep
from semattn.viz.notebook_views import MAX_IMAGES, RESOLUTION, to_html
from semattn.viz.texts import marks_outcome, search_outcome
from tests import discoveries, marked
from tests.conftest import tiny


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.manual_seed(0))


@pytest.fixture(scope="module")
def explanation():
    return semattn.SIFTPatchInterrelation().explain(tiny(), images(MAX_IMAGES + 2))


def pictures(html: str) -> list[Image.Image]:
    data = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="[^"]+"', html)
    return [Image.open(io.BytesIO(base64.b64decode(part))) for part in data]


def size_of(figure) -> tuple[int, ...]:
    return tuple(int(side * RESOLUTION) for side in figure.get_size_inches())


def test_the_first_images_of_a_batch_are_drawn_and_the_others_counted(explanation):
    html = explanation._repr_html_()
    assert [picture.size for picture in pictures(html)] == [
        size_of(viz.figure(explanation, index)) for index in range(MAX_IMAGES)
    ]
    assert f"2 more images: semattn.viz.figure(explanation, {MAX_IMAGES})" in html
    assert "more image" not in to_html(semattn.SIFTPatchInterrelation().explain(tiny(), images(1)))


def test_notes_and_names_are_text_not_html(explanation):
    noted = replace(
        explanation, notes=("a < b & c",),
        classes=tuple(f'<b>"{number}' for number in range(explanation.outputs)),
    )  # fmt: skip
    html = noted._repr_html_()
    assert "<li>a &lt; b &amp; c</li>" in html
    assert "<b>" not in html and "&lt;b&gt;&quot;" in html


def test_each_result_shows_its_figure_and_outcome(explanation):
    compared = semattn.compare(tiny(), images(1), ["grad-cam", "legrad"])
    analysis = semattn.analyze(tiny(), images(12), batch_size=6)
    model = tiny()
    swept = strength_sweep(
        semattn.SIFTPatchInterrelation(model), semattn.AttentionPrompter(model), images(1),
        strengths=(0.0, 1.0),
    )  # fmt: skip
    searched = discoveries.discovery(discoveries.mark_cue())
    found = marked.discovery(marked.mark())
    for result, figure, sentence in (
        (compared, viz.comparison(compared), "2 methods: "),
        (analysis, viz.analysis(analysis), analysis.findings()[0].text),
        (swept, viz.strength_sweep(swept), f"{swept.prompt}: "),
        (searched, viz.spurious(searched), search_outcome(searched)),
        (found, viz.marks(found), marks_outcome(found)),
    ):
        html = result._repr_html_()
        assert [picture.size for picture in pictures(html)] == [size_of(figure)]
        assert escape(sentence) in html


def test_other_objects_are_refused():
    with pytest.raises(TypeError, match=r"^result: expected a result of semattn, got list$"):
        to_html([])


def test_a_shell_shows_shapes_not_values(explanation):
    text = repr(explanation)
    assert len(text) < 800 and "\n" not in text
    assert f"heat_map=Tensor({MAX_IMAGES + 2}, 64, 64)" in text
    assert "target=Tensor(5,)" in text and "classes=None" in text
    for result in (discoveries.discovery(discoveries.cue()), marked.discovery(marked.mark())):
        assert repr(result).startswith(type(result).__name__) and len(repr(result)) < 800


def test_loading_tells_a_person_what_was_loaded(monkeypatch, capsys):
    def load() -> str:
        semattn.load("test_vit", pretrained=False, device="cpu")
        captured = capsys.readouterr()
        assert not captured.out
        return captured.err

    assert not load(), "a program is told nothing"
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert load() == ("test_vit: 0.4 million parameters, pictures of 160 x 160 pixels, on cpu\n")
