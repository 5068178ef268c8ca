"""Forward pass that finds the attention calls of a model and the positions of their tokens.

A module is an attention site if it makes an attention call between tokens of the image; its name
does not matter. `position_tracing` computes the positions, and `token_layout` the layout of a call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from ..errors import UnsupportedModelError
from .hooks import Call, CallReader, DenseCall, FoundCall, FusedCall
from .model_call import ModelCall
from .position_planes import Planes, mean_positions, varies_along
from .position_tracing import PositionTracer
from .scope import CallScope, depth, isolated
from .sites import NAMED_ATTENTION, AttentionSite
from .token_layout import Layout, UnplacedError, has_positions, layout_of

# Functions that return values to Python code without an operator call.
_READS_ARRAYS = {Tensor.tolist, Tensor.numpy, Tensor.__array__}

FOREIGN = "its tokens do not come from the image"
NOT_PATCHES = "it is not attention between patches"
NO_PATCHES = "its keys are not patches of the image"
NO_CALL = "it makes no attention call"
NOT_SELECTED = "it is not among the given sites"


@dataclass(eq=False)
class Running:
    """Module that is running, and the number of attention calls since it started."""

    name: str
    module: nn.Module
    calls: int = 0

    def __str__(self) -> str:
        return f"{self.name or 'the model'} ({type(self.module).__name__})"


@dataclass(frozen=True)
class SiteCall:
    """Attention call of the pass.

    `before` holds the numbers of the calls whose results its queries, keys or values depend on.
    """

    path: str
    module: str
    call: int
    query_axis: int | None
    shape: tuple[int, ...]
    layout: Layout
    before: frozenset[int]


@dataclass
class Findings:
    """Results of the pass.

    `left_out` has (path, class, reason) of the modules that attend, or have a name that suggests
    attention, but not between patches. `repeatable` tells whether the layout applies to other
    images.
    """

    calls: list[SiteCall] = field(default_factory=list)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    repeatable: bool = True


def layout_pass(
    model: nn.Module,
    call: ModelCall,
    sites: Sequence[str] | None = None,
    watch: Callable[[PositionTracer], Any] | None = None,
    all_images: bool = False,
) -> Findings:
    """Run `model` once without gradients, on two images, and find its attention calls.

    Parameters
    ----------
    call : the arguments of the model
    sites : names of modules, or patterns of names, that count as attention; None is all
    watch : function of the tracer that returns a context manager, open during the pass
    all_images : whether to run all images instead of two

    Raises
    ------
    UnsupportedModelError
        For attention whose tokens cannot be followed back to the image, or whose order varies; it
        names the module.
    """
    few = call.with_images(call.images.detach().clone()) if all_images else call.few()
    with ExitStack() as stack:
        stack.enter_context(isolated(layout=True))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch._C._AutoDispatchBelowAutograd())
        tracer = PositionTracer(few.images, few.other_tensors())
        stack.callback(tracer.restore_random_state)
        finder = _CallFinder(tracer, (few.images.shape[-2], few.images.shape[-1]), sites)
        stack.enter_context(_track_modules(model, tracer.modules, finder.entered))
        if watch is not None:
            stack.enter_context(watch(tracer))
        stack.enter_context(tracer)
        stack.enter_context(finder)
        try:
            few.run(model)
        except NotImplementedError as error:
            if "flex_attention" not in str(error):
                raise
            raise UnsupportedModelError(
                f"{type(model).__name__}: expected scaled_dot_product_attention or softmax, got "
                "flex_attention, whose calls cannot be read — choose another implementation"
            ) from error
    return finder.finish()


@contextmanager
def _track_modules(
    model: nn.Module, running: list[Running], entered: dict[str, nn.Module]
) -> Iterator[None]:
    """Maintain the stack `running` of running modules, and `entered` with all that have run."""
    scope = CallScope()
    handles: list[Any] = []

    def track(name: str, module: nn.Module) -> None:
        def enter(_: nn.Module, __: Any) -> None:
            if scope.is_current():
                entered[name] = module
                running.append(Running(name, module))

        def leave(*_: Any) -> None:
            if scope.is_current() and running and running[-1].name == name:
                running.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave, always_call=True))

    try:
        for name, module in model.named_modules():
            track(name, module)
        yield
    finally:
        for handle in handles:
            handle.remove()


class _CallFinder(TorchFunctionMode):
    """Function mode that examines every attention call of the pass."""

    def __init__(
        self, tracer: PositionTracer, size: tuple[int, int], sites: Sequence[str] | None
    ) -> None:
        super().__init__()
        self.tracer = tracer
        self.size = size
        self.sites = sites
        self.entered: dict[str, nn.Module] = {}
        self.reader = CallReader()
        self.level = depth()
        self.findings = Findings()
        self.ignored: list[tuple[str, tuple[int, ...]]] = []  # softmax calls that are not attention

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _READS_ARRAYS:
            self.tracer.note_read(args)
        candidate = self.reader.read(func, args, kwargs) if depth() == self.level else None
        if candidate is None:
            result = func(*args, **kwargs)
            self.reader.note(func, args, kwargs, result)
            return result
        numbers = [running.calls for running in self.tracer.modules]
        for running in self.tracer.modules:
            running.calls += 1
        axis = self._query_axis(candidate)
        return candidate.make(lambda call: self._examine(call, numbers, axis), axis)

    def _query_axis(self, candidate: FoundCall) -> int | None:
        """Return the axis of the queries in scores if it is not the one next to the keys."""
        planes = None if candidate.scores is None else self.tracer.of(candidate.scores)
        if planes is None or len(planes) != 6 or candidate.scores is None:
            return None
        usual = -1 if candidate.dim != -1 else -2
        with _disable_current_modes():
            first, second = planes[:3], planes[3:]
            queries = second if varies_along(first, candidate.dim) else first
            varying = [
                axis
                for axis in range(-candidate.scores.ndim, 0)
                if axis != candidate.dim and varies_along(queries[1:], axis)
            ]
        is_single = candidate.scores.shape[usual] == 1
        return None if is_single or usual in varying or len(varying) != 1 else varying[0]

    def _examine(self, call: Call, numbers: list[int], axis: int | None) -> Tensor:
        """Add one call to the findings, and run it."""
        index = self._module_of(call)
        running, selected = self.tracer.modules[index], self._selected_module(index)
        layout, reason = None, NOT_SELECTED
        if not self._is_attention(call):
            self.ignored.append((running.name, call.shape))
            return run_traced(self.tracer, call)
        if selected is not None:
            running = self.tracer.modules[selected]
            layout, reason = self._layout(call, running)
        if layout is None:
            self._leave_out(running, reason)
            return run_traced(self.tracer, call)
        assert selected is not None
        return self._add_site(call, running, (numbers[selected], axis), layout)

    def _module_of(self, call: Call) -> int:
        """Return the index of the innermost module that computes both scores and softmax."""
        modules = self.tracer.modules
        if isinstance(call, FusedCall):
            return len(modules) - 1
        product = self.tracer.origin(call.scores).product
        shared = 0
        for first, second in zip(modules, product[1] if product else modules, strict=False):
            if first is not second:
                break
            shared += 1
        return max(shared, 1) - 1

    def _selected_module(self, index: int) -> int | None:
        """Return the index of the innermost running module that `sites` names, if there is one."""
        if self.sites is None:
            return index
        for number in range(len(self.tracer.modules) - 1, -1, -1):
            name = self.tracer.modules[number].name
            if any(fnmatchcase(name, pattern) for pattern in self.sites):
                return number
        return None

    def _is_attention(self, call: Call) -> bool:
        """Return whether the scores of a softmax are a product of tokens, not those of a gate."""
        if isinstance(call, FusedCall):
            return True
        planes, product = self.tracer.of(call.scores), self.tracer.origin(call.scores).product
        if product is not None and product[0] == "lost":
            return True
        return product is not None if planes is None else len(planes) == 6

    def _layout(self, call: Call, running: Running) -> tuple[Layout | None, str]:
        """Return the layout of a call between tokens of the image, or why it is left out."""
        if isinstance(call, DenseCall):
            tensors = [call.scores]
            product = self.tracer.origin(call.scores).product
            is_foreign = product is not None and product[0] == "foreign"
            is_lost = product is not None and product[0] == "lost"
        else:
            tensors = [call.query, call.key]
            is_lost = any(
                self.tracer.of(tensor) is None and self.tracer.origin(tensor).image
                for tensor in tensors
            )
            is_foreign = self.tracer.of(call.key) is None
        if is_lost:
            raise self._refusal(running, call, "tokens that cannot be followed back to it")
        if is_foreign:
            return None, FOREIGN
        orders = [self.tracer.origin(tensor).order for tensor in tensors]
        if order := next(filter(None, orders), ""):
            raise UnsupportedModelError(
                f"{running}: expected a fixed order of tokens, got an order that depends on "
                f"{order} — give the model a fixed order, such as its own noise argument"
            )
        with _disable_current_modes():  # computations that are not part of the model
            queries, keys = positions_of(self.tracer, call)
            if not has_positions(keys):
                return None, NO_PATCHES
            try:
                layout = layout_of(
                    queries, keys, self.size, self.tracer.origin(tensors[-1]).overlap
                )
            except UnplacedError as reason:
                raise self._refusal(running, call, str(reason)) from None
        return (layout, "") if layout.keys is not None else (None, NOT_PATCHES)

    def _add_site(
        self, call: Call, running: Running, number_and_axis: tuple[int, int | None], layout: Layout
    ) -> Tensor:
        before = frozenset().union(*(origin.calls for origin in self._origins(call)))
        number = len(self.findings.calls)
        kind = type(running.module).__name__
        self.findings.calls.append(
            SiteCall(running.name, kind, *number_and_axis, call.shape, layout, before)
        )
        result = run_traced(self.tracer, call)
        origin = self.tracer.origin(result)
        self.tracer.put_origin(result, replace(origin, calls=origin.calls | before | {number}))
        return result

    def _origins(self, call: Call) -> list[Any]:
        tensors = (
            [call.scores] if isinstance(call, DenseCall) else [call.query, call.key, call.value]
        )
        return [self.tracer.origin(tensor) for tensor in tensors]

    def _leave_out(self, running: Running, reason: str) -> None:
        entry = (running.name, type(running.module).__name__, reason)
        if entry not in self.findings.left_out:
            self.findings.left_out.append(entry)

    def _refusal(self, running: Running, call: Call, reason: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{running}: expected attention between patches of the image, got {reason} in a call "
            f"of shape {call.shape} — this kind is not supported; sites=[…] names the modules that "
            "count"
        )

    def finish(self) -> Findings:
        """Return the findings, including modules named for attention without an attention call."""
        self._check_other_calls()
        self.findings.repeatable = not self.tracer.reads_values
        paths = [call.path for call in self.findings.calls]
        paths += [path for path, _, _ in self.findings.left_out]
        named = [
            (name, type(module).__name__)
            for name, module in self.entered.items()
            if re.search(NAMED_ATTENTION, type(module).__name__)
        ]
        for name, kind in named:
            inner = [other for other, _ in named if _inside(other, name)]
            is_related = any(
                _inside(path, name) or _inside(name, path) or path == name for path in paths
            )
            if not inner and not is_related:
                self.findings.left_out.append((name, kind, NO_CALL))
        return self.findings

    def _check_other_calls(self) -> None:
        """Raise UnsupportedModelError for attention that cannot be read, or not of tokens."""
        for running, name in self.tracer.unknown_calls:
            raise UnsupportedModelError(
                f"{running}: expected attention by scaled_dot_product_attention or softmax, got a "
                f"direct call of {name}, which cannot be read — use the functions of torch.nn"
            )
        for call in self.findings.calls:
            for path, shape in self.ignored:
                if path == call.path and shape[-2:] == call.shape[-2:] and shape[-1] > 1:
                    raise UnsupportedModelError(
                        f"{call.path or 'the model'} ({call.module}): expected one attention call "
                        f"per forward pass, got a second softmax of shape {shape} over scores that "
                        "are not a product of tokens — positional and differential attention are "
                        "not supported"
                    )


def _inside(name: str, outer: str) -> bool:
    return name != outer and (not outer or name.startswith(f"{outer}."))


def run_traced(tracer: PositionTracer, call: Call) -> Tensor:
    """Run the call; the result of a fused call has the positions of its queries."""
    tracer.inside_call = True
    try:
        result = call.run()
    finally:
        tracer.inside_call = False
    if isinstance(call, FusedCall) and tracer.of(call.key) is not None:
        queries = tracer.of(call.query)
        if queries is None:  # learned queries
            missing = torch.full((1,) * result.ndim, torch.nan, device=result.device)
            queries = (missing, missing, missing)
        else:
            queries = mean_positions(queries[:3], [-1], True)
        tracer.put(result, tuple(plane.expand(result.shape) for plane in queries))
    return result


def positions_of(tracer: PositionTracer, call: Call) -> tuple[Planes | None, Planes]:
    """Return the positions of the queries (…, Nq), if they have any, and of the keys (…, Nk)."""
    if isinstance(call, FusedCall):
        queries, keys = tracer.of(call.query), tracer.of(call.key)
        assert keys is not None
        keys = mean_positions(keys[:3], [-1], False)
        lead = call.shape[:-2]
        if call.key.shape[:-2] != lead:  # heads share their keys, so one head is enough
            keys = tuple(plane[:, :1].expand(*lead, -1) for plane in keys)
        if queries is None:
            return None, keys
        queries = mean_positions(queries[:3], [-1], False)
        return tuple(plane.expand(*lead, -1) for plane in queries), keys
    planes = tracer.of(call.scores)
    assert planes is not None
    first, second = planes[:3], planes[3:]
    if varies_along(first, -1) and not varies_along(second, -1):  # keys times queries
        first, second = second, first
    return mean_positions(first, [-1], False), mean_positions(second, [-2], False)


def site_of(call: SiteCall, layer: int, numbered: bool) -> AttentionSite:
    """Return the site of a call; `numbered` adds its number if the module makes several calls."""
    kind = "pool" if call.layout.queries is None else "self"
    name = f"{call.path}[{call.call}]" if numbered else call.path
    return AttentionSite(name, layer, call.module, kind, call.call, call.query_axis)
