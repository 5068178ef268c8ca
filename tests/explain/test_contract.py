"""Contract of every registered explainer, of Captum and of semattn."""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from captum.attr import Attribution, NoiseTunnel, visualization as captum_pictures
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn

from semattn.attention import record
from semattn.errors import SemattnError, TargetError, UnsupportedModelError
from semattn.explain import (
    Center,
    KeypointDensity,
    LeGrad,
    Random,
    SIFTPatchInterrelation,
    explainers,
)
from semattn.explain.attention_gradient import AttentionGradientExplainer
from semattn.explain.captum_methods import PixelExplainer
from tests import families
from tests.models import MODELS, build, images, state_of

# Options that make a method fast on tiny models.
QUICK: dict[str, dict[str, Any]] = {
    "integrated-gradients": {"n_steps": 3},
    "smooth-grad": {"nt_samples": 2},
    "occlusion": {"window": (16, 16), "stride": (16, 16)},
    "transition-attention": {"steps": 3},
}


def each_explainer(
    lrp: Collection[str] = tuple(explainers), without: Collection[str] = (), **attributes: bool
) -> pytest.MarkDecorator:
    """Parametrize over all registered explainers with the given class attributes.

    Methods that use the gradient of attention occur again with the gradients of relevance
    propagation, if their name is in `lrp`. Names in `without` are left out.
    """
    selected = {}
    for name, method in explainers.items():
        if name in without or any(
            getattr(method, key) != value for key, value in attributes.items()
        ):
            continue
        quick = QUICK.get(name, {})
        selected[name] = partial(method, **quick)
        if issubclass(method, AttentionGradientExplainer) and name in lrp:
            selected[f"{name}:lrp"] = partial(method, gradient="lrp", **quick)
    return pytest.mark.parametrize("explain", list(selected.values()), ids=list(selected))


each = each_explainer()
# On every family, each mechanism runs once: one mechanism computes the gradients of attention
# (LeGrad has its own hooks inside the pass), one those of pixels, and two controls read no model.
each_on_families = each_explainer(
    lrp=("sift-patch-interrelation", "legrad"),
    without=("integrated-gradients", "smooth-grad", "random", "center"),
)


def is_pixel_method(explain: partial[Any]) -> bool:
    """Return whether the method computes its map on pixels."""
    return issubclass(explain.func, PixelExplainer)


def uses_model(explain: partial[Any]) -> bool:
    """Return whether the map depends on the model."""
    return explain.func not in (KeypointDensity, Random, Center)


TARGETS = [1, 3, 0]
# Models without a module for a block with its residual connections, which LeGrad needs.
WITHOUT_BLOCKS = {
    "vit-pytorch-vit", "vit-pytorch-deepvit", "vit-pytorch-simple_vit_with_register_tokens",
    "vit-pytorch-vit_for_small_dataset", "vit-pytorch-parallel_vit", "vit-pytorch-pit",
    "vit-pytorch-cvt", "vit-pytorch-max_vit", "vit-pytorch-nest", "transformers-pvt_v2",
}  # fmt: skip


@each_on_families
@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_contract_holds_on_every_family(explain: partial[Any], family: str) -> None:
    with families.shared(family, torch.float64) as model:
        if explain.func is LeGrad and family in WITHOUT_BLOCKS:
            before = state_of(model)
            with pytest.raises(UnsupportedModelError, match=r"expected a head|expected its block"):
                explain().attribute(model, images(3, torch.float64), target=TARGETS)
            assert state_of(model) == before
        else:
            _check_contract(explain, model)


def _check_contract(explain: partial[Any], model: nn.Module) -> None:
    x, before = images(3, torch.float64), state_of(model)
    heat_map = explain().attribute(model, x, target=TARGETS)
    assert heat_map.shape == x.shape and heat_map.isfinite().all() and heat_map.std() > 0
    (repeated,) = explain(model).attribute((x,), target=torch.tensor(TARGETS))
    assert torch.equal(repeated, heat_map)
    single = explain(model).attribute(x[1:2], target=3)[0]
    torch.testing.assert_close(single, heat_map[1], atol=1e-12, rtol=1e-7)
    other = explain(model).attribute(x, target=4)
    assert torch.equal(other, heat_map) != explain.func.class_specific
    with pytest.raises(TargetError, match="expected 0 to 4"):
        explain(model).attribute(x, target=5)
    assert state_of(model) == before
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        frozen = explain(model.requires_grad_(False)).attribute(x, target=TARGETS)
    assert torch.equal(frozen, heat_map)
    for parameter in trained:
        parameter.requires_grad_()


