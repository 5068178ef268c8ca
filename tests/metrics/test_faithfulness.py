"""Tests of faithfulness metrics against slow loops, Quantus and torchcam."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from semattn.errors import ShapeError
from semattn.grid import PatchGrid
from semattn.metrics import faithfulness as metrics
from semattn.metrics.faithfulness import curves, faithfulness_correlation
from semattn.metrics.perturbation import fill_of, ranks

GRID = PatchGrid((3, 4), (24, 32), (8, 8))
TARGET = torch.tensor([1, 0, 2])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(3 * 24 * 32, 20), nn.Tanh(), nn.Linear(20, 4)
    ).eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    return torch.rand(3, 3, 24, 32, generator=torch.manual_seed(1)) * 4


@pytest.fixture(scope="module")
def scores() -> Tensor:
    return torch.rand(3, 12, generator=torch.manual_seed(2))


def by_loop(model, x, scores, parts, baseline):
    """Compute both curves by their definition, in loops over images, steps and patches."""
    values = np.zeros((4, len(x), len(parts)))
    fill = fill_of(baseline, x)
    for i in range(len(x)):
        filled = fill(torch.tensor([i]), torch.zeros(1, 1, 24, 32))[0]
        order = scores[i].argsort(descending=True)
        for step, part in enumerate(parts):
            deleted, inserted = x[i].clone(), filled.clone()
            for patch in order[: round(part * 12)].tolist():
                row, column = divmod(patch, 4)
                pixels = (
                    slice(None),
                    slice(8 * row, 8 * row + 8),
                    slice(8 * column, 8 * column + 8),
                )
                deleted[pixels], inserted[pixels] = filled[pixels], x[i][pixels]
            with torch.no_grad():
                for kind, image in enumerate((deleted, inserted)):
                    logits = model(image[None])[0].double()
                    values[kind, i, step] = logits.softmax(0)[TARGET[i]]
                    values[2 + kind, i, step] = logits[TARGET[i]]
    return values


@pytest.mark.parametrize("baseline", ["blur", "mean"])
@pytest.mark.parametrize("parts", [6, metrics.ERASER])
def test_curves_are_those_of_the_definition(model, x, scores, baseline, parts):
    result = curves(
        model, x, scores, TARGET, grid=GRID, baseline=baseline, fractions=parts, batch_size=5
    )
    steps = np.linspace(0, 1, 7) if parts == 6 else np.array(parts)
    expected = by_loop(model, x, scores, steps, baseline)
    actual_curves = [
        result.deletion,
        result.insertion,
        result.deletion_logit,
        result.insertion_logit,
    ]
    for actual_curve, expected_curve in zip(actual_curves, expected, strict=True):
        np.testing.assert_allclose(actual_curve.numpy(), expected_curve, atol=1e-6)
    area = (steps[1:] - steps[:-1]) @ ((expected[:, :, 1:] + expected[:, :, :-1]) / 2).transpose(
        2, 0, 1
    ).reshape(len(steps) - 1, -1)
    area = area.reshape(4, 3)
    np.testing.assert_allclose(metrics.deletion(result), area[0], atol=1e-6)
    np.testing.assert_allclose(metrics.insertion(result), area[1], atol=1e-6)
    np.testing.assert_allclose(metrics.insertion_deletion(result), area[1] - area[0], atol=1e-6)
    np.testing.assert_allclose(metrics.lerf_morf(result), area[3] - area[2], atol=1e-6)
    start = expected[0][:, :1]
    np.testing.assert_allclose(metrics.aopc(result), (start - expected[0]).mean(1), atol=1e-6)
    within = slice(1, -1)
    np.testing.assert_allclose(
        metrics.comprehensiveness(result), (start - expected[0][:, within]).mean(1), atol=1e-6
    )
    np.testing.assert_allclose(
        metrics.sufficiency(result), (start - expected[1][:, within]).mean(1), atol=1e-6
    )


def test_removing_the_lowest_first_is_insertion_reversed(model, x, scores):
    most_first = curves(model, x, scores, TARGET, grid=GRID, baseline="mean", fractions=12)
    least_first = curves(model, x, -scores, TARGET, grid=GRID, baseline="mean", fractions=12)
    torch.testing.assert_close(least_first.deletion.flip(1), most_first.insertion)
    between = least_first.deletion_logit.mean(1) - most_first.deletion_logit.mean(1)
    torch.testing.assert_close(metrics.lerf_morf(most_first) * 12 / 13, between)  # ends are equal


def test_a_correct_map_beats_its_opposite():
    """With a model that uses a single patch, the curves change in the first step."""

    def predict(images: Tensor) -> Tensor:
        patch_mean = images[:, 0, 8:16, 8:16].mean(dim=(1, 2))
        return torch.stack([10 * patch_mean - 5, torch.zeros_like(patch_mean)], dim=1)

    x = torch.zeros(1, 3, 24, 32)
    x[..., 8:16, 8:16] = 1
    scores = torch.zeros(1, 12)
    scores[0, 5] = 1
    target = torch.tensor([0])
    best, worst = (
        curves(
            predict,
            x,
            sign * scores,
            target,
            grid=GRID,
            baseline=torch.zeros(3, 1, 1),
            fractions=12,
        )
        for sign in (1, -1)
    )
    high, low = torch.tensor([5.0, -5.0], dtype=torch.float64).sigmoid()
    torch.testing.assert_close(best.deletion[0], torch.cat([high[None], low.expand(12)]))
    torch.testing.assert_close(best.insertion[0], torch.cat([low[None], high.expand(12)]))
    expected = (high - low) * 11 / 12
    torch.testing.assert_close(metrics.insertion_deletion(best)[0], expected)
    torch.testing.assert_close(metrics.insertion_deletion(worst)[0], -expected)


def test_the_batch_does_not_matter(model, x, scores):
    batched = curves(model, x, scores, TARGET, grid=GRID)
    for index in range(3):
        part = slice(index, index + 1)
        single = curves(model, x[part], scores[part], TARGET[part], grid=GRID, batch_size=1)
        torch.testing.assert_close(single.deletion, batched.deletion[part], atol=1e-6, rtol=0)
        torch.testing.assert_close(single.insertion, batched.insertion[part], atol=1e-6, rtol=0)


def test_deletion_is_quantus_selectivity(model, x, scores):
    """Quantus needs square patches and a square picture."""
    quantus = pytest.importorskip("quantus")
    torch.manual_seed(0)
    square = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 4)).eval()
    grid = PatchGrid((3, 3), (24, 24), (8, 8))
    images, patch_scores = x[..., :24], scores[:, :9]
    heat_map = grid.upsample(patch_scores, mode="nearest")[:, None].numpy()
    expected = quantus.Selectivity(
        patch_size=8,
        perturb_baseline=0.0,
        normalise=False,
        disable_warnings=True,
        display_progressbar=False,
    )(
        model=square,
        x_batch=images.numpy(),
        y_batch=TARGET.numpy(),
        a_batch=heat_map,
        softmax=True,
        device="cpu",
    )
    actual = curves(
        square, images, patch_scores, TARGET, grid=grid, baseline=torch.zeros(3, 1, 1), fractions=9
    )
    np.testing.assert_allclose(np.array(expected), actual.deletion[:, 1:], atol=1e-5)


@pytest.mark.parametrize(("patches", "baseline"), [(1, 0.0), (3, 0.5)])
def test_both_areas_match_torchcam(model, x, scores, patches, baseline):
    """torchcam removes pixels; a map that is constant within patches removes whole patches."""
    torchcam = pytest.importorskip("torchcam.metrics", exc_type=ImportError)

    class FixedMap:
        def __init__(self, index: int) -> None:
            self.model, self.index = model, index

        def __call__(self, *_: object, **__: object) -> list[Tensor]:
            return [GRID.upsample(scores[self.index : self.index + 1], mode="nearest")]

        def fuse_cams(self, cams: list[Tensor]) -> Tensor:
            return cams[0]

        def _hooks_off(self) -> contextlib.AbstractContextManager[None]:
            return contextlib.nullcontext()

    parts = [step / 12 for step in range(0, 13, patches)]
    for index in range(3):
        part = slice(index, index + 1)
        metric = torchcam.DeletionInsertionMetric(
            FixedMap(index), nn.Softmax(-1), steps=len(parts) - 1,
            baseline=torch.full((1, 3, 1, 1), baseline), batch_size=7,
        )  # fmt: skip
        metric.update(x[part], int(TARGET[index]))
        actual = curves(
            model, x[part], scores[part], TARGET[part], grid=GRID,
            baseline=torch.full((3, 1, 1), baseline), fractions=parts,
        )  # fmt: skip
        expected = metric.summary()
        assert float(metrics.deletion(actual)) == pytest.approx(expected["deletion_auc"], abs=1e-5)
        assert float(metrics.insertion(actual)) == pytest.approx(
            expected["insertion_auc"], abs=1e-5
        )


def test_correlation_matches_a_slow_loop(model, x, scores):
    actual = faithfulness_correlation(
        model, x, scores, TARGET, grid=GRID, baseline="mean", fraction=0.25, n_sets=20, seed=4
    )
    chance = torch.Generator().manual_seed(4)
    sets = [torch.randperm(12, generator=chance)[:3].tolist() for _ in range(20)]
    fill = fill_of("mean", x)
    for i in range(3):
        sums, lost = [], []
        for patches in sets:
            keep = torch.ones(12)
            keep[patches] = 0
            pixels = GRID.upsample(keep[None], mode="nearest")[:, None]
            with torch.no_grad():
                before = model(x[i : i + 1]).softmax(1)[0, TARGET[i]]
                after = model(fill(torch.tensor([i]), pixels)).softmax(1)[0, TARGET[i]]
            sums.append(float(scores[i, patches].sum()))
            lost.append(float(before - after))
        assert float(actual[i]) == pytest.approx(np.corrcoef(sums, lost)[0, 1], abs=1e-4)
    even = faithfulness_correlation(model, x, torch.ones(3, 12), TARGET, grid=GRID, n_sets=5)
    assert even.isnan().all()


def test_scores_on_the_grid_and_with_gradients_are_accepted(model, x, scores):
    with torch.enable_grad():
        result = curves(model, x, scores.unflatten(1, (3, 4)).requires_grad_(), TARGET, grid=GRID)
    assert not result.deletion.requires_grad
    torch.testing.assert_close(
        result.deletion, curves(model, x, scores, TARGET, grid=GRID).deletion
    )
    assert torch.equal(ranks(scores), ranks(scores.double()))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"scores": torch.rand(3, 13)}, "scores: expected"),
        ({"scores": torch.rand(2, 12)}, "expected one row for each of 3 images"),
        ({"scores": torch.full((3, 12), torch.nan)}, "scores: expected finite numbers"),
        ({"target": torch.tensor([1])}, "expected one row for each of 3 images"),
        ({"images": torch.rand(3, 3, 24, 24)}, "images: expected 24x32 pixels"),
        ({"fractions": 0}, "fractions: expected at least one step"),
        ({"fractions": (0.0, 0.5)}, "fractions: expected numbers increasing from 0 to 1"),
        ({"predict": lambda images: images.mean((1, 2, 3))}, "predict: expected logits"),
        ({"baseline": "blurr"}, "did you mean 'blur'"),
    ],
)
def test_invalid_arguments_are_refused_in_one_line(model, x, scores, changed, message):
    arguments = {"predict": model, "images": x, "scores": scores, "target": TARGET} | changed
    with pytest.raises((ValueError, ShapeError), match=message) as error:
        curves(**arguments, grid=GRID)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="fraction, n_sets: expected sets"):
        faithfulness_correlation(model, x, scores, TARGET, grid=GRID, fraction=0.0)
