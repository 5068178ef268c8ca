"""Figures do not depend on the environment of matplotlib, and show names in any alphabet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib import font_manager
from PIL import Image

from semattn import explainers
from semattn.viz import canvas, figure
from semattn.viz.canvas import default_settings, new_figure
from tests.conftest import PHOTO, ROOT, tiny

SETTINGS = {
    "text.usetex": True, "axes.unicode_minus": False, "font.size": 30.0, "savefig.bbox": "tight",
    "font.family": ["cursive"], "figure.facecolor": "red", "path.sketch": (1.0, 100.0, 2.0),
    "savefig.dpi": 20.0, "image.cmap": "gray", "image.origin": "lower", "lines.linewidth": 9.0,
    "axes.titlesize": 40.0, "text.parse_math": True, "axes.axisbelow": True,
}  # fmt: skip
EXPLAIN = ["explain", str(PHOTO), "--model", "test_vit", "--random-weights", "--no-report"]

INHERITED = """
import io, os, sys
names = ('MPLBACKEND', 'MATPLOTLIBRC')
before = [os.environ[name] for name in names]
from semattn.cli.main import main
assert main([*sys.argv[1].split("|"), "--out", "out"]) == 0
sys.stderr = io.StringIO()  # the table for people
assert main(["doctor", "--json"]) == 0
sys.stderr = sys.__stderr__
assert [os.environ[name] for name in names] == before
import matplotlib
assert matplotlib.rcParams["text.usetex"] and matplotlib.rcParams["font.size"] == 30
"""

UNREADABLE = """
import os
from semattn.utils.library_imports import import_matplotlib
import_matplotlib()
import matplotlib
assert matplotlib.rcParams["font.size"] == 10
assert os.environ["MPLBACKEND"] == "nonsense" and os.environ["MATPLOTLIBRC"].endswith("binary")
import captum, matplotlib.pyplot
"""

CHOSEN = """
import semattn.utils.library_imports as ours
ours.import_matplotlib()
import matplotlib
assert matplotlib.get_backend().lower() == "svg", matplotlib.get_backend()
"""


def python(code: str, folder, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    variables = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}
    variables |= {"PYTHONPATH": str(ROOT)} | environment
    answer = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=variables, check=False
    )
    assert answer.returncode == 0, answer.stderr
    words = answer.stderr.replace(f"Cannot decode configuration file '{folder}/binary'", "")
    assert words.strip() in ("", "as utf-8.")  # matplotlib's own line
    return answer.stdout


def test_commands_draw_the_same_in_the_environment_of_a_notebook(tmp_path, run):
    rc = tmp_path / "matplotlibrc"
    rc.write_text(
        "text.usetex: true\naxes.unicode_minus: False\nfont.size: 30\nsavefig.bbox: tight\n"
        "figure.facecolor: red\nfont.family: cursive\npath.sketch: 1, 100, 2\n"
    )
    output = python(
        INHERITED, tmp_path, "|".join(EXPLAIN), MATPLOTLIBRC=str(rc),
        MPLBACKEND="module://matplotlib_inline.backend_inline",
    )  # fmt: skip
    status, _, err = run(*EXPLAIN, "--out", tmp_path / "here")
    assert (status, err) == (0, "")
    for name in ("figure.png", "overlay.png"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    checks = {row["name"]: row for row in json.loads(output[output.index("{\n") :])["checks"]}
    assert {row["status"] for row in checks.values()} <= {"works", "not installed"}
    assert (
        "MPLBACKEND=module://matplotlib_inline.backend_inline is not used"
        in (checks["figures"]["detail"])
    )


def test_matplotlib_is_imported_in_any_environment(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    python(UNREADABLE, tmp_path, MPLBACKEND="nonsense", MATPLOTLIBRC=str(tmp_path / "binary"))
    python(CHOSEN, tmp_path, MPLBACKEND="svg")


def explained(classes=None):
    model = tiny()
    if classes:
        model.classes = classes
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return explainers["sift-patch-interrelation"]().explain(model, images, target=0)


def pixels(drawing, file) -> np.ndarray:
    drawing.savefig(file)
    with Image.open(file) as picture:
        return np.asarray(picture)


def test_the_settings_of_the_caller_change_nothing_and_stay(tmp_path):
    explanation = explained()
    expected = pixels(figure(explanation), tmp_path / "a.png")
    with mpl.rc_context(SETTINGS):
        before = dict(mpl.rcParams)
        drawing = figure(explanation)
        actual = pixels(drawing, tmp_path / "b.png")
        drawing.savefig(tmp_path / "b.svg")
        assert dict(mpl.rcParams) == before
        with pytest.raises(ZeroDivisionError), default_settings(), default_settings():
            1 / mpl.rcParams["text.usetex"]
        assert dict(mpl.rcParams) == before
    assert np.array_equal(actual, expected)


def test_threads_that_draw_leave_the_settings_of_the_caller(tmp_path):
    explanation = explained()
    expected = pixels(figure(explanation), tmp_path / "a.png")
    with mpl.rc_context(SETTINGS):
        before = dict(mpl.rcParams)
        with ThreadPoolExecutor(4) as pool:
            files = [tmp_path / f"{number}.png" for number in range(8)]
            pictures = list(pool.map(lambda file: pixels(figure(explanation), file), files))
        assert dict(mpl.rcParams) == before
    assert all(np.array_equal(picture, expected) for picture in pictures)


# Letters

NAMES = ("猫", "कुत्ता", "قطة", "🐱", "cat")


@pytest.fixture
def no_more_fonts(monkeypatch):
    """Only matplotlib's own fonts, whichever this machine has."""
    monkeypatch.setattr(canvas, "_candidates", lambda _: [])
    monkeypatch.setattr(canvas, "_add_new_fonts", lambda _: None)
    canvas._fonts.cache_clear()
    yield
    canvas._fonts.cache_clear()


