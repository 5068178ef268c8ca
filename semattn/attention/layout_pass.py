"""One forward pass that finds the attention calls of a model and where their tokens lie.

A module is an attention site when it makes an attention call between tokens of the image, whatever
its name is. Positions are followed by `trace`; what a call does is read off them by `layout`.
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
from .position_rules import Planes, mixed
from .position_tracing import Trace
from .scope import Owner, apart, depth
from .sites import NAMED_ATTENTION, AttentionSite
from .token_layout import Layout, UnplacedError, has_places, layout_of

# Calls that hand numbers to Python code without a call of an operator.
_READS_ARRAYS = {Tensor.tolist, Tensor.numpy, Tensor.__array__}

FOREIGN = "its tokens do not come from the image"
NOT_PATCHES = "it is not attention between patches"
NO_PATCHES = "its keys are no patches of the image"
NO_CALL = "it makes no attention call"
NOT_CHOSEN = "it is not among the given sites"


@dataclass(eq=False)
class Running:
    """A module that runs, and how many attention calls have been made since it began."""

    name: str
    module: nn.Module
    calls: int = 0

    def __str__(self) -> str:
        return f"{self.name or 'the model'} ({type(self.module).__name__})"


@dataclass(frozen=True)
class SiteCall:
    """One attention call of the pass.

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
    """Findings of the pass.

    `left_out` has (path, class, reason) of the modules that attend, or are named so, but not
    between patches. `repeatable` says whether the layout can be taken for that of other images.
    """

    calls: list[SiteCall] = field(default_factory=list)
    left_out: list[tuple[str, str, str]] = field(default_factory=list)
    repeatable: bool = True


def layout_pass(
    model: nn.Module,
    call: ModelCall,
    sites: Sequence[str] | None = None,
    watch: Callable[[Trace], Any] | None = None,
    whole: bool = False,
) -> Findings:
    """Run `model` once without gradients, on two images, and find its attention calls.

    Parameters
    ----------
    call : the arguments of the model
    sites : names of modules, or patterns of names, that count as attention; None is all
    watch : a context manager that is open during the pass, given the trace
    whole : whether to run all images, not two

    Raises
    ------
    UnsupportedModelError
        For attention whose tokens cannot be followed back to the image, or whose order varies; it
        names the module.
    """
    few = call.with_images(call.images.detach().clone()) if whole else call.few()
    with ExitStack() as stack:
        stack.enter_context(apart(layout=True))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch._C._AutoDispatchBelowAutograd())
        trace = Trace(few.images, few.other_tensors())
        stack.callback(trace.restore_random_state)
        finder = _CallFinder(trace, (few.images.shape[-2], few.images.shape[-1]), sites)
        stack.enter_context(_modules_followed(model, trace.modules, finder.entered))
        if watch is not None:
            stack.enter_context(watch(trace))
        stack.enter_context(trace)
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
    return finder.findings()


@contextmanager
def _modules_followed(
    model: nn.Module, running: list[Running], entered: dict[str, nn.Module]
) -> Iterator[None]:
    """Keep in `running` the modules of `model` that run, outermost first, and in `entered` all."""
    owner = Owner()
    handles: list[Any] = []

    def follow(name: str, module: nn.Module) -> None:
        def enter(_: nn.Module, __: Any) -> None:
            if owner.calls():
                entered[name] = module
                running.append(Running(name, module))

        def leave(*_: Any) -> None:
            if owner.calls() and running and running[-1].name == name:
                running.pop()

        handles.append(module.register_forward_pre_hook(enter))
        handles.append(module.register_forward_hook(leave, always_call=True))

    try:
        for name, module in model.named_modules():
            follow(name, module)
        yield
    finally:
        for handle in handles:
            handle.remove()


