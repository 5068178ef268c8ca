"""What holds for every registered explainer: Captum's contract, and semattn's own."""

from __future__ import annotations

import pytest
import torch
from captum.attr import Attribution, NoiseTunnel, visualization as captum_pictures
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor, nn

from semattn.errors import SemattnError, TargetError
from semattn.explain import explainers
from tests.models import MODELS, build, images, state_of

each = pytest.mark.parametrize("explain", list(explainers.values()), ids=list(explainers))


@each
@pytest.mark.parametrize("name", MODELS)
def test_both_call_forms_are_equal_on_every_model(explain: type, name: str) -> None:
    model, x = build(name), images()
    own = explain().attribute(model, x, target=[1, 3])
    captum = explain(model).attribute(x, target=[1, 3])
    assert torch.equal(own, captum)
    assert own.shape == x.shape and own.is_contiguous() and own.isfinite().all()
    assert own.std() > 0
    assert torch.equal(explain(model).attribute(x, [1, 3]), captum)
    assert torch.equal(explain(model).attribute(inputs=x, target=[1, 3]), captum)


@each
def test_every_image_has_its_own_target_and_map(explain: type) -> None:
    model, x = build("registers", torch.float64), images(3, torch.float64)
    together = explain(model).attribute(x, target=[0, 4, 2])
    for image, target, heat in zip(x, [0, 4, 2], together, strict=True):
        alone = explain(model).attribute(image[None], target=target)[0]
        torch.testing.assert_close(alone, heat, atol=1e-12, rtol=1e-9)
    assert torch.equal(together, explain(model).attribute(x, target=[0, 4, 2]))


@each
@pytest.mark.parametrize(
    "target",
    [2, (2,), torch.tensor(2), torch.tensor([2]), [2, 2], torch.tensor([2, 2]), [(2,), (2,)]],
)
def test_targets_of_every_captum_kind(explain: type, target: object) -> None:
    model, x = build("class-token"), images()
    expected = explain(model).attribute(x, target=2)
    assert torch.equal(explain(model).attribute(x, target=target), expected)


@each
def test_no_target_is_the_predicted_class(explain: type) -> None:
    model, x = build("class-token"), images()
    predicted = model(x).argmax(1)
    expected = explain(model).attribute(x, target=predicted)
    assert torch.equal(explain(model).attribute(x), expected)
    other = (predicted + 1) % 5
    assert not torch.allclose(explain(model).attribute(x, target=other), expected)


@each
def test_sum_over_channels_is_the_map_and_patches_agree(explain: type) -> None:
    model, x = build("class-token"), images()
    made = explain().explain(model, x, target=1)
    torch.testing.assert_close(explain().attribute(model, x, target=1).sum(1), made.heat)
    torch.testing.assert_close(made.patch_map, explain().patch_map(model, x, target=1))
    middle = made.heat[:, 7:9, 7:9].mean((1, 2))
    torch.testing.assert_close(middle, made.patch_map[:, 0, 0], atol=0.05, rtol=0.2)
    assert made.target.tolist() == [1, 1] and made.notes == ()
    assert made.manifest["parameters"] and len(made.manifest["weights_sha256"]) == 64


@each
def test_a_tuple_in_is_a_tuple_out(explain: type) -> None:
    model, x = build("class-token"), images()
    got = explain(model).attribute((x,), target=1)
    assert isinstance(got, tuple)
    assert torch.equal(got[0], explain(model).attribute(x, target=1))
    with pytest.raises(TypeError, match="got a tuple of 2"):
        explain(model).attribute((x, x), target=1)


@each
def test_model_is_left_as_found(explain: type) -> None:
    model, x = build("class-token").train(), images()
    model.head.weight.requires_grad_(False)
    x.requires_grad_()
    before = state_of(model)
    explain(model).attribute(x, target=1)
    assert state_of(model) == before and x.grad is None and x.requires_grad
    with pytest.raises(TargetError, match="expected 0 to 4"):
        explain(model).attribute(x, target=5)
    assert state_of(model) == before
    model.blocks[3].register_forward_hook(_explode)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="inside the model"):
        explain(model).attribute(x, target=1)
    assert state_of(model) == before


