"""Where each patch is, for a masked autoencoder that was not told.

transformers 5 leaves a `ViTMAEForPreTraining` that is made from a config without positions: the
encoder skips its own and the decoder sets its own to zero, both are frozen, and such a model
cannot learn where anything is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SLOWEST = 10_000.0  # period of the slowest wave, in patches over 2 pi


def sincos(shape: tuple[int, int], width: int) -> Tensor:
    """Fixed positions of a grid of patches, as MAE has them (arXiv 2111.06377): (1 + P, width).

    A quarter of the channels is the sine of the column at rising periods, a quarter its cosine, and
    so for the row; the class token, which comes first, has zeros.

    Parameters
    ----------
    shape : rows and columns
    width : channels, a multiple of 4

    Examples
    --------
    >>> [[round(one, 2) for one in row] for row in sincos((2, 3), 4)[[0, 1, 6]].tolist()]
    [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0], [0.91, -0.42, 0.84, 0.54]]
    """
    if width % 4:
        raise ValueError(f"width: expected a multiple of 4 for sin-cos positions, got {width}")
    rates = SLOWEST ** (-torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    row, column = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64, device="cpu") for n in shape), indexing="ij"
    )
    waves = [at.reshape(-1, 1) * rates for at in (column, row)]
    made = torch.cat([turn(wave) for wave in waves for turn in (torch.sin, torch.cos)], dim=1)
    return torch.cat([made.new_zeros(1, width), made]).float()


@torch.no_grad()
def add_positions(model: Any) -> None:
    """Give a new `ViTMAEForPreTraining` the positions, and the tokens, that it lacks.

    Those that are not zero stay. Tokens are drawn from torch's generator.
    """
    config, encoder, decoder = model.config, model.vit.embeddings, model.decoder
    side = config.image_size // config.patch_size
    for positions in (encoder.position_embeddings, decoder.decoder_pos_embed):
        if not positions.any():
            positions.copy_(sincos((side, side), positions.shape[-1]))
    for token in (encoder.cls_token, decoder.mask_token):
        if not token.any():
            token.normal_(std=config.initializer_range)
