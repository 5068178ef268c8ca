"""Tests of `AttentionPrompter`: the bias is applied and nothing else changes."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from semattn import AttentionPrompter, SIFTPatchInterrelation, record
from semattn.density import concentration, densities
from semattn.errors import ShapeError, UnsupportedModelError
from semattn.prompting import Box, Mask, Points, Polygon, attention_bias, coverage, prompt_sources
from tests import families, models

MODEL_NAMES = [*models.MODELS, *families.FAMILIES]


def first_output(output) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def pictures(batch: int = 3) -> Tensor:
    return models.images(batch, seed=3)


def mean_bias_of_keys(attention_record, site, bias: Tensor) -> Tensor:
    """Return the mean bias of the patches that each key of a call covers."""
    total = site.keys_at.to_call(attention_record.grid.add_prefix(bias))
    share = site.keys_at.to_call(attention_record.grid.add_prefix(torch.ones_like(bias)))
    return torch.where(share > 0, total / share.clamp(min=1e-9), 0)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_attention_is_multiplied_and_renormalised_on_every_family(name):
    x = pictures().double()
    with families.shared(name, torch.float64) as model:
        plain = record(model, x, grad=False)
        weights = torch.rand(3, plain.grid.patches, generator=torch.manual_seed(0)).double()
        prompter = AttentionPrompter(model, strength=0.7, layers=0)
        with prompter.steer(weights):
            steered = record(model, x, grad=False)
        plain_site, steered_site = plain.sites[0], steered.sites[0]
        bias = mean_bias_of_keys(plain, plain_site, attention_bias(weights))
        factor = (0.7 * bias).exp()[:, None, None]
        expected = plain_site.attention() * factor
        expected = expected / expected.sum(-1, keepdim=True)
        # Some models always compute the softmax in single precision.
        options = {} if steered_site.attention().dtype == torch.float64 else {"check_dtype": False}
        torch.testing.assert_close(
            steered_site.attention(), expected, atol=1e-6 if options else 1e-12, rtol=0, **options
        )
        if plain_site.shape[-1] > 1:  # a single key gets all attention
            assert not torch.allclose(
                first_output(steered.logits), first_output(plain.logits), atol=1e-9
            )


@pytest.mark.parametrize("density", ["count", "interrelation"])
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_batches_records_and_explanations_on_every_family(name, density):
    x = pictures()
    with families.shared(name) as model:
        before = models.state_of(model)
        prompter = AttentionPrompter(model, strength=1.0, density=density)
        with torch.no_grad():
            batched = first_output(prompter(x))
            for index in range(3):
                single = first_output(prompter(x[index : index + 1]))
                torch.testing.assert_close(single, batched[index : index + 1], atol=1e-4, rtol=1e-4)
        logits = record(prompter, x, grad=False).logits
        torch.testing.assert_close(logits, batched, atol=1e-4, rtol=1e-4)
        heat_map = SIFTPatchInterrelation(prompter).attribute(x, target=0)
        assert heat_map.shape == x.shape and heat_map.isfinite().all()
        assert models.state_of(model) == before


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_half_precision_runs_on_every_family(name):
    x = pictures().bfloat16()
    with families.shared(name, torch.bfloat16) as model:
        prompter = AttentionPrompter(model, density="count", strength=1.0)
        with torch.no_grad():
            assert first_output(prompter(x)).isfinite().all()


@pytest.mark.parametrize("name", ["class-token", "swin", "transformers-vit-eager", "open-clip"])
def test_strength_zero_is_the_model_to_the_last_bit(name):
    model, x = families.build(name), pictures()
    prompter = AttentionPrompter(model, strength=0)
    with torch.no_grad():
        assert torch.equal(first_output(prompter(x)), first_output(model(x)))
        with prompter.steer(torch.rand(5)):  # not used
            assert torch.equal(first_output(model(x)), first_output(prompter.model(x)))


def test_the_bias_is_the_clipped_log_of_the_concentration():
    model, x = families.build("registers"), pictures()
    prompter = AttentionPrompter(model, density="count", clip=0.5)
    scene_p = prompter.weights(x)
    bias = prompter.bias(None, x)
    assert bias.abs().max() <= 0.5
    from semattn.density import Scene
    from semattn.images import pixels_of
    from semattn.keypoints import detect

    pixels = pixels_of(x)
    grid = record(model, x, grad=False).grid
    p = concentration(densities["count"](Scene(pixels, detect(pixels), grid)))
    torch.testing.assert_close(bias, (12 * p).log().clamp(-0.5, 0.5))
    torch.testing.assert_close(scene_p.sum(1), torch.ones(3).double())


def test_weights_per_image_for_all_images_and_by_region():
    model, x = families.build("class-token"), pictures()
    grid = record(model, x, grad=False).grid
    prompter = AttentionPrompter(model, strength=1.0)
    box = Box(16, 0, 47, 31, grow=None)
    share = coverage(box, grid)
    with torch.no_grad():
        outputs = []
        for weights in (box, share, share.expand(3, -1), grid.fold(share.expand(3, -1))):
            with prompter.steer(weights):
                outputs.append(model(x))
        for output in outputs[1:]:
            torch.testing.assert_close(output, outputs[0])
        default_output = AttentionPrompter(model, strength=1.0, density=share)(x)
    torch.testing.assert_close(default_output, outputs[0])


def test_away_subtracts_the_clip_from_covered_patches():
    model, x = families.build("class-token", torch.float64), pictures().double()
    prompter = AttentionPrompter(model, strength=2.0, layers=1, clip=1.5)
    plain = record(model, x, grad=False).dense(1)
    grid = record(model, x, grad=False).grid
    box = Box(0, 0, 31, 15, grow=None)
    with prompter.steer(box, suppress=True):
        steered = record(model, x, grad=False).dense(1)
    factor = grid.add_prefix(-2.0 * 1.5 * coverage(box, grid).double()).exp()
    expected = plain * factor
    torch.testing.assert_close(
        steered, expected / expected.sum(-1, keepdim=True), atol=1e-6, rtol=0
    )
    with prompter.steer(torch.zeros(12), suppress=True):  # nothing to suppress
        torch.testing.assert_close(model(x), families.build("class-token", torch.float64)(x))


def test_a_cue_provides_its_bias():
    class Cue:
        def bias(self, inputs: Tensor) -> Tensor:
            return -torch.arange(12.0).expand(len(inputs), -1)

    model, x = families.build("class-token", torch.float64), pictures().double()
    plain = record(model, x, grad=False).dense(0)
    with AttentionPrompter(model, strength=0.5, layers=0).steer(Cue()):
        steered = record(model, x, grad=False).dense(0)
    factor = torch.nn.functional.pad(-0.5 * torch.arange(12.0).double(), (1, 0)).exp()
    expected = plain * factor
    torch.testing.assert_close(
        steered, expected / expected.sum(-1, keepdim=True), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("queries", ["class", "patches"])
@pytest.mark.parametrize(
    "name", ["registers", "unfused", "rope", "shared-relative-bias", "qk-norm"]
)
def test_only_selected_queries_get_the_bias(name, queries):
    model, x = families.build(name, torch.float64), pictures().double()
    plain = record(model, x, grad=False)
    grid = plain.grid
    weights = torch.rand(3, grid.patches, generator=torch.manual_seed(0)).double()
    prompter = AttentionPrompter(model, strength=1.0, layers=0, queries=queries)
    reads_class_token = bool(record(model, x, target=1).reads_class_token.all())
    assert reads_class_token == ("rope" not in name and "bias" not in name)
    if queries == "class" and not reads_class_token:
        with pytest.raises(UnsupportedModelError, match="class token"), prompter.steer(weights):
            model(x)
        return
    with prompter.steer(weights):
        steered = record(model, x, target=1)
    expected = plain.dense(0) * grid.add_prefix(attention_bias(weights)).exp()[:, None, None]
    expected = expected / expected.sum(-1, keepdim=True)
    is_query = torch.zeros(grid.tokens, dtype=torch.bool)
    is_query[0 if queries == "class" else slice(grid.prefix, None)] = True
    expected = torch.where(is_query[:, None], expected, plain.dense(0))
    torch.testing.assert_close(steered.dense(0), expected, atol=1e-9, rtol=0)
    for steered_site, plain_site in zip(steered.sites, plain.sites, strict=True):
        assert (steered_site.mask is None) is (plain_site.mask is None)
    plain_gradient = record(model, x, target=1)
    assert steered.sites[-1].attention_gradient().shape == (
        plain_gradient.sites[-1].attention_gradient().shape
    )


def test_heads_and_layers_can_be_selected():
    model, x = families.build("class-token", torch.float64), pictures().double()
    plain = record(model, x, grad=False)
    weights = torch.rand(3, 12, generator=torch.manual_seed(0)).double()
    with AttentionPrompter(model, layers=[2], heads=[1]).steer(weights):
        steered = record(model, x, grad=False)
    assert torch.equal(steered.dense(1), plain.dense(1))
    torch.testing.assert_close(steered.dense(2)[:, 0], plain.dense(2)[:, 0])
    assert not torch.allclose(steered.dense(2)[:, 1], plain.dense(2)[:, 1])


def test_biases_of_nested_prompters_are_added():
    model, x = families.build("registers", torch.float64), pictures().double()
    weak_weights, strong_weights = (
        torch.rand(3, 12, generator=torch.manual_seed(i)).double() for i in (1, 2)
    )
    inner, middle = AttentionPrompter(model, strength=0.3), AttentionPrompter(model, strength=0.9)
    with inner.steer(weak_weights), middle.steer(strong_weights):
        nested = record(model, x, grad=False)
    outer = AttentionPrompter(
        AttentionPrompter(model, strength=0.3, density=weak_weights), strength=0.9
    )
    with outer.steer(strong_weights):
        wrapped = outer.model(x)
    torch.testing.assert_close(nested.logits, wrapped)
    plain = record(model, x, grad=False).dense(3)
    sum_ = torch.nn.functional.pad(
        0.3 * attention_bias(weak_weights) + 0.9 * attention_bias(strong_weights), (5, 0)
    ).exp()
    weak, strong = (AttentionPrompter(model, strength=s, layers=3) for s in (0.3, 0.9))
    with weak.steer(weak_weights), strong.steer(strong_weights):
        steered = record(model, x, grad=False).dense(3)
    expected = plain * sum_[:, None, None]
    torch.testing.assert_close(
        steered, expected / expected.sum(-1, keepdim=True), atol=1e-9, rtol=0
    )


def test_gradients_flow_to_strength_and_weights():
    model, x = families.build("class-token", torch.float64), pictures(2).double()
    strength = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 12, dtype=torch.float64, generator=torch.manual_seed(0)) + 0.1
    weights.requires_grad_()

    def logit(strength: Tensor, weights: Tensor) -> Tensor:
        with AttentionPrompter(model, strength=strength, density="count").steer(weights):
            return model(x)[:, 0].sum()

    assert torch.autograd.gradcheck(logit, (strength, weights))
    learned = AttentionPrompter(model, strength=nn.Parameter(torch.tensor(0.0)))
    learned(x)[:, 0].sum().backward()  # a learnable 0 is not skipped
    assert learned.strength.grad is not None and learned.strength.grad.abs() > 0


def test_outputs_keep_their_type():
    hf = families.build("transformers-vit-sdpa").inner
    x = pictures()[..., :48]
    prompter = AttentionPrompter(hf, density="count", strength=1.0)
    x = nn.functional.interpolate(x, size=(hf.config.image_size,) * 2)
    positional, by_keyword = prompter(x), prompter(pixel_values=x)
    assert type(by_keyword).__name__ == "ImageClassifierOutput"
    torch.testing.assert_close(positional.logits, by_keyword.logits)
    assert prompter.config is hf.config

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = models.build("class-token")

        def forward(self, name: str, image: Tensor) -> dict[str, Tensor]:
            features = self.vit.forward_features(image)
            return {name: self.vit.forward_head(features), "features": features}

    outputs = AttentionPrompter(Wrapped(), density="count")("logits", image=pictures())
    assert set(outputs) == {"logits", "features"}


def test_names_of_weights_and_state_are_kept():
    model = families.build("class-token")
    names, before = list(model.state_dict()), models.state_of(model)
    prompter = AttentionPrompter(model)
    with torch.no_grad():
        prompter(pictures())
    assert list(model.state_dict()) == names and models.state_of(model) == before
    copy.deepcopy(prompter)(pictures())
    with pytest.raises(AttributeError):
        prompter.forward_features  # noqa: B018 — it would not be steered


def test_calling_a_part_of_a_steered_model_is_refused():
    model, x = families.build("class-token"), pictures()
    with AttentionPrompter(model).steer():
        model(x)
        with pytest.raises(UnsupportedModelError, match=r"call model\(x\)"):
            model.forward_features(x)


def test_the_model_is_restored_after_exceptions():
    model = families.build("class-token")
    before = models.state_of(model)
    prompter = AttentionPrompter(model, strength=1.0)
    with pytest.raises(ShapeError), prompter.steer(torch.ones(3, 11)):
        model(pictures())
    with pytest.raises(ValueError, match="heads: expected numbers in 0 … 1"):
        AttentionPrompter(model, heads=[7])(pictures())
    hook = model.head.register_forward_hook(_interrupt)
    with pytest.raises(KeyboardInterrupt):
        prompter(pictures())
    hook.remove()
    assert models.state_of(model) == before
    assert torch.overrides._get_current_function_mode_stack() == []


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_checkpointing_with_backward_inside_steer():
    model, x = families.build("class-token"), pictures()
    weights = torch.rand(3, 12, generator=torch.manual_seed(0), requires_grad=True)
    gradients = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.train()
        with AttentionPrompter(model, strength=1.0).steer(weights):
            model(x)[:, 0].sum().backward()
        gradients.append(weights.grad)
        weights.grad = None
    torch.testing.assert_close(*gradients)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")
def test_a_model_compiled_inside_steer_is_steered():
    model, x = families.build("registers"), pictures()
    weights = torch.rand(3, 12, generator=torch.manual_seed(0))
    prompter = AttentionPrompter(model, strength=1.0)
    with torch.no_grad():
        with prompter.steer(weights):
            expected = model(x)
            compiled = torch.compile(model, backend="aot_eager")
            torch.testing.assert_close(compiled(x), expected)
        torch.testing.assert_close(compiled(x), model(x))
    with pytest.raises(UnsupportedModelError, match="compiled"):
        AttentionPrompter(compiled)


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")
@pytest.mark.parametrize("density", ["count", "interrelation"])
def test_a_compiled_prompter_prompts(density):
    prompter, x = AttentionPrompter(families.build("registers"), density=density), pictures()
    with torch.no_grad():
        compiled = torch.compile(prompter, backend="aot_eager")
        for images in (x, x.flip(0)):
            torch.testing.assert_close(compiled(images), prompter(images))


def test_threads_are_independent():
    model, x = families.build("class-token"), pictures()
    prompters = [AttentionPrompter(model, strength=s, density="count") for s in (0.0, 0.5, 1.0)]
    expected = [prompter(x) for prompter in prompters]
    wrong = []

    def work(index: int) -> None:
        with torch.no_grad():
            wrong.extend(
                index for _ in range(10) if not torch.equal(prompters[index](x), expected[index])
            )

    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", sorted(prompt_sources))
def test_sources_do_not_depend_on_the_batch(name):
    model, x = families.build("registers"), pictures()
    prompter = AttentionPrompter(model, density=name)
    batched = prompter.bias(None, x)
    assert batched.shape == (3, 12) and batched.isfinite().all()
    torch.testing.assert_close(prompter.bias(None, x[1:2]), batched[1:2], atol=1e-4, rtol=1e-4)
    site = record(model, x, layers=2, grad=False).sites[0]
    assert prompter._observed_layer(prompter._layout(_call(x))) == 2
    grid = record(model, x, grad=False).grid
    p = torch.full((3, 12), 1 / 12)
    if name == "class-attention":
        site = replace(site, class_tokens=torch.eye(grid.tokens)[0])
        expected = site.attention()[:, :, 0, 5:].mean(1)
        torch.testing.assert_close(prompt_sources[name].compute(site, grid, p), expected)
    if name == "received":
        expected = torch.einsum("bi,bhij->bj", p, site.attention()[:, :, 5:, 5:]) / 2
        torch.testing.assert_close(prompt_sources[name].compute(site, grid, p), expected)


def _call(x: Tensor):
    from semattn.attention.model_call import read_call

    return read_call((x,), {})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layers": 9}, "layers: expected numbers"),
        ({"queries": "some"}, "queries: unknown name 'some'"),
        ({"density": "cuont"}, "did you mean 'count'"),
        ({"density": 3}, "density: expected a name"),
        ({"clip": 0}, "clip: expected nats above 0"),
        ({"strength": float("nan")}, "strength: expected a finite number"),
        ({"strength": torch.ones(2)}, "strength: expected one finite number"),
        ({"detector": "sfit"}, "did you mean 'sift'"),
    ],
)
def test_invalid_options_are_refused_in_one_line(options, words):
    with pytest.raises((ValueError, TypeError), match=words) as error:
        AttentionPrompter(families.build("class-token"), **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (torch.ones(3, 13), "weights: expected .*drop the prefix tokens"),
        (torch.ones(2, 12), "weights: expected 3 rows, one per image, .* got 2"),
        (-torch.ones(12), "weights: expected numbers >= 0"),
        (torch.full((12,), torch.nan), "weights: expected finite numbers"),
        (torch.zeros(3, 12), "weights: expected at least one above 0"),
        (Box(200, 200, 300, 300), "region: expected one inside the picture of 64x48"),
        (Box(9, 0, 3, 8), "region: expected left <= right"),
        (Polygon([(0, 0), (1, 1)]), "region: expected at least three corners"),
        (Points([]), "region: expected points"),
        (Mask(torch.ones(3, 3)), "region: expected a mask of 48x64"),
    ],
)
def test_invalid_weights_are_refused_in_one_line(weights, words):
    model = families.build("class-token")
    before = models.state_of(model)
    prompter = AttentionPrompter(model, density=weights if isinstance(weights, Tensor) else "count")
    steered = prompter.steer(None if isinstance(weights, Tensor) else weights)
    with pytest.raises(ValueError, match=words) as error, steered:
        model(pictures())
    assert "\n" not in str(error.value) and models.state_of(model) == before


def test_calls_without_images_and_models_without_sites_are_refused():
    with pytest.raises(
        ShapeError, match=r"inputs: expected a batch of images .* got \(3, 48, 64\)"
    ):
        AttentionPrompter(families.build("class-token"))(pictures()[0])
    with pytest.raises(UnsupportedModelError, match="vision transformer"):
        AttentionPrompter(nn.Conv2d(3, 3, 3), density="count")(pictures())
    with pytest.raises(UnsupportedModelError, match=r"torch\.nn\.Module"):
        AttentionPrompter(lambda x: x)
