"""Models with several towers: text and image, ensembles, and one tower used twice.

Layers whose tokens do not come from the image are left out with a note. Parallel towers are refused
by name, or each member is explained as its own chain of layers.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from semattn import AttentionPrompter, explainers, record
from semattn.errors import SemattnError, UnsupportedModelError
from semattn.explain.captum_methods import PixelExplainer
from tests.maps import METHODS, TARGET, assert_same, attempt, difference, patch_map
from tests.models import CLASSES, GRID, build, images, state_of

TOKENS = 1 + GRID[0] * GRID[1]  # of the image tower: the class token and the patches


def _x() -> Tensor:
    return images(2, torch.float64)


class _ZeroShot(nn.Module):
    """Cosine similarities of an image with class prompts; both towers run in one pass.

    `length` is the number of text tokens; the critical case is that of the image tower. `first` is
    the tower that runs first, and `prompts` the number of prompts, possibly that of the images.
    """

    def __init__(self, length: int, first: str, prompts: int) -> None:
        super().__init__()
        self.visual: Any = build("class-token")
        torch.manual_seed(3)
        self.words = nn.Embedding(20, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.text = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.project = nn.Linear(16, CLASSES, bias=False)
        self.register_buffer("prompts", torch.randint(20, (prompts, length)))
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        if self.first == "text":
            text = self.encode_text()
            return self.visual(x) @ text.t()
        image = self.visual(x)
        return image @ self.encode_text().t()

    def encode_text(self) -> Tensor:
        text = self.project(self.text(self.words(self.prompts))[:, 0])
        return nn.functional.normalize(text, dim=-1)


class _TextAsScore:
    """Score of `_ZeroShot` as a function of the image tower's output."""

    def __init__(self, model: _ZeroShot) -> None:
        self.text = model.encode_text().detach()

    def __call__(self, output: Tensor) -> Tensor:
        return output @ self.text[TARGET]


zero_shot = [
    pytest.mark.parametrize("length", [7, TOKENS]),
    pytest.mark.parametrize("first", ["text", "image"]),
    pytest.mark.parametrize("prompts", [2, 5]),
]


def _marked(function: Any) -> Any:
    for mark in zero_shot:
        function = mark(function)
    return function


@_marked
def test_text_layers_are_left_out_with_a_note(length: int, first: str, prompts: int) -> None:
    model, x = _ZeroShot(length, first, prompts).double().eval(), _x()
    before = state_of(model)
    recorded = record(model, x, target=TARGET)
    torch.testing.assert_close(recorded.logits, model(x).detach())  # PyTorch has two paths for text
    assert [site.site.name for site in recorded.sites] == [
        f"visual.blocks.{number}.attn" for number in range(4)
    ]
    assert recorded.depth == 4 and (recorded.grid.shape, recorded.grid.prefix) == (GRID, 1)
    assert {site.name for site in recorded.left_out} == {
        f"text.layers.{number}.self_attn" for number in range(3)
    }
    result = explainers["sift-patch-interrelation"]().explain(model, x, target=TARGET)
    assert any("3 layers" in note or "text" in note for note in result.notes), result.notes
    assert state_of(model) == before


@_marked
def test_the_map_is_that_of_the_image_tower_alone(length: int, first: str, prompts: int) -> None:
    model, x = _ZeroShot(length, first, prompts).double().eval(), _x()
    for name in METHODS:
        expected = patch_map(name, model.visual, x, _TextAsScore(model))
        assert_same(patch_map(name, model, x), expected)


@_marked
def test_only_the_image_tower_is_prompted(length: int, first: str, prompts: int) -> None:
    model, x = _ZeroShot(length, first, prompts).double().eval(), _x()
    options = {"density": "count", "strength": 1.0, "layers": "all"}
    with torch.no_grad():
        expected = AttentionPrompter(model.visual, **options)(x) @ model.encode_text().t()
        assert (expected - model(x)).abs().max() > 1e-3
        torch.testing.assert_close(AttentionPrompter(model, **options)(x), expected)


