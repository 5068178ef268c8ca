"""Families of vit-pytorch and transformers: explained truthfully, or refused for the true reason.

Those in `tests.families.FAMILIES` must hold the whole contract besides (tests/explain).
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from semattn import record
from semattn.errors import SemattnError
from tests.families_transformers import (
    _MODELS,
    BUILT_ELSEWHERE,
    NOT_BUILT,
    TRANSFORMERS,
)
from tests.families_vit_pytorch import SIDE, VIT_PYTORCH
from tests.maps import attempt, patch_map
from tests.models import CLASSES, state_of

ALL: dict[str, Callable[[], nn.Module]] = {
    **{f"vit-pytorch-{name}": build for name, build in VIT_PYTORCH.items()},
    **{f"transformers-{name}": build for name, build in TRANSFORMERS.items()},
}

# Families that may be refused, and a pattern of the reason. All others must be explained.
MAY_BE_REFUSED = {
    "vit-pytorch-ats_vit": "order",  # keeps sampled tokens, others in each pass
    "vit-pytorch-na_vit": "image",  # packs several pictures into one sequence
    "vit-pytorch-t2t": "patches",  # overlapping windows
    "vit-pytorch-cross_vit": "tower|patches",  # two towers of other patch sizes
    "vit-pytorch-look_vit": "patches",  # two resolutions that read each other
    "vit-pytorch-looped_vit": "second|more than once",  # runs its blocks several times
    "vit-pytorch-regionvit": "uneven",  # one module for regions and windows
    "vit-pytorch-jet_vit": "patches",  # linear attention in part of the layers
    "vit-pytorch-simple_vit_with_fft": "patches",  # tokens of the spectrum
    "vit-pytorch-simple_vit_attn_residual": "patches",  # attention over layers
    "vit-pytorch-attn_residual_with_dca_simple_vit": "patches",  # attention over layers
    "vit-pytorch-vit_nd": "flex",  # flex_attention is one kernel
    "vit-pytorch-vit_nd_rotary": "flex",
    "vit-pytorch-wwt": "patches",  # attention of slots
    "vit-pytorch-xcit": "patches",  # channel attention
    "vit-pytorch-cait": "patches",
    "vit-pytorch-twins_svt": "patches",  # its last stage is one patch
    "transformers-levit": "patches",  # its last stage is one patch
    "transformers-levit-with-teacher": "patches",
    "transformers-mobilevitv2": "patches",  # linear attention
    "transformers-perceiver-conv": "patches",  # latents
    "transformers-perceiver-fourier": "patches",
    "transformers-perceiver-learned": "patches",
    "transformers-swiftformer": "patches",  # additive attention
}
RANDOM = {"vit-pytorch-ats_vit"}  # other tokens in each pass, so other logits

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without"),
    pytest.mark.filterwarnings("ignore:.*sdp_kernel:FutureWarning"),
]
each_family = pytest.mark.parametrize("family", ALL)


def build(family: str, scale: float = 1.0) -> nn.Module:
    """Build a model in float64, with parameters at random; a small `scale` has even attention."""
    torch.manual_seed(0)
    model = ALL[family]().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.3 if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn_like(parameter) * spread * scale)
    return model


def pictures(count: int = 2) -> Tensor:
    """Smooth random pictures (B, 3, 64, 64)."""
    noise = torch.rand(count, 3, 16, 16, generator=torch.manual_seed(1), dtype=torch.float64)
    return nn.functional.interpolate(noise, size=SIDE, mode="bicubic").clamp(0, 1)


def _check_reason(family: str, refusal: SemattnError | None) -> None:
    text = str(refusal)
    assert family in MAY_BE_REFUSED, text
    assert re.search(MAY_BE_REFUSED[family], text), text
    untrue = ["convolutional"] if "vit_nd" in family else ["convolutional", "flash", "flex"]
    assert not any(word in text for word in untrue), f"an untrue reason: {text}"


def test_the_list_of_transformers_is_complete() -> None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as NAMES,
    )

    classes = {f"{first}ForImageClassification{last}" for first, last, _ in _MODELS.values()}
    for name, kinds in NAMES.items():
        kinds = {kinds} if isinstance(kinds, str) else set(kinds)
        assert name in NOT_BUILT or name in BUILT_ELSEWHERE or kinds & classes, name


@each_family
def test_a_family_is_explained_or_refused_for_the_true_reason(family: str) -> None:
    model, x = build(family), pictures()
    before = state_of(model)
    with torch.no_grad():
        output = model(x)
    if family not in RANDOM:
        logits = getattr(output, "logits", output)
        logits = logits[0] if isinstance(logits, tuple) else logits
        assert logits.shape == (2, CLASSES)
        recorded, refusal = attempt(lambda: record(model, x, target=1).logits)
        if recorded is not None:
            torch.testing.assert_close(recorded, logits, atol=1e-9, rtol=1e-9)
    for name in ("sift-patch-interrelation", "raw-attention", "attention-rollout", "grad-cam"):
        value, refusal = attempt(lambda name=name: patch_map(name, model, x))
        if value is None:
            _check_reason(family, refusal)
            continue
        assert value.isfinite().all()
        alone, refusal = attempt(lambda name=name: patch_map(name, model, x[1:]))
        assert alone is not None, refusal
        torch.testing.assert_close(alone[0], value[1], atol=1e-9, rtol=1e-6)
        if name == "sift-patch-interrelation" and value[0].numel() > 1:
            maps = [patch_map(name, model, x, target) for target in range(CLASSES)]
            assert any(bool((target_map.flatten(1).std(dim=1) > 0).all()) for target_map in maps), (
                "constant"
            )
            other = max(maps, key=lambda target_map: float((target_map - maps[0]).norm()))
            assert (other - maps[0]).norm() > 1e-4 * other.norm(), "the map ignores the target"
    assert state_of(model) == before


@each_family
def test_a_map_turns_with_the_picture(family: str) -> None:
    """A flip or transposition of the input inside the model flips or transposes the map."""
    model, x = build(family), pictures()
    name = "sift-patch-interrelation"
    options = {"density": "uniform", "head_alignment": False, "query_weights": False}
    turns: dict[str, Callable[[Tensor], Tensor]] = {
        "flip": lambda picture: picture.flip(-1),
        "transpose": lambda picture: picture.transpose(-1, -2),
    }
    for turn in turns.values():
        expected, refusal = attempt(lambda turn=turn: patch_map(name, model, turn(x), **options))
        if expected is None:
            _check_reason(family, refusal)
            return
        turned = _Turned(model, turn).eval()
        value, refusal = attempt(lambda turned=turned: patch_map(name, turned, x, **options))
        assert value is not None, refusal
        torch.testing.assert_close(turn(value), expected, atol=1e-8, rtol=1e-5)


class _Turned(nn.Module):
    """Model that first flips or transposes its input."""

    def __init__(self, model: nn.Module, turn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.turn = model, turn

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.turn(x))


# Families whose first layer attends over all patches, whose keys are those of one patch each.
PLACED = [
    "vit-pytorch-vit", "vit-pytorch-simple_vit", "vit-pytorch-simple_vit_with_register_tokens",
    "vit-pytorch-simple_flash_attn_vit", "vit-pytorch-deepvit", "vit-pytorch-vit_for_small_dataset",
    "vit-pytorch-normalized_vit", "vit-pytorch-vit_5", "vit-pytorch-vit_with_patch_dropout",
    "vit-pytorch-simple_vit_with_value_residual", "vit-pytorch-jumbo_vit",
    "transformers-vit_msn", "transformers-ijepa", "transformers-data2vec-vision",
    "transformers-deit-with-teacher", "transformers-clip", "transformers-metaclip_2",
    "transformers-siglip",
]  # fmt: skip


@pytest.mark.parametrize("family", PLACED)
def test_the_keys_that_change_are_those_of_the_changed_patch(family: str) -> None:
    """Attention of all other queries changes at the key of the patch whose pixels changed."""
    model, x = build(family, scale=0.1), pictures()
    grid = record(model, x, grad=False).grid
    assert grid.shape == (4, 4)
    for row, column in ((0, 3), (1, 2), (3, 1), (2, 0)):
        moved = x.clone()
        block = moved[..., 16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        block.copy_(block.flip(-1, -2))
        scores = [
            record(model, picture, layers=0, grad=False).dense(0).log() for picture in (x, moved)
        ]
        change = (scores[1] - scores[0]).nan_to_num(0.0)  # a layer may mask its diagonal
        change = change - change.median(dim=-1, keepdim=True).values
        by_key = change.abs().median(dim=-2).values.amax(dim=1)[:, grid.prefix :]
        assert by_key.argmax(dim=1).tolist() == [4 * row + column] * 2
