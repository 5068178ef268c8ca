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
def found():
    images = torch.rand(12, 3, 64, 64, generator=torch.manual_seed(0))
    return analyze(tiny(), images, batch_size=5)


@pytest.fixture(scope="module")
def drawn(found):
    return viz.analysis(found)


def test_each_head_has_its_colour_and_its_mark(found, drawn):
    axes = drawn.axes[0]
    shown = axes.images[0].get_array()
    assert np.allclose(shown, np.log(found.mean("alignment")))
    marked = found.against("alignment", "shifted")["significant"]
    marks = axes.collections[0].get_offsets()
    assert {(int(y), int(x)) for x, y in marks} == {tuple(one) for one in np.argwhere(marked)}


def test_lift_by_depth_is_the_mean_over_heads_beside_its_null(found, drawn):
    lines = drawn.axes[1].lines
    lift = found.mean("lift").mean(axis=1)
    expected = found.against("lift", "shifted")["expected"].mean(axis=1)
    for number, (asking, asked) in enumerate(((2, 2), (2, 0), (0, 2), (0, 0))):
        assert np.allclose(lines[2 * number].get_ydata(), lift[:, asking, asked], equal_nan=True)
        assert np.allclose(
            lines[2 * number + 1].get_ydata(), expected[:, asking, asked], equal_nan=True
        )
    assert "HIGH → HIGH" in [one.get_text() for one in drawn.axes[1].get_legend().get_texts()]


def test_each_head_is_a_point_of_distance_and_alignment(found, drawn):
    points = drawn.axes[2].collections[0].get_offsets()
    assert np.allclose(points[:, 0], found.mean("distance").ravel())
    assert np.allclose(points[:, 1], found.mean("alignment_matched").ravel())


def test_the_headline_names_model_images_and_null(drawn):
    said = " ".join(one.get_text() for one in drawn.texts)
    assert "VisionTransformer" in said or "test_vit" in said
    assert "12 images" in said and "null: shifted" in said and "4 × 4 patches" in said


def test_layers_of_several_widths_one_image_and_odd_names_are_drawn(found):
    hiera = families.build("hiera")
    made = analyze(hiera, models.images(3), preprocessing=None)
    assert len({heads for _, heads in made.layers}) > 1
    assert viz.analysis(made).axes
    one = analyze(tiny(), torch.rand(1, 3, 64, 64, generator=torch.manual_seed(1)))
    assert viz.analysis(one, null="other").axes  # which a single image does not have
    named = dataclasses.replace(found, manifest=found.manifest | {"architecture": "$<b>^_" * 30})
    assert viz.analysis(named).axes


def test_findings_hold_the_figures_and_their_nulls(found):
    said = found.findings()
    lift = next(one for one in said if one.figure == "lift")
    assert lift.layers == (0, 1)
    assert lift.value == pytest.approx(np.nanmean(found.mean("lift")[:2, :, 2, 2]))
    shifted = np.nanmean(found.against("lift", "shifted")["expected"][:2, :, 2, 2])
    assert lift.nulls is not None and lift.nulls["shifted"] == pytest.approx(shifted)
    assert f"{lift.value:.2f}x [{lift.low:.2f}, {lift.high:.2f}]" in lift.text
    assert f"{shifted:.2f}x with the keypoints shifted" in lift.text
    assert lift.low < lift.value < lift.high
    heads = next(one for one in said if one.figure == "alignment")
    test = found.against("alignment", "permuted")
    more = int((test["significant"][:2] & (test["z"][:2] > 0)).sum())
    assert f"of {int(heads.value)} heads" in heads.text
    assert f"{more} than with the patches shuffled, and lower" in heads.text
    assert {one.figure for one in said} >= {"alignment_plain", "distance", "prefix_mass"}
    assert len({one.text for one in said}) == len(said)


def test_findings_of_one_image_have_no_interval():
    one = analyze(tiny(), torch.rand(1, 3, 64, 64, generator=torch.manual_seed(1)))
    for finding in one.findings():
        assert finding.low is None and finding.high is None and "[" not in finding.text
