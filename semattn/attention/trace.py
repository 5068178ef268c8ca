"""Where in the image each token of a model comes from, followed through the model itself.

Windows, shifts, strided grids, mask units, pooled keys: what a model does with its tokens before it
attends is rearrangement, and every rearrangement is a call of PyTorch. One forward pass is run on
the inputs, and beside every tensor its *places* go along: which image, and how far down and across.
What moves elements moves their places; what mixes elements has the mean of their places; what works
on each element leaves them. No model family is known here, and none has to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from .owner import depth

# Of one tensor, each of its shape: the image's number, and the fractions of height and width of the
# image. Image -1 is padding. Image NaN is no place in the image (a class token); "down" is then a
# negative number by which the token is known in other layers, or NaN.
Planes = tuple[Tensor, ...]

# Of scores or attention: the planes of the queries and those of the keys, one after the other.
_PAIR = 6

_AS_IT_IS = {
    "alias", "clone", "contiguous", "detach", "lift_fresh", "_to_copy", "to", "type_as",
    "native_layer_norm", "layer_norm", "native_batch_norm", "batch_norm", "cudnn_batch_norm",
    "_native_batch_norm_legit_no_training", "native_group_norm", "group_norm", "instance_norm",
    "rms_norm", "_fused_rms_norm", "softmax", "_softmax", "log_softmax", "_log_softmax",
    "_safe_softmax", "hardswish", "hardsigmoid", "hardtanh", "relu6", "silu", "mish", "dropout",
    "native_dropout", "feature_dropout", "alpha_dropout", "bernoulli",
}  # fmt: skip
_RESHAPED = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
_MOVED = {
    "permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "numpy_T",
    "adjoint", "mT", "roll", "flip", "rot90", "slice", "select", "narrow", "unbind", "split",
    "split_with_sizes", "chunk", "tensor_split", "expand", "expand_as", "broadcast_to", "repeat",
    "tile", "repeat_interleave", "unsqueeze", "squeeze", "flatten", "unflatten", "unfold", "index",
    "index_select", "gather", "take_along_dim", "im2col", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "reflection_pad2d", "replication_pad2d", "reflection_pad1d",
    "replication_pad1d",
}  # fmt: skip
_REDUCED = {"mean", "sum", "amax", "amin", "max", "min", "logsumexp", "linalg_vector_norm", "norm"}
_POOLED = {"max_pool2d_with_indices", "avg_pool2d", "max_pool1d", "avg_pool1d", "max_pool2d"}
_RESIZED = {
    "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_nearest2d",
    "upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa", "_upsample_nearest_exact2d",
}  # fmt: skip
# Windows that slide over a picture.
_WINDOWS = {"convolution", "im2col"}
_PRODUCTS = {"bmm", "baddbmm", "matmul"}
_MULTIPLIED = {"linear", "matmul", "mm", "bmm", "addmm", "baddbmm"}
# Writes of some elements into a copy of a tensor.
_SCATTERED = {
    "slice_scatter", "select_scatter", "index_put", "index_copy", "scatter", "masked_scatter",
}  # fmt: skip
# Writes of some elements in place: they are repeated on the places of the storage.
_STORED = {"copy_", "index_put_", "_index_put_impl_", "index_copy_", "scatter_", "masked_scatter_"}

_JOINED = {"cat", "stack", "concat", "concatenate"}
# Calls that put tokens which have no place between others.
_ADDS_TOKENS = _JOINED | _SCATTERED | {"constant_pad_nd"}

# The values of the result come from the random generator.
_RANDOM = {
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal",
    "normal_", "uniform_", "random_", "exponential_", "bernoulli", "bernoulli_", "multinomial",
    "poisson", "native_dropout",
}  # fmt: skip
# Only the shape of a tensor argument counts, not its values.
_VALUE_FREE = {
    "empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like",
    "randint_like", "new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided", "size",
    "sym_size", "zero_", "fill_", "normal_", "uniform_", "random_",
}  # fmt: skip
# Of the second tensor, only the shape or the type counts.
_SHAPED_LIKE = {"expand_as", "view_as", "reshape_as", "type_as"}
# What hands numbers to Python code, which may act on them.
_READS_VALUES = {"_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "unique_dim"}
# Calls whose elements are chosen by a tensor of numbers.
_INDEXED = {
    "index", "index_select", "gather", "take_along_dim", "index_put", "_index_put_impl",
    "index_copy", "scatter", "_unsafe_index", "embedding",
}  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """What the values of a tensor depend on.

    `image`, `random` and `argument`: the image, the random generator, the values of another tensor
    that the model is called with. `order`: "", or why the place of its
    elements varies ("the image", "random numbers"). `calls`: numbers of the attention calls that it
    has passed. `product`: for what may be scores, "image", "lost" (of the image, but from an
    unknown place) or "foreign" (not of the image), and the modules that were running when the
    product of queries and keys was made, outermost first. `picture`: its elements are pixels.
    `reach`: the parts of the image's height and width by which the windows that cut it overlap
    beyond their cells.
    """

    image: bool = False
    random: bool = False
    argument: bool = False
    order: str = ""
    calls: frozenset[int] = frozenset()
    product: tuple[str, tuple[Any, ...]] | None = None
    picture: bool = False
    reach: tuple[float, float] = (0.0, 0.0)


class Trace(TorchDispatchMode):
    """Follow the places of everything that is computed from `inputs` while the mode is on.

    Must be entered below autograd, where a tensor stays the same object from the call that makes
    it to the call that takes it. (It would under `torch.inference_mode`, too; but what a model
    caches there could never be differentiated again.)

    `modules` is the stack of running modules, kept by the caller; `reads_values` says whether the
    places may be others for other images or arguments: the model's Python code has looked at
    numbers that depend on them or on random numbers, or an argument chooses elements.
    """

    def __init__(self, inputs: Tensor, arguments: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._places = WeakTensorKeyDictionary()
        self._origins = WeakTensorKeyDictionary()
        self._bases = WeakTensorKeyDictionary()  # of a view: the tensor that it is a view of
        self._written: dict[int, _Storage] = {}
        self._level = depth()
        self.modules: list[Any] = []
        self.reads_values = False
        self._random_state: Any = None
        self._names = 0
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
        """The planes of a tensor; None where it does not come from the image."""
        if not isinstance(tensor, Tensor):
            return None
        storage = self._written.get(_storage_key(tensor)) if self._written else None
        if storage is not None and storage.is_lost:
            return None
        if storage is not None and storage.holds(tensor):
            return storage.planes_of(tensor)
        return self._places.get(tensor)

    def origin(self, tensor: Any) -> Origin:
        """What the values of a tensor depend on."""
        if not isinstance(tensor, Tensor):
            return _NOTHING
        own = self._origins.get(tensor, _NOTHING)
        storage = self._written.get(_storage_key(tensor)) if self._written else None
        return own if storage is None else _merged(own, storage.origin)

    def put(self, tensor: Tensor, planes: Planes) -> None:
        """Set where the elements of `tensor` are."""
        self._places[tensor] = planes

    def put_origin(self, tensor: Tensor, origin: Origin) -> None:
        """Set what the values of `tensor` depend on."""
        self._origins[tensor] = origin

    def note_read(self, tensors: Iterable[Any]) -> None:
        """Note that Python code reads the values of these tensors."""
        for tensor in tensors:
            origin = self.origin(tensor)
            if origin.image or origin.random or origin.argument:
                self.reads_values = True

    def restore_random_state(self) -> None:
        """Leave the random generators as they were before the first call that used them."""
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
        rule = _rule(func)
        if rule is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        given = [*_tensors(args), *_tensors(kwargs.values())]
        if name in _SHAPED_LIKE:
            given = given[:1]
        if name in _RANDOM and self._random_state is None:
            self._random_state = _random_state(self._device)
        origin = self._origin_of(name, func, args, kwargs, given)
        target = _written_tensor(func, args, kwargs)
        before = None if target is None else self.of(target)
        result = func(*args, **kwargs)
        self._note_results(result, given, origin)
        if any(self.of(tensor) is not None for tensor in given):
            if name in _STORED:
                self._store(func, args, kwargs, origin)
            elif rule is not None:
                rule = _picture_padded if rule is _padded and origin.picture else rule
                made = result[0] if isinstance(result, tuple) else result
                places = self._places_by(rule, func, args, kwargs, made)
                self._put_all(made, places, before, None if target is None else origin)
            elif target is not None and any(
                self.of(one) is not None for one in given if one is not target
            ):
                self._storage(target).lose(origin)  # written in a way that is not known
        self._note_windows_and_products(name, args, result)
        return result

    def _note_windows_and_products(self, name: str, args: Any, result: Any) -> None:
        if name in _WINDOWS and self.origin(args[0]).picture:
            self._note_reach(name, args, result)
        if name in _PRODUCTS:
            self._note_product(name, args, result)

    def _note_results(self, result: Any, given: list[Tensor], origin: Origin) -> None:
        """Keep what the results of a call depend on, and of which tensor they are views."""
        for tensor in _tensors([result]):
            if origin is not _NOTHING:
                self._origins[tensor] = origin
            if given and tensor is not given[0] and _shares_storage(tensor, given[0]):
                self._bases[tensor] = self._bases.get(given[0], given[0])

    def _put_all(
        self,
        made: Any,
        places: list[Planes] | None,
        before: Planes | None,
        written: Origin | None,
    ) -> None:
        """Set the places of what a call has made.

        Of what it has `written` into a tensor that was at other places, also those of the storage.
        """
        several = made if isinstance(made, list) else [made]
        for tensor, planes in zip(several, places or [], strict=places is not None):
            if written is None or _same(before, planes):
                self.put(tensor, planes)
            else:
                storage = self._storage(tensor)
                storage.write(tensor, planes)
                storage.origin = _merged(storage.origin, written)

    def _places_by(
        self, rule: Rule, func: Any, args: Any, kwargs: dict[str, Any], made: Any
    ) -> list[Planes] | None:
        """The places of what a call has made; tokens without a place get a name."""
        name = func._schema.name.rpartition("::")[2]
        kwargs = {key: one for key, one in kwargs.items() if key != "out"}
        places = rule(self.of, _without_out(func), args, kwargs, made)
        if name not in _ADDS_TOKENS or places is None:
            return places
        axis = _argument(func, args, kwargs, "dim") if name in _JOINED else None
        return [self._named(planes, axis) for planes in places]

    def _named(self, planes: Planes, axis: int | None) -> Planes:
        """The planes with a new number for tokens without a place, one each along `axis`."""
        image, down = planes[:2]
        new = image.isnan() & down.isnan()
        if len(planes) != 3 or not bool(new.any()):
            return planes
        count = 1 if axis is None else image.shape[axis]
        first, self._names = self._names, self._names + count
        numbers = torch.tensor([_name(first + one) for one in range(count)], device=down.device)
        if axis is not None:
            numbers = numbers.reshape(-1, *[1] * (image.ndim - 1 - axis % image.ndim))
        return image, torch.where(new, numbers.to(down), down), planes[2]

    def _order_of_choice(self, args: Any) -> str:
        """What `torch.where` chooses by between tokens of different places."""
        first, second = self.of(args[1]), self.of(args[2])
        if first is None or second is None or _agree(first, second):
            return ""
        condition = self.origin(args[0])
        if condition.argument:
            self.reads_values = True
        return "the image" if condition.image else "random numbers" if condition.random else ""

    def _origin_of(
        self, name: str, func: Any, args: Any, kwargs: dict[str, Any], given: list[Tensor]
    ) -> Origin:
        """What the values of the result of a call depend on."""
        sources = [one for tensor in given if (one := self.origin(tensor)) is not _NOTHING]
        if name in _READS_VALUES:
            self.note_read(given)
        random = name in _RANDOM
        if name in _VALUE_FREE:
            sources = []
        if not sources:
            return Origin(random=True) if random else _NOTHING
        order = next((one.order for one in sources if one.order), "")
        if name == "where" and len(args) > 2:
            order = self._order_of_choice(args) or order
        if name.removesuffix("_") in _INDEXED:
            indices = [self.origin(one) for one in _tensors(_index_arguments(func, args, kwargs))]
            if any(one.random for one in indices):
                order = "random numbers"
            elif any(one.image for one in indices):
                order = "the image"
            elif any(one.argument for one in indices):
                self.reads_values = True
        keeps_scores = name not in _MULTIPLIED and name not in _REDUCED
        products = [one.product for one in sources if one.product] if keeps_scores else []
        return Origin(
            image=any(one.image for one in sources),
            random=random or any(one.random for one in sources),
            argument=any(one.argument for one in sources),
            order=order,
            calls=frozenset().union(*(one.calls for one in sources)),
            product=products[0] if products else None,
            picture=keeps_scores and name not in _WINDOWS and all(one.picture for one in sources),
            reach=max((one.reach for one in sources), default=(0.0, 0.0)),
        )

    def _note_reach(self, name: str, args: Any, result: Tensor) -> None:
        """Keep how far unpadded windows over a picture overlap, as parts of the image."""
        planes = self.of(args[0])
        if planes is None or args[0].ndim != 4:
            return
        kernel = args[1] if name == "im2col" else args[1].shape[2:]
        stride, padding = (args[4], args[3]) if name == "im2col" else args[3:5]
        reach = []
        for side, plane in enumerate(planes[1:]):
            line = _once(plane).flatten()
            beyond = (kernel[side] - _each(stride, side)) / 2
            padded = _each(padding, side) > 0 or beyond <= 0 or len(line) < 2
            reach.append(0.0 if padded else beyond * abs(float(line[1] - line[0])))
        self._origins[result] = replace(self.origin(result), reach=(reach[0], reach[1]))

    def _note_product(self, name: str, args: Any, result: Tensor) -> None:
        """Mark a product of two tensors that may be that of queries and keys."""
        first, second = args[1:3] if name == "baddbmm" else args[:2]
        left, right = self.origin(first), self.origin(second)
        if left.image or right.image:
            known = all(
                self.of(tensor) is not None or not origin.image
                for tensor, origin in ((first, left), (second, right))
            )
            kind = "image" if known else "lost"
        else:
            kind = "foreign"
        product = (kind, tuple(self.modules))
        self._origins[result] = replace(self.origin(result), product=product)

    def _storage(self, tensor: Tensor) -> _Storage:
        """The places of a whole storage, of which `tensor` is a part."""
        key = _storage_key(tensor)
        if key not in self._written:
            self._written[key] = _Storage(tensor)
            whole = self._bases.get(tensor, tensor)
            if (known := self._places.get(whole)) is not None:
                self._written[key].write(whole, known)
        return self._written[key]

    def _store(self, func: Any, args: Any, kwargs: dict[str, Any], origin: Origin) -> None:
        """Repeat a write into a part of a storage on the places of that storage."""
        sources = [planes for one in args[1:] if (planes := self.of(one)) is not None]
        if len(sources) == 1 and _same(self.of(args[0]), sources[0]):
            return  # as after ``x[:, 1:] += y``
        storage = self._storage(args[0])
        storage.widen(max(map(len, sources), default=3))
        self._names += 1
        for number in range(len(storage.planes)):
            parts = [self._part(one, number) if _is_values(one) else one for one in args[1:]]
            func(storage.view(number, args[0]), *parts, **kwargs)
        storage.origin = _merged(storage.origin, origin)

    def _part(self, values: Tensor, number: int) -> Tensor:
        """One plane of what is written; nowhere for what is not of the image."""
        known = self.of(values)
        if known is None:
            nowhere = _name(self._names) if number == 1 else torch.nan
            return torch.full(values.shape, nowhere, device=values.device)
        return known[number % len(known)].expand(values.shape)


def _same(first: Planes | None, second: Planes) -> bool:
    if first is None or len(first) != len(second):
        return False
    return all(
        one.shape == other.shape
        and _once(one).shape == _once(other).shape
        and torch.equal(_once(one).nan_to_num(-9.0), _once(other).nan_to_num(-9.0))
        for one, other in zip(first, second, strict=True)
    )


class _Storage:
    """Places of every element of one storage, for tensors that are written part by part."""

    def __init__(self, tensor: Tensor) -> None:
        self.kept = tensor  # keeps the storage, and so its key, alive
        self.count = tensor.untyped_storage().nbytes() // tensor.element_size()
        self.planes: list[Tensor] = []
        self.is_lost = False
        self.origin = _NOTHING
        self.widen(3)

    def lose(self, origin: Origin) -> None:
        """Note that it is no longer known where the elements are."""
        self.is_lost = True
        self.origin = _merged(self.origin, origin)

    def widen(self, planes: int) -> None:
        """Have at least so many planes; a new one is nowhere."""
        while len(self.planes) < planes:
            nowhere = torch.full((self.count,), torch.nan, device=self.kept.device)
            self.planes.append(nowhere)

    def view(self, number: int, tensor: Tensor) -> Tensor:
        """One plane as `tensor` lies in the storage."""
        return self.planes[number].as_strided(
            tensor.shape, tensor.stride(), tensor.storage_offset()
        )

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor has elements of the same size, not pairs of them as complex ones."""
        return tensor.element_size() == self.kept.element_size()

    def planes_of(self, tensor: Tensor) -> Planes:
        """The planes of a tensor of this storage, as they are now."""
        return tuple(self.view(number, tensor).clone() for number in range(len(self.planes)))

    def write(self, tensor: Tensor, planes: Planes) -> None:
        """Set the planes of a part."""
        self.widen(len(planes))
        for number, plane in enumerate(planes):
            self.view(number, tensor).copy_(plane.expand(tensor.shape))


