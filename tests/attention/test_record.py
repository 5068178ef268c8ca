"""Records compared with a dense oracle, and the state of the model after recording."""

from __future__ import annotations

import threading

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from semattn import AttentionPrompter
from semattn.attention import choose_layers, record, steer
from semattn.attention.model_pass import frozen
from semattn.errors import ShapeError, TargetError, UnsupportedModelError
from tests.models import GRID, MODELS, UniformAttention, build, images, state_of
from tests.oracles import dense_record

SELF = [name for name in MODELS if name != "attention-pool"]
PREFIX = {
    "class-token": 1,
    "registers": 5,
    "gap": 0,
    "attention-pool": 0,
    "registers-gap": 2,
    "qk-norm": 1,
    "unfused": 1,
    "rope": 1,
    "rope-registers": 3,
    "relative-bias": 1,
    "shared-relative-bias": 1,
}


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("name", SELF)
def test_equals_the_dense_oracle(name: str, dtype: torch.dtype, close: float) -> None:
    model, x = build(name, dtype), images(dtype=dtype)
    recorded = record(model, x, target=[1, 3])
    dense = dense_record(model, x, [1, 3])
    assert len(recorded.sites) == len(dense.attention) == 4
    for site_record, attention, gradient in zip(
        recorded.sites, dense.attention, dense.gradient, strict=True
    ):
        torch.testing.assert_close(site_record.attention(), attention, atol=close, rtol=0)
        scale = gradient.abs().amax().clamp(min=1)
        torch.testing.assert_close(
            site_record.attention_gradient() / scale, gradient / scale, atol=close, rtol=0
        )
        assert attention.std() > 1e-3, "an attention as good as uniform would prove nothing"


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_bit_equal_while_recording(name: str) -> None:
    # Frozen, because PyTorch selects kernels by whether gradients are required.
    model, x = build(name).requires_grad_(False), images()
    with torch.no_grad():
        plain = model(x)
    assert torch.equal(record(model, x, target=0).logits, plain)
    assert torch.equal(record(model, x, grad=False).logits, plain)


@pytest.mark.parametrize("name", MODELS)
def test_grid_and_prefix_are_seen(name: str) -> None:
    recorded = record(build(name), images(), grad=False)
    assert recorded.grid.shape == GRID
    assert recorded.grid.cell == (16, 16)
    assert recorded.grid.prefix == PREFIX[name]


def test_attention_pool_is_a_site_of_its_own_kind() -> None:
    recorded = record(build("attention-pool"), images(), target=0)
    pool = recorded.sites[-1]
    assert (pool.site.kind, pool.site.layer, pool.shape) == ("pool", 3, (2, 2, 1, 12))
    torch.testing.assert_close(pool.attention().sum(-1), torch.ones(2, 2, 1))


@pytest.mark.parametrize("name", ["class-token", "registers", "rope-registers", "attention-pool"])
def test_unfused_modules_give_the_same_record(name: str) -> None:
    fused, x = build(name, torch.float64), images(dtype=torch.float64)
    unfused = build(name, torch.float64)
    for module in unfused.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    for fused_site, unfused_site in zip(
        record(fused, x, target=2).sites, record(unfused, x, target=2).sites, strict=True
    ):
        assert unfused_site.dense is not None
        torch.testing.assert_close(
            fused_site.attention(), unfused_site.attention(), atol=1e-12, rtol=0
        )
        torch.testing.assert_close(
            fused_site.attention_gradient(), unfused_site.attention_gradient(), atol=1e-10, rtol=0
        )


def test_class_token_is_measured_not_assumed() -> None:
    read = {
        name: record(build(name), images(), target=0, layers=0).reads_class_token.tolist()
        for name in ("class-token", "registers", "gap", "registers-gap", "attention-pool", "rope")
    }
    assert read == {
        "class-token": [True, True],
        "registers": [True, True],
        "gap": [False, False],
        "registers-gap": [False, False],
        "attention-pool": [False, False],
        "rope": [False, False],  # EVA averages its patches although it has a class token
    }