class _CallFinder(TorchFunctionMode):
    """Looks at every attention call of the pass."""

    def __init__(self, trace: Trace, size: tuple[int, int], sites: Sequence[str] | None) -> None:
        super().__init__()
        self.trace = trace
        self.size = size
        self.sites = sites
        self.entered: dict[str, nn.Module] = {}
        self.reader = CallReader()
        self.level = depth()
        self.found = Findings()
        self.ignored: list[tuple[str, tuple[int, ...]]] = []  # softmax calls of other scores

    def __torch_function__(
        self, func: Any, _types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _READS_ARRAYS:
            self.trace.note_read(args)
        found = self.reader.read(func, args, kwargs) if depth() == self.level else None
        if found is None:
            result = func(*args, **kwargs)
            self.reader.note(func, args, kwargs, result)
            return result
        numbers = [running.calls for running in self.trace.modules]
        for running in self.trace.modules:
            running.calls += 1
        axis = self._query_axis(found)
        return found.make(lambda call: self._see(call, numbers, axis), axis)

    def _query_axis(self, found: FoundCall) -> int | None:
        """The axis of the queries in scores, where it is not the usual one beside the keys."""
        planes = None if found.scores is None else self.trace.of(found.scores)
        if planes is None or len(planes) != 6 or found.scores is None:
            return None
        usual = -1 if found.dim != -1 else -2
        with _disable_current_modes():
            first, second = planes[:3], planes[3:]
            queries = first if _alike_along(first, found.dim) else second
            varying = [
                axis
                for axis in range(-found.scores.ndim, 0)
                if axis != found.dim and not _alike_along(queries[1:], axis)
            ]
        single = found.scores.shape[usual] == 1
        return None if single or usual in varying or len(varying) != 1 else varying[0]

    def _see(self, call: Call, numbers: list[int], axis: int | None) -> Tensor:
        """Enter one call into what is found, and make it."""
        place = self._place_of(call)
        running, chosen = self.trace.modules[place], self._chosen(place)
        layout, reason = None, NOT_CHOSEN
        if not self._is_attention(call):
            self.ignored.append((running.name, call.shape))
            return run_traced(self.trace, call)
        if chosen is not None:
            running = self.trace.modules[chosen]
            layout, reason = self._layout(call, running)
        if layout is None:
            self._leave_out(running, reason)
            return run_traced(self.trace, call)
        assert chosen is not None
        return self._enter(call, running, (numbers[chosen], axis), layout)

    def _place_of(self, call: Call) -> int:
        """The innermost module that makes both the scores and the softmax, as a number."""
        modules = self.trace.modules
        if isinstance(call, FusedCall):
            return len(modules) - 1
        product = self.trace.origin(call.scores).product
        shared = 0
        for first, second in zip(modules, product[1] if product else modules, strict=False):
            if first is not second:
                break
            shared += 1
        return max(shared, 1) - 1

    def _chosen(self, place: int) -> int | None:
        """The number of the module that the person calls a site, if there is one."""
        if self.sites is None:
            return place
        for number in range(len(self.trace.modules) - 1, -1, -1):
            name = self.trace.modules[number].name
            if any(fnmatchcase(name, pattern) for pattern in self.sites):
                return number
        return None

    def _is_attention(self, call: Call) -> bool:
        """Return whether a softmax is over scores that are a product, and not that of a gate."""
        if isinstance(call, FusedCall):
            return True
        planes, product = self.trace.of(call.scores), self.trace.origin(call.scores).product
        if product is not None and product[0] == "lost":
            return True
        return product is not None if planes is None else len(planes) == 6

    def _layout(self, call: Call, running: Running) -> tuple[Layout | None, str]:
        """The layout of a call between tokens of the image, or why it is left out."""
        if isinstance(call, DenseCall):
            parts = [call.scores]
            product = self.trace.origin(call.scores).product
            foreign = product is not None and product[0] == "foreign"
            lost = product is not None and product[0] == "lost"
        else:
            parts = [call.query, call.key]
            lost = any(self.trace.of(one) is None and self.trace.origin(one).image for one in parts)
            foreign = self.trace.of(call.key) is None
        if lost:
            raise self._refusal(running, call, "tokens that cannot be followed back to it")
        if foreign:
            return None, FOREIGN
        if order := next((one for part in parts if (one := self.trace.origin(part).order)), ""):
            raise UnsupportedModelError(
                f"{running}: expected tokens in an order that stays, got an order that depends on "
                f"{order} — give the model a fixed order, such as its own noise argument"
            )
        with _disable_current_modes():  # these sums are not the model's
            queries, keys = places_of(self.trace, call)
            if not has_places(keys):
                return None, NO_PATCHES
            try:
                layout = layout_of(queries, keys, self.size, self.trace.origin(parts[-1]).reach)
            except UnplacedError as reason:
                raise self._refusal(running, call, str(reason)) from None
        return (layout, "") if layout.keys is not None else (None, NOT_PATCHES)

    def _enter(
        self, call: Call, running: Running, which: tuple[int, int | None], layout: Layout
    ) -> Tensor:
        before = frozenset().union(*(one.calls for one in self._origins(call)))
        own = len(self.found.calls)
        self.found.calls.append(
            SiteCall(
                running.name, type(running.module).__name__, *which, call.shape, layout, before
            )
        )
        result = run_traced(self.trace, call)
        origin = self.trace.origin(result)
        self.trace.put_origin(result, replace(origin, calls=origin.calls | before | {own}))
        return result

    def _origins(self, call: Call) -> list[Any]:
        tensors = (
            [call.scores] if isinstance(call, DenseCall) else [call.query, call.key, call.value]
        )
        return [self.trace.origin(one) for one in tensors]

    def _leave_out(self, running: Running, reason: str) -> None:
        entry = (running.name, type(running.module).__name__, reason)
        if entry not in self.found.left_out:
            self.found.left_out.append(entry)

    def _refusal(self, running: Running, call: Call, reason: str) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{running}: expected attention between patches of the image, got {reason} in a call "
            f"of shape {call.shape} — this kind is not supported; sites=[…] names the modules that "
            "count"
        )

    def findings(self) -> Findings:
        """Return the findings, with the modules named for attention that make no attention call."""
        self._check_alone()
        self.found.repeatable = not self.trace.reads_values
        seen = [one.path for one in self.found.calls] + [one[0] for one in self.found.left_out]
        named = [
            (name, type(module).__name__)
            for name, module in self.entered.items()
            if re.search(NAMED_ATTENTION, type(module).__name__)
        ]
        for name, kind in named:
            inner = [other for other, _ in named if _inside(other, name)]
            related = any(_inside(one, name) or _inside(name, one) or one == name for one in seen)
            if not inner and not related:
                self.found.left_out.append((name, kind, NO_CALL))
        return self.found

    def _check_alone(self) -> None:
        """Raise where a model attends by calls that are not seen, or that are not of tokens."""
        for running, name in self.trace.unseen:
            raise UnsupportedModelError(
                f"{running}: expected attention by scaled_dot_product_attention or softmax, got a "
                f"direct call of {name}, which cannot be read — use the functions of torch.nn"
            )
        for one in self.found.calls:
            for path, shape in self.ignored:
                if path == one.path and shape[-2:] == one.shape[-2:] and shape[-1] > 1:
                    raise UnsupportedModelError(
                        f"{one.path or 'the model'} ({one.module}): expected one attention call a "
                        f"forward pass, got a second softmax of shape {shape} over scores that are "
                        "no product of tokens — positional and differential attention are not "
                        "supported"
                    )


