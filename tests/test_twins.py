"""Twins of one model give one map: by every explainer, and by the prompter.

Each twin of `tests.twins.pairwise` has the weights and the logits of its plain form. Its map must
be that of the plain form to 1e-5 of the maximum, or the model must be refused by name. Only the
kinds in `MAY_BE_REFUSED` may be refused.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from semattn import AttentionPrompter, AttnLRP, explainers, record
from semattn.errors import SemattnError, UnsupportedModelError
from semattn.explain.captum_methods import PixelExplainer
from semattn.prompting import Box, Mask
from tests.maps import CONTROLS, METHODS, QUICK, TARGET, TOLERANCE, assert_same, difference
from tests.twins import (
    FACTORS,
    GEOMETRIES,
    GRID,
    Twin,
    _possible_pairs,
    build,
    pairs,
    pairwise,
    pictures,
)

# A choice of a factor, and the word that names the reason in the message. None may be refused: the
# order of tokens of every twin is the same for all images and passes.
MAY_BE_REFUSED: dict[tuple[str, str], str] = {}

TWINS = pairwise()
each_twin = pytest.mark.parametrize("twin", TWINS, ids=str)

# SIFT on a flipped picture finds other keypoints, so the map is compared without them.
MODEL_ONLY: dict[str, dict[str, Any]] = {
    "sift-patch-interrelation": {"head_alignment": False, "query_weights": False},
}


def _explainer(name: str, twin: Twin) -> Any:
    model_only = {"density": "uniform"} | MODEL_ONLY.get(name, {})
    options = QUICK.get(name, {}) | (model_only if twin.geometry != "none" else {})
    return explainers[name](**options)


def _on_pixels(name: str) -> bool:
    return issubclass(explainers[name], PixelExplainer)


def _compares(name: str, geometry: str) -> bool:
    """Return whether the map of an explainer turns with the picture."""
    if geometry == "none":
        return True
    if name in CONTROLS or name == "smooth-grad":  # noise is drawn on the outer picture
        return False
    return not (_on_pixels(name) and geometry == "resize and crop")  # other pixels


@cache
def _model(twin: Twin) -> torch.nn.Module:
    """The model of a twin, whose positions are traced once."""
    return build(twin)


@cache
def _expected(plain: Twin, geometry: str, name: str) -> Tensor:
    """The map of the plain form on the inner picture, transformed back."""
    inner = GEOMETRIES[geometry].inside(pictures(geometry))
    explainer = _explainer(name, Twin(geometry=geometry))
    return GEOMETRIES[geometry].back(explainer.patch_map(_model(plain), inner, target=TARGET))


def _outcome(twin: Twin, name: str, model: torch.nn.Module) -> str:
    """Compare one map: "equal", or a line that says what is wrong."""
    expected = _expected(twin.plain(), twin.geometry, name)
    try:
        value = _explainer(name, twin).patch_map(model, pictures(twin.geometry), target=TARGET)
    except SemattnError as error:
        return _refusal(twin, error)
    if twin.geometry == "pad" and value.shape[1:] == GRID:  # a grid that holds the padding too
        value = GEOMETRIES["pad"].back(value)
    if value.shape != expected.shape:
        return f"shape {tuple(value.shape)}, expected {tuple(expected.shape)}"
    if twin.geometry == "pad" and not _on_pixels(
        name
    ):  # the scale depends on the number of patches of the picture
        total, expected_total = value.sum((1, 2), keepdim=True), expected.sum((1, 2), keepdim=True)
        value, expected = value / total, expected / expected_total
    apart = difference(value, expected)
    return "equal" if apart <= TOLERANCE else f"differs by {apart:.1e}"


def _refusal(twin: Twin, error: SemattnError) -> str:
    for (factor, choice), word in MAY_BE_REFUSED.items():
        if getattr(twin, factor) == choice and word in str(error):
            return "equal"
    return f"refused: {error}"


def _report(outcomes: dict[str, str]) -> None:
    wrong: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        if outcome != "equal":
            wrong.setdefault(outcome, []).append(name)
    assert not wrong, "\n" + "\n".join(f"{', '.join(n)}: {outcome}" for outcome, n in wrong.items())


def test_each_pair_of_choices_occurs() -> None:
    covered = {pair for twin in TWINS for pair in pairs(twin)}
    assert covered == set(_possible_pairs())
    assert {choice for twin in TWINS for choice in vars(twin).items()} == {
        (factor, value) for factor, values in FACTORS.items() for value in values
    }


@each_twin
def test_twins_have_equal_logits(twin: Twin) -> None:
    outer = pictures(twin.geometry)
    inner = GEOMETRIES[twin.geometry].inside(outer)
    torch.testing.assert_close(
        _model(twin)(outer), _model(twin.plain())(inner), atol=1e-9, rtol=1e-9
    )


@each_twin
def test_every_explainer_gives_twins_one_map(twin: Twin) -> None:
    model = _model(twin)
    _report(
        {name: _outcome(twin, name, model) for name in explainers if _compares(name, twin.geometry)}
    )


@pytest.mark.parametrize("geometry", ["crop", "resize and crop"])
@pytest.mark.parametrize("name", METHODS)
def test_no_heat_lies_where_the_model_sees_nothing(name: str, geometry: str) -> None:
    twin, x = Twin(geometry=geometry), pictures(geometry)
    heat_map = _explainer(name, twin).attribute(_model(twin), x, target=TARGET).sum(dim=1)
    top, bottom, left, right = GEOMETRIES[geometry].seen or (0, 0, 0, 0)
    if issubclass(explainers[name], PixelExplainer) and geometry == "resize and crop":
        # Pixels beside the crop that smoothing brings into it, or that are occluded with it.
        reach = 16 if name == "occlusion" else 4
        top, bottom, left, right = top - reach, bottom + reach, left - reach, right + reach
    inside = heat_map[:, top:bottom, left:right].clone()
    heat_map[:, top:bottom, left:right] = 0
    # Equal inputs at two places of a batch may have results that differ by rounding.
    rounding = 1e-5 * inside.abs().max() if name == "occlusion" else 0
    assert (heat_map.abs() <= rounding).all(), "heat outside the crop"
    assert (inside.amax((1, 2)) > 0).all()
    if not _on_pixels(name):  # the patches lie in order inside the crop
        expected = _expected(twin.plain(), geometry, name)
        cells = torch.nn.functional.adaptive_avg_pool2d(inside[:, None], GRID)[:, 0]
        pair = torch.stack([cells.flatten(), expected.flatten()])
        assert torch.corrcoef(pair)[0, 1] > 0.9


@pytest.mark.parametrize(
    "geometry", ["flip left and right", "flip up and down", "transpose", "rotate"]
)
def test_the_map_of_pixels_turns_with_the_picture(geometry: str) -> None:
    twin, x = Twin(geometry=geometry), pictures(geometry)
    explainer = _explainer("sift-patch-interrelation", twin)
    inside = GEOMETRIES[geometry].inside
    expected = explainer.attribute(_model(twin.plain()), inside(x), target=TARGET)
    torch.testing.assert_close(
        inside(explainer.attribute(_model(twin), x, target=TARGET)), expected, atol=1e-7, rtol=1e-5
    )


READ = {  # the kinds of token that each readout reads
    "class": {"class"},
    "mean": {"patches"},
    "mean of all": {"class", "patches"},
    "class and mean": {"class", "patches"},
    "distilled": {"class", "second"},
}

QUERIES = ("all", "class", "patches")


def _prompted(model: torch.nn.Module, x: Tensor, queries: str, weights: Any) -> Tensor:
    prompter = AttentionPrompter(
        model, density="count", strength=1.0, layers="last-half", queries=queries
    )
    with torch.no_grad(), prompter.steer(weights):
        return model(x)


def _prompts(twin: Twin) -> dict[str, tuple[Any, Any]]:
    """Return the prompts of the twin and its plain form, by name."""
    geometry = GEOMETRIES[twin.geometry]
    weights = torch.rand(2, *GRID, generator=torch.manual_seed(2), dtype=torch.float64) + 0.1
    prompt = (geometry.back(weights).flatten(1), weights.flatten(1))
    region = torch.zeros(1, 1, *geometry.outer)
    region[..., 16:32, 16:48] = 1
    masks = (Mask(region[0, 0].numpy()), Mask(geometry.inside(region)[0, 0].numpy()))
    if twin.geometry == "none":
        return {
            "count": (None, None),
            "weights": prompt,
            "box": (Box(16, 0, 47, 31, grow=None),) * 2,
            "box that grows": (Box(8, 8, 47, 31),) * 2,
            "mask": masks,
        }
    if geometry.whole:
        return {"weights": prompt, "mask": masks}
    # The bias depends on the number of patches, which padding changes; resizing blurs the mask.
    return {"weights": prompt, "mask": masks} if twin.geometry == "crop" else {}


@each_twin
def test_the_prompter_gives_twins_equal_logits(twin: Twin) -> None:
    if not _prompts(twin):
        pytest.skip("the grids of this geometry differ")
    outer = pictures(twin.geometry)
    inner = GEOMETRIES[twin.geometry].inside(outer)
    model, plain, outcomes = _model(twin), _model(twin.plain()), {}
    unprompted = plain(inner)
    for kind, (prompt, plainly_given) in _prompts(twin).items():
        for queries in QUERIES:
            if queries == "class" and "class" not in twin.kinds:
                continue
            if queries == "class" and twin.readout in ("mean", "max", "last patch"):
                for form, x, weights in ((plain, inner, plainly_given), (model, outer, prompt)):
                    with pytest.raises(UnsupportedModelError, match="class token"):
                        _prompted(form, x, queries, weights)
                continue
            prompted = _prompted(plain, inner, queries, plainly_given)
            if queries == "all":
                assert difference(prompted, unprompted) > 1e-3, "the prompt changes nothing"
            outcomes[f"{kind}, {queries}"] = _prompt_outcome(
                twin, model, outer, queries, prompt, prompted
            )
    _report(outcomes)


def _prompt_outcome(
    twin: Twin, model: torch.nn.Module, x: Tensor, queries: str, weights: Any, expected: Tensor
) -> str:
    try:
        apart = difference(_prompted(model, x, queries, weights), expected)
    except SemattnError as error:
        return _refusal(twin, error)
    return "equal" if apart <= TOLERANCE else f"differs by {apart:.1e}"


@each_twin
def test_the_readout_is_where_the_answer_is_read(twin: Twin) -> None:
    if twin.readout not in READ or twin.geometry == "pad":
        pytest.skip("a learned query, a part of the patches, or padding is read")
    recorded = record(_model(twin), pictures(twin.geometry), target=TARGET)
    weights = recorded.readout()
    torch.testing.assert_close(weights.sum(dim=1), torch.ones_like(weights[:, 0]))
    read = READ[twin.readout] & {"patches", *twin.kinds}
    assert (recorded.grid.drop_prefix(weights) > 0).all() == ("patches" in read)
    assert recorded.grid.drop_prefix(weights).any() == ("patches" in read)
    prefix = weights[:, : recorded.grid.prefix]
    assert ((prefix > 0).sum(dim=1) == len(read - {"patches"})).all()


def test_the_last_patch_alone_is_asked() -> None:
    for twin in (Twin(readout="last patch"), Twin("reversed", "class last", readout="last patch")):
        recorded = record(_model(twin), pictures(), target=TARGET)
        read = recorded.grid.drop_prefix(recorded.readout()) > 0
        assert read.sum(dim=1).tolist() == [1, 1] and read[:, -1].all()


@pytest.mark.parametrize("name", list(explainers))
@pytest.mark.parametrize("second", ["mean of all", "distilled", "class", "mean"])
def test_one_readout_written_in_two_ways_gives_one_map(name: str, second: str) -> None:
    """One linear head over two joined vectors is the mean of two heads, or a mean of all tokens."""
    layout = "class, second, patches" if second == "distilled" else "class first"
    model = build(Twin(layout=layout, readout=second))
    joined = _Joined(model, second).eval()
    x = pictures()
    torch.testing.assert_close(joined(x), model(x), atol=1e-9, rtol=1e-9)
    explainer = _explainer(name, Twin())
    if name == "attn-lrp":  # the gamma rule depends on which sums are computed in one layer
        explainer = AttnLRP(gamma=0)
    expected = explainer.patch_map(model, x, target=TARGET)
    assert_same(explainer.patch_map(joined, x, target=TARGET), expected)


class _Joined(torch.nn.Module):
    """The same readout as one linear layer over two token vectors that are joined."""

    def __init__(self, model: Any, readout: str) -> None:
        super().__init__()
        self.model, self.readout = model, readout

    def forward(self, images: Tensor) -> Tensor:
        model = self.model
        features = model.patch_embed(images).flatten(2).transpose(1, 2) + model.positions
        batch = len(images)
        kinds = ["class", "second"] if self.readout == "distilled" else ["class"]
        prefix = [model.tokens[kind].expand(batch, -1, -1) for kind in kinds]
        tokens = model.norm(model.blocks(torch.cat([*prefix, features], dim=1)))
        count = tokens.shape[1]
        first = tokens[:, 0]
        second = tokens[:, 1] if self.readout == "distilled" else tokens[:, 1:].mean(dim=1)
        if self.readout == "distilled":
            shares, heads = (0.5, 0.5), (model.head, model.head_second)
        else:
            patches = {"mean of all": (count - 1) / count, "class": 0.0, "mean": 1.0}
            shares = (1 - patches[self.readout], patches[self.readout])
            heads = (model.head, model.head)
        weight = torch.cat([s * h.weight for s, h in zip(shares, heads, strict=True)], dim=1)
        bias = sum(s * h.bias for s, h in zip(shares, heads, strict=True))
        return torch.nn.functional.linear(torch.cat([first, second], dim=-1), weight, bias)