def test_later_layers_alone_have_the_same_gradients() -> None:
    model, x = build("registers", torch.float64), images(dtype=torch.float64)
    expected = record(model, x, target=1).sites[2:]
    actual = record(model, x, target=1, layers="last-half").sites
    assert [site_record.site.layer for site_record in actual] == [2, 3]
    for expected_site, site in zip(expected, actual, strict=True):
        assert torch.equal(expected_site.attention_gradient(), site.attention_gradient())


def test_reduce_equals_the_sum_over_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = record(build("registers", torch.float64), images(dtype=torch.float64), target=1)
    weights = torch.rand(2, 17, generator=torch.manual_seed(0), dtype=torch.float64)
    for step in (1, 5 * 17 * 2 * 2 * 8, 10**9):
        monkeypatch.setattr("semattn.attention.attention_record.CHUNK_BYTES", step)
        got = recorded.reduce(weights, lambda a, da: a * da)
        for site_record, value in zip(recorded.sites, got, strict=True):
            product = site_record.attention() * site_record.attention_gradient()
            torch.testing.assert_close(value, torch.einsum("bi,bhij->bhj", weights, product))
    with pytest.raises(ShapeError, match=r"weights: expected \(2, 17\)"):
        recorded.reduce(weights[:, :12])


@pytest.mark.parametrize("name", ["class-token", "relative-bias", "unfused"])
def test_rows_and_dense_agree(name: str) -> None:
    recorded = record(build(name), images(), grad=False)
    for rows in (slice(0, 1), slice(3, 7)):
        for site, attention in recorded.rows(rows):
            torch.testing.assert_close(attention, recorded.dense(site.layer)[:, :, rows])
    with pytest.raises(ValueError, match=r"expected one of the recorded \[0, 1, 2, 3\], got 4"):
        recorded.dense(4)
    with pytest.raises(RuntimeError, match="grad=True"):
        recorded.sites[0].attention_gradient()


