"""Digests: equal for equal weights of every kind, and refused where weights cannot be read."""

from __future__ import annotations

import copy
import hashlib
import warnings
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from semattn import RawAttention, SIFTPatchInterrelation, analyze
from semattn.cli.image_writers import explanation_summary
from semattn.errors import SemattnError
from semattn.interrelation import analysis_files as store
from semattn.utils.provenance import (
    UnreadableError,
    about_model,
    digest,
    unconfirmed,
    weights_digest,
)
from semattn.utils.run_store import RunStore
from tests import models

NULL = {"model": "M", "weights_sha256": None, "weights_note": "weights_sha256 is null: for a test"}


def linear(seed=0, scale=1.0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with torch.no_grad():
        model[0].weight.mul_(scale)
    return model


def as_before(model):
    """The digest of earlier versions, for models of plain tensors."""
    total = hashlib.sha256()
    state = model.state_dict()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_digests_of_plain_models_are_those_of_earlier_versions(dtype):
    model = models.build("class-token").to(dtype)
    model.register_buffer("steps", torch.tensor(3))
    model.register_buffer("empty", torch.zeros(0, 2))
    assert weights_digest(model) == as_before(model)


def quantised(model, dtype=torch.qint8):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", UserWarning)
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear, nn.LSTM}, dtype=dtype)


def test_dynamically_quantised_models_differ_by_their_packed_weights_and_biases():
    first = weights_digest(quantised(linear()))
    assert first == weights_digest(quantised(linear()))
    assert first != weights_digest(quantised(linear(seed=1)))
    other = linear()
    with torch.no_grad():
        other[2].bias += 1
    assert first != weights_digest(quantised(other))
    # the same bytes at another scale
    assert first != weights_digest(quantised(linear(scale=2.0)))
    assert first != weights_digest(linear())
    assert first != weights_digest(quantised(linear(), torch.float16))


def test_quantised_recurrent_layers_differ_too():
    def built(seed):
        torch.manual_seed(seed)
        return quantised(nn.Sequential(nn.LSTM(4, 5)).eval())

    assert weights_digest(built(0)) == weights_digest(built(0)) != weights_digest(built(1))


@pytest.mark.parametrize("by_channel", [False, True])
def test_quantised_tensors_are_numbers_scales_and_zero_points(by_channel):
    def of(values, scale, zero):
        if by_channel:
            scales = torch.tensor([scale, 0.5], dtype=torch.float64)
            tensor = torch.quantize_per_channel(
                values, scales, torch.tensor([zero, 0]), 0, torch.qint8
            )
        else:
            tensor = torch.quantize_per_tensor(values, scale, zero, torch.qint8)
        return digest({"weight": tensor})

    values = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    first = of(values, 0.1, 0)
    assert first == of(values.clone(), 0.1, 0)
    assert len({first, of(values + 1, 0.1, 0), of(2 * values, 0.2, 0), of(values, 0.1, 3)}) == 4


def test_zero_points_of_channels_count():
    numbers, scales = torch.ones(2, 2, dtype=torch.int8), torch.ones(2, dtype=torch.float64)
    tensors = [
        torch._make_per_channel_quantized_tensor(numbers, scales, torch.tensor(zero), 0)
        for zero in ([0, 0], [0, 1])
    ]
    assert digest({"weight": tensors[0]}) != digest({"weight": tensors[1]})


class Scaled(Tensor):
    """A tensor subclass that holds whole numbers and a scale, as torchao's and quanto's do."""

    inner: ClassVar[list[str]] = ["numbers", "scale"]

    @staticmethod
    def __new__(cls, numbers, scale, group=32):
        return torch.Tensor._make_wrapper_subclass(cls, numbers.shape, dtype=torch.float32)

    def __init__(self, numbers, scale, group=32):
        self.numbers, self.scale, self.group = numbers, scale, group

    def __tensor_flatten__(self):
        return self.inner, {"group": self.group}

    @classmethod
    def __torch_dispatch__(cls, call, types, args=(), kwargs=None):
        if call.overloadpacket is torch.ops.aten.detach:
            return cls(args[0].numbers, args[0].scale, args[0].group)
        raise NotImplementedError(str(call))


class Opaque(Scaled):
    """The same without a way to its inner tensors."""

    __tensor_flatten__: ClassVar[Any] = property()


class Of(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)


def wrapped(kind=Scaled, add=0, scale=0.5, group=32):
    return Of(
        kind(torch.arange(6, dtype=torch.int8).reshape(2, 3) + add, torch.tensor(scale), group)
    )


def test_tensor_subclasses_are_what_they_wrap():
    first = weights_digest(wrapped())
    assert first == weights_digest(wrapped())
    others = [wrapped(add=1), wrapped(scale=0.25), wrapped(group=64)]
    assert len({first, *map(weights_digest, others)}) == 4


def test_subclasses_that_hide_their_values_have_no_digest():
    with pytest.raises(UnreadableError, match="weight is a Opaque"):
        weights_digest(wrapped(Opaque))


