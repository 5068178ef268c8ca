"""Many methods on one image, under one contract: their maps, and what each costs.

A method that refuses the model is a row that says why; a wrong picture or target ends the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from .attention.model_inputs import model_device
from .attention.sites import refuse
from .attention.target import Target
from .cost import measured
from .errors import ImageError, SemattnError, ShapeError, TargetError
from .explain import Explainer, Explanation, explainers
from .images import Preprocessing, prepare
from .metrics.randomization import moved

OURS = "sift-patch-interrelation"


@dataclass(frozen=True)
class Compared:
    """One method of a comparison.

    Parameters
    ----------
    method : its name
    explanation : of the one image; None where the method refused
    seconds : wall time of one map, the model having been run before; finding keypoints counts for
        the methods that use them
    peak_mib : memory meanwhile beyond what was there before, MiB, as `semattn.cost.measured` tells
        it; differences of a few MiB are noise
    sensitivity : how much of the patch map moves with the target, see
        `semattn.metrics.randomization.moved`; None where there is
        no other class, or a map is zero
    refusal : why there is no explanation; "" where there is one
    """

    method: str
    explanation: Explanation | None = None
    seconds: float | None = None
    peak_mib: float | None = None
    sensitivity: float | None = None
    refusal: str = ""


@dataclass(frozen=True)
class Comparison:
    """What `compare` found: a row a method, and what all of them share.

    Parameters
    ----------
    rows : in the order in which they were run
    explanation : of the first method that gave one: picture, keypoints, prediction, target
    other : the class that sensitivity was measured with; None where there is none
    """

    rows: tuple[Compared, ...]
    explanation: Explanation
    other: int | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know: what holds for all maps once, else after the method's name."""
        made = [row for row in self.rows if row.explanation is not None]
        said: dict[str, list[str]] = {}
        for row in made:
            for note in row.explanation.notes if row.explanation else ():
                said.setdefault(note, []).append(row.method)
        return tuple(
            note if len(who) == len(made) else f"{', '.join(who)}: {note}"
            for note, who in said.items()
        )


def compare(
    model: nn.Module,
    image: Any,
    methods: Iterable[str] | None = None,
    *,
    target: Target = None,
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Comparison:
    """Explain one image by many methods, and measure each.

    Every method gets the same input, prepared once, and runs twice: for the most probable class
    other than the explained one, then, measured, for the explained one.

    Parameters
    ----------
    model : the model to explain
    image : one picture in any form that `semattn.images.prepare` takes
    methods : names in `semattn.explainers`; None is all of them, semattn's own first and the
        controls last
    target : as for `Explainer.attribute`
    progress : called with (number, total, name) before each method, counting from 1
    options : those of every explainer: density, detector, layers, refine, preprocessing, seed

    Raises
    ------
    ValueError, TypeError
        For an unknown method or option; the message names the nearest one.
    SemattnError
        For a wrong picture or target; and the first refusal, where no method explains the model.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> x = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0))
    >>> made = compare(vit, x, ["sift-patch-interrelation", "attention-rollout"])
    >>> made.rows[0].sensitivity > 0, made.rows[1].sensitivity
    (True, 0.0)
    """
    names = check(methods, options)
    subject = _Subject(model, image, target, options)
    rows: list[Compared] = []
    refusals: list[SemattnError] = []
    for number, name in enumerate(names, 1):
        if progress is not None:
            progress(number, len(names), name)
        try:
            rows.append(subject.row(name))
        except (TargetError, ImageError):
            raise
        except SemattnError as error:
            rows.append(Compared(name, refusal=str(error)))
            refusals.append(error)
    if subject.first is None:
        raise refusals[0]
    return Comparison(tuple(rows), subject.first, subject.other)


def check(methods: Iterable[str] | None, options: dict[str, Any]) -> tuple[str, ...]:
    """The names of the methods, once they and the options are known to exist.

    Raises
    ------
    ValueError, TypeError
        As `compare` does.
    """
    Explainer(**options)
    if isinstance(methods, str):
        raise TypeError(f"methods: expected a list of names, got {methods!r} — put it into a list")
    everything = sorted(explainers, key=lambda name: explainers[name].control)
    names = tuple(dict.fromkeys([OURS, *everything] if methods is None else methods))
    for name in names:
        explainers.ensure(name)
    if not names:
        raise ValueError("methods: expected one name at least, got none — leave it out for all")
    return names


def _moved(one: Tensor, other: Tensor) -> float | None:
    """`moved` of the maps of one image; None if one is zero everywhere."""
    part = float(moved(one, other))
    return part if part == part else None


class _Subject:
    """One image and one model, prepared once for every method."""

    def __init__(
        self, model: nn.Module, image: Any, target: Target, options: dict[str, Any]
    ) -> None:
        self.model = refuse(model, compiled=True)
        self.target = target
        wanted = options.get("preprocessing") or (lambda: Preprocessing.of(self.model))
        self.images = prepare(image, wanted)
        if len(self.images.inputs) != 1:
            raise ShapeError(
                f"image: expected one, got a batch of {len(self.images.inputs)} — "
                "compare the methods image by image"
            )
        self.options, self.source = options, image
        if not (isinstance(image, Tensor) and image.is_floating_point()):
            # Read, resized and cropped already: what is left to do to its pixels is the same.
            known = wanted() if callable(wanted) else wanted
            self.options = options | {"preprocessing": replace(known, crop_pct=1.0)}
            self.source = Image.fromarray(self.images.pixels[0])
        self.device = model_device(self.model)
        self.first: Explanation | None = None
        self.other: int | None = None

    def row(self, name: str) -> Compared:
        """What one method makes of it; SemattnError if it refuses."""
        try:
            explainer: Explainer = explainers[name](**self.options)
        except ValueError as error:  # every explainer takes these options, but for this one
            raise SemattnError(str(error)) from error
        if self.first is None:
            self.first = self._named(explainer.explain(self.model, self.source, target=self.target))
            self.other = _most_probable_other(self.first)
        elsewhere = None if self.other is None else self._make(explainer, self.other).patch_map
        made, cost = measured(lambda: self._make(explainer, self.target), self.device)
        made = replace(
            self._named(made),
            keypoints=self.first.keypoints,
            manifest=self.first.manifest | {"method": name, "parameters": explainer.parameters()},
        )
        sensitivity = None if elsewhere is None else _moved(made.patch_map, elsewhere)
        return Compared(name, made, cost.seconds, cost.peak_mib, sensitivity)

    def _make(self, explainer: Explainer, target: Target) -> Explanation:
        """As `attribute` makes it: with no keypoints but those that the method needs."""
        return explainer._make(self.model, self.source, target, None, draw=False)

    def _named(self, made: Explanation) -> Explanation:
        """An explanation of the prepared picture with the name of the one that was given."""
        (nameless,), (name,) = made.images.names, self.images.names
        notes = (*self.images.notes, *(note.replace(nameless, name) for note in made.notes))
        return replace(made, images=self.images, notes=tuple(dict.fromkeys(notes)))


def _most_probable_other(made: Explanation) -> int | None:
    """The class that would be predicted if it were not for the explained one."""
    if made.target is None or not made.output.has_answers or made.outputs < 2:
        return None
    logits = made.logits[0].detach().clone()
    logits[made.target[0]] = -torch.inf
    return int(logits.argmax())
