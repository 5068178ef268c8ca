"""Masked autoencoder with a head for descriptor targets, and the words of a run.

This module imports transformers; `build_model` and `pretrain` import it when they need it.
"""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEForPreTrainingOutput

from ..masking import DescriptorWords, fit_words, load_words, masked_target_loss
from ..utils.processes import Progress
from .checkpoints import RunError
from .data import MaskedImages
from .reconstruction import spread_indices

PATCHES_PER_WORD = 100  # patches to which each word is fitted, if there are enough pictures
TARGET_SETTINGS = ("target", "target_length", "target_window")  # in the config of a model


class ViTMAEForTargets(ViTMAEForPreTraining):
    """Encoder and decoder of a `ViTMAEForPreTraining` with a head for other targets than pixels.

    The head has `config.target_length` outputs. `config.target` and `config.target_window` name the
    target, as for `semattn.masking.patch_targets`. The weights of the encoder and the decoder have
    the same names as in a `ViTMAEForPreTraining`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        decoder: Any = self.decoder
        decoder.decoder_pred = nn.Identity()
        self.target_head = nn.Linear(config.decoder_hidden_size, config.target_length)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        noise: Tensor | None = None,
        targets: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> ViTMAEForPreTrainingOutput:
        """Predict the targets of all patches; with `targets`, compute the loss of masked patches.

        Parameters
        ----------
        pixel_values : (B, 3, H, W), normalised
        noise : (B, P), as for `ViTMAEForPreTraining`
        targets : (B, P, D), or words (B, P) int64
        weights : (B, P), weights of the patches in the loss

        Returns
        -------
        ViTMAEForPreTrainingOutput
            `logits` are the predictions (B, P, D), or the scores (B, P, K) of the words.
        """
        encoded = self.vit(pixel_values, noise=noise)
        tokens = self.decoder(encoded.last_hidden_state, encoded.ids_restore).logits
        predicted = self.target_head(tokens)
        loss = None
        if targets is not None:
            loss = masked_target_loss(predicted, targets, encoded.mask, weights)
        return ViTMAEForPreTrainingOutput(
            loss=loss, logits=predicted, mask=encoded.mask, ids_restore=encoded.ids_restore
        )


def replace_head(network: Any, settings: dict[str, Any], seed: int) -> Any:
    """Return a copy of a masked autoencoder with a new head for another target.

    Parameters
    ----------
    network : a `ViTMAEForPreTraining` or `ViTMAEForTargets`, which is left unchanged
    settings : values of `TARGET_SETTINGS`; empty for pixels
    seed : seed of the weights of the head
    """
    config = copy.deepcopy(network.config)
    for name in TARGET_SETTINGS:
        if hasattr(config, name):
            delattr(config, name)
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(seed)
    changed = (ViTMAEForTargets if settings else ViTMAEForPreTraining)(config)
    changed.vit.load_state_dict(network.vit.state_dict())
    decoder = network.decoder.state_dict()
    changed.decoder.load_state_dict(
        changed.decoder.state_dict()
        | {name: value for name, value in decoder.items() if not name.startswith("decoder_pred")}
    )
    return changed


def prepare_words(
    path: Path,
    data: MaskedImages,
    count: int,
    window: float,
    *,
    seed: int,
    is_fitted: bool,
    progress: Progress,
) -> tuple[DescriptorWords, float]:
    """Return the words of a run and the seconds that fitting them took.

    Parameters
    ----------
    path : file of the words
    data : training data set; the words are fitted to crops of its first epoch
    count : number of words
    window : side of the window of SIFT, pixels
    seed : seed of the clusters
    is_fitted : the words were fitted before: read them from the file

    Raises
    ------
    RunError
        For a file with other words.
    """
    patch_size = int(data.grid.cell[0])
    if is_fitted:
        words = load_words(path)
        actual = (len(words), words.target, words.patch_size, words.window)
        if actual != (count, "sift", patch_size, window):
            raise RunError(
                f"words: expected {count} words of sift with patches of {patch_size} and windows "
                f"of {window:g} pixels in {path}, got {actual} — restore the file, or choose "
                "another folder"
            )
        return words, 0.0
    start = time.perf_counter()
    number = math.ceil(PATCHES_PER_WORD * count / data.grid.patches)
    indices, crops = spread_indices(len(data), number), []
    if len(indices) * data.grid.patches < count:
        raise ValueError(
            f"words: expected at most {len(indices) * data.grid.patches}, the number of patches of "
            f"{len(indices)} pictures, got {count} — lower it or pass more pictures"
        )
    for done, index in enumerate(indices, 1):
        picture = data.picture(index)
        crops.append(np.array(data.crop(picture.size, 0, index).image(picture)))
        progress("fitting the words", done, len(indices))
    images = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
    words = fit_words(images, count, "sift", patch_size=patch_size, window=window, seed=seed)
    words.save(path)
    return words, time.perf_counter() - start
