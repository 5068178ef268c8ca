"""Recording of the attention of a model in one forward pass and at most one backward pass.

The autograd graph starts at the first recorded site, not at the image: earlier layers are computed
without a graph, so explaining the last half of the layers costs less than a full backward pass.
Under the rules of relevance propagation it starts at the image.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ShapeError, UnsupportedModelError
from ..grid import PatchGrid
from .attention_record import AttentionRecord, SiteRecord, site_record
from .hooks import Call, DenseCall, attach
from .model_call import ModelCall
from .model_layout import NO_INFLUENCE, ModelLayout, known_layout
from .model_pass import KeepGradients, frozen
from .propagation import PropagationMode, calls_without_rule, missing_rules_note
from .rule_registry import RuleSettings
from .scope import isolated, model_running, nested_pass
from .sites import AttentionSite, Layers, check_model, choose_layers
from .target import Prediction, Score, TargetLike, check_batch, gradients_of, output_tensor, score
from .token_layout import common_grid

_BLOCKED = (
    "The model runs a part without gradients (torch.no_grad or detach); gradients were computed "
    "through it nevertheless."
)


def record(
    model: nn.Module,
    inputs: Tensor,
    *,
    target: TargetLike = None,
    layers: Layers = None,
    grad: bool | str = True,
    additional_forward_args: Any = None,
    sites: Sequence[str] | None = None,
    readout: str = "score",
    rules: RuleSettings | None = None,
) -> AttentionRecord:
    """Run `model` on `inputs` once and record its attention.

    The model runs in evaluation mode with frozen parameters and unchanged fused attention; flags
    and hooks are restored when the function returns or raises.

    Parameters
    ----------
    model : a vision transformer, possibly inside other modules
    inputs : (B, C, H, W), preprocessed for the model
    target : the score to differentiate, see `semattn.attention.target`; None is the predicted class
    layers : self-attention layers to record, see `choose_layers`; None is all
    grad : True also records dL/dO, at the cost of a backward pass; "last" differentiates only at
        the last layer, which gives `read_from` at little cost; False computes no gradients
    additional_forward_args : passed to the model after `inputs`
    sites : names of the modules that count as attention, or patterns of names as in `fnmatch`;
        None is all modules that make an attention call between patches
    readout : "score": `read_from` is measured for the score; "output": for a fixed mixture of all
        outputs, which does not depend on the target
    rules : rules of relevance propagation for the backward pass, so that all gradients are those of
        the modified pass; None is the plain gradient. The attention call itself has its plain
        gradient, dL/dA = dL/dO V^T; calls without a rule are named in the notes of the record

    Raises
    ------
    UnsupportedModelError
        For a model or an attention call that cannot be read correctly; the message names the
        module, the kind of the call and its shape.
    TargetError
        For a target that the output does not have.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> attention = record(vit, torch.zeros(1, 3, 64, 64), grad=False)
    >>> attention.grid.shape, attention.dense(0).shape[-2:]
    ((4, 4), torch.Size([17, 17]))
    """
    module = check_model(model, compiled=True)
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
    if rules is not None and rules.attention != "attn-lrp":
        raise ValueError(
            f"rules: expected attention='attn-lrp', got {rules.attention!r} — attention that is a "
            "constant has no gradient"
        )
    call = ModelCall.of(inputs, additional_forward_args)
    return record_call(
        module, call, target=target, layers=layers, grad=grad, sites=sites, readout=readout,
        rules=rules,
    )  # fmt: skip


def record_call(
    model: nn.Module,
    call: ModelCall,
    *,
    target: TargetLike,
    layers: Layers,
    grad: bool | str,
    sites: Sequence[str] | None,
    readout: str = "score",
    rules: RuleSettings | None = None,
) -> AttentionRecord:
    """Record the attention like `record`, for a model call with any arguments."""
    with (
        nested_pass(),
        torch.inference_mode(False),
        torch.set_grad_enabled(bool(grad)),
        frozen(model),
    ):
        images = call.images
        images = images.clone() if images.is_inference() else images.detach()
        call = call.with_images(images)
        recording = _Recording(model, call, target, layers, sites, readout, rules if grad else None)
        return recording.run(grad)


def with_readout(
    model: nn.Module, call: ModelCall, sites: Sequence[str] | None = None
) -> ModelLayout:
    """Return the layout of `model` with its `readout`, measured once for the current weights."""
    with frozen(model):
        entry = known_layout(model, call, sites)
    weights = tuple((id(weight), weight._version) for weight in model.parameters())
    if entry.layout.readout is None or entry.weights != weights:
        with isolated(layout=True):
            record = record_call(
                model,
                call.few(),
                target=_sum_of_outputs,
                layers=None,
                grad="last",
                sites=sites,
                readout="output",
            )
        entry.layout = replace(entry.layout, readout=(record.readout() > 0).any(dim=0))
        entry.weights = weights
    return entry.layout


class StaleLayoutError(Exception):
    """Mismatch between the attention calls of a model and its layout."""


class Recorder:
    """Store of the calls of the chosen layers; the autograd graph starts at the first of them.

    Parameters
    ----------
    layout : the sites that count as attention
    layers : the layers to record
    grad : as for `record`
    also : sites that are left out so far; their gradients decide whether they count
    has_rules : whether the pass has the gradients of relevance propagation
    """

    def __init__(
        self,
        layout: ModelLayout,
        layers: Layers,
        grad: bool | str,
        also: Sequence[AttentionSite] = (),
        has_rules: bool = False,
    ) -> None:
        self.layout = layout
        self_sites = layout.self_attention_sites
        numbers = set(choose_layers(layers, max(len(self_sites), 1)))
        self.recorded = {site for site in layout.sites if site.layer in numbers}
        self.last = self_sites[-1] if self_sites else None
        self.also = set(also)
        pools = {site for site in layout.sites if site.kind == "pool"}
        self.ends = {*self_sites[-1:], *pools} if grad else set()
        ends = self.ends | (self.also if grad else set())
        self.watched = self.recorded | ends
        self.differentiated = self.watched if grad is True else ends
        self.has_rules = has_rules
        self.open = True
        self.calls: dict[AttentionSite, Call] = {}
        self.shapes: dict[AttentionSite, tuple[int, ...]] = {}
        self.results: dict[AttentionSite, Tensor] = {}
        self.halved: set[AttentionSite] = set()  # sites whose product A V halves the gradient of A

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """Record what the model calls inside the ``with``."""

        def handle(site: AttentionSite, call: Call) -> Tensor:
            if self.open:
                self._note(site, call)
            return self._run(site, call)

        modules = self.layout.modules(model)
        for site in self.also:
            module = model.get_submodule(site.path)
            modules[module] = (*modules.get(module, ()), site)
        with attach(modules, handle, outermost=True):
            yield

    def _note(self, site: AttentionSite, call: Call) -> None:
        if site in self.shapes:
            raise StaleLayoutError(f"{site}: a second call of {call.shape}")
        self.shapes[site] = call.shape
        expected = self.layout.shapes[site.name]
        if call.shape[-2:] != expected:
            raise StaleLayoutError(f"{site}: {call.shape} in place of {expected}")

    def _run(self, site: AttentionSite, call: Call) -> Tensor:
        result = call.run()
        if site not in self.watched:
            return result
        if site in self.differentiated and not result.requires_grad:
            result = result.detach().requires_grad_()  # start of the autograd graph
        if self.has_rules and isinstance(call, DenseCall) and call.scores.requires_grad:
            self.halved.add(site)
        if self.open:
            self.calls[site] = call
            self.results[site] = result
        return result

    def check_called(self) -> None:
        """Raise StaleLayoutError for a site without a call."""
        for site in self.layout.sites:
            if site not in self.shapes:
                raise StaleLayoutError(f"{site}: no call")

    def differentiate(
        self, scores: Tensor, dtype: torch.dtype, *, ends: bool = False
    ) -> dict[AttentionSite, Tensor | None]:
        """Return dL/dO (or dL/dA) of the differentiated sites; None where L does not depend on it.

        With `ends`, only of the last self-attention layer and the pools; the graph is then kept.
        Under rules, the product A V gives half of the gradient to each factor. This is undone for
        dL/dA, which then equals dL/dO V^T as for fused attention.
        """
        differentiated = self.ends if ends else self.differentiated
        sites = [site for site in self.results if site in differentiated]
        if not scores.requires_grad:
            return dict.fromkeys(sites)
        results = [self.results[site] for site in sites]
        gradients = gradients_of(scores, results, dtype, "model output", retain_graph=ends)
        return {
            site: 2 * gradient if gradient is not None and site in self.halved else gradient
            for site, gradient in zip(sites, gradients, strict=True)
        }

    def calls_without_rule(self, scores: Tensor) -> tuple[str, ...]:
        """Return the names of the calls without a rule between the scores and the sites."""
        ends = [result for site, result in self.results.items() if site in self.differentiated]
        return calls_without_rule(scores, ends) if self.has_rules else ()

    def keep(
        self, site: AttentionSite, grid: PatchGrid, batch: int, gradient: Tensor | None
    ) -> SiteRecord:
        """Return the record of one site, with its tokens placed on `grid`."""
        call, result = self.calls[site], self.results[site].detach()
        layout = self.layout.layouts[site.name]
        return site_record(site, call, layout, grid, batch, result, gradient)


class _Recording:
    """Passes of one model on one batch, repeated until the layers of the score are known."""

    def __init__(
        self,
        model: nn.Module,
        call: ModelCall,
        target: TargetLike,
        layers: Layers,
        sites: Sequence[str] | None,
        readout: str,
        rules: RuleSettings | None,
    ) -> None:
        self.model, self.call, self.target, self.layers = model, call, target, layers
        self.sites, self.readout, self.rules = sites, readout, rules
        self.without_rule: tuple[str, ...] = ()  # names of calls of the last pass
        self.entry = known_layout(model, call, sites)
        self.read: dict[AttentionSite, Tensor | None] = {}  # gradients of the output mixture

    def run(self, grad: bool | str) -> AttentionRecord:
        """Record, and start again if the pass shows that the score depends on other layers."""
        full = self.entry.layout
        unreached = self.entry.unreached if grad else frozenset()
        check_all = bool(grad) and len(full.towers()) > 1
        for _ in range(4):
            layout = full.without(unreached, NO_INFLUENCE) if unreached else full
            also = full.sites if check_all else [s for s in full.sites if s.name in unreached]
            others = _without_sites(also, layout)
            has_rules = self.rules is not None
            recorder = Recorder(layout, self.layers, grad, others, has_rules=has_rules)
            try:
                logits, score, gradients = self._pass(recorder, grad)
            except StaleLayoutError:
                self.entry = known_layout(self.model, self.call, self.sites, refresh=True)
                full = self.entry.layout
                continue
            ignored = frozenset(site.name for site, value in gradients.items() if value is None)
            if self._is_blocked(ignored, gradients):
                if not self.entry.blocked:
                    self.entry.blocked = True
                    continue
                if len(ignored) == len(gradients):
                    self.entry.blocked = False
                    raise _no_gradient_error(recorder)
            if ignored == unreached:
                break
            if grad is not True and not check_all:
                check_all = True
                continue
            unreached = self.entry.unreached = ignored
        else:
            raise UnsupportedModelError(
                f"{type(self.model).__name__}: expected the same attention calls in every forward "
                "pass, got different calls in each — remove the variation between passes"
            )
        layout.check_one_tower()
        return self._to_record(recorder, layout, logits, score, gradients, grad)

    def _is_blocked(
        self, ignored: Collection[str], gradients: dict[AttentionSite, Tensor | None]
    ) -> bool:
        """Return whether gradients do not reach layers whose results the score depends on."""
        if len(ignored) == len(gradients):
            return bool(gradients)
        before = self.entry.layout.before
        reached = [site.name for site in gradients if site.name not in ignored]
        return any(name in before[other] for name in ignored for other in reached)

    def _pass(
        self, recorder: Recorder, grad: bool | str
    ) -> tuple[Tensor, Score | None, dict[AttentionSite, Tensor | None]]:
        """Run one forward pass, and a backward pass to the differentiated sites."""
        blocked = KeepGradients() if grad and self.entry.blocked else nullcontext()
        propagation = nullcontext() if self.rules is None else PropagationMode(self.rules)
        # The rules ask which tensors depend on the images, so the graph starts there.
        call = self.call if self.rules is None else self.call.with_variable_images()
        with recorder.attached(self.model), propagation:
            with model_running(), blocked:
                output = call.run(self.model)
            recorder.open = False
            recorder.check_called()
            logits = output_tensor(output)
            check_batch(logits, len(self.call.images))
            if not grad:
                return logits, None, {}
            target_score = score(output, self.target, self.model)
            self.without_rule = recorder.calls_without_rule(target_score.values)
            # A target function may read another part of the output than the mixture uses.
            may_use_other_part = callable(self.target) and not isinstance(output, Tensor)
            if self.readout == "output" and not may_use_other_part:
                self.read = recorder.differentiate(_fixed_mixture(logits), logits.dtype, ends=True)
            return logits, target_score, recorder.differentiate(target_score.values, logits.dtype)

    def _to_record(
        self,
        recorder: Recorder,
        layout: ModelLayout,
        logits: Tensor,
        score: Score | None,
        gradients: dict[AttentionSite, Tensor | None],
        grad: bool | str,
    ) -> AttentionRecord:
        batch = len(self.call.images)
        grid = common_grid(
            [layout.layouts[site.name] for site in layout.sites if site in recorder.recorded]
        )
        ends = {
            site: recorder.keep(site, grid, batch, gradients[site])
            for site in layout.sites
            if gradients.get(site) is not None
        }
        for site in recorder.ends & ends.keys():
            read = self.read.get(site)
            source = ends[site] if read is None else recorder.keep(site, grid, batch, read)
            ends[site] = _with_query_weights(ends[site], source)
        records = []
        for site in layout.sites:
            if site not in recorder.recorded:
                continue
            site_record = ends.get(site) or recorder.keep(site, grid, batch, None)
            records.append(site_record if grad is True else site_record.without_gradient())
        last = None if recorder.last is None else ends.get(recorder.last)
        if last is not None and (read := self.read.get(last.site)) is not None:
            last = recorder.keep(last.site, grid, batch, read)
        read_from = None if last is None else _read_from(last)
        if ends and not layout.self_attention_sites:  # only pools read the patches
            read_from = _uniform(grid, logits)
        return AttentionRecord(
            sites=tuple(records),
            grid=grid,
            prediction=Prediction.of(logits, score),
            read_from=read_from,
            left_out=tuple(module.site for module in layout.left_out),
            in_order=all(layout.layouts[site.name].in_order_of(grid) for site in layout.sites),
            depth=len(layout.self_attention_sites),
            is_blocked=bool(grad) and self.entry.blocked,
            without_rule=self.without_rule,
            notes=(
                *layout.notes(),
                *((_BLOCKED,) if grad and self.entry.blocked else ()),
                *(missing_rules_note(self.without_rule) if self.without_rule else ()),
            ),
        )


def _read_from(last: SiteRecord) -> Tensor:
    """Return how much each token contributes to the score: (B, N), rows sum to 1."""
    assert last.queries_at is not None
    norms = last.query_gradient_norms()
    padding = last.queries_at.padding()
    if padding is not None and bool((norms * padding).any()):
        raise UnsupportedModelError(
            f"{last.site}: expected a score that reads patches or prefix tokens, got one that "
            "reads padding tokens — this kind is not supported"
        )
    weights = last.queries_at.to_grid(norms[:, None])[:, 0]
    total = weights.sum(dim=1, keepdim=True)
    uniform = _uniform(last.queries_at.grid, weights)
    weights = torch.where(total > 0, weights, uniform)  # for a constant score
    return weights / weights.sum(dim=1, keepdim=True)


def _uniform(grid: PatchGrid, like: Tensor) -> Tensor:
    """Return equal weights of all patches, with sum 1: (B, N)."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    shape = len(like), grid.patches
    weights = torch.full(shape, 1 / grid.patches, dtype=dtype, device=like.device)
    return grid.add_prefix(weights)


