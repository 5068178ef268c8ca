from __future__ import annotations

import dataclasses
import time

import pytest
import torch

import semattn
from semattn.errors import ImageError, SemattnError, ShapeError, TargetError, UnsupportedModelError
from semattn.explain import Explainer, explainers
from semattn.explain.comparison import OURS, check_methods
from semattn.images import Preprocessing
from semattn.utils.profiling import profile
from tests.conftest import PHOTO
from tests.models import build, images, state_of

CPU = torch.device("cpu")
QUICK = ("attention-rollout", OURS, "center", "legrad", "grad-cam", "keypoint-density")
PREPARED = Preprocessing((48, 64), (0.5,) * 3, (0.5,) * 3, crop_pct=0.9)


@pytest.fixture(scope="module")
def model():
    return build("class-token")


@pytest.fixture(scope="module")
def comparison(model):
    return semattn.compare(model, PHOTO, QUICK, preprocessing=PREPARED)


def test_every_registered_method_is_compared_ours_first(model):
    names = check_methods(None, {})
    assert names[0] == OURS
    assert set(names[-3:]) == {"keypoint-density", "random", "center"}
    assert sorted(names) == sorted(explainers)
    everything = semattn.compare(model, images(1), target=2)
    assert [row.method for row in everything.rows] == list(names)
    for row in everything.rows:
        assert not row.refusal
        assert row.seconds > 0
        assert 0 <= row.sensitivity <= 1
        assert row.explanation.target.tolist() == [2]
        assert (row.sensitivity > 0) == explainers[row.method].class_specific, row.method
        if not explainers[row.method].class_specific:
            assert row.sensitivity == 0, "measured, and exactly"


@pytest.mark.parametrize("source", [PHOTO, images(1)], ids=["a file", "a tensor"])
def test_the_maps_are_those_of_the_methods_alone(model, source):
    comparison = semattn.compare(model, source, QUICK, preprocessing=PREPARED)
    assert tuple(row.method for row in comparison.rows) == QUICK
    for row in comparison.rows:
        explainer = explainers[row.method](preprocessing=PREPARED)
        alone = explainer.explain(model, source)
        torch.testing.assert_close(row.explanation.heat_map, alone.heat_map, rtol=1e-5, atol=1e-7)
        assert row.explanation.manifest == alone.manifest
        assert row.explanation.images.names == alone.images.names
        assert row.explanation.notes == alone.notes
        assert row.explanation.keypoints[0].xy.equal(alone.keypoints[0].xy)


def test_sensitivity_is_measured_with_the_likeliest_other_class(model, comparison):
    logits = comparison.explanation.logits[0]
    best, second = logits.topk(2).indices.tolist()
    assert comparison.explanation.target.tolist() == [best]
    assert comparison.other == second
    second_comparison = semattn.compare(model, PHOTO, [OURS], target=second, preprocessing=PREPARED)
    assert second_comparison.other == best
    ours = explainers[OURS](preprocessing=PREPARED)
    best_map, second_map = (
        ours.patch_map(model, PHOTO, target=target) for target in (best, second)
    )
    by_hand = (best_map / best_map.sum() - second_map / second_map.sum()).abs().sum().item() / 2
    assert comparison.rows[1].sensitivity == pytest.approx(by_hand, rel=1e-4)
    assert second_comparison.rows[0].sensitivity == pytest.approx(by_hand, rel=1e-4)


def test_a_model_without_classes_has_no_sensitivity():
    model = build("class-token")
    model.reset_classifier(0)
    comparison = semattn.compare(model, images(1), [OURS, "center"])
    assert comparison.other is None
    assert [row.sensitivity for row in comparison.rows] == [None, None]
    assert comparison.explanation.target is None and comparison.explanation.target_description
    alone = build("class-token")
    alone.reset_classifier(1)
    assert semattn.compare(alone, images(1), [OURS]).other is None, "there is no other class"