@pytest.mark.parametrize("family", families.FAMILIES)
def test_an_error_inside_a_model_leaves_it_as_it_was(family: str) -> None:
    with families.shared(family) as model:
        last = record(model, images(), grad=False).sites[-1].site.path
        _check_errors(SIFTPatchInterrelation, model, model.get_submodule(last))


def _check_errors(explain: Any, model: nn.Module, module: nn.Module) -> None:
    """Fail in the first pass, which finds the layout, and in a pass after it."""
    failing = True

    def fail(*_: object) -> None:
        if failing:
            raise RuntimeError("inside the model")

    handle = module.register_forward_hook(fail)
    before = state_of(model)
    for failing in (True, False, True):
        expected = pytest.raises(RuntimeError, match="inside") if failing else nullcontext()
        with expected:
            explain(model).attribute(images(), target=1)
        assert state_of(model) == before
    handle.remove()


@each_on_families
@pytest.mark.parametrize("family", families.FAMILIES)
def test_half_precision_on_every_family(explain: partial[Any], family: str) -> None:
    if explain.func is LeGrad and family in WITHOUT_BLOCKS:
        pytest.skip("no module holds a whole block")
    # Swin v2 divides by norms with an epsilon that is 0 in float16: its own gradients are NaN.
    # Gradients of transformers' Hiera at its pixels lose more in float16 than is allowed here.
    imprecise = ("swin-v2", "transformers-hiera")
    dtype = torch.bfloat16 if any(name in family for name in imprecise) else torch.float16
    x = (images(3) * 64).round() / 64  # exact in half precision, so that it is the same picture
    with families.shared(family) as model:
        exact = explain(model).attribute(x, target=TARGETS)
    with families.shared(family, dtype) as model:
        half = explain(model).attribute(x.to(dtype), target=TARGETS)
    assert half.dtype == torch.float32
    assert (half - exact).norm() < 80 * torch.finfo(dtype).eps * exact.norm()


@each
@pytest.mark.parametrize("name", MODELS)
def test_both_call_forms_are_equal_on_every_model(explain: partial[Any], name: str) -> None:
    x = images()
    with families.shared(name) as model:
        short_form = explain().attribute(model, x, target=[1, 3])
        captum_form = explain(model).attribute(x, target=[1, 3])
        maps = (explain(model).attribute(x, target=target) for target in range(5))
        assert short_form.std() > 0 or any(
            heat_map.std() > 0 for heat_map in maps
        )  # Grad-CAM may be zero
        assert torch.equal(explain(model).attribute(x, [1, 3]), captum_form)
        assert torch.equal(explain(model).attribute(inputs=x, target=[1, 3]), captum_form)
    assert torch.equal(short_form, captum_form)
    assert (
        short_form.shape == x.shape and short_form.is_contiguous() and short_form.isfinite().all()
    )


@each
def test_every_image_has_its_own_target_and_map(explain: partial[Any]) -> None:
    model, x = build("registers", torch.float64), images(3, torch.float64)
    batched = explain(model).attribute(x, target=[0, 4, 2])
    for image, target, heat_map in zip(x, [0, 4, 2], batched, strict=True):
        single = explain(model).attribute(image[None], target=target)[0]
        torch.testing.assert_close(single, heat_map, atol=1e-12, rtol=1e-9)
    assert torch.equal(batched, explain(model).attribute(x, target=[0, 4, 2]))


@each
@pytest.mark.parametrize(
    "target",
    [2, (2,), torch.tensor(2), torch.tensor([2]), [2, 2], torch.tensor([2, 2]), [(2,), (2,)]],
)
def test_targets_of_every_captum_kind(explain: partial[Any], target: object) -> None:
    x = images()
    with families.shared("class-token") as model:
        expected = explain(model).attribute(x, target=2)
        assert torch.equal(explain(model).attribute(x, target=target), expected)


