"""Position embeddings for new masked autoencoders.

transformers 5 builds a `ViTMAEForPreTraining` from a config without position embeddings: those of
the encoder and the decoder are zero and frozen, so that the model cannot use positions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
