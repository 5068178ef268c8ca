"""Construction of transformers' masked autoencoder, and features of its encoder.

transformers 5 builds a `ViTMAEForPreTraining` from a config without position embeddings: those of
the encoder and the decoder are zero and frozen, so that the model cannot use positions.
`add_positions` sets them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import MissingPackageError, ShapeError, UnsupportedModelError
from ..images import Preprocessing
from ..masking import DescriptorWords, patch_targets, target_length, target_parts
from ..utils.registry import unknown_name_message
from ..utils.validation import check_number
from ..zoo.hub_cache import hide_progress_bars

WORDS = "words"  # name of the target
MAX_PERIOD = 10_000.0  # period of the slowest wave, in patches over 2 pi


def sincos(shape: tuple[int, int], width: int) -> Tensor:
    """Return the sin-cos position embeddings (1 + P, width) of MAE (arXiv 2111.06377).

    A quarter of the channels is the sine of the column at increasing periods, a quarter the cosine;
    the other half encodes the row in the same way. The class token comes first and has zeros.

    Parameters
    ----------
    shape : rows and columns
    width : channels, a multiple of 4

    Examples
    --------
    >>> [[round(value, 2) for value in row] for row in sincos((2, 3), 4)[[0, 1, 6]].tolist()]
    [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0], [0.91, -0.42, 0.84, 0.54]]
    """
    if width % 4:
        raise ValueError(f"width: expected a multiple of 4 for sin-cos positions, got {width}")
    rates = MAX_PERIOD ** (
        -torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4)
    )
    row, column = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64, device="cpu") for n in shape), indexing="ij"
    )
    waves = [coordinates.reshape(-1, 1) * rates for coordinates in (column, row)]
    encoding = torch.cat(
        [function(wave) for wave in waves for function in (torch.sin, torch.cos)], dim=1
    )
    return torch.cat([encoding.new_zeros(1, width), encoding]).float()


@torch.no_grad()
def add_positions(model: Any) -> None:
    """Initialise zero position embeddings and tokens of a new `ViTMAEForPreTraining`, in place.

    Non-zero values are unchanged. Tokens are drawn from torch's global generator.
    """
    config, encoder, decoder = model.config, model.vit.embeddings, model.decoder
    side = config.image_size // config.patch_size
    for positions in (encoder.position_embeddings, decoder.decoder_pos_embed):
        if not positions.any():
            positions.copy_(sincos((side, side), positions.shape[-1]))
    for token in (encoder.cls_token, decoder.mask_token):
        if not token.any():
            token.normal_(std=config.initializer_range)


def _model_size(
    width: int, heads: int, decoder: int, layers: int, decoder_heads: int
) -> dict[str, int]:
    return {
        "hidden_size": width, "num_hidden_layers": 12, "num_attention_heads": heads,
        "intermediate_size": 4 * width, "decoder_hidden_size": decoder,
        "decoder_num_hidden_layers": layers, "decoder_num_attention_heads": decoder_heads,
        "decoder_intermediate_size": 4 * decoder,
    }  # fmt: skip


# Encoders as in DeiT and ViT; the decoder of "base" is that of MAE, the others are narrower.
SIZES: dict[str, dict[str, int]] = {
    "tiny": _model_size(192, 3, 128, 4, 4),
    "small": _model_size(384, 6, 256, 4, 8),
    "base": _model_size(768, 12, 512, 8, 16),
}


def check_packages() -> None:
    """Raise MissingPackageError unless transformers and accelerate are installed."""
    try:
        import accelerate  # noqa: F401 — transformers' trainer needs it
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingPackageError(
            f"pretrain: expected transformers and accelerate, got {error} — "
            "pip install 'semattn[pretrain]'"
        ) from error


def build_model(
    model: Any = "small",
    *,
    image_size: int = 224,
    patch_size: int = 16,
    mask_ratio: float = 0.75,
    norm_pix_loss: bool = True,
    target: str = "pixels",
    window: float = 16.0,
    words: int = 512,
    seed: int = 0,
) -> Any:
    """Build a masked autoencoder from a size name, a config dict or a saved model.

    The result is a `ViTMAEForPreTraining`; for other targets than pixels it is a
    `ViTMAEForTargets`, which differs in its head.

    Parameters
    ----------
    model : "tiny", "small" or "base"; a dict of `ViTMAEConfig` arguments; a folder written by
        `save_pretrained`, to start from its weights; or a model, which is returned as it is if it
        has this target, and otherwise copied with a new head
    image_size, patch_size : pixels
    mask_ratio : fraction of masked patches
    norm_pix_loss : normalise the target patches in the loss, as in MAE; for the target "pixels"
    target : "pixels", as in MAE; "words"; or descriptors, as for
        `semattn.masking.descriptor_targets`
    window : side of the window of SIFT, pixels
    words : number of words
    seed : seed of the initial weights

    Raises
    ------
    ShapeError
        If the model has another image size or patch size.
    """
    check_packages()
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    head = _head_settings(target, patch_size, window, words)
    network: Any
    if isinstance(model, (str, os.PathLike)) and Path(model).is_dir():
        network = load_model(model)
    elif isinstance(model, (str, dict)):
        if isinstance(model, str) and model not in SIZES:
            raise ValueError(
                unknown_name_message("model", model, SIZES) + ", or the folder of a saved model"
            )
        sizes = SIZES[model] if isinstance(model, str) else model
        torch.manual_seed(seed)
        network = ViTMAEForPreTraining(
            ViTMAEConfig(**{"image_size": image_size, "patch_size": patch_size, **sizes})
        )
        add_positions(network)
    else:
        network = model
    config: Any = getattr(network, "config", None)
    if not hasattr(config, "mask_ratio") or not hasattr(network, "patchify"):
        raise UnsupportedModelError(
            f"model: expected a ViTMAEForPreTraining, got {type(network).__name__} — for other "
            "models, use semattn.masking with your own trainer"
        )
    if (config.image_size, config.patch_size) != (image_size, patch_size):
        raise ShapeError(
            f"model: expected image size {image_size} and patch size {patch_size}, got "
            f"{config.image_size} and {config.patch_size} — pass the sizes of the model"
        )
    old_head = {name: getattr(config, name) for name in head if hasattr(config, name)}
    # Each run fits its own words, so a head for other words has no meaning.
    if head != old_head or hasattr(config, "target") != bool(head) or target == WORDS:
        from .targets import replace_head

        network = replace_head(network, head, seed)
    network.config.mask_ratio, network.config.norm_pix_loss = mask_ratio, norm_pix_loss
    return network


def load_model(folder: str | os.PathLike[str]) -> Any:
    """Load the masked autoencoder of a run, with its head.

    Parameters
    ----------
    folder : "model" in the folder of a run, or another folder written by `save_pretrained`

    Returns
    -------
    ViTMAEForPreTraining or ViTMAEForTargets
        The second one if the target of the run is not "pixels".
    """
    check_packages()
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    network_class: Any = ViTMAEForPreTraining
    with hide_progress_bars():
        if hasattr(ViTMAEConfig.from_pretrained(folder, local_files_only=True), "target"):
            from .targets import ViTMAEForTargets

            network_class = ViTMAEForTargets
        return network_class.from_pretrained(folder, local_files_only=True)


def _head_settings(target: str, patch_size: int, window: float, words: int) -> dict[str, Any]:
    """Return the settings of the head in the config of a model; empty for pixels."""
    if target == "pixels":
        return {}
    if target == WORDS:
        check_number("words", words, minimum=2, integer=True)
        length = int(words)
    elif not isinstance(target, str) or ("+" not in target and target not in target_parts):
        raise ValueError(unknown_name_message("target", target, [*target_parts, WORDS]))
    else:
        length = target_length(target, patch_size=patch_size)
    check_number("window", window, minimum=1, maximum=1e6)
    return {"target": target, "target_length": length, "target_window": float(window)}


def model_targets(
    config: Any,
    pixel_values: Tensor,
    preprocessing: Preprocessing,
    words: DescriptorWords | None = None,
) -> Tensor:
    """Compute the targets of a batch for a model with this config.

    Parameters
    ----------
    config : of a `ViTMAEForTargets`
    pixel_values : (B, 3, H, W), normalised by `preprocessing`
    words : words of the run, if they are the target
    """
    return patch_targets(
        pixel_values, config.target if words is None else words, patch_size=config.patch_size,
        window=config.target_window, preprocessing=preprocessing,
    )  # fmt: skip


@torch.no_grad()
def features(model: Any, pixel_values: Tensor, pool: str = "mean") -> Tensor:
    """Compute encoder features (B, D) of images without masking.

    Parameters
    ----------
    model : a `ViTMAEForPreTraining`
    pixel_values : (B, 3, H, W), normalised
    pool : "mean" of the patches' tokens, or the "class" token
    """
    if pool not in ("mean", "class"):
        raise ValueError(unknown_name_message("pool", pool, ("mean", "class")))
    config, was_training = model.config, model.training
    old_ratio, patches = config.mask_ratio, (config.image_size // config.patch_size) ** 2
    # Increasing noise keeps the order of the patches.
    noise = torch.arange(patches, dtype=torch.float32, device=pixel_values.device)
    try:
        config.mask_ratio = 0.0
        model.eval()
        tokens = model.vit(pixel_values, noise=noise.expand(len(pixel_values), -1))[0]
    finally:
        config.mask_ratio = old_ratio
        model.train(was_training)
    pooled: Tensor = tokens[:, 1:].mean(1) if pool == "mean" else tokens[:, 0]
    return pooled