@pytest.fixture
def cat_font(tmp_path, monkeypatch):
    """A font with a black square as the letter 猫, installed after matplotlib listed its fonts."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(point)
    pen.closePath()
    empty = TTGlyphPen(None).glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord("猫"): "cat"})
    builder.setupGlyf({".notdef": empty, "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Cat Sans", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    file = tmp_path / "cat.ttf"
    builder.save(file)
    listed = [font for font in font_manager.fontManager.ttflist if "DejaVu" in font.name]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", listed)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(file)])
    canvas._fonts.cache_clear()
    yield "Cat Sans"
    canvas._fonts.cache_clear()


def test_an_installed_font_with_the_letters_is_used(cat_font, tmp_path):
    assert canvas.missing_letters("猫 cat é") == ""
    assert canvas.missing_letters("猫犬") == "犬"
    explanation = explained(("猫", "b", "c", "d", "e"))
    drawing = figure(explanation)
    picture = pixels(drawing, tmp_path / "a.png")
    texts = [text for text in drawing.texts if "猫" in text.get_text()]
    assert texts and all(text.get_fontfamily() == ["DejaVu Sans", cat_font] for text in texts)
    headline = picture[round(200 * 0.2) : round(200 * 0.4), 50 : 50 + 40]
    assert (headline < 60).mean() > 0.5, "the square of the font stands there"


def test_a_name_without_a_font_becomes_its_number(no_more_fonts, tmp_path):
    names = canvas.DrawableNames(NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert names[4] == "cat" and names[-1] == "cat" and names[3:] == NAMES[3:]
        assert canvas.drawable_name("cät × 2", 7) == "cät × 2"
    with pytest.warns(UserWarning, match=r"no installed font has the letters of '猫': .* class 0"):
        assert names[0] == "class 0"
    explanation = explained(NAMES)
    with pytest.warns(UserWarning, match="no installed font has the letters of") as caught:
        drawing = figure(explanation)
    assert all("Glyph" not in str(warning.message) for warning in caught)
    pixels(drawing, tmp_path / "a.png")
    words = " ".join(text.get_text() for text in drawing.texts)
    assert "class 0" in words and "猫" not in words
    assert explanation.label(0) == "猫", "the explanation keeps its names"


def test_other_texts_without_a_font_are_escaped(no_more_fonts, tmp_path):
    drawing = new_figure(2, 1)
    drawing.text(0.1, 0.5, "犬.jpg × 2 \ufe0f", parse_math=False)
    with pytest.warns(UserWarning, match="letters of '犬.jpg"):
        pixels(drawing, tmp_path / "a.png")
    assert drawing.texts[0].get_text() == "\\u72ac.jpg × 2 "
    pixels(drawing, tmp_path / "a.png")  # and is not warned of again


def test_letters_that_matplotlib_does_not_join_are_not_drawn(no_more_fonts, monkeypatch):
    monkeypatch.setattr(mpl, "__version_info__", (3, 10, 0))
    assert canvas.missing_letters("قطة") and canvas.missing_letters("कु")
    with pytest.warns(UserWarning, match=r"cannot join the letters of 'قطة'; 3.11 does"):
        assert canvas.drawable_name("قطة", 2) == "class 2"


def test_the_command_says_one_line_of_names_without_a_font(no_more_fonts, elsewhere, run, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES), encoding="utf-8")
    status, out, err = run("explain", PHOTO, "--class-names", names, "--target", "0", "--out", "a")
    assert (status, err) == (0, "")
    assert out.count("no installed font has the letters of '猫'") == 1 and "Glyph" not in out
    assert "猫  ← explained" in out
    result = json.loads((tmp_path / "a" / "result.json").read_text(encoding="utf-8"))
    assert result["target"]["name"] == "猫"
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert json.dumps("猫")[1:-1] in page, "a browser has fonts of its own"


# Random weights


def test_random_weights_are_the_same_in_each_run_and_marked(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    results = []
    for folder in ("a", "b"):
        status, out, err = run(*EXPLAIN, "--out", folder)
        assert (status, err) == (0, "")
        assert out.count("note: model: its weights are random (seed 0)") == 1
        results.append(json.loads((tmp_path / folder / "result.json").read_text()))
    assert torch.equal(torch.rand(3), expected), "the generator of the caller stays as it is"
    first, second = (result["manifest"] for result in results)
    assert first["weights"] == "random, seed 0"
    assert first["weights_sha256"] == second["weights_sha256"]
    assert results[0]["predictions"] == results[1]["predictions"]


@pytest.mark.parametrize(
    ("arguments", "file"),
    [
        (["compare", PHOTO, "--methods", "raw-attention"], "compare.json"),
        (["prompt", PHOTO, "--strength", "1"], "prompt.json"),
        (["analyze", PHOTO, "--n-null", "2"], "analysis.json"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_every_result_of_random_weights_is_marked(run, tmp_path, monkeypatch, arguments, file):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(*arguments, *EXPLAIN[2:-1], "--out", "a")
    assert (status, err) == (0, "")
    assert "its weights are random (seed 0)" in out
    assert '"weights": "random, seed 0"' in (tmp_path / "a" / file).read_text()
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "test_vit (weights: random, seed 0)" in page


def test_trained_weights_are_not_marked(elsewhere, run, tmp_path):
    status, out, _ = run("explain", PHOTO, "--no-report", "--out", "a")
    assert status == 0 and "random" not in out
    assert "weights" not in json.loads((tmp_path / "a" / "result.json").read_text())["manifest"]