def _fixed_mixture(logits: Tensor) -> Tensor:
    """Return one number per image: a weighted sum of its outputs with different weights."""
    flat = logits.flatten(1) if logits.ndim > 1 else logits[:, None]
    steps = torch.arange(flat.shape[1], dtype=torch.float32, device=flat.device)
    return (flat * torch.cos(steps).to(flat)).sum(dim=1)


def _with_query_weights(record: SiteRecord, source: SiteRecord) -> SiteRecord:
    """Return a pool's record with weights of learned queries from the gradients of `source`."""
    if record.queries_at is not None:
        return record
    norms = source.query_gradient_norms()
    norms = torch.where(norms.sum(dim=1, keepdim=True) > 0, norms, torch.ones_like(norms))
    return replace(record, learned_query_weights=norms / norms.sum(dim=1, keepdim=True))


def _without_sites(sites: Collection[AttentionSite], layout: ModelLayout) -> list[AttentionSite]:
    names = {site.name for site in layout.sites}
    return [site for site in sites if site.name not in names]


def _no_gradient_error(recorder: Recorder) -> UnsupportedModelError:
    names = ", ".join(str(site) for site in recorder.results)
    return UnsupportedModelError(
        f"model output: expected it to depend on {names}, got no gradient — "
        "run the model in PyTorch only, and outside of inference mode"
    )


def _sum_of_outputs(output: Any) -> Tensor:
    tensor = output_tensor(output)
    return tensor.reshape(len(tensor), -1).sum(dim=1)
