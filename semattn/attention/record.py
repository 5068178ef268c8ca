"""One forward pass, and at most one backward pass, with every attention call kept small.

The graph begins at the first recorded site, not at the image: what lies before it is computed
without one, so that explaining the last half of the layers costs less than a full backward pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ShapeError, UnsupportedModelError
from ..grid import PatchGrid
from .layout import Layout, common_grid
from .owner import calling, nested
from .patches import watch_patches
from .quiet import quiet
from .recorder import Recorder
from .rows import Rule, SiteRecord
from .sites import AttentionSite, Layers, find_sites, refuse
from .target import Target, check_batch, output_tensor, score


@dataclass(frozen=True)
class AttentionRecord:
    """What every recorded site of a model did with a batch of images.

    `sites` are in the order of the layers; `grid` says where the tokens lie; `logits` is the
    output (B, …); `score` (B,) is what was differentiated and `target` (B,) its class numbers,
    None when it is no class (`explains` then says what it is) or nothing was differentiated.
    `reads_class_token` (B,) says whether the score depends on the first prefix token of the
    model's last layer: measured, not assumed, since models that average their patches may have a
    class token all the same.
    `left_out` are sites whose attention is not between patches (channel attention); they have no
    number among the layers.
    `in_order` says whether all layers of the model, recorded or not, attend over the tokens of
    `grid` as they come: no windows, no coarser grids.
    `depth` is how many self-attention layers the model has, recorded or not.
    """

    sites: tuple[SiteRecord, ...]
    grid: PatchGrid
    logits: Tensor
    score: Tensor | None
    target: Tensor | None
    reads_class_token: Tensor
    left_out: tuple[AttentionSite, ...] = ()
    explains: str = ""
    in_order: bool = True
    depth: int = 1

    def half_way(self) -> SiteRecord:
        """The recorded site nearest to half of the model's depth; of two, the earlier one."""
        return min(self.sites, key=lambda one: abs(one.site.layer - self.depth // 2))

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
    if grad not in (True, False, "last"):
        raise ValueError(f"grad: expected True, False or 'last', got {grad!r}")
    sites = find_sites(module)
    extra = _as_tuple(additional_forward_args)
    layouts: dict[str, Layout] = {}
    left_out: tuple[AttentionSite, ...] = ()
    with (
        nested(),
        torch.inference_mode(False),
        torch.set_grad_enabled(bool(grad)),
        quiet(module),
    ):
        inputs = inputs.clone() if inputs.is_inference() else inputs.detach()
        while True:
            recorder = Recorder(sites, layers, grad)
            with watch_patches(module) as patches, recorder.attached(patches) as entered:
                with calling():
                    output = module(inputs, *extra)
                recorder.open = False
                if entered and len(entered) < len(sites):  # a tower that this pass does not use
                    sites = find_sites(module, among=entered)
                    continue
                recorder.check_called()
                logits = output_tensor(output)
                check_batch(logits, len(inputs))
                asked = score(output, target, module) if grad else (None, None, "")
                chosen, classes, explains = asked
                gradients = {} if chosen is None else recorder.differentiate(chosen, logits.dtype)
            if not layouts:
                found = recorder.layouts(module, inputs, extra, patches)
                layouts = {site.name: layout for site, layout in found.items()}
                left_out = tuple(site for site in found if found[site].keys is None)
                if left_out:
                    sites = _between_patches(module, sites, left_out)
                    continue
            break
    kept = [site for site in recorder.calls if site in recorder.wanted]
    grid = common_grid([layouts[site.name] for site in kept])
    batch, last = len(inputs), recorder.last
    return AttentionRecord(
        sites=tuple(
            recorder.keep(
                site,
                layouts[site.name],
                grid,
                batch,
                gradients.get(site) if grad is True else None,
            )
            for site in kept
        ),
        grid=grid,
        logits=logits.detach(),
        score=None if chosen is None else chosen.detach(),
        target=classes,
        reads_class_token=recorder.reads_first(layouts[last.name], gradients.get(last), batch),
        left_out=left_out,
        explains=explains,
        in_order=all(layout.in_order_of(grid) for layout in layouts.values()),
        depth=last.layer + 1,
    )


def _between_patches(
    model: nn.Module,
    sites: Mapping[nn.Module, AttentionSite],
    left_out: Collection[AttentionSite],
) -> dict[nn.Module, AttentionSite]:
    """The sites that are not left out, with their layers numbered anew."""
    among = [module for module, site in sites.items() if site not in left_out]
    if not among:
        raise UnsupportedModelError(
            f"{next(iter(left_out))}: expected attention between patches, got attention between "
            "channels in every layer — this kind is not supported"
        )
    return find_sites(model, among=among)


def _as_tuple(extra: Any) -> tuple[Any, ...]:
    if extra is None:
        return ()
    return extra if isinstance(extra, tuple) else (extra,)