def _inside(name: str, outer: str) -> bool:
    return name != outer and (not outer or name.startswith(f"{outer}."))


def run_traced(trace: Trace, call: Call) -> Tensor:
    """Make the call; what comes out of a fused one is where its queries are."""
    trace.inside_call = True
    try:
        result = call.run()
    finally:
        trace.inside_call = False
    if isinstance(call, FusedCall) and trace.of(call.key) is not None:
        queries = trace.of(call.query)
        if queries is None:  # learned queries
            nowhere = torch.full((1,) * result.ndim, torch.nan, device=result.device)
            queries = (nowhere, nowhere, nowhere)
        else:
            queries = mixed(queries[:3], [-1], True)
        trace.put(result, tuple(plane.expand(result.shape) for plane in queries))
    return result


def places_of(trace: Trace, call: Call) -> tuple[Planes | None, Planes]:
    """Places of the queries (…, Nq), if they have any, and of the keys (…, Nk)."""
    if isinstance(call, FusedCall):
        queries, keys = trace.of(call.query), trace.of(call.key)
        assert keys is not None
        keys = mixed(keys[:3], [-1], False)
        lead = call.shape[:-2]
        if call.key.shape[:-2] != lead:  # heads that share their keys: one is enough
            keys = tuple(plane[:, :1].expand(*lead, -1) for plane in keys)
        if queries is None:
            return None, keys
        queries = mixed(queries[:3], [-1], False)
        return tuple(plane.expand(*lead, -1) for plane in queries), keys
    both = trace.of(call.scores)
    assert both is not None
    first, second = both[:3], both[3:]
    if not _alike_along(first, -1) and _alike_along(second, -1):  # keys times queries
        first, second = second, first
    return mixed(first, [-1], False), mixed(second, [-2], False)


def _alike_along(planes: Planes, axis: int) -> bool:
    """Return whether places do not change along an axis."""
    return all(
        bool(((plane - plane.narrow(axis, 0, 1)).abs() < 1e-6).all())
        for plane in (plane.nan_to_num(-9.0) for plane in planes)
    )


def site_of(call: SiteCall, layer: int, several: bool) -> AttentionSite:
    """The site of a call; `several` says whether its module makes others."""
    kind = "pool" if call.layout.queries is None else "self"
    name = f"{call.path}[{call.call}]" if several else call.path
    return AttentionSite(name, layer, call.module, kind, call.call, call.query_axis)
