"""A bias added to the attention scores of a model, for as long as a context is open.

Adding b_j to the scores of key j multiplies its attention by e^b_j and renormalises. The bias
rides on the `attn_mask` of the fused call, so fused kernels stay on, and a bias per key is never
expanded to N x N.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import ShapeError, UnsupportedModelError
from .intercept import Call, attach
from .sites import AttentionSite, Layers, choose_layers, find_sites, refuse


@contextmanager
def steer(
    model: nn.Module,
    bias: Tensor,
    *,
    layers: Layers = None,
    heads: Sequence[int] | None = None,
) -> Iterator[None]:
    """Add `bias` to the attention scores of `model` inside the ``with``.

    Contexts nest and add up; a record made inside sees the steered attention. Gradients flow to
    the bias. Outside the context the model is as before.

    Parameters
    ----------
    model : a vision transformer
    bias : (N,) or (B, N), nats per key token, the same for every query; or (B|1, H|1, Q|1, N)
    layers : which self-attention layers, see `choose_layers`; None is all
    heads : which heads; None is all

    Raises
    ------
    ShapeError
        For a bias of another shape, at once or when a site of another size is called.
    ValueError
        For a bias that is not finite, or for unknown layers or heads.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> away = torch.zeros(17).index_fill(0, torch.arange(1, 9), -5.0)
    >>> with steer(vit, away, layers=[-1]):
    ...     logits = vit(torch.zeros(1, 3, 64, 64))
    """
    module = refuse(model)
    every = {one: site for one, site in find_sites(module).items() if site.kind == "self"}
    if not every:
        raise UnsupportedModelError(
            f"{type(module).__name__}: expected self-attention to steer, got only pools"
        )
    wanted = choose_layers(layers, len(every))
    if not bias.detach().isfinite().all():
        raise ValueError("bias: expected finite numbers, got NaN or infinity — clip it first")
    spread = _spread(bias)

    def handle(site: AttentionSite, call: Call) -> Tensor:
        call.add_bias(_fit(site, call, spread, heads))
        return call.run()

    with attach({one: site for one, site in every.items() if site.layer in wanted}, handle):
        yield


def _spread(bias: Tensor) -> Tensor:
    if bias.ndim == 1:
        return bias[None, None, None]
    if bias.ndim == 2:
        return bias[:, None, None]
    if bias.ndim == 4:
        return bias
    raise ShapeError(
        f"bias: expected (N,), (B, N) or (B, H, Q, N), got {tuple(bias.shape)} — "
        "one number a key token"
    )


def _fit(site: AttentionSite, call: Call, bias: Tensor, heads: Sequence[int] | None) -> Tensor:
    fits = len(bias.shape) == len(call.shape) and all(
        given in (1, needed) for given, needed in zip(bias.shape, call.shape, strict=True)
    )
    if not fits:
        raise ShapeError(
            f"bias: expected to fit attention {call.shape} of {site}, "
            f"got {tuple(bias.shape)} — one number a token, prefix tokens included"
        )
    if heads is None:
        return bias
    count = call.shape[1]
    if not heads or not all(-count <= head < count for head in heads):
        raise ValueError(
            f"heads: expected some of 0 … {count - 1}, got {list(heads)} — {site} has {count} heads"
        )
    chosen = torch.zeros(count, 1, 1, dtype=bias.dtype, device=bias.device)
    chosen[list(heads)] = 1
    return bias * chosen