class Stateful(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.linear, self.state = nn.Linear(2, 2), state

    def get_extra_state(self):
        return self.state

    def set_extra_state(self, state):
        self.state = state


def test_extra_state_counts_where_it_is_plain():
    def of(state):
        torch.manual_seed(0)
        return weights_digest(Stateful(state))

    states = [
        {"a": 1}, {"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1, None]}, {"a": True}, {"a": 1.0},
        torch.ones(2), [torch.ones(2)], {"a": torch.float16}, {"a": b"1"}, [], {},
    ]  # fmt: skip
    assert len({of(state) for state in states}) == len(states)
    assert of({"a": 1, "b": torch.ones(2)}) == of({"b": torch.ones(2), "a": 1})


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Linear(2, 2, device="meta"), "bias is on the meta device"),
        (Stateful(object()), "_extra_state holds a object, which cannot be read"),
        (Stateful([{"a": lambda: 0}]), r"_extra_state\[0\]\['a'\] holds a function"),
        (Of(Scaled(torch.zeros(2, device="meta"), torch.ones(1))), "numbers is on the meta"),
    ],
)
def test_what_cannot_be_read_has_no_digest_and_a_note(model, reason):
    about = about_model(model)
    assert about["weights_sha256"] is None
    assert about["weights_note"].startswith("weights_sha256 is null: ")
    with pytest.raises(UnreadableError, match=reason):
        weights_digest(model)
    assert unconfirmed(about) == about["weights_note"] and "\n" not in about["weights_note"]


def test_a_state_dict_that_fails_has_no_digest():
    class Broken(nn.Linear):
        def state_dict(self, *args, **kwargs):
            raise RuntimeError("sharded over\n8 ranks")

    about = about_model(Broken(2, 2))
    assert about["weights_note"] == (
        "weights_sha256 is null: the model's state_dict fails (RuntimeError: sharded over 8 ranks)"
    )


def test_sharded_tensors_have_no_digest():
    class Shard(Tensor):
        pass

    Shard.__module__ = "torch.distributed.tensor"
    part = torch.ones(2).as_subclass(Shard)
    with pytest.raises(UnreadableError, match="weight is a part of a sharded tensor"):
        digest({"weight": part})


def test_sparse_and_complex_tensors_have_one():
    dense = torch.eye(3)
    sparse = digest({"a": dense.to_sparse()})
    assert sparse != digest({"a": (2 * dense).to_sparse()})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "in beta state"
        rows, other = dense.to_sparse_csr(), (2 * dense).to_sparse_csr()
    assert digest({"a": rows}) != digest({"a": other})
    turned = torch.tensor([1 + 2j]).conj()
    assert digest({"a": turned}) == digest({"a": torch.tensor([1 - 2j])})


# --- those who use the digest


class Offloaded(nn.Module):
    """A model that computes, but whose weights are not there to be read, as offloaded ones."""

    def __init__(self):
        super().__init__()
        self.inner = models.build("class-token")

    def forward(self, images):
        return self.inner(images)

    def state_dict(self, *args, **kwargs):
        state = super().state_dict(*args, **kwargs)
        return {name: value.to("meta") for name, value in state.items()}


def test_an_explanation_says_why_there_is_no_digest():
    explanation = RawAttention().explain(Offloaded(), models.images(), target=1)
    note = "eights_sha256 is null: inner.blocks.0.attn.proj.bias is on the meta device"
    assert explanation.manifest["weights_sha256"] is None
    assert explanation.manifest["weights_note"] == f"w{note}"
    assert f"W{note}." in explanation.notes
    assert explanation_summary(explanation)["manifest"]["weights_note"] == f"w{note}"
    plain = SIFTPatchInterrelation().explain(models.build("class-token"), models.images())
    assert "weights_note" not in plain.manifest and not any("null" in note for note in plain.notes)


def test_a_kept_run_of_an_unconfirmed_model_is_not_taken_up(tmp_path):
    store = RunStore(tmp_path, NULL, "search")
    RunStore(tmp_path, NULL, "search")  # nothing was kept yet
    store.store_row("000001", {"a": 1})
    with pytest.raises(SemattnError, match="cannot be confirmed.*null: for a test") as error:
        RunStore(tmp_path, NULL, "search")
    assert "\n" not in str(error.value)
    confirmed = {**NULL, "weights_sha256": "1"}
    RunStore(tmp_path / "other", confirmed, "search").store_row("000001", {"a": 1})
    assert RunStore(tmp_path / "other", confirmed, "search").read_row("000001") == {"a": 1}


def test_analyses_of_unconfirmed_models_are_neither_continued_nor_merged(tmp_path):
    pictures = [torch.rand(3, 48, 64, generator=torch.manual_seed(i)) for i in range(2)]
    analysis = analyze(Offloaded(), pictures)
    assert analysis.manifest["weights_sha256"] is None
    with pytest.raises(ValueError, match="analysis: expected models that can be compared"):
        analysis.merge(analysis)
    store.save_resume_file(analysis, tmp_path / "begun.npz", 1, "", (0, False, ""))
    with pytest.raises(store.AnalysisFileError, match="cannot be confirmed"):
        analyze(Offloaded(), pictures, resume_file=tmp_path / "begun.npz")


def test_copies_of_a_quantised_model_share_its_digest():
    model = quantised(linear())
    assert weights_digest(copy.deepcopy(model)) == weights_digest(model)