def test_a_refusal_is_a_row_and_the_rest_goes_on(model, monkeypatch):
    class Refusing(Explainer):
        name = "refusing"

        def relevance(self, record, p):
            raise UnsupportedModelError("model: expected another, got this one")

    monkeypatch.setitem(explainers, "refusing", Refusing)
    before = state_of(model)
    comparison = semattn.compare(model, images(1), ["refusing", OURS, "occlusion"], refine="guided")
    assert [row.method for row in comparison.rows] == ["refusing", OURS, "occlusion"]
    assert comparison.rows[0].refusal == "model: expected another, got this one"
    assert (
        comparison.rows[0].explanation
        is comparison.rows[0].seconds
        is comparison.rows[0].sensitivity
        is None
    )
    assert not comparison.rows[1].refusal
    assert comparison.rows[2].refusal.startswith("refine: expected 'none' for occlusion")
    assert comparison.explanation.manifest["method"] == OURS
    assert state_of(model) == before
    with pytest.raises(UnsupportedModelError, match="expected another"):
        semattn.compare(model, images(1), ["refusing"])


def test_what_is_wrong_for_all_methods_ends_the_run(model):
    with pytest.raises(TargetError, match="0 to 4"):
        semattn.compare(model, images(1), target=5)
    with pytest.raises(ShapeError, match="expected one image, got a batch of 2"):
        semattn.compare(model, images(2))
    with pytest.raises(ImageError, match="finite"):
        semattn.compare(model, images(1) * torch.nan)
    with pytest.raises(ValueError, match="did you mean 'legrad'"):
        semattn.compare(model, images(1), [OURS, "legard"])
    with pytest.raises(ValueError, match="one name at least"):
        semattn.compare(model, images(1), [])
    with pytest.raises(TypeError, match="list of names, got 'legrad'"):
        semattn.compare(model, images(1), "legrad")
    with pytest.raises(TypeError, match="did you mean 'density'"):
        semattn.compare(model, images(1), densty="count")
    with pytest.raises(ValueError, match="did you mean 'count'"):
        semattn.compare(model, images(1), density="cuont")
    with pytest.raises(SemattnError, match="expected a torch.nn.Module"):
        semattn.compare(lambda x: x, images(1))


def test_progress_names_each_method_before_it_runs(model):
    calls = []
    comparison = semattn.compare(
        model, images(1), ["center", OURS, "center"], progress=lambda *call: calls.append(call)
    )
    assert calls == [("center", 1, 2), (OURS, 2, 2)]
    assert len(comparison.rows) == 2, "a name counts once"


def test_keypoints_cost_time_only_where_they_are_used(model):
    def slow(pixels, **options):
        time.sleep(0.3)
        return semattn.detectors["sift"](pixels, **options)

    comparison = semattn.compare(model, images(1), ["center", OURS, "raw-attention"], detector=slow)
    center, ours, raw = (row.seconds for row in comparison.rows)
    assert ours > 0.3 > max(center, raw)
    assert len({id(row.explanation.keypoints) for row in comparison.rows}) == 1, "all show the same"


def test_notes_of_all_stand_once_and_those_of_some_with_their_names(comparison):
    def noted(row, *notes):
        return dataclasses.replace(
            row, explanation=dataclasses.replace(row.explanation, notes=notes)
        )

    first, second, third = comparison.rows[:3]
    rows = (noted(first, "All."), noted(second, "All.", "Two."), noted(third, "All.", "Two."))
    notes = dataclasses.replace(comparison, rows=rows).notes
    assert notes == ("All.", f"{second.method}, {third.method}: Two.")


def test_cost_is_wall_time_and_the_peak_of_memory():
    def work():
        values = torch.ones(64, 2**20 // 4)  # 64 MiB
        time.sleep(0.05)
        return len(values)

    length, cost = profile(work, CPU)
    assert length == 64
    assert 0.05 < cost.seconds < 5
    if cost.peak_mib is not None:
        assert 60 < cost.peak_mib < 120
        idle = profile(lambda: time.sleep(0.02), CPU)[1]
        assert idle.peak_mib < 30


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cost_on_cuda():
    device = torch.device("cuda")
    _, cost = profile(lambda: torch.ones(64, 2**20 // 4, device=device).sum(), device)
    assert 64 <= cost.peak_mib < 70


def test_memory_that_nobody_can_tell_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr("semattn.utils.profiling._STATM", tmp_path / "none")
    assert profile(lambda: None, CPU)[1].peak_mib is None


def test_an_error_passes_and_the_watch_ends():
    import threading

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        profile(lambda: 1 / 0, CPU)
    assert threading.active_count() == before
