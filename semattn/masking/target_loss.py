"""Loss of predicted targets of masked patches, and loss weights from keypoints, by name.

A weighted loss is sum(w loss) / sum(w) over the masked patches of an image: only ratios of weights
within an image matter.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from semattn.errors import ShapeError
from semattn.utils.registry import unknown_name_message
from semattn.utils.validation import as_tensor, check_number, check_values

CLIP = 20.0  # bound of the absolute exponent, as in KAMIM's code
MEAN_PART = 0.1  # part of the image's mean count that "keypoints-linear" adds

LOSS_WEIGHTS = ("none", "kamim", "kamim-relative", "keypoints", "keypoints-linear")


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


def kamim_weight(density: Tensor, temperature: float = 0.5) -> Tensor:
    """Compute KAMIM's weights w = exp(density / T) / min w; the minimum is 1 (arXiv 2407.13873).

    Parameters
    ----------
    density : (B, P), >= 0; keypoints per pixel in KAMIM
    temperature : T > 0; lower values give dense patches more weight

    Returns
    -------
    Tensor
        (B, P) with the dtype of `density`; each row is normalised separately.

    Examples
    --------
    >>> kamim_weight(torch.tensor([[0.0, 0.5, 1.0]])).round(decimals=2).tolist()
    [[1.0, 2.7200000286102295, 7.389999866485596]]
    """
    check_values("density", density)
    if not density.shape[-1]:
        raise ShapeError(f"density: expected (B, P), got {tuple(density.shape)}")
    if not density.is_floating_point() or density.itemsize == 1:
        density = density.float()
    check_number("temperature", temperature, maximum=1e12)
    if not temperature > 0:
        raise ValueError(
            f"temperature: expected a number above 0, got {temperature} — KAMIM uses .5"
        )
    exponent = (density / float(temperature)).clamp(-CLIP, CLIP)
    return (exponent - exponent.amin(-1, keepdim=True)).exp()


def loss_weights(
    name: str,
    s: np.ndarray | Tensor,
    area: float = 256,
    temperature: float = 0.5,
    *,
    epsilon: float = 0.1,
    tau: float = 1.0,
) -> Tensor | None:
    """Compute the loss weights (…, P) float32 by name; None for "none".

    Parameters
    ----------
    name : "kamim" uses keypoints per pixel, as published; "kamim-relative" uses the count divided
        by the image's maximum, so that weights range from 1 to exp(1 / T) for any detector;
        "keypoints" is w = (s + epsilon) / (s + epsilon + tau); "keypoints-linear" is
        w = s + .1 mean(s); both are divided by their mean over the patches of the image
    s : (…, P), >= 0, number of keypoints in each patch
    area : area of a patch, pixels; only "kamim" uses it
    temperature : as for `kamim_weight`, for KAMIM's weights
    epsilon : weight of a patch without keypoints in "keypoints", in keypoints, > 0
    tau : number of keypoints at which w of "keypoints" is about one half, > 0

    Notes
    -----
    A patch without structure has a descriptor that is mostly noise: "keypoints" lowers its weight.
    KAMIM counts FAST corners, which are far denser than SIFT keypoints: with SIFT, weights per
    pixel are close to 1. An image without keypoints has equal weights.

    Examples
    --------
    >>> loss_weights("keypoints-linear", torch.tensor([[0.0, 4.0]]))
    tensor([[0.0909, 1.9091]])
    """
    if name not in LOSS_WEIGHTS:
        raise ValueError(unknown_name_message("loss_weight", name, LOSS_WEIGHTS))
    if name == "none":
        return None
    check_number("area", area, minimum=1, maximum=1e12)
    counts = _counts(s)
    tiny = torch.finfo(counts.dtype).tiny
    if name == "kamim":
        return kamim_weight(counts / float(area), temperature).float()
    if name == "kamim-relative":
        most = counts.amax(-1, keepdim=True).clamp(min=tiny)
        return kamim_weight(counts / most, temperature).float()
    for option, value in (("epsilon", epsilon), ("tau", tau)):
        check_number(option, value, minimum=0, maximum=1e12)
        if not value > 0:
            raise ValueError(f"{option}: expected a number above 0, got {value}")
    if name == "keypoints":
        # (s + e) / (s + e + tau), finite for any finite s
        weights = 1 / (1 + tau / (counts + epsilon))
    else:
        weights = counts + MEAN_PART * counts.mean(-1, keepdim=True)
    mean = weights.mean(-1, keepdim=True)
    return torch.where(mean > tiny, weights / mean.clamp(min=tiny), 1.0).float()


def _counts(s: np.ndarray | Tensor) -> Tensor:
    """Return counts in the precision of the computation; raise for other values."""
    if not isinstance(s, Tensor):
        try:
            s = as_tensor(np.asarray(s, dtype=np.float64))
        except (TypeError, ValueError):
            raise TypeError(
                f"density: expected numbers (…, P), got {type(s).__name__} — one per patch"
            ) from None
    check_values("density", s)
    if not s.numel():
        raise ShapeError(f"density: expected (B, P), got {tuple(s.shape)}")
    return s.to(torch.float64 if s.device.type == "cpu" else torch.float32)
