"""Input and result of an explainer for one batch, and the scores of modified copies of the images.

Methods that run a model on scaled, noisy or occluded copies must explain the same output for all
copies: the class that is predicted for the image, or the feature direction of the image. This
module imports no explainer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..attention import AttentionRecord, Prediction, RuleSettings, record
from ..attention.model_call import as_arguments
from ..attention.model_pass import first_meaning
from ..attention.target import TargetLike, fixed_target, score
from ..errors import ShapeError, UnsupportedModelError
from ..grid import PatchGrid
from ..images import Images
from ..keypoints import Keypoints


class ParsedCall(NamedTuple):
    """Arguments of `Explainer.attribute`, the same for both call forms.

    `is_tuple` tells whether the images were a tuple of one tensor, as in Captum.
    """

    model: nn.Module
    images: Any
    target: TargetLike
    is_tuple: bool


def parse_call(
    args: tuple[Any, ...], inputs: Any, target: TargetLike, model: nn.Module | None, name: str
) -> ParsedCall:
    """Return the arguments of ``(model, image)``, ``(inputs,)`` or ``(inputs, target)``.

    Parameters
    ----------
    args : positional arguments of the call
    inputs, target : keyword arguments of the call
    model : the model that the explainer was created with, or None
    name : name of the class of the explainer, for messages
    """
    positional = list(args)
    if positional and callable(positional[0]) and not isinstance(positional[0], Tensor):
        model = positional.pop(0)
    if model is None:
        raise TypeError(
            "attribute: expected a model, got none — call attribute(model, image), "
            f"or {name}(model).attribute(inputs)"
        )
    if inputs is not None:
        positional.append(inputs)
    elif len(positional) == 2 and target is None:
        target = positional.pop()
    if len(positional) != 1:
        raise TypeError(
            f"attribute: expected one image or batch, got {len(positional)} arguments — "
            "call attribute(model, image) or attribute(inputs, target=…)"
        )
    images = positional[0]
    if not isinstance(images, tuple):
        return ParsedCall(model, images, target, is_tuple=False)
    if len(images) != 1:
        raise TypeError(
            f"inputs: expected one tensor of images, got a tuple of {len(images)} — "
            "pass the others as additional_forward_args"
        )
    return ParsedCall(model, images[0], target, is_tuple=True)


@dataclass(frozen=True)
class AttributionRequest:
    """Input of an explainer for one batch: model, inputs and target, and the images for display.

    `pending_keypoints` is the running keypoint detection, None if no keypoints are needed.
    `readout` is "score" or "output", as for `semattn.record`. `gradient_rules` are the rules of
    the backward pass for passes that record the gradient of attention.
    """

    model: nn.Module
    inputs: Tensor
    target: TargetLike
    extra: Any
    images: Images
    pending_keypoints: Future[list[Keypoints]] | None
    sites: Sequence[str] | None = None
    readout: str = "score"
    gradient_rules: RuleSettings | None = None

    @property
    def extra_args(self) -> tuple[Any, ...]:
        """The arguments of the model after its images."""
        return as_arguments(self.extra)

    def record(self, **options: Any) -> AttentionRecord:
        """Run `semattn.record` with `options` on this batch."""
        arguments = {
            "target": self.target,
            "additional_forward_args": self.extra_args,
            "sites": self.sites,
            "readout": self.readout,
            "rules": self.gradient_rules if options.get("grad", True) is True else None,
        } | options
        return record(self.model, arguments.pop("inputs", self.inputs), **arguments)

    def keypoints(self) -> list[Keypoints]:
        """Wait for the keypoints of each image; an empty list if none are needed."""
        return self.pending_keypoints.result() if self.pending_keypoints else []


@dataclass(frozen=True)
class RelevanceMap:
    """Result of a method for one batch: a value per patch (B, P), and per pixel (B, H, W).

    `prediction` is that of the explained output, and `grid` the grid of `patches`. `attribution`
    (B, C, H, W) is set by methods that distinguish channels; it sums to `heat_map` over the
    channels. `record_notes` are notes on the recorded attention, and `notes` those of the method.
    `readout` is that of `readout_parts`, if the map starts there.
    `conservation` (B,) is set by methods that distribute the score, see `Explanation`.
    """

    prediction: Prediction
    grid: PatchGrid
    concentration: Tensor
    patches: Tensor
    heat_map: Tensor
    attribution: Tensor | None = None
    record_notes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    conservation: Tensor | None = None
    readout: Tensor | None = None


def check_finite(*named_values: tuple[str, Tensor]) -> None:
    """Raise UnsupportedModelError for NaN or infinity in values (B, …); names are for the error.

    The device is read once for all of them.
    """
    are_finite = torch.stack([_are_finite(values) for _, values in named_values]).tolist()
    _raise_unless_finite([name for name, _ in named_values], are_finite)


def read_checked(maps: RelevanceMap) -> tuple[list[bool], list[float]]:
    """Return which of the B maps are zero, and the mean over images of the parts of the readout.

    The device is read once, at the end of a batch.

    Raises
    ------
    UnsupportedModelError
        For NaN or infinity in the model's output or in the maps.
    """
    values = (maps.prediction.logits, maps.patches, maps.heat_map)
    flags = torch.cat([*map(_are_finite, values), (maps.patches == 0).all(dim=1)])
    readout = flags[:0] if maps.readout is None else maps.readout.mean(dim=0)
    numbers = torch.cat([flags.float(), readout.float()]).tolist()
    size = len(maps.patches)
    output, patches, heat_map, zero = (
        [number > 0 for number in numbers[start : start + size]]
        for start in range(0, len(flags), size)
    )
    _raise_unless_finite(["model output", "map", "map"], [output, patches, heat_map])
    return zero, numbers[len(flags) :]


def _are_finite(values: Tensor) -> Tensor:
    return values.isfinite().reshape(len(values), -1).all(dim=1)


def _raise_unless_finite(names: Sequence[str], are_finite: Sequence[list[bool]]) -> None:
    for name, of_images in zip(names, are_finite, strict=True):
        if not all(of_images):
            raise UnsupportedModelError(
                f"{name}: expected finite numbers, got NaN or infinity for image "
                f"{of_images.index(False)} — check the model's weights, or run it in float32"
            )


@contextmanager
def name_channel_errors(images: Images) -> Iterator[None]:
    """Raise ShapeError if the model rejects the number of channels of the inputs."""
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        if not images.pixels_are_mean or "channels" not in reason:
            raise
        raise ShapeError(
            f"inputs: expected the channels that the model takes, got {images.inputs.shape[1]} "
            f"({reason[:160]}) — give images with the channels of its training data"
        ) from error


def target_for_copies(request: AttributionRequest, prediction: Prediction) -> TargetLike:
    """Return the target of a request, fixed to the predictions of the recorded images."""
    if prediction.target is not None:
        return prediction.target
    if request.target is not None:
        return request.target
    return fixed_target(prediction.logits, first_meaning(request.model))


def score_copies(
    output: Any, image_index: Tensor, target: TargetLike, model: nn.Module, n_images: int
) -> Tensor:
    """Compute the scores of R copies of images for the target of the images.

    Parameters
    ----------
    output : output of the model for the copies
    image_index : (R,), index of the image of each copy
    target : the result of `target_for_copies`
    n_images : B, the number of images

    Returns
    -------
    Tensor
        (R,)
    """
    if callable(target):
        return _score_by_batches(output, image_index, target, model, n_images)
    if isinstance(target, list):
        target = [target[index] for index in image_index.tolist()]
    elif isinstance(target, Tensor) and target.numel() > 1:
        target = target.to(image_index.device)[image_index]
    return score(output, target, model).values


def _score_by_batches(
    output: Any, image_index: Tensor, target: TargetLike, model: nn.Module, n_images: int
) -> Tensor:
    """Call a target function on batches with one copy of each image, in the order of the images."""
    n_copies = len(image_index)
    values: list[Any] = [None] * n_copies
    copies_of: list[list[int]] = [[] for _ in range(n_images)]
    for copy_, index in enumerate(image_index.tolist()):
        copies_of[index].append(copy_)
    for turn in range(max(map(len, copies_of))):
        copy_of = {
            index: copies[turn] for index, copies in enumerate(copies_of) if turn < len(copies)
        }
        filler = next(iter(copy_of.values()))  # for images without another copy
        rows = torch.tensor([copy_of.get(index, filler) for index in range(n_images)], device="cpu")

        def pick(leaf: Any, rows: Tensor = rows) -> Any:
            is_batch = isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == n_copies
            return leaf[rows.to(leaf.device)] if is_batch else leaf

        scores = score(pytree.tree_map(pick, output), target, model).values
        for index, copy_ in copy_of.items():
            values[copy_] = scores[index]
    return torch.stack(values)
