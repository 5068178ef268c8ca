"""One forward pass, and at most one backward pass, with every attention call kept small.

The graph begins at the first recorded site, not at the image: what lies before it is computed
without one, so that explaining the last half of the layers costs less than a full backward pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ShapeError, UnsupportedModelError
from ..grid import PatchGrid
from .frozen import quiet
from .model_call import ModelCall
from .model_layout import NO_INFLUENCE, ModelLayout, known_layout
from .recorder import GradientsKept, Recorder, StaleLayoutError
from .scope import calling, nested
from .site_record import Rule, SiteRecord
from .sites import AttentionSite, Layers, refuse
from .target import Score, Target, check_batch, output_tensor, score
from .token_layout import common_grid

_BLOCKED = (
    "The model runs a part without gradients (torch.no_grad or detach); gradients were taken "
    "through it all the same."
)


@dataclass(frozen=True)
class AttentionRecord:
    """What every recorded site of a model did with a batch of images.

    `sites` are in the order of their calls; `grid` says where the tokens lie; `logits` is the
    output (B, …); `score` (B,) is what was differentiated and `target` (B,) its class numbers,
    None when it is no class (`explains` then says what it is) or nothing was differentiated.
    `read_from` (B, N) says from which tokens of the last self-attention layer the score is read,
    in parts of 1: the norm of the score's gradient with respect to each query's row of attention.
    It is None where nothing was differentiated.
    `left_out` are sites whose attention is not between patches of the image, or that the score does
    not depend on; they have no number among the layers, and `notes` says why they are left out.
    `in_order` says whether all layers of the model, recorded or not, attend over the tokens of
    `grid` as they come: no windows, no coarser grids, prefix tokens first, patches row by row.
    `is_blocked` says whether the model runs a part without gradients.
    `depth` is how many self-attention layers the model has, recorded or not.
    """

    sites: tuple[SiteRecord, ...]
    grid: PatchGrid
    logits: Tensor
    score: Tensor | None
    target: Tensor | None
    read_from: Tensor | None
    left_out: tuple[AttentionSite, ...] = ()
    explains: str = ""
    in_order: bool = True
    depth: int = 1
    notes: tuple[str, ...] = ()
    is_blocked: bool = False

    @property
    def reads_class_token(self) -> Tensor:
        """Return whether each score depends on a prefix token of the last layer: (B,)."""
        return self.readout()[:, : self.grid.prefix].sum(dim=1) > 0

    def half_way(self) -> SiteRecord:
        """The recorded site nearest to half of the model's depth; of two, the earlier one."""
        return min(self.sites, key=lambda one: abs(one.site.layer - self.depth // 2))

    def rows(self, queries: slice) -> Iterator[tuple[AttentionSite, Tensor]]:
        """Each self-attention site with its attention (B,H,Q,N) for the token slice `queries`.

        Tokens are in the order of the grid, prefix tokens first; those of windows and of coarser
        grids are as the call has them.
        """
        for one in self.sites:
            if one.site.kind != "self":
                continue
            order = one.token_order()
            if order is None:
                yield one.site, one.attention(queries)
            else:
                yield one.site, one.attention(order[queries])[..., order]

    def dense(self, layer: int) -> Tensor:
        """The whole attention (B,H,N,N) of one layer; N x N, so only on request. As `rows`."""
        for site, attention in self.rows(slice(None)):
            if site.layer == layer:
                return attention
        known = [one.site.layer for one in self.sites if one.site.kind == "self"]
        raise ValueError(f"layer: expected one of the recorded {known}, got {layer}")

    def readout(self) -> Tensor:
        """Return how much of the score is read from each token, in parts of 1: (B, N).

        Raises
        ------
        RuntimeError
            When the record was made with ``grad=False``.
        """
        if self.read_from is None:
            raise RuntimeError(
                "record: expected gradients, which show where the score is read, got a record "
                "without — use record(…, grad='last')"
            )
        return self.read_from

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
    sites: Sequence[str] | None = None,
    readout: str = "score",
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
        at the last layer alone, which gives `read_from` and costs little; False nothing
    additional_forward_args : passed on to the model after `inputs`
    sites : names of the modules that count as attention, or patterns of names as of `fnmatch`;
        None is all modules that make an attention call between patches
    readout : whether `read_from` says where the "score" is read, or the whole "output", by one
        fixed mixture of its numbers; the latter does not depend on the target

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
    if isinstance(sites, str):
        raise TypeError(f"sites: expected a list of names, got {sites!r} — write sites=[{sites!r}]")
    if readout not in ("score", "output"):
        raise ValueError(f"readout: expected 'score' or 'output', got {readout!r}")
    call = ModelCall((inputs, *_as_tuple(additional_forward_args)), {}, 0)
    return record_call(
        module, call, target=target, layers=layers, grad=grad, sites=sites, readout=readout
    )


def record_call(
    model: nn.Module,
    call: ModelCall,
    *,
    target: Target,
    layers: Layers,
    grad: bool | str,
    sites: Sequence[str] | None,
    readout: str = "score",
) -> AttentionRecord:
    """Record as `record` does, for a model that is called with any arguments."""
    with (
        nested(),
        torch.inference_mode(False),
        torch.set_grad_enabled(bool(grad)),
        quiet(model),
    ):
        images = call.images
        images = images.clone() if images.is_inference() else images.detach()
        recording = _Recording(model, call.with_images(images), target, layers, sites, readout)
        return recording.run(grad)


class _Recording:
    """Passes of one model on one batch, until it is known which layers the score depends on."""

    def __init__(
        self,
        model: nn.Module,
        call: ModelCall,
        target: Target,
        layers: Layers,
        sites: Sequence[str] | None,
        readout: str,
    ) -> None:
        self.model, self.call, self.target, self.layers = model, call, target, layers
        self.sites, self.readout = sites, readout
        self.known = known_layout(model, call, sites)
        self.read: dict[AttentionSite, Tensor | None] = {}  # gradients of the whole output

    def run(self, grad: bool | str) -> AttentionRecord:
        """Record, and begin again where the first pass shows that other layers count."""
        whole = self.known.layout
        unreached = self.known.unreached if grad else frozenset()
        thorough = bool(grad) and len(whole.towers()) > 1
        for _ in range(4):
            layout = whole.without(unreached, NO_INFLUENCE) if unreached else whole
            also = whole.sites if thorough else [s for s in whole.sites if s.name in unreached]
            recorder = Recorder(layout, self.layers, grad, _not_counted(also, layout))
            try:
                logits, asked, gradients = self._pass(recorder, grad)
            except StaleLayoutError:
                self.known = known_layout(self.model, self.call, self.sites, anew=True)
                whole = self.known.layout
                continue
            ignored = frozenset(site.name for site, one in gradients.items() if one is None)
            if self._is_blocked(ignored, gradients):
                if not self.known.blocked:
                    self.known.blocked = True
                    continue
                if len(ignored) == len(gradients):
                    self.known.blocked = False
                    raise _no_gradient(recorder)
            if ignored == unreached:
                break
            if grad is not True and not thorough:
                thorough = True
                continue
            unreached = self.known.unreached = ignored
        else:
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: expected the same attention calls in every forward "
                "pass, got others each time — fix what changes from pass to pass"
            )
        layout.check_one_tower()
        return self._keep(recorder, layout, logits, asked, gradients, grad)

    def _is_blocked(
        self, ignored: Collection[str], gradients: dict[AttentionSite, Tensor | None]
    ) -> bool:
        """Return whether gradients stop before layers whose results the score depends on."""
        if len(ignored) == len(gradients):
            return bool(gradients)
        before = self.known.layout.before
        reached = [site.name for site in gradients if site.name not in ignored]
        return any(name in before[other] for name in ignored for other in reached)

    def _pass(
        self, recorder: Recorder, grad: bool | str
    ) -> tuple[Tensor, Score | None, dict[AttentionSite, Tensor | None]]:
        """One forward pass, and a backward pass to the sites that are to be differentiated."""
        blocked = GradientsKept() if grad and self.known.blocked else nullcontext()
        with recorder.attached(self.model):
            with calling(), blocked:
                output = self.call.run(self.model)
            recorder.open = False
            recorder.check_called()
            logits = output_tensor(output)
            check_batch(logits, len(self.call.images))
            if not grad:
                return logits, None, {}
            asked = score(output, self.target, self.model)
            # A function may read another output than the first, which the mixture is of.
            several = callable(self.target) and not isinstance(output, Tensor)
            if self.readout == "output" and not several:
                self.read = recorder.differentiate(_mixture(logits), logits.dtype, ends=True)
            return logits, asked, recorder.differentiate(asked.values, logits.dtype)

    def _keep(
        self,
        recorder: Recorder,
        layout: ModelLayout,
        logits: Tensor,
        asked: Score | None,
        gradients: dict[AttentionSite, Tensor | None],
        grad: bool | str,
    ) -> AttentionRecord:
        batch = len(self.call.images)
        grid = common_grid(
            [layout.layouts[site.name] for site in layout.sites if site in recorder.wanted]
        )
        ends = {
            site: recorder.keep(site, grid, batch, gradients[site])
            for site in layout.sites
            if gradients.get(site) is not None
        }
        for site in recorder.ends & ends.keys():
            read = self.read.get(site)
            whole = ends[site] if read is None else recorder.keep(site, grid, batch, read)
            ends[site] = _with_learned(ends[site], whole)
        kept = []
        for site in layout.sites:
            if site not in recorder.wanted:
                continue
            whole = ends.get(site) or recorder.keep(site, grid, batch, None)
            kept.append(whole if grad is True else whole.without_gradient())
        last = None if recorder.last is None else ends.get(recorder.last)
        if last is not None and (read := self.read.get(last.site)) is not None:
            last = recorder.keep(last.site, grid, batch, read)
        read_from = None if last is None else _read_from(last)
        if ends and not layout.selves:  # pools alone read the patches
            read_from = _even(grid, logits)
        return AttentionRecord(
            sites=tuple(kept),
            grid=grid,
            logits=logits.detach(),
            score=None if asked is None else asked.values.detach(),
            target=None if asked is None else asked.classes,
            read_from=read_from,
            left_out=tuple(one.site for one in layout.left_out),
            explains="" if asked is None else asked.explains,
            in_order=all(layout.layouts[site.name].in_order_of(grid) for site in layout.sites),
            depth=len(layout.selves),
            is_blocked=bool(grad) and self.known.blocked,
            notes=(*layout.notes(), *((_BLOCKED,) if grad and self.known.blocked else ())),
        )


def _read_from(last: SiteRecord) -> Tensor:
    """The parts of 1 that the score is read from each token, (B, N)."""
    assert last.queries_at is not None
    norms = last.query_gradient_norms()
    if bool((norms * last.queries_at.padding()).any()):
        raise UnsupportedModelError(
            f"{last.site}: expected the score to be read from patches or prefix tokens, got one "
            "that reads padded tokens — this kind is not supported"
        )
    weights = last.queries_at.collect(norms[:, None])[:, 0]
    total = weights.sum(dim=1, keepdim=True)
    even = _even(last.queries_at.common, weights)
    weights = torch.where(total > 0, weights, even)  # a score that nothing changes: all patches
    return weights / weights.sum(dim=1, keepdim=True)


def _even(grid: PatchGrid, like: Tensor) -> Tensor:
    """Each patch alike, in parts of 1: (B, N)."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    part = torch.full((len(like), grid.patches), 1 / grid.patches, dtype=dtype, device=like.device)
    return grid.add_prefix(part)


def _mixture(logits: Tensor) -> Tensor:
    """One number an image that depends on each number of its output in another way."""
    flat = logits.flatten(1) if logits.ndim > 1 else logits[:, None]
    steps = torch.arange(flat.shape[1], dtype=torch.float32, device=flat.device)
    return (flat * torch.cos(steps).to(flat)).sum(dim=1)


def _with_learned(one: SiteRecord, read: SiteRecord) -> SiteRecord:
    """The record of a pool with the weights of its learned queries; any other as it is."""
    if one.queries_at is not None:
        return one
    norms = read.query_gradient_norms()
    norms = torch.where(norms.sum(dim=1, keepdim=True) > 0, norms, torch.ones_like(norms))
    return replace(one, learned=norms / norms.sum(dim=1, keepdim=True))


def _not_counted(sites: Collection[AttentionSite], layout: ModelLayout) -> list[AttentionSite]:
    names = {site.name for site in layout.sites}
    return [site for site in sites if site.name not in names]


def _no_gradient(recorder: Recorder) -> UnsupportedModelError:
    names = ", ".join(str(site) for site in recorder.results)
    return UnsupportedModelError(
        f"model output: expected it to depend on {names}, got no gradient — "
        "the model leaves PyTorch, or runs in inference mode"
    )


def _as_tuple(extra: Any) -> tuple[Any, ...]:
    if extra is None:
        return ()
    return extra if isinstance(extra, tuple) else (extra,)
