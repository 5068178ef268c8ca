"""The method against a float64 loop, and its closed forms."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from semattn import SIFTPatchInterrelation
from semattn.attention import record
from tests.models import UniformAttention, build, images
from tests.oracles import dense_record, interrelation

TARGET = [1, 3]
PREFIX = {"class-token": 1, "registers": 5, "gap": 0, "rope-registers": 3, "relative-bias": 1}
SWITCHES = list(itertools.product(["class", "all"], [True, False], [True, False]))


def random_density(patches: int = 12) -> Tensor:
    p = torch.rand(2, patches, generator=torch.manual_seed(3), dtype=torch.float64) ** 2
    return p / p.sum(-1, keepdim=True)


def _given(p: Tensor):  # type: ignore[no-untyped-def]
    """A density that comes out as p itself: the smoothing of `concentration` undone."""
    return lambda scene: p - 0.1 / 1.1 * p.mean(-1, keepdim=True)


def concentration_of(s: Tensor) -> Tensor:
    s = s + 0.1 * s.mean(-1, keepdim=True)
    return s / s.sum(-1, keepdim=True)


@pytest.mark.parametrize(("queries", "query_weights", "head_alignment"), SWITCHES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", ["class-token", "registers"])
def test_equals_the_oracle(
    name: str,
    dtype: torch.dtype,
    tolerance: float,
    queries: str,
    query_weights: bool,
    head_alignment: bool,
) -> None:
    model, x, s = build(name, dtype), images(dtype=dtype), random_density()
    explainer = SIFTPatchInterrelation(
        density=s,
        queries=queries,
        query_weights=query_weights,
        head_alignment=head_alignment,
        affinity=0,
    )
    actual = explainer.patch_map(model, x, target=TARGET).flatten(1).double()
    expected = interrelation(
        dense_record(model, x, TARGET),
        concentration_of(s),
        layers=[2, 3],
        prefix=PREFIX[name],
        class_token=True,
        queries=queries,
        query_weights=query_weights,
        head_alignment=head_alignment,
    )
    scale = expected.amax()
    torch.testing.assert_close(actual / scale, expected / scale, atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", ["gap", "rope-registers", "relative-bias"])
def test_models_without_a_class_token_use_all_patches(name: str) -> None:
    model, x, s = build(name, torch.float64), images(dtype=torch.float64), random_density()
    explainer = SIFTPatchInterrelation(density=s, affinity=0)
    actual = explainer.patch_map(model, x, target=TARGET).flatten(1)
    expected = interrelation(
        dense_record(model, x, TARGET),
        concentration_of(s),
        layers=[2, 3],
        prefix=PREFIX[name],
        class_token=False,
        queries="all",
        query_weights=True,
        head_alignment=True,
    )
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)
    if name == "gap":
        with pytest.raises(ValueError, match="queries: expected a model that reads"):
            SIFTPatchInterrelation(density=s, queries="class").patch_map(model, x)


def test_registers_are_not_queries() -> None:
    model, x = build("registers-gap"), images()
    for layers in ([3], [0, 1]):
        with pytest.raises(ValueError, match="queries: expected a model that reads"):
            SIFTPatchInterrelation(queries="class", layers=layers).patch_map(model, x)
        auto = SIFTPatchInterrelation(layers=layers).patch_map(model, x, target=1)
        all_queries = SIFTPatchInterrelation(queries="all", layers=layers).patch_map(
            model, x, target=1
        )
        assert torch.equal(auto, all_queries)


def test_each_image_of_a_batch_has_its_own_readout() -> None:
    inner, x = build("class-token", torch.float64), images(dtype=torch.float64)

    class MixedReadout(torch.nn.Module):
        """Model that reads the class token of bright images, and the mean patch of others."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.inner.forward_features(x)
            bright = (x.mean((1, 2, 3)) > 0.5)[:, None]
            return self.inner.head(torch.where(bright, tokens[:, 0], tokens[:, 1:].mean(1)))

    x = torch.stack([x[0] * 0.5, x[1] * 0.5 + 0.5])
    explainer = SIFTPatchInterrelation(density=torch.arange(1.0, 13.0))
    batched = explainer.patch_map(MixedReadout(), x, target=1)
    for image, expected in zip(x, batched, strict=True):
        single = explainer.patch_map(MixedReadout(), image[None], target=1)[0]
        torch.testing.assert_close(single, expected, atol=1e-12, rtol=1e-9)


