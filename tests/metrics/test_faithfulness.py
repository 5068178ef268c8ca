"""Curves of deletion and insertion, what is made of them: against slow loops, Quantus, torchcam."""

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
    """Both curves by the definition: an image, a step, a patch at a time."""
    found = np.zeros((4, len(x), len(parts)))
    fill = fill_of(baseline, x)
    for i in range(len(x)):
        other = fill(torch.tensor([i]), torch.zeros(1, 1, 24, 32))[0]
        order = scores[i].argsort(descending=True)
        for step, part in enumerate(parts):
            lessened, raised = x[i].clone(), other.clone()
            for patch in order[: round(part * 12)].tolist():
                row, column = divmod(patch, 4)
                at = (slice(None), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
                lessened[at], raised[at] = other[at], x[i][at]
            with torch.no_grad():
                for kind, image in enumerate((lessened, raised)):
                    logits = model(image[None])[0].double()
                    found[kind, i, step] = logits.softmax(0)[TARGET[i]]
                    found[2 + kind, i, step] = logits[TARGET[i]]
    return found


@pytest.mark.parametrize("baseline", ["blur", "mean"])
@pytest.mark.parametrize("parts", [6, metrics.ERASER])
def test_curves_are_those_of_the_definition(model, x, scores, baseline, parts):
    made = curves(model, x, scores, TARGET, grid=GRID, baseline=baseline, parts=parts, batch_size=5)
    steps = np.linspace(0, 1, 7) if parts == 6 else np.array(parts)
    found = by_loop(model, x, scores, steps, baseline)
    mine = [made.deletion, made.insertion, made.deletion_logit, made.insertion_logit]
    for one, wanted in zip(mine, found, strict=True):
        np.testing.assert_allclose(one.numpy(), wanted, atol=1e-6)
    area = (steps[1:] - steps[:-1]) @ ((found[:, :, 1:] + found[:, :, :-1]) / 2).transpose(
        2, 0, 1
    ).reshape(len(steps) - 1, -1)
    area = area.reshape(4, 3)
    np.testing.assert_allclose(metrics.deletion(made), area[0], atol=1e-6)
    np.testing.assert_allclose(metrics.insertion(made), area[1], atol=1e-6)
    np.testing.assert_allclose(metrics.insertion_deletion(made), area[1] - area[0], atol=1e-6)
    np.testing.assert_allclose(metrics.lerf_morf(made), area[3] - area[2], atol=1e-6)
    start = found[0][:, :1]
    np.testing.assert_allclose(metrics.aopc(made), (start - found[0]).mean(1), atol=1e-6)
    within = slice(1, -1)
    np.testing.assert_allclose(
        metrics.comprehensiveness(made), (start - found[0][:, within]).mean(1), atol=1e-6
    )
    np.testing.assert_allclose(
        metrics.sufficiency(made), (start - found[1][:, within]).mean(1), atol=1e-6
    )


def test_taking_the_least_first_is_insertion_backwards(model, x, scores):
    made = curves(model, x, scores, TARGET, grid=GRID, baseline="mean", parts=12)
    least = curves(model, x, -scores, TARGET, grid=GRID, baseline="mean", parts=12)
    torch.testing.assert_close(least.deletion.flip(1), made.insertion)
    between = least.deletion_logit.mean(1) - made.deletion_logit.mean(1)
    torch.testing.assert_close(metrics.lerf_morf(made) * 12 / 13, between)  # ends are equal


def test_a_map_that_knows_beats_one_that_does_not_and_its_opposite():
    """A model that reads one patch: deletion falls at once, insertion rises at once."""

    def predict(images: Tensor) -> Tensor:
        seen = images[:, 0, 8:16, 8:16].mean(dim=(1, 2))
        return torch.stack([10 * seen - 5, torch.zeros_like(seen)], dim=1)

    x = torch.zeros(1, 3, 24, 32)
    x[..., 8:16, 8:16] = 1
    knows = torch.zeros(1, 12)
    knows[0, 5] = 1
    target = torch.tensor([0])
    best, worst = (
        curves(predict, x, sign * knows, target, grid=GRID, baseline=torch.zeros(3, 1, 1), parts=12)
        for sign in (1, -1)
    )
    high, low = torch.tensor([5.0, -5.0], dtype=torch.float64).sigmoid()
    torch.testing.assert_close(best.deletion[0], torch.cat([high[None], low.expand(12)]))
    torch.testing.assert_close(best.insertion[0], torch.cat([low[None], high.expand(12)]))
    wanted = (high - low) * 11 / 12
    torch.testing.assert_close(metrics.insertion_deletion(best)[0], wanted)
    torch.testing.assert_close(metrics.insertion_deletion(worst)[0], -wanted)


def test_the_batch_does_not_matter(model, x, scores):
    whole = curves(model, x, scores, TARGET, grid=GRID)
    for index in range(3):
        part = slice(index, index + 1)
        alone = curves(model, x[part], scores[part], TARGET[part], grid=GRID, batch_size=1)
        torch.testing.assert_close(alone.deletion, whole.deletion[part], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone.insertion, whole.insertion[part], atol=1e-6, rtol=0)


def test_deletion_is_quantus_selectivity(model, x, scores):
    """Quantus takes square patches from a square picture; ours on the same."""
    quantus = pytest.importorskip("quantus")
    torch.manual_seed(0)
    square = nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, 4)).eval()
    grid = PatchGrid((3, 3), (24, 24), (8, 8))
    images, own = x[..., :24], scores[:, :9]
    heat = grid.upsample(own, mode="nearest")[:, None].numpy()
    theirs = quantus.Selectivity(
        patch_size=8,
        perturb_baseline=0.0,
        normalise=False,
        disable_warnings=True,
        display_progressbar=False,
    )(
        model=square,
        x_batch=images.numpy(),
        y_batch=TARGET.numpy(),
        a_batch=heat,
        softmax=True,
        device="cpu",
    )
    made = curves(square, images, own, TARGET, grid=grid, baseline=torch.zeros(3, 1, 1), parts=9)
    np.testing.assert_allclose(np.array(theirs), made.deletion[:, 1:], atol=1e-5)


