"""Where in the image each token of a model comes from, followed through the model itself.

Windows, shifts, strided grids, mask units, pooled keys: what a model does with its tokens before it
attends is rearrangement, and every rearrangement is a call of PyTorch. One forward pass is run on
the inputs, and beside every tensor its *places* go along: which image, and how far down and across.
What moves elements moves their places; what mixes elements has the mean of their places; what works
on each element leaves them. No model family is known here, and none has to be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from .position_rules import (
    JOINED,
    MULTIPLIED,
    PRODUCTS,
    REDUCED,
    SCATTERED,
    WINDOWS,
    Planes,
    Rule,
    agree,
    each_axis,
    is_values,
    once,
    padded,
    picture_padded,
    rule_of,
    tensors_in,
)
from .scope import depth

# Writes of some elements in place: they are repeated on the places of the storage.
_STORED = {"copy_", "index_put_", "_index_put_impl_", "index_copy_", "scatter_", "masked_scatter_"}

# Calls that put tokens which have no place between others.
_ADDS_TOKENS = JOINED | SCATTERED | {"constant_pad_nd"}

_SOFTMAX = {"_softmax", "softmax", "_safe_softmax"}

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
    """Dependencies of the values of a tensor.

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
        self.inside_call = False  # of an attention call that the caller makes
        self.unseen: list[tuple[Any, str]] = []  # attention by other calls: the module, the call
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
        """Return what the values of a tensor depend on."""
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
        rule = rule_of(func)
        if rule is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        given = [*tensors_in(args), *tensors_in(kwargs.values())]
        if name in _SHAPED_LIKE:
            given = given[:1]
        origin = self._origin_of(name, func, args, kwargs, given)
        target = _written_tensor(func, args, kwargs)
        before = None if target is None else self.of(target)
        self._before(name, args)
        result = func(*args, **kwargs)
        self._note_results(result, given, origin)
        if any(self.of(tensor) is not None for tensor in given):
            if name in _STORED:
                self._store(func, args, kwargs, origin)
            elif rule is not None:
                rule = picture_padded if rule is padded and origin.picture else rule
                made = result[0] if isinstance(result, tuple) else result
                places = self._places_by(rule, func, args, kwargs, made)
                self._put_all(made, places, before, None if target is None else origin)
            elif target is not None and any(
                self.of(one) is not None for one in given if one is not target
            ):
                self._storage(target).lose(origin)  # written in a way that is not known
        self._note_windows_and_products(name, args, result)
        return result

    def _before(self, name: str, args: Any) -> None:
        """Note what a call is about to do to the random generators, or that it attends."""
        if name in _RANDOM and self._random_state is None:
            self._random_state = _random_state(self._device)
        if not self.inside_call and self._attends(name, args):
            self.unseen.append((self.modules[-1] if self.modules else None, name))

    def _note_windows_and_products(self, name: str, args: Any, result: Any) -> None:
        if name in WINDOWS and self.origin(args[0]).picture:
            self._note_reach(name, args, result)
        if name in PRODUCTS:
            self._note_product(name, args, result)

    def _attends(self, name: str, args: Any) -> bool:
        """Return whether a call is one of attention between tokens of the image."""
        if name.startswith(("_scaled_dot_product", "_flash_attention", "_efficient_attention")):
            return any(self.of(one) is not None for one in args[:2])
        planes = self.of(args[0]) if name in _SOFTMAX else None
        return planes is not None and len(planes) == 6

    def _note_results(self, result: Any, given: list[Tensor], origin: Origin) -> None:
        """Keep what the results of a call depend on, and of which tensor they are views."""
        for tensor in tensors_in([result]):
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
        axis = _argument(func, args, kwargs, "dim") if name in JOINED else None
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
        """Return what `torch.where` chooses by between tokens of different places."""
        first, second = self.of(args[1]), self.of(args[2])
        if first is None or second is None or agree(first, second):
            return ""
        condition = self.origin(args[0])
        if condition.argument:
            self.reads_values = True
        return "the image" if condition.image else "random numbers" if condition.random else ""

    def _origin_of(
        self, name: str, func: Any, args: Any, kwargs: dict[str, Any], given: list[Tensor]
    ) -> Origin:
        """Return what the values of the result of a call depend on."""
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
            indices = [self.origin(one) for one in tensors_in(_index_arguments(func, args, kwargs))]
            if any(one.random for one in indices):
                order = "random numbers"
            elif any(one.image for one in indices):
                order = "the image"
            elif any(one.argument for one in indices):
                self.reads_values = True
        keeps_scores = name not in MULTIPLIED and name not in REDUCED
        products = [one.product for one in sources if one.product] if keeps_scores else []
        return Origin(
            image=any(one.image for one in sources),
            random=random or any(one.random for one in sources),
            argument=any(one.argument for one in sources),
            order=order,
            calls=frozenset().union(*(one.calls for one in sources)),
            product=products[0] if products else None,
            picture=keeps_scores and name not in WINDOWS and all(one.picture for one in sources),
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
            line = once(plane).flatten()
            beyond = (kernel[side] - each_axis(stride, side)) / 2
            padded = each_axis(padding, side) > 0 or beyond <= 0 or len(line) < 2
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
            parts = [self._part(one, number) if is_values(one) else one for one in args[1:]]
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
        and once(one).shape == once(other).shape
        and torch.equal(once(one).nan_to_num(-9.0), once(other).nan_to_num(-9.0))
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
        """Return whether a tensor has elements of the same size, not pairs as complex ones."""
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
