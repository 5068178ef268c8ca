"""Whether the tests against the nulls reject as often as they say, by simulation.

Many small analyses at once: each is `many` images of random concentration and random attention, run
through `held`, `measure` and `Tally` as `analyze` runs them.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from semattn.attention import AttentionRecord, AttentionSite, SiteRecord
from semattn.attention.token_map import Placement
from semattn.density import Scene, concentration, strata
from semattn.grid import PatchGrid
from semattn.interrelation.accumulate import Tally
from semattn.interrelation.measure import measure
from semattn.interrelation.nulls import PatchDistributions, Pool, keys_of, patch_distributions

GRID = PatchGrid((4, 6), (8, 12), (2, 2))
PATCHES = 24
AT_ONCE = 3000  # images that are measured together
FIGURES = {"alignment": (0, 0), "lift": (0, 0, 2, 2)}  # of lifts, HIGH to HIGH


def counts(chance: np.random.Generator, many: int) -> np.ndarray:
    """Clumped counts, with the ties that counts have."""
    return chance.poisson(chance.gamma(0.7, 1.2, (many, PATCHES))).astype(float)


def weights(chance: np.random.Generator, many: int) -> np.ndarray:
    """No two alike but for the empty ones."""
    return np.clip(chance.gamma(0.5, size=(many, PATCHES)) - 0.15, 0, None)


def smooth(chance: np.random.Generator, many: int) -> np.ndarray:
    """Smooth fields on the torus, moved by any amount, as the null `shifted` has it."""
    rough = chance.gamma(0.5, size=(many, *GRID.shape))
    near = sum(np.roll(rough, by, axis) for axis in (1, 2) for by in (-1, 1))
    field = (rough + near / 2).reshape(many, PATCHES)
    return np.clip(field - np.quantile(field, 0.4, axis=1, keepdims=True), 0, None)


def p_values(
    trials: int, many: int, draw, *, draws: int = 3, pool: int = 0, common: bool = False,
    planted: float = 0.0,
) -> dict[tuple[str, str], np.ndarray]:  # fmt: skip
    """(figure, null): p-values of `trials` analyses of `many` images each.

    `common` attention is the same for all images of an analysis; `planted` is how much of it goes
    to where the concentration is.
    """
    chance = np.random.default_rng(1)
    made: dict[tuple[str, str], list[float]] = {}
    for start in range(0, trials, AT_ONCE // many):
        here = min(AT_ONCE // many, trials - start)
        s = draw(chance, here * many)
        s[s.sum(1) == 0, 0] = 1
        s = torch.from_numpy(s)
        shape = (here if common else here * many, PATCHES)
        attention = torch.from_numpy(chance.dirichlet(np.full(PATCHES, 0.3), shape))
        attention = attention.repeat_interleave(many, 0) if common else attention
        attention = (1 - planted) * attention + planted * concentration(s)[:, None]
        pixels = chance.integers(0, 255, (here * many, 8, 12, 3), dtype=np.uint8)
        parts = []
        for first in range(0, here * many, many):
            one = slice(first, first + many)
            parts.append(_held(s[one], Scene(pixels[one], (), GRID), draws, pool))
        against = PatchDistributions(
            *(torch.cat([getattr(one, part) for one in parts]) for part in ("weights", "strata")),
            torch.cat([one.keep for one in parts]),
            parts[0].nulls,
        )
        measured = measure(_record(attention), against)
        for first in range(0, here * many, many):
            tally = Tally(measured.layers, 0)
            tally.add(measured, against, {i: i for i in range(first, first + many)}, 0)
            for figure, place in FIGURES.items():
                for null in against.nulls:
                    found = tally.against(figure, null)["p_value"][place]
                    made.setdefault((figure, null), []).append(float(found))
    return {key: np.array(values) for key, values in made.items()}


def _held(s: Tensor, scene: Scene, draws: int, pool: int) -> PatchDistributions:
    p, groups = concentration(s), strata(s, scene.seed)
    others = Pool(pool)
    for key, *one in list(zip(keys_of(scene), p, groups, strict=True))[:pool]:
        others.enter(key, *one)
    return patch_distributions(p, groups, torch.ones_like(p).bool(), scene, draws, others)


def _record(attention: Tensor) -> AttentionRecord:
    """One head, no prefix tokens."""
    many = len(attention)
    place = Placement(GRID, GRID, many)
    site = AttentionSite("blocks.0.attn", 0, "Attention", "self")
    one = SiteRecord(site, (many, 1, PATCHES, PATCHES), place, place, dense=attention[:, None])
    nothing = torch.zeros(many)
    return AttentionRecord((one,), GRID, nothing[:, None], None, None, nothing.bool())


def rejected_at_their_rate(found: dict[tuple[str, str], np.ndarray], level: float = 0.05) -> None:
    """Within the middle 99.9 % of what chance gives, each null and figure by itself."""
    for key, values in found.items():
        assert np.isfinite(values).all(), key
        rate, spread = (values < level).mean(), np.sqrt(level * (1 - level) / len(values))
        assert abs(rate - level) < 3.3 * spread, (key, rate)


@pytest.mark.parametrize(("draw", "draws"), [(counts, 20), (smooth, 3)])
def test_one_image_rejects_at_its_rate(draw, draws):
    found = p_values(600, 1, draw, draws=draws)
    assert {null for _, null in found} == {"shifted", "permuted"}
    rejected_at_their_rate(found)


def test_twenty_images_together_reject_at_their_rate():
    found = p_values(200, 20, smooth, pool=8)
    assert {null for _, null in found} == {"shifted", "other", "permuted"}
    rejected_at_their_rate(found)


def test_what_all_images_have_in_common_is_no_finding():
    """Attention that follows the place alone: no image's own concentration has a part in it."""
    found = p_values(60, 60, weights, pool=4, common=True)
    for figure in FIGURES:
        # What each image draws is drawn by others, too: that may cost power, not truth.
        other = found.pop((figure, "other"))
        assert (other < 0.05).mean() < 0.05 + 3.3 * np.sqrt(0.05 * 0.95 / len(other)), figure
    rejected_at_their_rate(found)


def test_ties_between_patches_are_no_finding():
    """Of patches with as many keypoints, no place is HIGH more often than another."""
    found = p_values(50, 80, lambda chance, many: 1.0 * (counts(chance, many) > 0), common=True)
    rejected_at_their_rate({key: found[key] for key in found if key[0] == "lift"})


def test_attention_that_is_planted_where_the_keypoints_are_is_found():
    for many, pool, draws in ((1, 0, 20), (20, 20, 3)):
        found = p_values(100, many, counts, draws=draws, pool=pool, planted=0.5)
        for key, values in found.items():
            assert (values < 0.05).mean() > (0.95 if many > 1 or key[0] == "alignment" else 0.5), (
                key
            )