class LargestTensor(TorchDispatchMode):
    """Dispatch mode that stores the size of the largest tensor that any operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.size = max(self.size, tensor.numel())
        return result


def test_nothing_of_size_n_by_n_is_made_for_a_row() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=512, patch_size=8, dynamic_img_size=True)
    x, tokens = torch.rand(1, 3, 512, 512), 64 * 64 + 1
    with LargestTensor() as largest:
        recorded = record(model, x, target=0)
        for site_record in recorded.sites:
            site_record.attention(slice(0, 1)).mul_(site_record.attention_gradient(slice(0, 1)))
    assert largest.size < tokens * tokens / 4
    for site_record in recorded.sites:
        for tensor in (site_record.query, site_record.key, site_record.value, site_record.gradient):
            assert tensor is not None
            assert (
                tensor.numel()
                == site_record.shape[0] * site_record.shape[1] * tokens * tensor.shape[-1]
            )


def test_model_is_left_as_found() -> None:
    model, x = build("registers"), images()
    model.train()
    model.blocks[1].eval()
    model.head.weight.requires_grad_(False)
    model.patch_embed.proj.bias.requires_grad_(False)
    before, weights = state_of(model), [tensor.clone() for tensor in model.state_dict().values()]
    record(model, x, target=1)
    assert state_of(model) == before
    with pytest.raises(TargetError):
        record(model, x, target=CLASS_TOO_FAR)
    assert state_of(model) == before
    model.blocks[2].mlp.fc1.register_forward_hook(_raise)
    before = state_of(model)
    with pytest.raises(RuntimeError, match="inside the model"):
        record(model, x, target=1)
    assert state_of(model) == before
    assert all(map(torch.equal, weights, model.state_dict().values()))
    assert torch.overrides._get_current_function_mode_stack() == []


CLASS_TOO_FAR = 99


def _raise(*_: object) -> None:
    raise RuntimeError("inside the model")


def test_model_is_left_as_found_when_attaching_fails_half_way() -> None:
    model = build("class-token")

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no more hooks")

    before = state_of(model)
    model.blocks[2].attn.register_forward_hook = refuse
    with pytest.raises(RuntimeError, match="no more hooks"):
        record(model, images(), target=1)
    del model.blocks[2].attn.register_forward_hook
    assert state_of(model) == before


def test_dropout_and_stochastic_depth_are_off_while_recording() -> None:
    torch.manual_seed(0)
    model = timm.create_model(
        "test_vit", img_size=64, drop_rate=0.5, attn_drop_rate=0.5, drop_path_rate=0.5
    ).train()
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(record(model, x, target=0).logits, record(model, x, target=0).logits)
    assert model.training


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_without_gradients_around_it(context: type) -> None:
    model, x = build("class-token"), images()
    expected = record(model, x, target=1)
    with context():
        inside = record(model, x * 1, target=1)
    for expected_site, site in zip(expected.sites, inside.sites, strict=True):
        assert torch.equal(expected_site.gradient, site.gradient)  # type: ignore[arg-type]


def test_gradient_checkpointing_gives_equal_gradients() -> None:
    model, x = build("registers"), images()
    expected = record(model, x, target=1)
    model.set_grad_checkpointing(True)
    for layers in ("all", "last-half"):
        recorded = record(model, x, target=1, layers=layers)
        for expected_site, site in zip(
            expected.sites[-len(recorded.sites) :], recorded.sites, strict=True
        ):
            torch.testing.assert_close(expected_site.gradient, site.gradient)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_follows_the_model(dtype: torch.dtype) -> None:
    model, x = build("class-token"), images()
    exact = record(model, x, target=1)
    rough = record(model.to(dtype), x.to(dtype), target=1)
    for exact_site, rough_site in zip(exact.sites, rough.sites, strict=True):
        assert rough_site.attention().dtype == torch.float32
        torch.testing.assert_close(
            exact_site.attention(), rough_site.attention(), atol=0.05, rtol=0
        )
        expected, got = exact_site.attention_gradient(), rough_site.attention_gradient()
        assert (expected - got).norm() < 0.1 * expected.norm()


def test_two_threads_do_not_see_each_other() -> None:
    model = build("class-token")
    batches = [images(seed=seed) for seed in range(6)]
    expected = [record(model, x, target=1).sites[-1].gradient for x in batches]
    got: dict[int, Tensor | None] = {}

    def work(number: int) -> None:
        for _ in range(5):
            got[number] = record(model, batches[number], target=1).sites[-1].gradient
            model(batches[number])

    before = state_of(model)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, gradient in enumerate(expected):
        torch.testing.assert_close(got[number], gradient)
    assert state_of(model) == before


def test_uniform_attention_is_uniform() -> None:
    recorded = record(UniformAttention(), images(), grad=False)
    for site_record in recorded.sites:
        assert torch.equal(site_record.attention(), torch.full((2, 2, 13, 13), 1 / 13))


def test_a_wrapped_model_is_read_through() -> None:
    inner, x = build("registers"), images()

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(x * 2 - 1)}

    recorded = record(Wrapper(), x, target=1)
    assert torch.equal(recorded.logits, inner(x * 2 - 1))
    assert recorded.sites[0].site.name == "inner.blocks.0.attn"


def test_any_input_size_and_hybrid_stems() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", dynamic_img_size=True, dynamic_img_pad=True)
    recorded = record(model, torch.rand(1, 3, 50, 90), target=0)
    assert (recorded.grid.shape, recorded.grid.cell, recorded.grid.prefix) == ((4, 6), (16, 16), 1)
    hybrid = timm.create_model("vit_tiny_r_s16_p8_224", depth=1, img_size=64)
    recorded = record(hybrid, torch.rand(1, 3, 64, 64), target=0)
    assert recorded.grid.cell == (64 / recorded.grid.shape[0],) * 2


def test_choose_layers_refuses_what_is_not_there() -> None:
    assert choose_layers(slice(-2, None), 4) == [2, 3]
    for wrong in (4, [0, 9], [], "upper", slice(4, 9)):
        with pytest.raises(ValueError, match="layers: expected"):
            choose_layers(wrong, 4)


class TwoCalls(nn.Module):
    """One attention module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = build("class-token")

    def forward(self, x: Tensor) -> Tensor:
        return self.vit(x) + self.vit(x)


