"""Tests of the report page as text: content, size and refused arguments."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from semattn import SIFTPatchInterrelation, report
from semattn.attention import record, steer
from semattn.density import concentration, densities, strata
from semattn.density.scene import Scene
from semattn.errors import ShapeError
from semattn.prompting.strength_sweep import STRENGTHS
from semattn.report.heat_map_content import map_of, patches_with_half
from semattn.report.image_content import rebuilt, unsmoothed
from semattn.report.render import as_json, digest
from tests import families, models
from tests.report.pages import (
    CLASSES,
    NASTY,
    Analysed,
    compared,
    content_of,
    corners,
    explained,
    model_of,
)


@pytest.fixture(scope="module")
def model():
    return model_of()


@pytest.fixture(scope="module")
def explanation(model):
    return explained(model)


@pytest.fixture(scope="module")
def page(model, explanation):
    return report.html(
        explanation, model=model, comparison=compared(explanation), analysis=Analysed()
    )


def test_all_given_parts_are_on_the_page(model, explanation, page):
    parts = {"image", "explanation", "attention", "prompting", "comparison", "analysis"}
    assert parts <= content_of(page).keys()
    assert "attention" not in content_of(report.html(explanation))
    assert "image" in content_of(report.html(comparison=compared(explanation)))
    assert "prompting" not in content_of(report.html(explanation, model=model, prompting=False))
    folder = content_of(report.html(None, analysis=Analysed()))
    assert folder.keys().isdisjoint(parts - {"analysis"})


def test_the_content_security_policy_allows_only_the_page(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    style = re.search(r"<style>(.*?)</style>", page, re.S)[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    assert rules == {
        "default-src": "'none'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "style-src": f"'{digest(style)}'",
        "script-src": f"'{digest(scripts[0])}'",
    }
    assert len(scripts) == 1
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "innerHTML" not in page and "eval(" not in page


def test_names_are_escaped(page):
    assert page.count("</script>") == 2, "one for the content and one for the script"
    assert "<img src=x" not in page
    assert content_of(page)["image"]["name"] == NASTY
    assert content_of(page)["analysis"]["skipped"][0]["name"] == NASTY
    assert as_json("</script>\u2028") == '"\\u003c/script\\u003e\\u2028"'
    title = re.search(r"<title>(.*?)</title>", page)[1]
    assert title.startswith("&lt;img src=x") and "{{style}}" in title


def test_the_notebook_frame_contains_the_full_page(explanation):
    page_report = report.build(explanation)
    frame = page_report._repr_html_()
    assert re.match(r'<iframe title="semattn report" sandbox="allow-scripts" ', frame)
    inside = frame[frame.index('srcdoc="') + 8 : frame.rindex('"></iframe>')]
    assert not set('<>"') & set(inside)
    import html

    assert html.unescape(inside) == page_report.html


def test_files_are_written_atomically(explanation, tmp_path, monkeypatch):
    file = report.write(tmp_path / "new" / "page.html", explanation)
    assert file.read_text(encoding="utf-8") == report.html(explanation)
    assert [path.name for path in file.parent.iterdir()] == ["page.html"]
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        report.Report("other", "").save(file)
    assert [path.name for path in file.parent.iterdir()] == ["page.html"]
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize("case", ["none", "map", "analysis", "model", "size", "small", "folder"])
def test_invalid_arguments_are_refused_in_one_line(case, model, explanation, tmp_path):
    smaller = replace(compared(explanation), explanation=explained(model_of(), corners()))
    grid = replace(explanation.grid, image_size=(32, 32))
    smaller = replace(smaller, explanation=replace(smaller.explanation, grid=grid))
    calls = {
        "none": lambda: report.build(),
        "map": lambda: report.build(explanation.heat_map),
        "analysis": lambda: report.build(analysis={}),
        "model": lambda: report.build(explanation, model=models.build("class-token", seed=5)),
        "size": lambda: report.build(explanation, comparison=smaller),
        "small": lambda: report.build(explanation, max_mb=0.01),
        "folder": lambda: report.write(tmp_path, explanation),
    }
    with pytest.raises((ValueError, TypeError), match=": expected .*, got .*") as error:
        calls[case]()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", ["mean", "z"])
def test_a_table_that_lacks_a_head_is_refused(part):
    class Wrong(Analysed):
        def summary(self):
            summary = super().summary()
            table = summary["metrics"]["alignment"]
            (table if part == "mean" else table["nulls"]["shifted"])[part][3].pop()
            return summary

    with pytest.raises(ShapeError, match=rf"got \[2, 2, 2, 2\] in|alignment.*{part}"):
        report.html(analysis=Wrong())


def test_undefined_values_are_null(page):
    assert content_of(page)["analysis"]["metrics"]["distance"]["mean"][0][0] is None


def test_counts_and_strata_match_the_density(explanation, page):
    image = content_of(page)["image"]
    scene = Scene(explanation.images.pixels, explanation.keypoints, explanation.grid)
    s = densities["count"](scene)
    assert image["counts"] == s[0].tolist()
    assert image["strata"] == strata(s)[0].tolist()
    assert len(set(image["strata"])) == 3, "an image with all strata"
    assert image["lift"] == pytest.approx((12 * explanation.concentration[0]).tolist(), rel=1e-3)


def test_without_keypoints_every_patch_is_empty(model):
    with pytest.warns(UserWarning, match="no keypoint"):
        blank = explained(model, torch.zeros(1, 3, *models.SIZE))
    image = content_of(report.html(blank))["image"]
    assert image["counts"] == image["strata"] == [0] * 12


def test_the_density_is_recovered_from_the_concentration():
    s = torch.rand(3, 12, dtype=torch.float64, generator=torch.manual_seed(0))
    s[:, ::3] = 0
    p = concentration(s)
    torch.testing.assert_close(unsmoothed(p), s / s.sum(-1, keepdim=True))
    assert (unsmoothed(p)[:, ::3] == 0).all()
    torch.testing.assert_close(concentration(unsmoothed(p)), p)


@pytest.mark.parametrize("layers", [None, "all", [1, 3], slice(1, 3)])
def test_the_explainer_is_rebuilt_with_its_options(model, layers):
    explanation = explained(model, layers=layers, queries="all")
    patch_map = rebuilt(explanation).patch_map(model, explanation.images.inputs, target=0)
    torch.testing.assert_close(patch_map, explanation.patch_map)


def test_strength_0_matches_the_explanation_and_others_are_steered(model, explanation, page):
    part = content_of(page)["prompting"]
    assert part["strengths"] == list(STRENGTHS)
    assert part["maps"][0] == content_of(page)["explanation"]["relevance"]
    p = explanation.concentration
    bias = torch.cat([torch.zeros(1, 1), (12 * p).log().clamp(-2.5, 2.5)], dim=1).float()
    assert bias.std() > 0.3
    for index in (0, 4, 6):
        with steer(model, STRENGTHS[index] * bias, layers=[3]), torch.no_grad():
            probabilities = model(explanation.images.inputs).softmax(-1)[0]
            heat_map = SIFTPatchInterrelation().patch_map(
                model, explanation.images.inputs, target=0
            )
        actual = {entry["label"]: entry["probability"][index] for entry in part["classes"]}
        labels = [*model.classes]
        assert actual == pytest.approx(
            dict(zip(labels, probabilities.tolist(), strict=True)), abs=2e-6
        )
        codes = np.frombuffer(base64.b64decode(part["maps"][index]), dtype=np.uint8).astype(int)
        expected = np.frombuffer(base64.b64decode(map_of(heat_map.flatten())), dtype=np.uint8)
        assert np.abs(codes - expected).max() <= 1
    curves = [entry["probability"] for entry in part["classes"]]
    assert max(abs(probabilities[0] - probabilities[-1]) for probabilities in curves) > 1e-3, (
        "the strength has an effect"
    )


def test_the_model_is_unchanged(model, explanation):
    before = models.state_of(model)
    report.build(explanation, model=model)
    assert models.state_of(model) == before


def test_windowed_models_have_a_page_with_prompting():
    model = families.build("swin")
    explanation = SIFTPatchInterrelation().explain(model, corners())
    content = content_of(report.html(explanation, model=model))
    assert content["attention"]["tokens"] == explanation.grid.patches
    assert any(layer["differs"] for layer in content["attention"]["layers"])
    curves = [entry["probability"] for entry in content["prompting"]["classes"]]
    assert max(abs(probabilities[0] - probabilities[-1]) for probabilities in curves) > 1e-4


def test_the_answer_has_the_map_and_the_first_classes(explanation, page):
    answer = content_of(page)["explanation"]["answer"]
    assert answer["size"] == list(explanation.heat_map.shape[1:])
    codes = np.frombuffer(base64.b64decode(answer["map"]), dtype=np.uint8)
    assert codes[int(explanation.heat_map[0].argmax())] == 255
    assert codes[int(explanation.heat_map[0].argmin())] == 0
    probabilities = explanation.logits[0].softmax(-1)
    order = probabilities.argsort(descending=True).tolist()
    assert [entry["label"] for entry in answer["classes"]] == [CLASSES[i] for i in order]
    assert [entry["probability"] for entry in answer["classes"]] == pytest.approx(
        probabilities[order].tolist(), abs=1e-5
    )
    assert [entry["explained"] for entry in answer["classes"]] == [number == 0 for number in order]


@pytest.mark.parametrize(
    ("relevance", "patches"),
    [
        ([4.0, 0, 0, 4], 1),
        ([3.0, 3, 1, 1], 2),
        ([1.0] * 6, 3),
        ([-5.0, 1, 0], 1),
        ([0.0, -1], None),
    ],
)
def test_half_of_the_relevance_counts_positive_patches(relevance, patches):
    assert patches_with_half(torch.tensor(relevance)) == patches


def test_targets_without_class_have_no_probabilities():
    model = models.build("class-token")
    explanation = SIFTPatchInterrelation().explain(model, corners(), target=lambda out: out.sum(1))
    content = content_of(report.html(explanation, model=model))
    assert content["explanation"]["answer"]["classes"] == []
    assert "prompting" not in content
    assert any("expected a class" in note for note in content["missing"])


def test_one_image_of_a_batch(model):
    explanation = explained(model, torch.cat([corners(), models.images(1)]))
    content = content_of(report.html(explanation, model=model, index=1))
    single = content_of(report.html(explained(model, models.images(1)), model=model))
    assert content["explanation"]["values"] == pytest.approx(
        single["explanation"]["values"], rel=1e-3, abs=1e-6
    )
    assert content["image"]["keypoints"] == single["image"]["keypoints"]
    with pytest.raises(ShapeError, match="index: expected one of 2 images, got 2"):
        report.html(explanation, index=2)


def small_patch14(size: int):
    import timm

    torch.manual_seed(0)
    return timm.create_model("vit_small_patch14_dinov2", img_size=size, num_classes=12).eval()


def test_a_vit_s_at_257_tokens_stays_under_15_mb(tmp_path):
    model = small_patch14(224)
    x = torch.rand(1, 3, 224, 224, generator=torch.manual_seed(0))
    explanation = SIFTPatchInterrelation().explain(model, x, target=0)
    file = report.write(
        tmp_path / "page.html", explanation, model=model, comparison=compared(explanation)
    )
    content = content_of(file.read_text(encoding="utf-8"))
    assert content["attention"]["all"]
    assert content["attention"]["tokens"] == 257
    assert 6e6 < file.stat().st_size < 15e6
    smaller_page = content_of(report.html(explanation, model=model, prompting=False, max_mb=3.0))[
        "attention"
    ]
    assert not smaller_page["all"]
    assert 20 < len(smaller_page["heads"]["rows"]) < len(smaller_page["mean"]["rows"]) == 257


@pytest.mark.parametrize("max_mb", [2.0, 5.0])
def test_a_larger_model_stores_selected_rows(max_mb, tmp_path):
    model = small_patch14(392)
    x = torch.rand(1, 3, 392, 392, generator=torch.manual_seed(0))
    explanation = SIFTPatchInterrelation().explain(model, x, target=0)
    file = report.write(
        tmp_path / "p.html", explanation, model=model, prompting=False, max_mb=max_mb
    )
    assert 0.5 * max_mb * 1e6 < file.stat().st_size <= max_mb * 1e6
    part = content_of(file.read_text(encoding="utf-8"))["attention"]
    assert part["heads"]["rows"][0] == part["mean"]["rows"][0] == 0
    assert part["reads_class_token"] == bool(record(model, x, grad="last").reads_class_token)