class _Ensemble(nn.Module):
    """Mean of the logits of two models; `kind` describes the second member and its input."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        second = "registers" if kind == "other layout" else "class-token"
        self.members = nn.ModuleList(
            [build("class-token", seed=0), build(second, seed=1 if kind != "same" else 0)]
        )
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.members
        return (first(x) + second(x.flip(-1) if self.kind == "flipped" else x)) / 2


def _named(error: SemattnError) -> None:
    assert isinstance(error, UnsupportedModelError), error
    words = ("ensemble", "parallel", "tower", "twice", "siamese", "second", "more than once")
    assert any(word in str(error) for word in words), error


@pytest.mark.parametrize("kind", ["two seeds", "other layout", "flipped", "same"])
@pytest.mark.parametrize("name", METHODS)
def test_an_ensemble_is_refused_or_its_members_keep_their_chains(kind: str, name: str) -> None:
    model, x = _Ensemble(kind).double().eval(), _x()
    value, refusal = attempt(lambda: patch_map(name, model, x))
    if value is None:
        _named(refusal)
        return
    first, second = model.members
    members = [patch_map(name, first, x)]
    members.append(
        patch_map(name, second, x.flip(-1)).flip(-1)
        if kind == "flipped"
        else patch_map(name, second, x)
    )
    if issubclass(explainers[name], PixelExplainer):
        return  # computed from pixels, independent of the members
    shares = [member_map / member_map.sum((1, 2), keepdim=True) for member_map in members]
    expected = [sum(members) / 2, sum(shares) / 2]
    normalized = value / value.sum((1, 2), keepdim=True)
    fits = [
        min(difference(value, member_mean), difference(normalized, member_mean)) <= 1e-4
        for member_mean in expected
    ]
    assert any(fits), "neither refused nor the mean"


@pytest.mark.parametrize("kind", ["two seeds", "other layout", "flipped"])
def test_an_ensemble_is_prompted_in_each_member_or_refused(kind: str) -> None:
    model, x = _Ensemble(kind).double().eval(), _x()
    options = {"density": "count", "strength": 1.0, "layers": "all"}
    first, second = model.members
    weights = torch.rand(2, 12, generator=torch.manual_seed(2), dtype=torch.float64) + 0.1
    mirrored = weights.reshape(2, *GRID).flip(-1).flatten(1) if kind == "flipped" else weights
    with torch.no_grad():
        try:
            with AttentionPrompter(model, **options).steer(weights):
                value = model(x)
        except SemattnError as error:
            _named(error)
            return
        with AttentionPrompter(first, **options).steer(weights):
            expected = first(x)
        with AttentionPrompter(second, **options).steer(mirrored):
            expected = expected + second(x.flip(-1) if kind == "flipped" else x)
    torch.testing.assert_close(value, expected / 2)


class _Siamese(nn.Module):
    """One tower on two crops of the image, or on the image and its mirror image."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.tower: Any = build("class-token")
        torch.manual_seed(5)
        self.head = nn.Linear(2 * CLASSES, CLASSES)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "mirror":
            views = [x, x.flip(-1)]
        else:
            views = [
                nn.functional.interpolate(crop, size=(48, 64), mode="bilinear")
                for crop in (x[..., :24, :32], x[..., 24:, 32:])
            ]
        if self.kind == "one batch":
            return self.head(torch.cat(self.tower(torch.cat(views)).chunk(2), dim=1))
        return self.head(torch.cat([self.tower(view) for view in views], dim=1))


@pytest.mark.parametrize("kind", ["crops", "mirror", "one batch"])
@pytest.mark.parametrize("name", ["sift-patch-interrelation", "raw-attention", "grad-cam"])
def test_a_tower_that_runs_twice_is_refused_by_name(kind: str, name: str) -> None:
    model, x = _Siamese(kind).double().eval(), _x()
    with pytest.raises(UnsupportedModelError) as caught:
        patch_map(name, model, x)
    assert "tower" in str(caught.value)  # names the module
    if kind != "one batch":
        _named(caught.value)


@pytest.mark.parametrize("kind", ["crops", "mirror", "one batch"])
def test_a_tower_that_runs_twice_is_not_prompted_in_silence(kind: str) -> None:
    model, x = _Siamese(kind).double().eval(), _x()
    with pytest.raises(UnsupportedModelError), torch.no_grad():
        AttentionPrompter(model, density="count", strength=1.0)(x)


@pytest.mark.parametrize("name", METHODS)
def test_a_tower_that_does_not_run_changes_nothing(name: str) -> None:
    class _Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle = build("registers")
            self.tower = build("class-token")

        def forward(self, x: Tensor) -> Tensor:
            return self.tower(x)

    model, x = _Idle().double().eval(), _x()
    assert_same(patch_map(name, model, x), patch_map(name, model.tower, x))