def test_an_attention_pool_is_one_more_layer() -> None:
    model, x, s = (
        build("attention-pool", torch.float64),
        images(dtype=torch.float64),
        random_density(),
    )
    explainer = SIFTPatchInterrelation(density=s, affinity=0)
    actual = explainer.patch_map(model, x, target=TARGET).flatten(1)
    p = concentration_of(s)
    attention_record = record(model, x, target=TARGET, layers="last-half")
    expected = torch.zeros(2, 12, dtype=torch.float64)
    for site in attention_record.sites:
        a, d = site.attention(), site.attention_gradient()
        w = torch.ones(2, 1, dtype=torch.float64) if site.site.kind == "pool" else p
        alignment = 12 * torch.einsum("bi,bhij,bj->bh", w, a, p) / w.sum(-1, keepdim=True)
        expected += torch.einsum("bh,bi,bhij->bj", alignment, w, (a * d).relu())
    torch.testing.assert_close(actual, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("queries", ["class", "all"])
def test_a_uniform_density_is_the_model_alone(queries: str) -> None:
    model, x = build("registers", torch.float64), images(dtype=torch.float64)
    explainer = SIFTPatchInterrelation(queries=queries)
    uniform = SIFTPatchInterrelation(queries=queries, density="uniform")
    model_only = explainer.model_only().patch_map(model, x, target=0)
    torch.testing.assert_close(uniform.patch_map(model, x, target=0), model_only)
    assert not torch.allclose(explainer.patch_map(model, x, target=0), model_only)


def test_uniform_attention_weights_heads_equally() -> None:
    torch.manual_seed(0)
    model, x, s = UniformAttention().double(), images(dtype=torch.float64), random_density()
    with_density = SIFTPatchInterrelation(density=s, queries="class").patch_map(model, x, target=1)
    model_only = SIFTPatchInterrelation(queries="class").model_only().patch_map(model, x, target=1)
    torch.testing.assert_close(with_density, model_only, atol=1e-14, rtol=1e-12)


def test_alignment_favours_the_head_that_attends_to_keypoints() -> None:
    model, x = build("class-token", torch.float64), images(dtype=torch.float64)
    attention_record = record(model, x, target=TARGET, layers=[3])
    attention = attention_record.sites[0].attention(slice(0, 1))[:, :, 0, 1:]
    keypoint_patch = attention[0, 0].argmax()
    s = torch.full((2, 12), 1e-9, dtype=torch.float64)
    s[:, keypoint_patch] = 1
    by_head = (attention / attention.sum(-1, keepdim=True))[:, :, keypoint_patch] * 12
    row = attention_record.sites[0].attention(slice(0, 1)) * attention_record.sites[
        0
    ].attention_gradient(slice(0, 1))
    p = concentration_of(s)
    alignment = 12 * torch.einsum("bhj,bj->bh", attention / attention.sum(-1, keepdim=True), p)
    assert (alignment.argmax(-1) == by_head.argmax(-1)).all()
    expected = torch.einsum("bh,bhj->bj", alignment, row[:, :, 0, 1:].relu())
    explainer = SIFTPatchInterrelation(density=s, layers=[3], affinity=0)
    actual = explainer.patch_map(model, x, target=TARGET)
    torch.testing.assert_close(actual.flatten(1), expected)


def test_chunks_do_not_change_the_map(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build("registers", torch.float64), images(dtype=torch.float64)
    explainer = SIFTPatchInterrelation(density=random_density(), queries="all")
    expected = explainer.patch_map(model, x, target=TARGET)
    for size in (1, 2500):
        monkeypatch.setattr("semattn.attention.attention_record.CHUNK_BYTES", size)
        torch.testing.assert_close(explainer.patch_map(model, x, target=TARGET), expected)


def test_layers_are_chosen() -> None:
    model, x = build("class-token", torch.float64), images(dtype=torch.float64)

    def map_of_layers(layers: object) -> Tensor:
        explainer = SIFTPatchInterrelation(density=random_density(), layers=layers, affinity=0)
        return explainer.patch_map(model, x, target=TARGET)

    torch.testing.assert_close(
        map_of_layers([0]) + map_of_layers([1, 2]) + map_of_layers(-1), map_of_layers("all")
    )


def test_wrong_options_are_refused_at_once() -> None:
    for options in (
        {"queries": "some"},
        {"density": "cuont"},
        {"detector": "sfit"},
        {"refine": "gilded"},
    ):
        with pytest.raises(ValueError, match=r"expected one of|did you mean|choose from"):
            SIFTPatchInterrelation(**options)


def test_the_map_is_zero_for_a_target_with_negative_gradients() -> None:
    """Use one head with positive values: dA is positive for class 1, negative for class 0."""

    class OneHead(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch_embed = torch.nn.Conv2d(3, 8, 8, stride=8)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patch_embed(x).flatten(2).transpose(1, 2)[:, None]
            mixed = torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens.exp())
            positive = mixed.mean(dim=(1, 2, 3))
            return torch.stack([-positive, positive], dim=1)

    model, x = OneHead().eval(), images(2)
    explainer = SIFTPatchInterrelation(model, affinity=0)
    opposed, supported = explainer.explain(x, target=0), explainer.explain(x, target=1)
    assert (opposed.heat_map == 0).all()
    assert opposed.notes[-1].startswith("image 0, image 1: the map is zero")
    assert (supported.heat_map > 0).all()
    assert not any("is zero" in note for note in supported.notes)
