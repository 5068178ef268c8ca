"""Loss of predicted targets of masked patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from semattn.errors import ShapeError
from semattn.utils.validation import check_values


def masked_target_loss(
    predicted: Tensor, targets: Tensor, mask: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Compute the loss of the masked patches, averaged over the patches of an image, then images.

    The loss of a patch is the mean squared error over its values, or the cross-entropy in nats if
    the targets are words. With weights w it is averaged as sum(w loss) / sum(w) over the masked
    patches of an image, so that only ratios of weights within an image matter.

    Parameters
    ----------
    predicted : (B, P, D); for words, scores (B, P, K) before softmax
    targets : (B, P, D) floating point, or words (B, P) int64
    mask : (B, P), 1 or True for masked patches, such as `Masks.mask`
    weights : (B, P), >= 0, such as `loss_weights` computes

    Returns
    -------
    Tensor
        A number with the gradient of `predicted`. An image without masked patches of positive
        weight counts as 0.

    Raises
    ------
    ShapeError
        For shapes that do not match.

    Notes
    -----
    Without weights and with targets `normalised_pixels`, this is the loss of MAE with
    `norm_pix_loss`.

    Examples
    --------
    >>> predicted, targets = torch.zeros(1, 2, 3), torch.tensor([[[1.0, 1, 1], [2, 2, 2]]])
    >>> masked_target_loss(predicted, targets, mask=torch.tensor([[0, 1]])).item()
    4.0
    """
    for name, values in (("predicted", predicted), ("targets", targets), ("mask", mask)):
        check_values(name, values)
    if predicted.ndim != 3 or not predicted.is_floating_point():
        raise ShapeError(
            f"predicted: expected floating point (B, P, D), got {tuple(predicted.shape)} of "
            f"{predicted.dtype} — one vector per patch"
        )
    are_words = not targets.is_floating_point()
    expected = tuple(predicted.shape[:2] if are_words else predicted.shape)
    if tuple(targets.shape) != expected:
        raise ShapeError(
            f"targets: expected {expected} for predicted {tuple(predicted.shape)}, got "
            f"{tuple(targets.shape)} — drop prefix tokens, and size the head to the targets"
        )
    for name, per_patch in (("mask", mask), ("weights", weights)):
        if per_patch is not None and tuple(per_patch.shape) != tuple(predicted.shape[:2]):
            raise ShapeError(
                f"{name}: expected {tuple(predicted.shape[:2])}, got {tuple(per_patch.shape)} — "
                "one value per patch"
            )
    if predicted.itemsize < 4:  # half precision
        predicted = predicted.float()
    if are_words:
        _check_words(targets, predicted.shape[-1])
        loss = F.cross_entropy(predicted.transpose(1, 2), targets.long(), reduction="none")
    else:
        loss = ((predicted - targets) ** 2).mean(-1)
    counts = mask.to(loss.dtype)
    if weights is not None:
        counts = counts * weights
    total = counts.sum(1).clamp(min=torch.finfo(counts.dtype).tiny)
    return ((loss * counts).sum(1) / total).mean()


def _check_words(words: Tensor, count: int) -> None:
    """Raise for words outside 0 … count - 1; on the CPU only, since elsewhere it would wait."""
    if words.device.type == "cpu" and words.numel():
        low, high = (int(bound) for bound in torch.aminmax(words))
        if low < 0 or high >= count:
            raise ValueError(
                f"targets: expected words from 0 to {count - 1}, got {low} to {high} — give the "
                "head one score for each word"
            )