def _explode(*_: object) -> None:
    raise RuntimeError("inside the model")


@each
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_whatever_is_around_it(explain: type, context: type) -> None:
    model, x = build("class-token"), images()
    expected = explain(model).attribute(x, target=1)
    with context():
        assert torch.equal(explain(model).attribute(x, target=1), expected)
    model.requires_grad_(False)
    assert torch.equal(explain(model.train()).attribute(x, target=1), expected)
    assert model.training


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_cpu(explain: type, dtype: torch.dtype) -> None:
    model, x = build("class-token"), images()
    exact = explain(model).attribute(x, target=1)
    for half in (x.to(dtype), x):
        rough = explain(model.to(dtype)).attribute(half, target=1)
        assert rough.dtype == torch.float32
        assert (rough - exact).norm() < 0.1 * exact.norm()


@each
def test_captum_pipelines_run(explain: type) -> None:
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
    heat = explainer.attribute(x, target=1)[0].permute(1, 2, 0).numpy()
    figure, _ = captum_pictures.visualize_image_attr(heat, sign="positive", use_pyplot=False)
    assert figure.axes


def _perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
    noise = torch.full_like(inputs, 0.03)
    return noise, inputs - noise


@each
def test_outputs_that_are_not_plain_logits(explain: type) -> None:
    inner, x = build("class-token"), images()

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor, shift: float = 0.0) -> dict[str, Tensor]:
            return {"logits": self.inner(x + shift)}

    weights = torch.arange(12.0)  # the picture is another one, so SIFT is left out
    expected = explain(inner, density=weights).attribute(x + 0.25, target=1)
    got = explain(Wrapped(), density=weights).attribute(
        x, target=1, additional_forward_args=(0.25,)
    )
    assert torch.equal(got, expected)


@each
def test_a_model_without_a_classifier_says_so(explain: type) -> None:
    model, x = build("class-token"), images()
    model.reset_classifier(0)
    made = explain().explain(model, x)
    assert made.target is None and "feature direction" in made.notes[0]
    assert made.heat.std() > 0


@each
def test_a_zero_map_says_so_and_a_broken_model_is_refused(explain: type) -> None:
    model, x = build("class-token"), images()
    torch.nn.init.zeros_(model.head.weight)
    made = explain().explain(model, x, target=1)
    assert made.heat.sum() == 0
    assert made.notes[-1].startswith("The map of image 0, image 1 is zero")
    torch.nn.init.constant_(model.head.weight, torch.nan)
    with pytest.raises(SemattnError, match="expected finite"):
        explain().explain(model, x, target=1)


@each
def test_calls_without_a_model_or_an_image_are_refused(explain: type) -> None:
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
    "wrong",
    [
        torch.full((1, 3, 48, 64), torch.nan),
        torch.zeros(1, 5, 48, 64),
        torch.zeros(48, 64, 3, 2, 2),
        "no/such/file.png",
        None,
    ],
)
def test_wrong_images_are_one_clear_line(explain: type, wrong: object) -> None:
    model = build("class-token")
    before = state_of(model)
    with pytest.raises((SemattnError, TypeError)) as raised:
        explain().attribute(model, wrong)
    assert "\n" not in str(raised.value) and "expected" in str(raised.value)
    assert state_of(model) == before


@each
def test_a_uniform_image_is_explained_by_the_model_alone_and_says_so(explain: type) -> None:
    model, x = build("class-token"), torch.full((1, 3, 48, 64), 0.5)
    with pytest.warns(UserWarning, match="no keypoint"):
        made = explain().explain(model, x, target=1)
    assert made.notes == ("No keypoint weighs on the map of image 0: it is the model's alone.",)
    assert made.heat.isfinite().all() and made.heat.max() > 0