@each
def test_no_target_is_the_predicted_class(explain: partial[Any]) -> None:
    model, x = build("class-token"), images()
    predicted = model(x).argmax(1)
    expected = explain(model).attribute(x, target=predicted)
    assert torch.equal(explain(model).attribute(x), expected)
    other = explain(model).attribute(x, target=(predicted + 1) % 5)
    assert torch.allclose(other, expected) != explain.func.class_specific


@each
def test_sum_over_channels_is_the_map_and_patches_agree(explain: partial[Any]) -> None:
    model, x = build("class-token"), images()
    explanation = explain().explain(model, x, target=1)
    torch.testing.assert_close(explain().attribute(model, x, target=1).sum(1), explanation.heat_map)
    torch.testing.assert_close(explanation.patch_map, explain().patch_map(model, x, target=1))
    if is_pixel_method(explain):
        cell = explanation.heat_map[:, :16, :16].mean((1, 2))
        torch.testing.assert_close(cell, explanation.patch_map[:, 0, 0])
    else:
        middle = explanation.heat_map[:, 7:9, 7:9].mean((1, 2))
        torch.testing.assert_close(middle, explanation.patch_map[:, 0, 0], atol=0.05, rtol=0.2)
        assert explanation.heat_map.min() >= 0
    assert explanation.target.tolist() == [1, 1] and explanation.notes == ()
    assert explanation.manifest["parameters"] and len(explanation.manifest["weights_sha256"]) == 64


@each
def test_a_tuple_in_is_a_tuple_out(explain: partial[Any]) -> None:
    model, x = build("class-token"), images()
    heats = explain(model).attribute((x,), target=1)
    assert isinstance(heats, tuple)
    assert torch.equal(heats[0], explain(model).attribute(x, target=1))
    with pytest.raises(TypeError, match="got a tuple of 2"):
        explain(model).attribute((x, x), target=1)


@each
def test_the_model_is_restored(explain: partial[Any]) -> None:
    model, x = build("class-token").train(), images()
    model.head.weight.requires_grad_(False)
    x.requires_grad_()
    before = state_of(model)
    explain(model).attribute(x, target=1)
    assert state_of(model) == before and x.grad is None and x.requires_grad
    with pytest.raises(TargetError, match="expected 0 to 4"):  # also if the map does not use it
        explain(model).attribute(x, target=5)
    assert state_of(model) == before
    _check_errors(explain, model, model.blocks[3])
    assert state_of(model) == before


def raise_error(*_: object) -> None:
    raise RuntimeError("inside the model")


@each
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_without_gradients_and_in_training_mode(explain: partial[Any], context: type) -> None:
    model, x = build("class-token"), images()
    expected = explain(model).attribute(x, target=1)
    with context():
        assert torch.equal(explain(model).attribute(x, target=1), expected)
    model.requires_grad_(False)
    assert torch.equal(explain(model.train()).attribute(x, target=1), expected)
    assert model.training


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_cpu(explain: partial[Any], dtype: torch.dtype) -> None:
    model = build("class-token")
    x = (images() * 64).round() / 64  # exact in half precision, so that it is the same picture
    exact = explain(model).attribute(x, target=1)
    for half in (x.to(dtype), x):
        actual = explain(model.to(dtype)).attribute(half, target=1)
        assert actual.dtype == torch.float32
        assert (actual - exact).norm() < 0.1 * exact.norm()


@each
def test_captum_pipelines_run(explain: partial[Any]) -> None:
    model, x = build("class-token"), images()
    explainer = explain(model)
    assert isinstance(explainer, Attribution)
    smooth = NoiseTunnel(explainer).attribute(x, nt_samples=3, stdevs=0.05, target=1)
    assert smooth.shape == x.shape
    assert sensitivity_max(explainer.attribute, x, target=1, n_perturb_samples=2).shape == (2,)
    score = infidelity(
        model, _perturb, x, explainer.attribute(x, target=1), target=1, n_perturb_samples=2
    )
    assert score.shape == (2,) and score.isfinite().all()
    heat_map = explainer.attribute(x, target=1)[0].permute(1, 2, 0).numpy()
    figure, _ = captum_pictures.visualize_image_attr(heat_map, sign="positive", use_pyplot=False)
    assert figure.axes


def _perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
    noise = torch.full_like(inputs, 0.03)
    return noise, inputs - noise


