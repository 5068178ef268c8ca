"""Comparison of attribution methods on one image: their maps and their costs.

A method that does not support the model becomes a row with the reason. A wrong image or target
raises an error.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.model_call import model_device
from ..attention.sites import check_model
from ..attention.target import TargetLike
from ..errors import ImageError, SemattnError, ShapeError, TargetError
from ..images import Preprocessing, prepare
from ..metrics.randomization import total_variation
from ..utils.notebook import NotebookView
from ..utils.processes import Progress
from ..utils.profiling import profile
from . import Explainer, Explanation, explainers

OURS = "sift-patch-interrelation"


@dataclass(frozen=True)
class MethodResult:
    """Result of one method of a comparison.

    Parameters
    ----------
    method : name of the method
    explanation : explanation of the image; None if the method does not support the model
    seconds : wall time of one map, after a first run of the model; includes keypoint detection
        for methods that use keypoints
    peak_mib : additional peak memory, MiB, see `semattn.utils.profiling.profile`; differences
        of a few MiB are noise
    sensitivity : share of the patch map that changes with the target, see
        `semattn.metrics.randomization.total_variation`; None without another class, or if a
        map is zero
    refusal : why there is no explanation; "" if there is one
    """

    method: str
    explanation: Explanation | None = None
    seconds: float | None = None
    peak_mib: float | None = None
    sensitivity: float | None = None
    refusal: str = ""


@dataclass(frozen=True, repr=False)
class Comparison(NotebookView):
    """Result of `compare`: one row for each method, and the values that all methods share.

    Parameters
    ----------
    rows : results of the methods, in the order of the runs
    explanation : the first explanation, with the image, keypoints, prediction and target
    other : the second class used to measure sensitivity; None without one
    """

    rows: tuple[MethodResult, ...]
    explanation: Explanation
    other: int | None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of all explanations; a note that does not hold for all starts with method names."""
        explained = [row for row in self.rows if row.explanation is not None]
        methods_by_note: dict[str, list[str]] = {}
        for row in explained:
            for note in row.explanation.notes if row.explanation else ():
                methods_by_note.setdefault(note, []).append(row.method)
        return tuple(
            note if len(methods) == len(explained) else f"{', '.join(methods)}: {note}"
            for note, methods in methods_by_note.items()
        )


def compare(
    model: nn.Module,
    image: Any,
    methods: Iterable[str] | None = None,
    *,
    target: TargetLike = None,
    progress: Progress | None = None,
    **options: Any,
) -> Comparison:
    """Explain one image with several methods, and measure time, memory and sensitivity.

    Each method gets the same prepared input and runs twice: first for the most probable class other
    than the explained one, then, with measurement, for the explained class.

    Parameters
    ----------
    model : the model to explain
    image : one image in any form that `semattn.images.prepare` accepts
    methods : names in `semattn.explainers`; None is all of them, with the semattn method first and
        the baselines last
    target : as for `Explainer.attribute`
    progress : called before each method with its name, its number (from 1) and the number of
        methods
    options : options of all explainers: density, detector, layers, refine, preprocessing, seed

    Raises
    ------
    ValueError, TypeError
        For an unknown method or option; the message names the nearest one.
    SemattnError
        For a wrong image or target, or if no method supports the model.

    Examples
    --------
    >>> import timm
    >>> vit = timm.create_model("test_vit", img_size=64)
    >>> x = torch.rand(1, 3, 64, 64, generator=torch.manual_seed(0))
    >>> comparison = compare(vit, x, ["sift-patch-interrelation", "attention-rollout"])
    >>> comparison.rows[0].sensitivity > 0, comparison.rows[1].sensitivity
    (True, 0.0)
    """
    names = check_methods(methods, options)
    subject = _Subject(model, image, target, options)
    rows: list[MethodResult] = []
    refusals: list[SemattnError] = []
    for number, name in enumerate(names, 1):
        if progress is not None:
            progress(name, number, len(names))
        try:
            rows.append(subject.row(name))
        except (TargetError, ImageError):
            raise
        except SemattnError as error:
            rows.append(MethodResult(name, refusal=str(error)))
            refusals.append(error)
    if subject.first is None:
        raise refusals[0]
    return Comparison(tuple(rows), subject.first, subject.other)


def check_methods(methods: Iterable[str] | None, options: dict[str, Any]) -> tuple[str, ...]:
    """Check the names of methods and options, and return the names of the methods.

    Raises
    ------
    ValueError, TypeError
        As `compare` does.
    """
    Explainer(**options)
    if isinstance(methods, str):
        raise TypeError(f"methods: expected a list of names, got {methods!r} — put it into a list")
    registered = sorted(explainers, key=lambda name: explainers[name].is_baseline)
    names = tuple(dict.fromkeys([OURS, *registered] if methods is None else methods))
    for name in names:
        explainers.resolve(name)
    if not names:
        raise ValueError("methods: expected one name at least, got none — leave it out for all")
    return names


def _target_sensitivity(first: Tensor, second: Tensor) -> float | None:
    """Return the share of a map that changes with the target; None if a map is zero."""
    share = float(total_variation(first, second))
    return share if share == share else None


class _Subject:
    """One image and one model, prepared once for all methods."""

    def __init__(
        self, model: nn.Module, image: Any, target: TargetLike, options: dict[str, Any]
    ) -> None:
        self.model = check_model(model, compiled=True)
        self.target = target
        preprocessing = options.get("preprocessing") or (
            lambda: Preprocessing.of(self.model, needed_by="semattn.compare")
        )
        self.images = prepare(image, preprocessing)
        if len(self.images.inputs) != 1:
            raise ShapeError(
                f"image: expected one image, got a batch of {len(self.images.inputs)} — "
                "compare the methods image by image"
            )
        self.options = options
        self.device = model_device(self.model)
        self.first: Explanation | None = None
        self.other: int | None = None

    def row(self, name: str) -> MethodResult:
        """Run and measure one method; raise SemattnError if it does not support the model."""
        try:
            explainer: Explainer = explainers[name](**self.options)
        except ValueError as error:  # only this explainer does not accept the options
            raise SemattnError(str(error)) from error
        if self.first is None:
            self.first = explainer.explain(self.model, self.images, target=self.target)
            self.other = _most_probable_other(self.first)
        other_map = None if self.other is None else self._explain(explainer, self.other).patch_map
        explanation, cost = profile(lambda: self._explain(explainer, self.target), self.device)
        explanation = replace(
            explanation,
            keypoints=self.first.keypoints,
            manifest=self.first.manifest | {"method": name, "parameters": explainer.parameters()},
        )
        sensitivity = (
            None if other_map is None else _target_sensitivity(explanation.patch_map, other_map)
        )
        return MethodResult(name, explanation, cost.seconds, cost.peak_mib, sensitivity)

    def _explain(self, explainer: Explainer, target: TargetLike) -> Explanation:
        """Explain as `attribute` does: detect keypoints only if the method needs them."""
        return explainer.explain(self.model, self.images, target=target, map_only=True)


def _most_probable_other(explanation: Explanation) -> int | None:
    """Return the most probable class other than the explained one; None without classes."""
    if explanation.target is None or not explanation.output.has_answers or explanation.outputs < 2:
        return None
    logits = explanation.logits[0].detach().clone()
    logits[explanation.target[0]] = -torch.inf
    return int(logits.argmax())