def test_what_cannot_be_read_is_refused_by_name() -> None:
    x = torch.rand(1, 3, 64, 64)
    with pytest.raises(UnsupportedModelError, match="got a model that makes no attention call"):
        record(timm.create_model("resnet18"), x)
    with pytest.raises(UnsupportedModelError, match="expected a torch.nn.Module, got function"):
        record(lambda x: x, x)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedModelError, match="second one"):
        record(TwoCalls(), images(), target=0)
    with pytest.raises(UnsupportedModelError, match="CrossCovarianceAttn.: it is not attention"):
        record(timm.create_model("edgenext_xx_small", depths=(1, 1, 1, 1)), x, target=0)
    coat = timm.create_model("coat_lite_tiny", img_size=64)
    with pytest.raises(UnsupportedModelError, match=r"got none: .*factoratt_crpe"):
        record(coat, x, target=0)


def test_a_module_that_is_not_run_is_no_site() -> None:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.text = nn.TransformerEncoderLayer(16, 2)
            self.vit = build("class-token")

        def forward(self, x: Tensor) -> Tensor:
            return self.vit(x)

    model, x = Towers(), images()
    got, expected = record(model, x, target=1), record(model.vit, x, target=1)
    assert [site_record.site.layer for site_record in got.sites] == [0, 1, 2, 3]
    for site, expected_site in zip(got.sites, expected.sites, strict=True):
        assert site.gradient is not None and torch.equal(site.gradient, expected_site.gradient)


@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"
)
def test_traced_and_exported_models_are_refused() -> None:
    model, x = build("class-token"), images()
    for model_without_modules in (
        torch.jit.trace(model, x),
        torch.export.export(model, (x,)).module(),
    ):
        with pytest.raises(UnsupportedModelError, match="expected eager PyTorch, got a traced"):
            record(model_without_modules, x)


def test_a_compiled_model_is_read_through_its_wrapper_and_never_steered() -> None:
    model, x = build("class-token"), images()
    compiled = torch.compile(model, backend="eager")
    expected = record(model, x, target=1).sites[-1].gradient
    assert torch.equal(record(compiled, x, target=1).sites[-1].gradient, expected)
    with (
        pytest.raises(UnsupportedModelError, match="compiled OptimizedModule"),
        steer(compiled, torch.zeros(13)),
    ):
        pass
    model.blocks[1] = torch.compile(model.blocks[1], backend="eager")
    with pytest.raises(UnsupportedModelError, match="OptimizedModule in 'blocks.1'"):
        record(model, x, target=1)