def _name(number: int) -> float:
    """A negative number for a token without a place; no mean of some is that of another."""
    return -1.0 - 10.0 * math.sqrt(number)


def _random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _storage_key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _shares_storage(first: Tensor, second: Tensor) -> bool:
    return _storage_key(first) == _storage_key(second)


_NOTHING = Origin()


def _written_tensor(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """The tensor that a call writes into; None for a call that makes a new one."""
    if not func._schema.is_mutable:
        return None
    target = kwargs.get("out", args[0] if args else None)
    return target if isinstance(target, Tensor) else None


def _without_out(func: Any) -> Any:
    """The same function where it makes a new tensor, not one that is given as `out`."""
    if not func._schema.overload_name.endswith("out"):
        return func
    packet = func.overloadpacket
    name = func._schema.overload_name.removesuffix("out").removesuffix("_") or "default"
    return getattr(packet, name, func)


def _merged(first: Origin, second: Origin) -> Origin:
    if first is _NOTHING or first == second:
        return second
    return Origin(
        image=first.image or second.image,
        random=first.random or second.random,
        argument=first.argument or second.argument,
        order=first.order or second.order,
        calls=first.calls | second.calls,
        product=first.product or second.product,
        picture=first.picture and second.picture,
        reach=max(first.reach, second.reach),
    )


def _argument(func: Any, args: Any, kwargs: dict[str, Any], name: str) -> Any:
    """An argument of a call, also where it is the default."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[place] if place < len(args) else kwargs.get(name, argument.default_value)
    return None


def _index_arguments(func: Any, args: Any, kwargs: dict[str, Any]) -> list[Any]:
    """The arguments of a call that say which elements are taken."""
    names = [argument.name for argument in func._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    return [given[name] for name in ("index", "indices") if name in given]


Lookup = Callable[[Any], "Planes | None"]
Rule = Callable[..., "list[Planes] | None"]


def _tensors(args: Any) -> Iterator[Tensor]:
    for one in args:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (list, tuple)):
            yield from _tensors(one)


@cache
def _rule(func: Any) -> Rule | None:
    """The rule for the places in a call; None for what is not known (yet: it may decompose)."""
    name = func._schema.name.rpartition("::")[2]
    if func._schema.is_mutable:
        name = name.removesuffix("_")
    for names, rule in _RULES:
        if name in names:
            return rule
    return _kept if torch.Tag.pointwise in func.tags else None


def _complex(of: Lookup, _func: Any, args: Any, _kwargs: Any, _made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    return None if planes is None else [tuple(plane[..., 0] for plane in planes)]


def _real(of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    return None if planes is None else [tuple(p[..., None].expand(made.shape) for p in planes)]


def _kept(of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    """Element by element: the places of the largest operand that has any."""
    known = [(one, of(one)) for one in _tensors(args)]
    placed = [(one, planes) for one, planes in known if planes is not None]
    whole = [planes for one, planes in placed if one.shape == made.shape]
    if not whole and placed:
        whole = [max(placed, key=lambda one: one[0].numel())[1]]
    pairs = [planes for planes in whole if len(planes) == _PAIR]
    if not whole:
        return None
    chosen, *others = pairs or whole
    if not pairs and others:
        chosen = _filled(chosen, others[0])
    return [tuple(plane.expand(made.shape) for plane in chosen)]


def _of_choice(of: Lookup, func: Any, args: Any, kwargs: Any, made: Tensor) -> list[Planes] | None:
    """`torch.where`: the places of what is chosen."""
    first, second = (of(one) for one in args[1:3]) if len(args) > 2 else (None, None)
    if first is None or second is None or len(first) != len(second):
        return _kept(of, func, args, kwargs, made)
    pairs = zip(first, second, strict=True)
    return [tuple(torch.where(args[0], *pair).expand(made.shape) for pair in pairs)]


def _agree(first: Planes, second: Planes) -> bool:
    """Whether places that broadcast to each other are equal."""
    return len(first) == len(second) and all(
        bool(((one - other).abs() < 1e-6).all())
        for one, other in zip(
            (plane.nan_to_num(-9.0) for plane in first),
            (plane.nan_to_num(-9.0) for plane in second),
            strict=True,
        )
    )


def _filled(planes: Planes, other: Planes) -> Planes:
    """The planes, and those of another operand where they are nowhere: padded parts are added."""
    if planes[0].shape != other[0].shape or not bool(_once(planes[0]).isnan().any()):
        return planes
    empty = planes[0].isnan() & ~other[0].isnan()
    if bool(empty.any()):
        return tuple(torch.where(empty, *pair) for pair in zip(other, planes, strict=True))
    return planes


def _reshaped(of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    return [tuple(_as_shape(plane, made.shape) for plane in planes)]


def _as_shape(plane: Tensor, shape: torch.Size) -> Tensor:
    """Reshaped; what is the same in all channels is not copied for each of them."""
    if plane.stride(-1) == 0 and plane.ndim and plane.shape[-1] == shape[-1]:
        return plane[..., :1].reshape(*shape[:-1], 1).expand(shape)
    return plane.reshape(shape)


def _moved(of: Lookup, func: Any, args: Any, kwargs: Any, made: Any) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    moved = [func(p, *args[1:], **kwargs) for p in planes]
    return list(zip(*moved, strict=True)) if isinstance(moved[0], (list, tuple)) else [tuple(moved)]


def _copied(of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    return [tuple(p.expand(made.shape) for p in planes)] if (planes := of(args[1])) else None


def _joined(of: Lookup, func: Any, args: Any, kwargs: Any, made: Tensor) -> list[Planes] | None:
    parts = [of(one) for one in args[0]]
    count = max(len(one) for one in parts if one is not None)
    nowhere = torch.tensor(torch.nan, device=made.device)

    def part(number: int, one: Tensor, planes: Planes | None) -> Tensor:
        return nowhere.expand(one.shape) if planes is None else planes[number % len(planes)]

    pieces = list(zip(args[0], parts, strict=True))
    return [
        tuple(
            func([part(number, *piece) for piece in pieces], *args[1:], **kwargs)
            for number in range(count)
        )
    ]


def _scattered(of: Lookup, func: Any, args: Any, kwargs: Any, made: Tensor) -> list[Planes] | None:
    """Repeat the write on the planes; what is not from the image is nowhere."""
    nowhere = torch.full((), torch.nan, device=made.device)
    source = next((n for n, one in enumerate(args[1:], 1) if _is_values(one)), None)
    if source is None:
        return None
    planes = []
    for number in range(3):
        parts = list(args)
        for place in (0, source):
            known = of(args[place])
            parts[place] = (
                nowhere.expand(args[place].shape).clone() if known is None else known[number]
            )
        planes.append(func(*parts, **kwargs))
    return [tuple(planes)]


def _is_values(argument: Any) -> bool:
    return isinstance(argument, Tensor) and argument.is_floating_point()


def _padded(of: Lookup, func: Any, args: Any, _kwargs: Any, _made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    pad = args[1]
    if _pads_tokens(planes, pad):  # tokens put before or behind the patches, still zero
        return [tuple(func(plane, pad, torch.nan) for plane in planes)]
    return [
        tuple(
            func(plane, pad, -1.0) if number % 3 == 0 else _continued(plane, pad)
            for number, plane in enumerate(planes)
        )
    ]


def _picture_padded(
    of: Lookup, _func: Any, args: Any, _kwargs: Any, _made: Tensor
) -> list[Planes] | None:
    """Patches of a picture's padding are patches all the same, beside the picture."""
    planes = of(args[0])
    return None if planes is None else [tuple(_continued(plane, args[1]) for plane in planes)]


def _pads_tokens(planes: Planes, pad: list[int]) -> bool:
    """Whether an axis of flattened patches is padded: places vary along it in both directions."""
    for number in range(len(pad) // 2):
        axis = planes[0].ndim - 1 - number
        if (pad[2 * number] > 0 or pad[2 * number + 1] > 0) and all(
            _varies(plane, axis) for plane in planes[1:3]
        ):
            return True
    return False


def _varies(plane: Tensor, axis: int) -> bool:
    plane = _once(plane).nan_to_num(-9.0)
    first = plane.narrow(axis, 0, 1)
    return plane.shape[axis] > 1 and bool(((plane - first).abs() > 1e-6).any())


def _continued(plane: Tensor, pad: list[int]) -> Tensor:
    """The places go on beyond the border as they went before it."""
    for axis in range(len(pad) // 2):
        before, after = pad[2 * axis : 2 * axis + 2]
        size = plane.shape[-1 - axis]
        positions = torch.arange(-before, size + after, device=plane.device).float()
        plane = _at(plane, -1 - axis, positions)
    return plane


def _convolved(
    of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor
) -> list[Planes] | None:
    inputs, weight, _, stride, padding, dilation, transposed = args[:7]
    planes = of(inputs)
    if planes is None or transposed:
        return None
    where = [
        _centres(
            planes[0], 2 + axis, made.shape[2 + axis],
            (weight.shape[2 + axis] - 1) * _each(dilation, axis) + 1,
            _each(stride, axis), _each(padding, axis),
        )
        for axis in range(inputs.ndim - 2)
    ]  # fmt: skip
    return [_sampled(planes, where, made)]


def _pooled(of: Lookup, _func: Any, args: Any, _kwargs: Any, made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    kernel = args[1]
    stride = args[2] if len(args) > 2 and args[2] else kernel
    padding = args[3] if len(args) > 3 else 0
    first = made.ndim - len(kernel)
    where = [
        _centres(
            planes[0], first + axis, made.shape[first + axis],
            kernel[axis], _each(stride, axis), _each(padding, axis),
        )
        for axis in range(len(kernel))
    ]  # fmt: skip
    return [_sampled(planes, where, made)]


def _centres(
    image: Tensor, axis: int, count: int, kernel: int, stride: int, padding: int
) -> Tensor:
    """Where along an axis the `count` outputs of a sliding window are.

    Windows that do not overlap: at their centres. Windows that overlap and are padded so that they
    cover the axis once, `stride` elements each: at the centres of those elements, so that the
    padding, which differs from library to library, moves nothing.
    """
    steps = torch.arange(count, device=image.device, dtype=torch.float32) * stride
    if kernel > stride:
        for first, size in (_real_extent(image, axis), (0, image.shape[axis])):
            if abs(count * stride - size) < stride:
                return steps + first + (stride - 1) / 2
    return steps - padding + (kernel - 1) / 2


def _real_extent(image: Tensor, axis: int) -> tuple[int, int]:
    """Where the elements that are no padding begin along an axis, and how many there are."""
    size = image.shape[axis]
    image = _once(image)
    if image.shape[axis] == 1:
        return 0, size
    others = [one for one in range(image.ndim) if one != axis]
    real = (image >= 0).any(dim=others) if others else image >= 0
    numbers = real.nonzero().flatten()
    if not len(numbers):
        return 0, size
    return int(numbers[0]), int(numbers[-1] - numbers[0]) + 1


def _resized(of: Lookup, func: Any, args: Any, kwargs: Any, made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    if planes is None:
        return None
    names = [argument.name for argument in func._schema.arguments]
    known = dict(zip(names, args, strict=False)) | kwargs
    where = []
    for axis in (-2, -1):
        size, count = args[0].shape[axis], made.shape[axis]
        steps = torch.arange(count, device=made.device, dtype=torch.float32)
        if known.get("align_corners"):
            where.append(steps * (size - 1) / max(count - 1, 1))
            continue
        factors = known.get("scale_factors")
        scale = known.get("scales_h" if axis == -2 else "scales_w")
        if factors:
            scale = factors[axis]
        where.append((steps + 0.5) * (1 / scale if scale else size / count) - 0.5)
    return [_sampled(planes, where, made)]


def _sampled(planes: Planes, where: list[Tensor], made: Tensor) -> Planes:
    """Planes (B, C, …) at positions along each of their last axes, the same in every channel."""
    sampled = []
    for number, plane in enumerate(planes):
        axes = range(plane.ndim - len(where), plane.ndim)
        channel = plane.ndim - len(where) - 1
        one = _once(plane)
        if number % 3 == 0 and not bool(one.isnan().any()):  # the image: padding stays out of it
            one = one.amax(dim=(channel, *axes), keepdim=True)
        else:
            one = one.mean(dim=channel, keepdim=True)
            for axis, positions in zip(axes, where, strict=True):
                positions = positions.round() if number % 3 == 0 else positions
                one = _at(one, axis, positions.float())
        sampled.append(one.expand(made.shape))
    return tuple(sampled)


def _once(plane: Tensor) -> Tensor:
    """The plane without its copies: axes along which it is the same by construction are 1 long."""
    return plane[tuple(slice(0, 1) if step == 0 else slice(None) for step in plane.stride())]


def _at(plane: Tensor, axis: int, positions: Tensor) -> Tensor:
    """The plane at fractional positions along an axis: linear between, and beyond the ends."""
    shape = list(plane.shape)
    shape[axis] = len(positions)
    plane = _once(plane)
    size = plane.shape[axis]
    if size == 1:
        return plane.expand(shape)
    positions = positions.to(plane.device)
    low = positions.floor().clamp(0, size - 2)
    part = positions - low
    part = part.reshape([-1 if one == axis % plane.ndim else 1 for one in range(plane.ndim)])
    first = plane.index_select(axis, low.long())
    second = plane.index_select(axis, low.long() + 1)
    between = first + part * (second - first)
    # A neighbour that is nowhere does not count.
    between = torch.where(part == 0, first, torch.where(part == 1, second, between))
    return between.expand(shape)


def _reduced(of: Lookup, func: Any, args: Any, kwargs: Any, made: Tensor) -> list[Planes] | None:
    planes = of(args[0])
    names = [argument.name for argument in func._schema.arguments]
    if planes is None or "dim" not in names:
        return None
    dims = args[names.index("dim")] if len(args) > names.index("dim") else kwargs.get("dim")
    if dims is None:
        return None
    keep = made.ndim == args[0].ndim
    return [mixed(planes, dims if isinstance(dims, (list, tuple)) else [dims], keep)]


def mixed(planes: Planes, dims: Any, keep: bool) -> Planes:
    """The image that elements are of, and the mean of their places."""
    shape = list(planes[0].shape)
    for axis in dims:
        shape[axis] = 1
    reduced = [
        (_once(plane).amax(dims, True) if number % 3 == 0 else _once(plane).mean(dims, True))
        for number, plane in enumerate(planes)
    ]
    away = [axis % len(shape) for axis in dims]
    kept = [slice(None) if keep or axis not in away else 0 for axis in range(len(shape))]
    return tuple(plane.expand(shape)[tuple(kept)] for plane in reduced)


def _multiplied(
    of: Lookup, func: Any, args: Any, _kwargs: Any, made: Tensor
) -> list[Planes] | None:
    name = func._schema.name.rpartition("::")[2]
    first, second = args[1:3] if name in ("addmm", "baddbmm") else args[:2]
    left, right = of(first), of(second)
    if first.ndim == 1 or second.ndim == 1:
        chosen = _times_vector(left, right, second.ndim == 1)
    else:
        axis = -1 if name == "linear" else -2
        if left is not None and right is None and _varies_along(left, -1):
            matrix = second if name == "linear" else second.mT
            chosen = _picked([plane.mT for plane in left], matrix)
            chosen = tuple(plane.mT for plane in chosen)
        elif right is not None and left is None and _varies_along(right, axis):
            turned = right if axis == -2 else tuple(plane.mT for plane in right)
            chosen = _picked(turned, first)
        else:
            within = left is not None and right is not None and _in_one_token(left, right)
            left = left and mixed(left, [-1], True)
            right = right and mixed(right, [axis], True)
            chosen = left if within else _product(left, right, name in _PRODUCTS)
    return None if chosen is None else [tuple(plane.expand(made.shape) for plane in chosen)]


def _varies_along(planes: Planes, axis: int) -> bool:
    return len(planes) == 3 and any(_varies(plane, axis % plane.ndim) for plane in planes[1:])


def _picked(planes: Sequence[Tensor], matrix: Tensor) -> Planes:
    """The places in matrix (…, n, N) x tokens (…, N, D): (…, n, D).

    A matrix that takes at most half of the tokens in each row picks tokens or averages a few;
    another one mixes all.
    """
    taken = matrix != 0
    if bool((2 * taken.sum(dim=-1) > matrix.shape[-1]).any()):
        return mixed(tuple(planes), [-2], True)
    weights = matrix.abs().to(torch.float32)
    weights = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    image, down, across = (_weighted(weights, plane) for plane in planes)
    return image.round(), down, across


def _weighted(weights: Tensor, plane: Tensor) -> Tensor:
    """The weighted mean of places; NaN where one that counts is NaN."""
    unknown = (weights > 0).float() @ plane.isnan().float() > 0
    return torch.where(unknown, torch.nan, weights @ plane.nan_to_num(0.0))


def _times_vector(left: Planes | None, right: Planes | None, behind: bool) -> Planes | None:
    """A vector of weights, behind a matrix or before it, takes one axis away."""
    planes, vector, axis = (left, right, -1) if behind else (right, left, -2)
    return None if planes is None or vector is not None else mixed(planes, [axis], False)


def _product(left: Planes | None, right: Planes | None, of_batches: bool) -> Planes | None:
    """The places in a product of rows with places and columns with places."""
    if left is None or right is None:
        if right is None or not of_batches or len(right) != 3:
            return left or right
        nowhere = torch.full((1,) * right[0].ndim, torch.nan, device=right[0].device)
        return (nowhere, nowhere, nowhere, *right)  # learned queries, and keys
    if len(left) == _PAIR:  # attention times values: where the query is
        return left[:3]
    if len(right) == _PAIR:
        return right[:3]
    return left + right


def _in_one_token(left: Planes, right: Planes) -> bool:
    """Whether two matrices hold parts of the same token, so that no two tokens meet."""
    if len(left) != 3 or len(right) != 3 or left[0].shape[-2] * right[0].shape[-1] == 1:
        return False
    places = [plane.nan_to_num(-9.0) for plane in (*left, *right)]
    first = [plane[..., :1, :1] for plane in places]
    return all(
        bool(((plane - one).abs() < 1e-6).all()) for plane, one in zip(places, first, strict=True)
    ) and all(
        bool(((one - other).abs() < 1e-6).all())
        for one, other in zip(first[:3], first[3:], strict=True)
    )


def _each(value: Any, axis: int) -> int:
    if isinstance(value, (list, tuple)):
        return value[axis] if len(value) > 1 else value[0]
    return value


_RULES: tuple[tuple[set[str], Rule], ...] = (
    (_AS_IT_IS, _kept),
    (_RESHAPED, _reshaped),
    (_MOVED, _moved),
    (_REDUCED, _reduced),
    (_POOLED, _pooled),
    (_RESIZED, _resized),
    (_MULTIPLIED, _multiplied),
    (_SCATTERED, _scattered),
    (_JOINED, _joined),
    ({"where"}, _of_choice),
    ({"constant_pad_nd"}, _padded),
    ({"convolution"}, _convolved),
    ({"copy"}, _copied),
    ({"view_as_complex"}, _complex),
    ({"view_as_real"}, _real),
)
