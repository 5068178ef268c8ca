from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from semattn import viz
from semattn.interrelation import analyze
from tests import families, models
from tests.conftest import tiny


@pytest.fixture(scope="module")
def results():
    images = torch.rand(12, 3, 64, 64, generator=torch.manual_seed(0))
    return analyze(tiny(), images, batch_size=5)


@pytest.fixture(scope="module")
def figure(results):
    return viz.analysis(results)


def test_each_head_has_its_colour_and_its_mark(results, figure):
    axes = figure.axes[0]
    shown = axes.images[0].get_array()
    assert np.allclose(shown, np.log(results.mean("alignment")))
    marked = results.against("alignment", "shifted")["significant"]
    marks = axes.collections[0].get_offsets()
    assert {(int(y), int(x)) for x, y in marks} == {tuple(index) for index in np.argwhere(marked)}


def test_lift_by_depth_is_the_mean_over_heads_beside_its_null(results, figure):
    lines = figure.axes[1].lines
    lift = results.mean("lift").mean(axis=1)
    expected = results.against("lift", "shifted")["expected"].mean(axis=1)
    for number, (row, column) in enumerate(((2, 2), (2, 0), (0, 2), (0, 0))):
        assert np.allclose(lines[2 * number].get_ydata(), lift[:, row, column], equal_nan=True)
        assert np.allclose(
            lines[2 * number + 1].get_ydata(), expected[:, row, column], equal_nan=True
        )
    assert "HIGH → HIGH" in [label.get_text() for label in figure.axes[1].get_legend().get_texts()]


def test_each_head_is_a_point_of_distance_and_alignment(results, figure):
    points = figure.axes[2].collections[0].get_offsets()
    assert np.allclose(points[:, 0], results.mean("distance").ravel())
    assert np.allclose(points[:, 1], results.mean("alignment_matched").ravel())


def test_the_headline_names_model_images_and_null(figure):
    content = " ".join(text.get_text() for text in figure.texts)
    assert "VisionTransformer" in content or "test_vit" in content
    assert "12 images" in content and "null: shifted" in content and "4 × 4 patches" in content


def test_layers_of_several_widths_one_image_and_odd_names_are_drawn(results):
    hiera = families.build("hiera")
    analysis = analyze(hiera, models.images(3), preprocessing=None)
    assert len({heads for _, heads in analysis.layers}) > 1
    assert viz.analysis(analysis).axes
    single = analyze(tiny(), torch.rand(1, 3, 64, 64, generator=torch.manual_seed(1)))
    assert viz.analysis(single, null="other").axes  # which a single image does not have
    named = dataclasses.replace(
        results, manifest=results.manifest | {"architecture": "$<b>^_" * 30}
    )
    assert viz.analysis(named).axes


def test_findings_hold_the_figures_and_their_nulls(results):
    findings = results.findings()
    lift = next(finding for finding in findings if finding.metric == "lift")
    assert lift.layers == (0, 1)
    assert lift.value == pytest.approx(np.nanmean(results.mean("lift")[:2, :, 2, 2]))
    shifted = np.nanmean(results.against("lift", "shifted")["expected"][:2, :, 2, 2])
    assert lift.nulls is not None and lift.nulls["shifted"] == pytest.approx(shifted)
    assert f"{lift.value:.2f}x [{lift.low:.2f}, {lift.high:.2f}]" in lift.text
    assert f"{shifted:.2f}x with the keypoints shifted" in lift.text
    assert lift.low < lift.value < lift.high
    heads = next(finding for finding in findings if finding.metric == "alignment")
    test = results.against("alignment", "permuted")
    more = int((test["significant"][:2] & (test["z"][:2] > 0)).sum())
    assert f"of {int(heads.value)} heads" in heads.text
    assert f"{more} than with the patches shuffled, and lower" in heads.text
    assert {finding.metric for finding in findings} >= {
        "alignment_plain",
        "distance",
        "prefix_mass",
    }
    assert len({finding.text for finding in findings}) == len(findings)


def test_findings_of_one_image_have_no_interval():
    single = analyze(tiny(), torch.rand(1, 3, 64, 64, generator=torch.manual_seed(1)))
    for finding in single.findings():
        assert finding.low is None and finding.high is None and "[" not in finding.text
