"""One forward pass, and at most one backward pass, with every attention call kept small.

The graph begins at the first recorded site, not at the image: what lies before it is computed
without one, so that explaining the last half of the layers costs less than a full backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ShapeError, UnsupportedModelError
from ..grid import PatchGrid
from .intercept import Call, DenseCall, FusedCall, attach
from .patches import PatchWatch, watch_patches
from .placement import Placement
from .quiet import quiet
from .rows import Rule, SiteRecord
from .sites import AttentionSite, Layers, choose_layers, find_sites, refuse
from .target import Target, output_tensor, score

# Of the score in fp16, so that its gradients neither vanish nor overflow; powers of two are exact.
_HALF_SCALES = (2.0**10, 1.0, 2.0**-10)


@dataclass(frozen=True)
class AttentionRecord:
    """What every recorded site of a model did with a batch of images.

    `sites` are in the order of the layers; `grid` says where the tokens lie; `logits` is the
    output (B, …); `score` (B,) is what was differentiated and `target` (B,) its class numbers,
    None when the output has no classes or nothing was differentiated. `reads_class_token` (B,)
    says whether the score depends on the first prefix token of the model's last layer: measured,
    not assumed, since models that average their patches may have a class token all the same.
    """

    sites: tuple[SiteRecord, ...]
    grid: PatchGrid
    logits: Tensor
    score: Tensor | None
    target: Tensor | None
    reads_class_token: Tensor

    def rows(self, queries: slice) -> Iterator[tuple[AttentionSite, Tensor]]:
        """Each self-attention site with its attention (B,H,Q,N) for the token slice `queries`."""
        for one in self.sites:
            if one.site.kind == "self":
                yield one.site, one.attention(queries)

    def dense(self, layer: int) -> Tensor:
        """The whole attention (B,H,N,N) of one layer; N x N, so only on request."""
        for one in self.sites:
            if one.site.kind == "self" and one.site.layer == layer:
                return one.attention()
        known = [one.site.layer for one in self.sites if one.site.kind == "self"]
        raise ValueError(f"layer: expected one of the recorded {known}, got {layer}")

    def readout(self) -> Tensor:
        """Where the answer is read: 1 for the class token, or 1/P for each patch: (B, N).

        The class token where the score depends on it (`reads_class_token`), else all patches alike.
        """
        even = self.logits.new_full((len(self.logits), self.grid.patches), 1 / self.grid.patches)
        weights = self.grid.add_prefix(even.to(torch.promote_types(even.dtype, torch.float32)))
        weights[self.reads_class_token] = 0
        if self.grid.prefix:
            weights[:, 0] = self.reads_class_token.to(weights)
        return weights

    def reduce(self, weights: Tensor, rule: Rule | None = None) -> list[Tensor]:
        """For each self-attention site, sum_i weights_i rule(A, dA)_ij over queries i: (B,H,N).

        Parameters
        ----------
        weights : (B, N), one weight a token of the record's grid
        rule : maps A and dA (None without gradients), both (G,H,Q,Nk), to the same shape;
            None is the attention itself
        """
        return [one.reduce(weights, rule) for one in self.sites if one.site.kind == "self"]


def record(
    model: nn.Module,
    inputs: Tensor,
    *,
    target: Target = None,
    layers: Layers = None,
    grad: bool | str = True,
    additional_forward_args: Any = None,
) -> AttentionRecord:
    """Run `model` on `inputs` once and keep what its attention did.

    The model runs in evaluation mode with its parameters frozen and fused attention as it is;
    flags and hooks are as before when this returns or raises.

    Parameters
    ----------
    model : a vision transformer; what it wraps does not matter
    inputs : (B, C, H, W), as the model takes them
    target : what is differentiated, see `semattn.attention.target`; None is the predicted class
    layers : which self-attention layers, see `choose_layers`; None is all
    grad : whether to keep dL/dO as well, at the cost of a backward pass; "last" differentiates
        at the last layer alone, which tells `reads_class_token` and costs little; False nothing
    additional_forward_args : passed on to the model after `inputs`

    Raises
    ------
    UnsupportedModelError
        For a model or an attention call that cannot be read truthfully; it names the module, the
        kind of the call and its shape.
    TargetError
        For a target that the output does not have.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> taken = record(vit, torch.zeros(1, 3, 64, 64), grad=False)
    >>> taken.grid.shape, taken.dense(0).shape[-2:]
    ((4, 4), torch.Size([17, 17]))
    """
    module = refuse(model, compiled=True)
    if inputs.ndim != 4 or not inputs.numel():
        raise ShapeError(
            f"inputs: expected a batch of images (B, C, H, W), got {tuple(inputs.shape)}"
        )
    sites = find_sites(module)
    depth = sum(site.kind == "self" for site in sites.values())
    if not depth:
        raise UnsupportedModelError(
            f"{type(module).__name__}: expected self-attention over patches, got only pools "
            f"({', '.join(map(str, sites.values()))}) — this kind is not supported"
        )
    wanted = set(choose_layers(layers, depth))
    last = [site for site in sites.values() if site.kind == "self"][-1]
    extra = _as_tuple(additional_forward_args)
    if grad not in (True, False, "last"):
        raise ValueError(f"grad: expected True, False or 'last', got {grad!r}")
    with torch.inference_mode(False), torch.set_grad_enabled(bool(grad)), quiet(module):
        inputs = inputs.clone() if inputs.is_inference() else inputs.detach()
        with watch_patches(module) as patches:
            chosen_sites = {site for site in sites.values() if site.layer in wanted}
            recorder = _Recorder(chosen_sites, last, grad, patches)
            with attach(sites, recorder.handle, outermost=True):
                logits = output_tensor(module(inputs, *extra))
                recorder.open = False
                grid = recorder.check(sites, module, inputs)
                chosen, classes = score(logits, target, module) if grad else (None, None)
                gradients = {} if chosen is None else recorder.differentiate(chosen, logits.dtype)
    wanted_sites = [site for site in recorder.calls if site in recorder.wanted]
    records = tuple(
        recorder.keep(site, gradients.get(site) if grad is True else None, grid)
        for site in wanted_sites
    )
    return AttentionRecord(
        sites=records,
        grid=grid,
        logits=logits.detach(),
        score=None if chosen is None else chosen.detach(),
        target=classes,
        reads_class_token=_reads_first(gradients.get(last), grid, logits),
    )


def _reads_first(gradient: Tensor | None, grid: PatchGrid, logits: Tensor) -> Tensor:
    """Whether the gradient at the last layer reaches the first prefix token, (B,)."""
    if gradient is None or not grid.prefix:
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    return gradient[:, :, 0].flatten(1).ne(0).any(dim=1)


class _Recorder:
    def __init__(
        self,
        wanted: set[AttentionSite],
        last: AttentionSite,
        grad: bool | str,
        patches: PatchWatch,
    ) -> None:
        self.wanted = wanted
        self.patches = patches
        self.watched = wanted | ({last} if grad else set())
        self.differentiated = self.watched if grad is True else {last} if grad else set()
        self.open = True
        self.calls: dict[AttentionSite, Call] = {}
        self.shapes: dict[AttentionSite, tuple[int, ...]] = {}
        self.results: dict[AttentionSite, Tensor] = {}

    def handle(self, site: AttentionSite, call: Call) -> Tensor:
        if self.open:
            self.patches.open = False  # what comes after the first attention cuts no patches
            if site in self.shapes:
                raise UnsupportedModelError(
                    f"{site}: expected one attention call a forward pass, got a second one on "
                    f"{call.shape} — differential and shared attention are not supported"
                )
            self.shapes[site] = call.shape
        result = call.run()
        if site not in self.watched:
            return result
        if site in self.differentiated and not result.requires_grad:
            result = result.detach().requires_grad_()  # here the graph begins
        if self.open:
            self.calls[site] = call
            self.results[site] = result
        return result

    def check(
        self, sites: dict[nn.Module, AttentionSite], model: nn.Module, inputs: Tensor
    ) -> PatchGrid:
        """Every call must be one that is understood; answer with the grid they attend over."""
        batch = inputs.shape[0]
        size = (inputs.shape[-2], inputs.shape[-1])
        for site in sites.values():
            shape = self.shapes.get(site)
            if shape is None:
                raise UnsupportedModelError(
                    f"{site}: expected a call of scaled_dot_product_attention or softmax, "
                    "got none — flash, flex and skipped attention are not supported"
                )
            if len(shape) != 4:
                raise UnsupportedModelError(
                    f"{site}: expected attention over (B, heads, N, N), got shape {shape} — "
                    "windowed and grouped attention are not supported"
                )
        tokens = next(self.shapes[site][3] for site in sites.values() if site.kind == "self")
        for site in sites.values():
            self._check_kind(site, batch, tokens)
        return self.patches.grid(model, size, tokens)

    def _check_kind(self, site: AttentionSite, batch: int, tokens: int) -> None:
        of_batch, _, queries, keys = self.shapes[site]
        if of_batch != batch:
            kind = "windowed attention"
        elif site.kind == "self" and keys != queries:
            kind = "attention with reduced keys"
        elif site.kind == "self" and keys != tokens:
            kind = "channel or hierarchical attention"
        else:
            return
        raise UnsupportedModelError(
            f"{site}: expected {site.kind}-attention over ({batch}, heads, {tokens}, {tokens}), "
            f"got {kind} of shape {self.shapes[site]} — this kind is not supported"
        )

    def differentiate(self, chosen: Tensor, dtype: torch.dtype) -> dict[AttentionSite, Tensor]:
        """dL/dO (or dL/dA) of every recorded site."""
        if not chosen.requires_grad:
            names = ", ".join(str(site) for site in self.results)
            raise UnsupportedModelError(
                f"model output: expected it to depend on {names}, got no gradient — "
                "the model detaches its output or runs without gradients"
            )
        scales = _HALF_SCALES if dtype == torch.float16 else (1.0,)
        sites = [site for site in self.results if site in self.differentiated]
        watched = [self.results[site] for site in sites]
        for scale in scales:
            found = torch.autograd.grad(
                chosen.sum() * scale, watched, allow_unused=True, retain_graph=scale != scales[-1]
            )
            for site, gradient in zip(sites, found, strict=True):
                if gradient is None:
                    raise UnsupportedModelError(
                        f"{site}: expected a gradient of the output, got none — "
                        "the output does not depend on this layer"
                    )
            if all(bool(gradient.isfinite().all()) for gradient in found):
                break
        else:
            raise UnsupportedModelError(
                "model output: expected finite gradients, got NaN or infinity — "
                "check the weights and the input, or run the model in float32"
            )
        exact = torch.promote_types(dtype, torch.float32)
        return {
            site: gradient if scale == 1.0 else gradient.to(exact) / scale
            for site, gradient in zip(sites, found, strict=True)
        }

    def keep(self, site: AttentionSite, gradient: Tensor | None, grid: PatchGrid) -> SiteRecord:
        call = self.calls[site]
        batch, heads, queries, keys = self.shapes[site]
        shape = (batch, heads, queries, keys)
        own = replace(grid, prefix=keys - grid.patches)
        at = Placement(own, grid, batch)
        asking = at if site.kind == "self" else None
        if isinstance(call, DenseCall):
            dense = self.results[site].detach()
            return SiteRecord(site, shape, at, asking, dense=dense, gradient=gradient)
        return SiteRecord(
            site,
            shape,
            at,
            asking,
            query=call.query.detach(),
            key=_per_head(call, call.key),
            value=_per_head(call, call.value),
            mask=None if call.attn_mask is None else call.attn_mask.detach(),
            causal=call.is_causal,
            scale=1 / math.sqrt(call.query.shape[-1]) if call.scale is None else call.scale,
            gradient=gradient,
        )


def _per_head(call: FusedCall, shared: Tensor) -> Tensor:
    """Keys or values (B,H,N,D), repeated where several heads share one (grouped queries)."""
    times = call.query.shape[1] // shared.shape[1]
    return shared.detach() if times == 1 else shared.detach().repeat_interleave(times, dim=1)


def _as_tuple(extra: Any) -> tuple[Any, ...]:
    if extra is None:
        return ()
    return extra if isinstance(extra, tuple) else (extra,)
