"""transformers' masked autoencoder in the usual sizes, and the features of its encoder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import SemattnError, ShapeError, UnsupportedModelError
from ..utils.registry import choices
from .positions import add_positions


def _size(width: int, heads: int, decoder: int, layers: int, decoder_heads: int) -> dict[str, int]:
    return {
        "hidden_size": width, "num_hidden_layers": 12, "num_attention_heads": heads,
        "intermediate_size": 4 * width, "decoder_hidden_size": decoder,
        "decoder_num_hidden_layers": layers, "decoder_num_attention_heads": decoder_heads,
        "decoder_intermediate_size": 4 * decoder,
    }  # fmt: skip


# Encoders as in DeiT and ViT; the decoder of "base" is MAE's, the others' are narrower.
SIZES: dict[str, dict[str, int]] = {
    "tiny": _size(192, 3, 128, 4, 4),
    "small": _size(384, 6, 256, 4, 8),
    "base": _size(768, 12, 512, 8, 16),
}


class MissingPackageError(SemattnError, ImportError):
    """An optional package that is not installed."""


def need() -> None:
    """Raise MissingPackageError unless transformers and accelerate are there."""
    try:
        import accelerate  # noqa: F401 — transformers' trainer needs it
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"pretrain: expected transformers and accelerate, got {error} — "
            "pip install 'semattn[pretrain]'"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bars about each file that it reads and writes."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def build_model(
    model: Any = "small",
    *,
    image_size: int = 224,
    patch_size: int = 16,
    mask_ratio: float = 0.75,
    norm_pix_loss: bool = True,
    seed: int = 0,
) -> Any:
    """A `ViTMAEForPreTraining`: a size of `SIZES`, a dict of its config, or a saved one.

    Parameters
    ----------
    model : "tiny", "small", "base"; more of `ViTMAEConfig` in a dict; a folder that
        `save_pretrained` wrote, to go on from its weights; or a model, which is taken as it is
    image_size, patch_size : pixels
    mask_ratio : part of the patches that is masked
    norm_pix_loss : whether patches are normalised before they are compared, as MAE does
    seed : of the weights

    Raises
    ------
    ShapeError
        For a model of another image or patch size.
    """
    need()
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    made: Any
    if isinstance(model, (str, os.PathLike)) and Path(model).is_dir():
        with quiet():
            made = ViTMAEForPreTraining.from_pretrained(model, local_files_only=True)
    elif isinstance(model, (str, dict)):
        if isinstance(model, str) and model not in SIZES:
            raise ValueError(choices("model", model, SIZES) + ", or the folder of a saved one")
        sizes = SIZES[model] if isinstance(model, str) else model
        torch.manual_seed(seed)
        made = ViTMAEForPreTraining(
            ViTMAEConfig(**{"image_size": image_size, "patch_size": patch_size, **sizes})
        )
        add_positions(made)
    else:
        made = model
    config: Any = getattr(made, "config", None)
    if not hasattr(config, "mask_ratio") or not hasattr(made, "patchify"):
        raise UnsupportedModelError(
            f"model: expected a ViTMAEForPreTraining, got {type(made).__name__} — for others take "
            "semattn.masking and their own trainer"
        )
    if (config.image_size, config.patch_size) != (image_size, patch_size):
        raise ShapeError(
            f"model: expected image size {image_size} and patch size {patch_size}, got "
            f"{config.image_size} and {config.patch_size} — give those of the model"
        )
    config.mask_ratio, config.norm_pix_loss = mask_ratio, norm_pix_loss
    return made


@torch.no_grad()
def features(model: Any, pixel_values: Tensor, pool: str = "mean") -> Tensor:
    """What the encoder makes of whole images, nothing masked: (B, D).

    Parameters
    ----------
    model : a `ViTMAEForPreTraining`
    pixel_values : (B, 3, H, W), normalised
    pool : "mean" of the patches' tokens, or the "class" token
    """
    if pool not in ("mean", "class"):
        raise ValueError(choices("pool", pool, ("mean", "class")))
    config, training = model.config, model.training
    ratio, patches = config.mask_ratio, (config.image_size // config.patch_size) ** 2
    # Rising noise leaves the patches where they are.
    noise = torch.arange(patches, dtype=torch.float32, device=pixel_values.device)
    try:
        config.mask_ratio = 0.0
        model.eval()
        tokens = model.vit(pixel_values, noise=noise.expand(len(pixel_values), -1))[0]
    finally:
        config.mask_ratio = ratio
        model.train(training)
    made: Tensor = tokens[:, 1:].mean(1) if pool == "mean" else tokens[:, 0]
    return made