@pytest.mark.parametrize(("patches", "baseline"), [(1, 0.0), (3, 0.5)])
def test_both_areas_are_torchcams(model, x, scores, patches, baseline):
    """torchcam takes pixels; of a map that is even within patches, patch by patch."""
    theirs = pytest.importorskip("torchcam.metrics", exc_type=ImportError)

    class Given:
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
        metric = theirs.DeletionInsertionMetric(
            Given(index), nn.Softmax(-1), steps=len(parts) - 1,
            baseline=torch.full((1, 3, 1, 1), baseline), batch_size=7,
        )  # fmt: skip
        metric.update(x[part], int(TARGET[index]))
        made = curves(
            model, x[part], scores[part], TARGET[part], grid=GRID,
            baseline=torch.full((3, 1, 1), baseline), parts=parts,
        )  # fmt: skip
        found = metric.summary()
        assert float(metrics.deletion(made)) == pytest.approx(found["deletion_auc"], abs=1e-5)
        assert float(metrics.insertion(made)) == pytest.approx(found["insertion_auc"], abs=1e-5)


def test_correlation_by_a_slow_loop(model, x, scores):
    made = faithfulness_correlation(
        model, x, scores, TARGET, grid=GRID, baseline="mean", part=0.25, draws=20, seed=4
    )
    chance = torch.Generator().manual_seed(4)
    sets = [torch.randperm(12, generator=chance)[:3].tolist() for _ in range(20)]
    fill = fill_of("mean", x)
    for i in range(3):
        sums, lost = [], []
        for one in sets:
            keep = torch.ones(12)
            keep[one] = 0
            pixels = GRID.upsample(keep[None], mode="nearest")[:, None]
            with torch.no_grad():
                before = model(x[i : i + 1]).softmax(1)[0, TARGET[i]]
                after = model(fill(torch.tensor([i]), pixels)).softmax(1)[0, TARGET[i]]
            sums.append(float(scores[i, one].sum()))
            lost.append(float(before - after))
        assert float(made[i]) == pytest.approx(np.corrcoef(sums, lost)[0, 1], abs=1e-4)
    even = faithfulness_correlation(model, x, torch.ones(3, 12), TARGET, grid=GRID, draws=5)
    assert even.isnan().all()


def test_scores_on_the_grid_and_gradients_are_taken(model, x, scores):
    with torch.enable_grad():
        made = curves(model, x, scores.unflatten(1, (3, 4)).requires_grad_(), TARGET, grid=GRID)
    assert not made.deletion.requires_grad
    torch.testing.assert_close(made.deletion, curves(model, x, scores, TARGET, grid=GRID).deletion)
    assert torch.equal(ranks(scores), ranks(scores.double()))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"scores": torch.rand(3, 13)}, "scores: expected"),
        ({"scores": torch.rand(2, 12)}, "expected one row for each of 3 images"),
        ({"scores": torch.full((3, 12), torch.nan)}, "scores: expected finite numbers"),
        ({"target": torch.tensor([1])}, "expected one row for each of 3 images"),
        ({"images": torch.rand(3, 3, 24, 24)}, "images: expected 24x32 pixels"),
        ({"parts": 0}, "parts: expected at least one step"),
        ({"parts": (0.0, 0.5)}, "parts: expected numbers increasing from 0 to 1"),
        ({"predict": lambda images: images.mean((1, 2, 3))}, "predict: expected logits"),
        ({"baseline": "blurr"}, "did you mean 'blur'"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(model, x, scores, changed, said):
    given = {"predict": model, "images": x, "scores": scores, "target": TARGET} | changed
    with pytest.raises((ValueError, ShapeError), match=said) as error:
        curves(**given, grid=GRID)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="part, draws: expected sets"):
        faithfulness_correlation(model, x, scores, TARGET, grid=GRID, part=0.0)
