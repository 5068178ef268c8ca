"""The Captum explainers return bit-equal results to Captum."""

from __future__ import annotations

import captum.attr
import pytest
import torch
from torch import Tensor, nn

from semattn import InputXGradient, IntegratedGradients, Occlusion, SmoothGrad
from semattn.explain.captum_methods import _default_window
from semattn.grid import PatchGrid
from tests import families
from tests.models import build, images

TARGET = [1, 3]
EXPLAINERS = [
    InputXGradient(),
    IntegratedGradients(n_steps=5, internal_batch_size=4),
    SmoothGrad(nt_samples=3, nt_samples_batch_size=2),
    Occlusion(stride=(16, 16), perturbations_per_eval=5),
]
each = pytest.mark.parametrize("explainer", EXPLAINERS, ids=lambda explainer: explainer.name)


def _captum(explainer: object, model: nn.Module, x: Tensor, target: object) -> Tensor:
    """Compute the attribution with Captum directly."""
    x = x.clone().requires_grad_()
    if isinstance(explainer, InputXGradient):
        return captum.attr.InputXGradient(model).attribute(x, target=target)
    if isinstance(explainer, IntegratedGradients):
        return captum.attr.IntegratedGradients(model).attribute(
            x, target=target, n_steps=5, internal_batch_size=4
        )
    if isinstance(explainer, Occlusion):
        return captum.attr.Occlusion(model).attribute(
            x, (3, 16, 16), (3, 16, 16), target=target, perturbations_per_eval=5
        )
    rows = []
    for image, class_number in zip(x.detach(), target, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            rows.append(
                captum.attr.NoiseTunnel(captum.attr.Saliency(model)).attribute(
                    image[None],
                    target=class_number,
                    nt_samples=3,
                    nt_samples_batch_size=2,
                    stdevs=float(0.15 * (image.max() - image.min())),
                )
            )
    return torch.cat(rows)


@each
@pytest.mark.parametrize("name", ["class-token", "gap", "unfused"])
def test_equals_captum_bit_for_bit(explainer: object, name: str) -> None:
    model, x = build(name), images()
    expected = _captum(explainer, model, x, TARGET).to(x.dtype)  # of Captum 0.7: float64
    explanation = explainer.explain(model, x, target=TARGET)
    assert torch.equal(explanation.attribution, expected)
    assert torch.equal(explainer.attribute(model, x, target=TARGET), expected)
    assert torch.equal(explanation.heat_map, expected.sum(1))
    means = expected.sum(1).unflatten(1, (3, 16)).unflatten(3, (4, 16)).mean((2, 4))
    torch.testing.assert_close(explanation.patch_map, means)
    if not isinstance(explainer, SmoothGrad):  # the mean of magnitudes
        assert explanation.heat_map.min() < 0 < explanation.heat_map.max()


@each
def test_the_global_generator_is_neither_used_nor_changed(explainer: object) -> None:
    model, x = build("class-token"), images()
    first = explainer.attribute(model, x, target=TARGET)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    assert torch.equal(explainer.attribute(model, x, target=TARGET), first)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_noise_depends_on_the_seed() -> None:
    model, x = build("class-token"), images()
    maps = [SmoothGrad(nt_samples=2, seed=seed).attribute(model, x, target=1) for seed in (0, 0, 1)]
    assert torch.equal(maps[0], maps[1]) and not torch.allclose(maps[0], maps[2])
    without_noise = SmoothGrad(nt_samples=2, noise=0).attribute(model, x, target=1)
    gradient = captum.attr.Saliency(model).attribute(x.requires_grad_(), target=1)
    torch.testing.assert_close(without_noise, gradient)


def test_noise_scales_with_the_range_of_each_image() -> None:
    model, x = build("class-token"), images()
    x = torch.stack([2 * x[0] - 1, 0.5 * x[1] + 3])
    maps = SmoothGrad(nt_samples=3, noise=0.2, seed=7).attribute(model, x, target=1)
    for image, heat_map in zip(x, maps, strict=True):
        std = 0.2 * (image.amax() - image.amin())
        copies = image.expand(3, -1, -1, -1)
        noise = torch.normal(0.0, std.expand_as(copies), generator=torch.manual_seed(7))
        noisy = (copies + noise).requires_grad_()
        (gradient,) = torch.autograd.grad(model(noisy)[:, 1].sum(), noisy)
        torch.testing.assert_close(heat_map, gradient.abs().mean(dim=0))


class _Dictionary(nn.Module):
    """Model with a dictionary of features, and one shift per image."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = build("class-token", torch.float64)

    def forward(self, x: Tensor, shift: Tensor, scale: float) -> dict[str, Tensor]:
        assert len(shift) == len(x), "one shift per copy"
        return {"image_embeds": self.inner(scale * x + shift[:, None, None, None])}


class _Shifted(nn.Module):
    """Model with a scalar output for one image of `_Dictionary`."""

    def __init__(self, inner: _Dictionary, shift: float, direction: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.shift = shift
        self.direction = direction

    def forward(self, x: Tensor) -> Tensor:
        shift = torch.full((len(x),), self.shift, dtype=x.dtype)
        return (self.inner(x, shift, 0.5)["image_embeds"] * self.direction).sum(1, keepdim=True)


@each
@pytest.mark.parametrize("kind", ["function", "list", "own"])
def test_targets_of_each_image_apply_to_its_copies(explainer: object, kind: str) -> None:
    model, x = _Dictionary(), images(dtype=torch.float64)
    shift = torch.tensor([0.1, -0.4], dtype=torch.float64)
    texts = torch.randn(2, 5, generator=torch.manual_seed(0), dtype=torch.float64)
    target = {
        "function": lambda output: (output["image_embeds"] * texts).sum(1),
        "list": [lambda output, text=text: output @ text for text in texts],
        "own": None,
    }[kind]
    if kind == "own":
        features = model(x, shift, 0.5)["image_embeds"].detach()
        texts = features / features.norm(dim=1, keepdim=True)
    actual = explainer.attribute(model, x, target=target, additional_forward_args=(shift, 0.5))
    for index in range(2):
        single = _Shifted(model, float(shift[index]), texts[index])
        expected = explainer.attribute(single, x[index : index + 1], target=0)[0]
        torch.testing.assert_close(actual[index], expected, atol=1e-12, rtol=1e-9)


def test_integrated_gradients_are_complete() -> None:
    model, x = build("gap", torch.float64), images(dtype=torch.float64)
    baseline = torch.full((1, 3, 1, 1), 0.5)
    explainer = IntegratedGradients(n_steps=60, baselines=baseline)
    actual = explainer.attribute(model, x, target=TARGET).sum((1, 2, 3))
    difference = model(x) - model(torch.full_like(x, 0.5))
    torch.testing.assert_close(actual, difference[[0, 1], TARGET].detach(), atol=1e-4, rtol=1e-3)
    assert explainer.parameters()["baselines"] == "given (1, 3, 1, 1)"


def test_occlusion_covers_one_patch_by_half_patches() -> None:
    model, x = build("class-token"), images(1)
    actual = Occlusion().attribute(model, x, target=1)
    expected = captum.attr.Occlusion(model).attribute(
        x, (3, 16, 16), (3, 8, 8), target=1, perturbations_per_eval=16
    )
    assert torch.equal(actual, expected)
    swin = families.build("swin")  # patches of 4 pixels, 16 of them across
    assert torch.equal(
        Occlusion().attribute(swin, x, target=1),
        Occlusion(window=(4, 4), stride=(2, 2)).attribute(swin, x, target=1),
    )
    assert _default_window(PatchGrid((56, 56), (224, 224), (4, 4))) == (16, 16)
    assert _default_window(PatchGrid((14, 14), (224, 224), (16, 16))) == (16, 16)
    one_window = Occlusion(window=(48, 64)).attribute(model, x, target=1)
    decrease = (model(x) - model(torch.zeros_like(x)))[0, 1].detach()
    torch.testing.assert_close(one_window, decrease.expand_as(one_window))


def test_invalid_options_are_refused() -> None:
    for kind in (InputXGradient, IntegratedGradients, SmoothGrad, Occlusion):
        for options in ({"layers": [1]}, {"refine": "guided"}):
            with pytest.raises(ValueError, match=f"expected .* for {kind.name}, .* leave it out"):
                kind(**options)
    for kind, options in (
        (IntegratedGradients, {"n_steps": 0}),
        (SmoothGrad, {"noise": -1.0}),
        (Occlusion, {"window": (0, 3)}),
    ):
        with pytest.raises(ValueError, match="expected"):
            kind(**options)
    for options in ({"window": (4, 4), "stride": (8, 4)}, {"window": (64, 64)}):
        with pytest.raises(ValueError, match="window, stride: expected"):
            Occlusion(**options).attribute(build("class-token"), images(), target=1)


class CountingModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = build("class-token")
        self.max_batch = 0

    def forward(self, x: Tensor) -> Tensor:
        self.max_batch = max(self.max_batch, len(x))
        return self.inner(x)


@pytest.mark.parametrize(
    ("explainer", "max_batch"),
    [
        (IntegratedGradients(n_steps=20, internal_batch_size=6), 6),
        (IntegratedGradients(n_steps=20, internal_batch_size=1), 2),
        (SmoothGrad(nt_samples=20, nt_samples_batch_size=7), 7),
        (Occlusion(perturbations_per_eval=4), 8),
    ],
)
def test_memory_is_bounded(explainer: object, max_batch: int) -> None:
    model = CountingModel()
    explainer.attribute(model, images(), target=1)
    assert model.max_batch == max_batch