def test_threads_with_images_of_several_sizes_see_their_own_grids() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_vit", dynamic_img_size=True).eval()
    sizes = [(64, 64), (128, 32), (32, 96), (48, 64)]
    wrong: list[object] = []

    def work(size: tuple[int, int]) -> None:
        for _ in range(15):
            grid = record(model, torch.rand(1, 3, *size), grad=False).grid
            if grid.shape != (size[0] // 16, size[1] // 16):
                wrong.append((size, grid))

    threads = [threading.Thread(target=work, args=(size,)) for size in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_wrapper_and_its_model_may_be_held_at_once() -> None:
    model = build("class-token").train()
    before = state_of(model)
    first, second = frozen(model), frozen(nn.Sequential(model))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert (
        not any(parameter.requires_grad for parameter in model.parameters()) and not model.training
    )
    second.__exit__(None, None, None)
    assert state_of(model) == before


@pytest.mark.parametrize("size", [(96, 128), (24, 32)])
def test_a_model_that_resizes_inside_has_its_patches_on_the_given_image(
    size: tuple[int, int],
) -> None:
    class Resizes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = build("class-token")

        def forward(self, x: Tensor) -> Tensor:
            return self.vit(nn.functional.interpolate(x, size=(48, 64)))

    grid = record(Resizes(), torch.rand(1, 3, *size), target=0).grid
    assert (grid.shape, grid.image_size, grid.prefix) == (GRID, size, 1)
    assert grid.cell == (size[0] / 3, size[1] / 4)


def test_half_precision_gradients_neither_overflow_nor_vanish() -> None:
    x = images()
    for scale in (1e3, 1e-2):
        model = build("class-token")
        with torch.no_grad():
            model.head.weight.mul_(scale)
        exact = record(model, x, target=1).sites[-1].gradient
        rough = record(model.half(), x.half(), target=1).sites[-1].gradient
        assert exact is not None and rough is not None and rough.isfinite().all()
        assert (rough - exact).norm() < 0.05 * exact.norm()


def test_a_token_that_is_the_mean_of_all_is_a_prefix_token() -> None:
    model = timm.create_model("resnet50_clip", num_classes=5).eval()
    recorded = record(model, torch.rand(1, 3, 224, 224), target=0)
    assert recorded.grid.shape == (7, 7) and recorded.grid.prefix == 1
    assert recorded.reads_class_token.tolist() == [True]
    assert torch.equal(recorded.readout()[0], torch.eye(50)[0])


def test_a_model_of_pools_alone_is_recorded_and_one_of_inference_tensors_refused() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut = nn.Conv2d(3, 8, 16, 16)
            self.query = nn.Parameter(torch.rand(1, 1, 8))

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.cut(x).flatten(2).mT
            return F.scaled_dot_product_attention(self.query.expand(len(x), -1, -1), tokens, tokens)

    model = Pooled()
    recorded = record(model, images(), target=lambda output: output[:, 0, 0])
    assert recorded.grid.shape == GRID and [
        site_record.site.kind for site_record in recorded.sites
    ] == ["pool"]
    assert torch.equal(recorded.readout(), torch.full((2, 12), 1 / 12))
    with pytest.raises(UnsupportedModelError, match="got attention pools only"), torch.no_grad():
        AttentionPrompter(model, density="count", layers="all")(images())
    with torch.inference_mode():
        model = build("class-token")
    with pytest.raises(UnsupportedModelError, match="inference_mode"):
        record(model, images(), target=0)


def test_gradients_pass_parts_that_run_without() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = build("class-token")

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                return self.vit(x).detach()

    model = Detached()
    for _ in range(2):
        recorded = record(model, images(), target=0)
        expected = record(model.vit, images(), target=0)
        assert "without gradients" in " ".join(recorded.notes) and expected.notes == ()
        for site, expected_site in zip(recorded.sites, expected.sites, strict=True):
            assert torch.equal(site.gradient, expected_site.gradient)


def test_an_output_that_no_layer_reaches_is_refused() -> None:
    for _ in range(2):
        with pytest.raises(UnsupportedModelError, match="no gradient"):
            record(build("class-token"), images(), target=lambda logits: _Ignored.apply(logits))


class _Ignored(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: object, logits: Tensor) -> Tensor:
        return logits.sum(1)

    @staticmethod
    def backward(_ctx: object, *_gradients: Tensor) -> None:
        return None


@pytest.mark.parametrize("shape", [(3, 48, 64), (0, 3, 48, 64), (48, 64)])
def test_inputs_that_are_no_batch_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match="expected a batch of images"):
        record(build("class-token"), torch.zeros(shape))


def test_heads_that_share_keys_and_values_are_told_apart() -> None:
    class GroupedAttention(nn.Module):
        """Four heads of queries on two heads of keys and values."""

        def __init__(self) -> None:
            super().__init__()
            self.query, self.shared = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x: Tensor, **_: object) -> Tensor:
            query = self.query(x).unflatten(-1, (4, 4)).transpose(1, 2)
            key, value = self.shared(x).unflatten(-1, (2, 2, 4)).permute(2, 0, 3, 1, 4)
            out = nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
            key, value = key.repeat_interleave(2, dim=1), value.repeat_interleave(2, dim=1)
            self.scores = (query @ key.transpose(-2, -1) / 2).detach()
            self.value = value.detach()
            return out.transpose(1, 2).flatten(2)

    model, x = build("class-token").double(), images(dtype=torch.float64)
    model.blocks[2].attn = grouped = GroupedAttention().double()
    site_record = record(model, x, target=1, layers=2).sites[0]
    torch.testing.assert_close(site_record.attention(), grouped.scores.softmax(-1))
    assert site_record.gradient is not None
    expected = site_record.gradient @ grouped.value.transpose(-2, -1)
    torch.testing.assert_close(site_record.attention_gradient(), expected)
