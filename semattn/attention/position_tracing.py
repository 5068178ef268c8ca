"""Image positions of the tokens of a model, traced through one forward pass.

Windows, shifts, strided grids, mask units, pooled keys: before attention, a model rearranges its
tokens by PyTorch calls. The tracer runs one forward pass on the inputs and computes the *positions*
of the elements of every tensor: image number, and fractions of the image's height and width. A call
that moves elements moves their positions; a call that mixes elements averages them; an elementwise
call keeps them. The tracer does not depend on any model family.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from .position_planes import (
    NO_ORIGIN,
    Origin,
    Planes,
    PositionStorage,
    are_equal,
    are_same_planes,
    merge_origins,
    without_copies,
)
from .position_rules import (
    JOINED,
    MULTIPLIED,
    PRODUCTS,
    REDUCED,
    SCATTERED,
    WINDOWS,
    PositionRule,
    is_float_tensor,
    option_of_axis,
    pad_features,
    pad_image,
    rule_of,
    tensors_in,
)
from .scope import depth

# In-place writes of some elements, which are repeated on the positions of the storage.
_STORED = {"copy_", "index_put_", "_index_put_impl_", "index_copy_", "scatter_", "masked_scatter_"}

# Calls that may add tokens without a position.
_ADDS_TOKENS = JOINED | SCATTERED | {"constant_pad_nd"}

_SOFTMAX = {"_softmax", "softmax", "_safe_softmax"}

# The values of the result come from the random generator.
_RANDOM = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal",
    "normal_", "uniform_", "random_", "exponential_", "bernoulli", "bernoulli_", "multinomial",
    "poisson", "native_dropout",
}  # fmt: skip
# Calls that use only the shape of a tensor argument, not its values.
_VALUE_FREE = {
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like",
    "randint_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided", "size",
    "sym_size", "zero_", "fill_", "normal_", "uniform_", "random_",
}  # fmt: skip
# Calls that use only the shape or the dtype of the second tensor.
_SHAPED_LIKE = {"expand_as", "view_as", "reshape_as", "type_as"}
# Calls that return values to Python code, which may depend on them.
_READS_VALUES = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "unique_dim"}
# Calls that select elements by a tensor of indices.
_INDEXED = {
    "index", "index_select", "gather", "take_along_dim", "index_put", "_index_put_impl",
    "index_copy", "scatter", "_unsafe_index", "embedding",
}  # fmt: skip


class PositionTracer(TorchDispatchMode):
    """Dispatch mode that traces the positions of all tensors computed from `inputs`.

    It must be entered below autograd, where a tensor is the same object in the call that returns it
    and the call that uses it. (That is also true under `torch.inference_mode`, but tensors that a
    model caches there do not support gradients later.)

    `modules` is the stack of running modules, maintained by the caller. `reads_values` tells
    whether positions may differ for other images or arguments: Python code of the model has read
    values that depend on them or on random numbers, or an argument selects elements.
    """

    def __init__(self, inputs: Tensor, arguments: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._positions = WeakTensorKeyDictionary()
        self._origins = WeakTensorKeyDictionary()
        self._bases = WeakTensorKeyDictionary()  # from a view to its base tensor
        self._written: dict[int, PositionStorage] = {}
        self._level = depth()
        self.modules: list[Any] = []
        self.reads_values = False
        self.inside_call = False  # whether the caller is running a known attention call
        self.unknown_calls: list[tuple[Any, str]] = []  # module and name of other attention calls
        self._random_state: Any = None
        self._n_tokens = 0
        batch, _, height, width = inputs.shape
        self._device = device = inputs.device
        image = torch.arange(batch, dtype=torch.float32, device=device)
        down = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        across = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        planes = (image[:, None, None, None], down[:, None], across)
        self.put(inputs, tuple(plane.expand(inputs.shape) for plane in planes))
        for argument in arguments:
            self._origins[argument] = Origin(argument=True)
        self._origins[inputs] = Origin(image=True, picture=True)

    def of(self, tensor: Any) -> Planes | None:
        """Return the positions of a tensor; None if it does not come from the image."""
        if not isinstance(tensor, Tensor):
            return None
        storage = self._written.get(_storage_key(tensor)) if self._written else None
        if storage is not None and storage.is_lost:
            return None
        if storage is not None and storage.holds(tensor):
            return storage.planes_of(tensor)
        return self._positions.get(tensor)

    def origin(self, tensor: Any) -> Origin:
        """Return the dependencies of the values of a tensor."""
        if not isinstance(tensor, Tensor):
            return NO_ORIGIN
        origin = self._origins.get(tensor, NO_ORIGIN)
        storage = self._written.get(_storage_key(tensor)) if self._written else None
        return origin if storage is None else merge_origins(origin, storage.origin)

    def put(self, tensor: Tensor, planes: Planes) -> None:
        """Set the positions of the elements of `tensor`."""
        self._positions[tensor] = planes

    def put_origin(self, tensor: Tensor, origin: Origin) -> None:
        """Set the dependencies of the values of `tensor`."""
        self._origins[tensor] = origin

    def note_read(self, tensors: Iterable[Any]) -> None:
        """Record that Python code reads the values of these tensors."""
        for tensor in tensors:
            origin = self.origin(tensor)
            if origin.image or origin.random or origin.argument:
                self.reads_values = True

    def restore_random_state(self) -> None:
        """Restore the random generators to their state before the first random call."""
        if self._random_state is None:
            return
        torch.set_rng_state(self._random_state[0])
        if len(self._random_state) > 1:
            torch.cuda.set_rng_state(self._random_state[1], self._device)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if depth() != self._level:
            return func(*args, **kwargs)
        name = func._schema.name.rpartition("::")[2]
        rule = rule_of(func)
        if rule is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        operands = [*tensors_in(args), *tensors_in(kwargs.values())]
        if name in _SHAPED_LIKE:
            operands = operands[:1]
        origin = self._origin_of(name, func, args, kwargs, operands)
        target = _written_tensor(func, args, kwargs)
        before = None if target is None else self.of(target)
        self._note_call(name, args)
        result = func(*args, **kwargs)
        self._note_results(result, operands, origin)
        if any(self.of(tensor) is not None for tensor in operands):
            if name in _STORED:
                self._store(func, args, kwargs, origin)
            elif rule is not None:
                rule = pad_image if rule is pad_features and origin.picture else rule
                output = result[0] if isinstance(result, tuple) else result
                positions = self._apply_rule(rule, func, args, kwargs, output)
                self._put_all(output, positions, before, None if target is None else origin)
            elif target is not None and any(
                self.of(tensor) is not None for tensor in operands if tensor is not target
            ):
                self._storage(target).lose(origin)  # an in-place write without a rule
        self._note_windows_and_products(name, args, result)
        return result

    def _note_call(self, name: str, args: Any) -> None:
        """Save the random state before a random call, and record unknown attention calls."""
        if name in _RANDOM and self._random_state is None:
            self._random_state = _random_state(self._device)
        if not self.inside_call and self._attends(name, args):
            self.unknown_calls.append((self.modules[-1] if self.modules else None, name))

    def _note_windows_and_products(self, name: str, args: Any, result: Any) -> None:
        if name in WINDOWS and self.origin(args[0]).picture:
            self._note_overlap(name, args, result)
        if name in PRODUCTS:
            self._note_product(name, args, result)

    def _attends(self, name: str, args: Any) -> bool:
        """Return whether a call is an attention call between tokens of the image."""
        if name.startswith(("_scaled_dot_product", "_flash_attention", "_efficient_attention")):
            return any(self.of(tensor) is not None for tensor in args[:2])
        planes = self.of(args[0]) if name in _SOFTMAX else None
        return planes is not None and len(planes) == 6

    def _note_results(self, result: Any, operands: list[Tensor], origin: Origin) -> None:
        """Store the origin of the results of a call, and the base tensors of views."""
        for tensor in tensors_in([result]):
            if origin is not NO_ORIGIN:
                self._origins[tensor] = origin
            if operands and tensor is not operands[0] and _shares_storage(tensor, operands[0]):
                self._bases[tensor] = self._bases.get(operands[0], operands[0])

    def _put_all(
        self,
        output: Any,
        positions: list[Planes] | None,
        before: Planes | None,
        written: Origin | None,
    ) -> None:
        """Set the positions of the results of a call.

        A call that writes into a tensor with other positions (`written` is the origin of the
        values) also changes the positions of its storage.
        """
        tensors = output if isinstance(output, list) else [output]
        for tensor, planes in zip(tensors, positions or [], strict=positions is not None):
            if written is None or are_same_planes(before, planes):
                self.put(tensor, planes)
            else:
                storage = self._storage(tensor)
                storage.write(tensor, planes)
                storage.origin = merge_origins(storage.origin, written)

    def _apply_rule(
        self, rule: PositionRule, func: Any, args: Any, kwargs: dict[str, Any], output: Any
    ) -> list[Planes] | None:
        """Return the positions of the results of a call, with ids for tokens without a position."""
        name = func._schema.name.rpartition("::")[2]
        kwargs = {key: value for key, value in kwargs.items() if key != "out"}
        positions = rule(self.of, _without_out(func), args, kwargs, output)
        if name not in _ADDS_TOKENS or positions is None:
            return positions
        axis = _argument(func, args, kwargs, "dim") if name in JOINED else None
        return [self._with_token_ids(planes, axis) for planes in positions]

    def _with_token_ids(self, planes: Planes, axis: int | None) -> Planes:
        """Give new ids to tokens without a position, one per token along `axis`."""
        image, down = planes[:2]
        new = image.isnan() & down.isnan()
        if len(planes) != 3 or not bool(new.any()):
            return planes
        count = 1 if axis is None else image.shape[axis]
        first, self._n_tokens = self._n_tokens, self._n_tokens + count
        ids = [_token_id(number) for number in range(first, first + count)]
        token_ids = torch.tensor(ids, device=down.device)
        if axis is not None:
            token_ids = token_ids.reshape(-1, *[1] * (image.ndim - 1 - axis % image.ndim))
        return image, torch.where(new, token_ids.to(down), down), planes[2]

    def _order_of_choice(self, args: Any) -> str:
        """Return the source of a `torch.where` condition between tokens of different positions."""
        first, second = self.of(args[1]), self.of(args[2])
        if first is None or second is None or are_equal(first, second):
            return ""
        condition = self.origin(args[0])
        if condition.argument:
            self.reads_values = True
        return "the image" if condition.image else "random numbers" if condition.random else ""

    def _origin_of(
        self, name: str, func: Any, args: Any, kwargs: dict[str, Any], operands: list[Tensor]
    ) -> Origin:
        """Return the dependencies of the values of the result of a call."""
        origins = map(self.origin, operands)
        sources = [origin for origin in origins if origin is not NO_ORIGIN]
        if name in _READS_VALUES:
            self.note_read(operands)
        random = name in _RANDOM
        if name in _VALUE_FREE:
            sources = []
        if not sources:
            return Origin(random=True) if random else NO_ORIGIN
        order = next((source.order for source in sources if source.order), "")
        if name == "where" and len(args) > 2:
            order = self._order_of_choice(args) or order
        if name.removesuffix("_") in _INDEXED:
            arguments = tensors_in(_index_arguments(func, args, kwargs))
            indices = [self.origin(index) for index in arguments]
            if any(index.random for index in indices):
                order = "random numbers"
            elif any(index.image for index in indices):
                order = "the image"
            elif any(index.argument for index in indices):
                self.reads_values = True
        keeps_scores = name not in MULTIPLIED and name not in REDUCED
        products = [source.product for source in sources if source.product] if keeps_scores else []
        keeps_pixels = keeps_scores and name not in WINDOWS
        return Origin(
            image=any(source.image for source in sources),
            random=random or any(source.random for source in sources),
            argument=any(source.argument for source in sources),
            order=order,
            calls=frozenset().union(*(source.calls for source in sources)),
            product=products[0] if products else None,
            picture=keeps_pixels and all(source.picture for source in sources),
            overlap=max((source.overlap for source in sources), default=(0.0, 0.0)),
        )

    def _note_overlap(self, name: str, args: Any, result: Tensor) -> None:
        """Store the overlap of unpadded windows over an image, as fractions of the image."""
        planes = self.of(args[0])
        if planes is None or args[0].ndim != 4:
            return
        kernel = args[1] if name == "im2col" else args[1].shape[2:]
        stride, padding = (args[4], args[3]) if name == "im2col" else args[3:5]
        overlaps = []
        for side, plane in enumerate(planes[1:]):
            line = without_copies(plane).flatten()
            pixels = (kernel[side] - option_of_axis(stride, side)) / 2
            is_padded = option_of_axis(padding, side) > 0
            if is_padded or pixels <= 0 or len(line) < 2:
                overlaps.append(0.0)
            else:
                overlaps.append(pixels * abs(float(line[1] - line[0])))
        self._origins[result] = replace(self.origin(result), overlap=(overlaps[0], overlaps[1]))

    def _note_product(self, name: str, args: Any, result: Tensor) -> None:
        """Mark a product of two tensors that may be the scores of queries and keys."""
        first, second = args[1:3] if name == "baddbmm" else args[:2]
        left, right = self.origin(first), self.origin(second)
        if left.image or right.image:
            has_positions = all(
                self.of(tensor) is not None or not origin.image
                for tensor, origin in ((first, left), (second, right))
            )
            kind = "image" if has_positions else "lost"
        else:
            kind = "foreign"
        product = (kind, tuple(self.modules))
        self._origins[result] = replace(self.origin(result), product=product)

    def _storage(self, tensor: Tensor) -> PositionStorage:
        """Return the positions of the storage of `tensor`; create them at the first write."""
        key = _storage_key(tensor)
        if key not in self._written:
            self._written[key] = PositionStorage(tensor)
            base = self._bases.get(tensor, tensor)
            if (positions := self._positions.get(base)) is not None:
                self._written[key].write(base, positions)
        return self._written[key]

    def _store(self, func: Any, args: Any, kwargs: dict[str, Any], origin: Origin) -> None:
        """Repeat a write into a part of a storage on the positions of that storage."""
        sources = [planes for value in args[1:] if (planes := self.of(value)) is not None]
        if len(sources) == 1 and are_same_planes(self.of(args[0]), sources[0]):
            return  # such as ``x[:, 1:] += y``
        storage = self._storage(args[0])
        storage.widen(max(map(len, sources), default=3))
        self._n_tokens += 1
        for number in range(len(storage.planes)):
            plane_args = [
                self._plane(value, number) if is_float_tensor(value) else value
                for value in args[1:]
            ]
            func(storage.view(number, args[0]), *plane_args, **kwargs)
        storage.origin = merge_origins(storage.origin, origin)

    def _plane(self, values: Tensor, number: int) -> Tensor:
        """Return one plane of written values; NaN or a token id for values not from the image."""
        planes = self.of(values)
        if planes is None:
            fill = _token_id(self._n_tokens) if number == 1 else torch.nan
            return torch.full(values.shape, fill, device=values.device)
        return planes[number % len(planes)].expand(values.shape)


def _token_id(number: int) -> float:
    """Return a negative id for a token without a position; a mean of ids is not another id."""
    return -1.0 - 10.0 * math.sqrt(number)


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _storage_key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _shares_storage(first: Tensor, second: Tensor) -> bool:
    return _storage_key(first) == _storage_key(second)


def _written_tensor(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """Return the tensor that a call writes into; None for a call that returns a new tensor."""
    if not func._schema.is_mutable:
        return None
    target = kwargs.get("out", args[0] if args else None)
    return target if isinstance(target, Tensor) else None


def _without_out(func: Any) -> Any:
    """Return the overload of a function that returns a new tensor instead of writing to `out`."""
    if not func._schema.overload_name.endswith("out"):
        return func
    packet = func.overloadpacket
    name = func._schema.overload_name.removesuffix("out").removesuffix("_") or "default"
    return getattr(packet, name, func)


def _argument(func: Any, args: Any, kwargs: dict[str, Any], name: str) -> Any:
    """Return an argument of a call, or its default value."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[index] if index < len(args) else kwargs.get(name, argument.default_value)
    return None


def _index_arguments(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Any]:
    """Return the index arguments of a call."""
    names = [argument.name for argument in func._schema.arguments]
    arguments = dict(zip(names, args, strict=False)) | kwargs
    return [arguments[name] for name in ("index", "indices") if name in arguments]