class _Shifted(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, shift: float = 0.25) -> Tensor:
        return self.inner(x + shift)


class _Named(_Shifted):
    def forward(self, x: Tensor, shift: float = 0.0) -> dict[str, Tensor]:
        return {"logits": super().forward(x, shift)}


@each
def test_outputs_that_are_not_plain_logits(explain: partial[Any]) -> None:
    inner, x = build("class-token"), images()
    expected = explain(_Shifted(inner)).attribute(x, target=1)
    named = explain(_Named(inner))
    for extra in ((0.25,), 0.25):
        assert torch.equal(named.attribute(x, target=1, additional_forward_args=extra), expected)
    other = named.attribute(x, target=1)
    assert torch.equal(other, expected) != uses_model(explain)


@each
def test_a_model_without_a_classifier_explains_its_features(explain: partial[Any]) -> None:
    model, x = build("class-token"), images()
    model.reset_classifier(0)
    explanation = explain().explain(model, x)
    assert explanation.target is None and "feature direction" in explanation.notes[0]
    assert explanation.heat_map.std() > 0


@each
def test_a_zero_map_has_a_note_and_a_broken_model_is_refused(explain: partial[Any]) -> None:
    model, x = build("class-token"), images()
    torch.nn.init.zeros_(model.head.weight)
    explanation = explain().explain(model, x, target=1)
    if explain.func.class_specific:
        assert explanation.heat_map.abs().sum() == 0
        assert explanation.notes[-1].startswith("image 0, image 1: the map is zero")
    else:
        assert explanation.heat_map.sum() > 0 and explanation.notes == ()
    torch.nn.init.constant_(model.head.weight, torch.nan)
    with pytest.raises(SemattnError, match="expected finite"):
        explain().explain(model, x, target=1)


@each
def test_calls_without_a_model_or_an_image_are_refused(explain: partial[Any]) -> None:
    for call in (
        lambda: explain().attribute(images()),
        lambda: explain(build("class-token")).attribute(),
        lambda: explain().attribute(build("class-token")),
        lambda: explain().attribute(build("class-token"), images(), 1, 2),
    ):
        with pytest.raises(TypeError, match="attribute: expected") as raised:
            call()
        assert "\n" not in str(raised.value)


@each
@pytest.mark.parametrize(
    "image",
    [
        torch.full((1, 3, 48, 64), torch.nan),
        torch.zeros(1, 5, 48, 64),
        torch.zeros(48, 64, 3, 2, 2),
        "no/such/file.png",
        None,
    ],
)
def test_wrong_images_are_one_clear_line(explain: partial[Any], image: object) -> None:
    model = build("class-token")
    before = state_of(model)
    with pytest.raises((SemattnError, TypeError)) as raised:
        explain().attribute(model, image)
    assert "\n" not in str(raised.value) and "expected" in str(raised.value)
    assert state_of(model) == before


@each_explainer(uses_keypoints=True)
def test_a_uniform_image_has_a_map_and_a_note(explain: partial[Any]) -> None:
    model, x = build("class-token"), torch.full((1, 3, 48, 64), 0.5)
    with pytest.warns(UserWarning, match="no keypoint"):
        explanation = explain().explain(model, x, target=1)
    assert len(explanation.notes) == 1
    assert explanation.notes[0].startswith("image 0: no keypoints were used, so the map ")
    assert explanation.heat_map.isfinite().all() and explanation.heat_map.max() > 0


@each_explainer(uses_keypoints=False)
def test_keypoints_are_not_detected_if_unused(
    explain: partial[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = build("class-token"), images()
    expected = explain(model).attribute(x, target=1)
    monkeypatch.setattr("semattn.explain.base.detect_async", raise_error)
    assert torch.equal(explain(model, density="distinct").attribute(x, target=1), expected)


@each
def test_parameters_are_complete(explain: partial[Any]) -> None:
    parameters = inspect.signature(explain.func).parameters.values()
    options = {
        parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY
    } - {
        "layers",
        "refine",
        "preprocessing",
    }
    assert options | {"density", "layers", "refine", "seed"} <= explain().parameters().keys()
    assert json.dumps(explain().parameters())
    assert explain().name in explainers and explainers[explain().name] is explain.func
