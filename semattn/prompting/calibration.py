"""Strength and layers chosen on validation images, and a test that is opened once.

A prompted model is another model: what suits it is a parameter like any other. It is chosen by a
rule that is stated, on images that are remembered, and the test refuses them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..attention.model_inputs import move_to_model
from ..attention.output_meaning import part_of, predict
from ..attention.sites import Layers
from ..errors import ShapeError, UnsupportedModelError
from ..targets import OutputMeaning
from ..utils.registry import choices
from ..utils.validation import check_labels
from .bias import Known

if TYPE_CHECKING:
    from .prompter import AttentionPrompter

STRENGTHS = (0.0, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4)
RULES = ("worst-group", "accuracy", "entropy", "margin")
AGREEMENT = 0.9

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Step:
    """What one strength in one set of layers does to validation images.

    `groups` is the accuracy of each group, `entropy` (nats) and `margin` (of the two likeliest
    classes' probabilities) are means over images, `agreement` is the part of the images whose
    prediction is that of the model without prompt. None is what the data do not tell.
    """

    layers: Any
    strength: float
    accuracy: float | None
    worst_group: float | None
    groups: dict[str, float]
    entropy: float
    margin: float
    agreement: float


@dataclass(frozen=True)
class Calibration:
    """What was chosen, by which rule, and the whole path that it was chosen from."""

    strength: float
    layers: Any
    rule: str
    path: tuple[Step, ...]
    images: int
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on a test split, without and with the prompt, and of each group."""

    plain: Step
    prompted: Step
    images: int
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Batch:
    inputs: Tensor
    labels: Any
    groups: list[str] | None
    marks: list[str]  # of each image


def calibrate(
    prompter: AttentionPrompter,
    loader: Iterable[Any],
    *,
    strengths: Sequence[float] = STRENGTHS,
    layers: Sequence[Layers] | None = None,
    rule: str = "auto",
    agreement: float = AGREEMENT,
    progress: Progress | None = None,
) -> Calibration:
    """Choose strength and layers of a prompter on validation images, and set them.

    Parameters
    ----------
    loader : batches: images (B, C, H, W); or (images, labels), or (images, labels, groups); or a
        mapping with "pixel_values" and, if known, "labels" and "groups". Labels are integers (B,)
        or (B, 1); those of a model with one logit are 0 (negative) and 1 (positive)
    strengths : to choose from; 0 is always among them
    layers : sets of layers to choose from; None is the prompter's own
    rule : "worst-group" (greatest accuracy of the worst group), "accuracy", or, without labels,
        "entropy" (least) or "margin" (greatest), among those whose predictions are the plain
        model's on the part `agreement` of the images; "auto" is the first that the data allow.
        Ties go to the greater accuracy, then to the weaker prompt
    progress : called with the number of batches done, and of all where it is known

    Raises
    ------
    ValueError
        For images that were a test already, no images, labels that are no classes of the model,
        or a rule that the data do not allow.
    """
    if rule not in (*RULES, "auto"):
        raise ValueError(choices("rule", rule, (*RULES, "auto")))
    wanted = sorted({0.0, *(float(one) for one in strengths)})
    sets = [prompter.layers] if layers is None else list(layers)
    trials = [prompter.at(0.0, prompter.layers)]
    trials += [prompter.at(s, each) for each in sets for s in wanted if s]
    tally, batches = _Tally(len(trials)), _batches(loader)
    outputs = _Outputs(prompter)
    marks: list[str] = []
    for number, batch in enumerate(batches, 1):
        _refuse(batch.marks, prompter.opened, "validation images", "evaluated as the test")
        marks += batch.marks
        shared = _sharing(trials, batch.inputs)
        tally.add(batch, outputs, [outputs.of(one, batch.inputs) for one in shared])
        if progress:
            progress(number, len(loader) if isinstance(loader, Sized) else None)
    path = tally.steps(trials)
    rule = _allowed(rule, path)
    best = min(path, key=lambda step: _order(step, rule, agreement))
    prompter.strength, prompter.layers = best.strength, best.layers
    prompter.validated.update(marks)
    return Calibration(best.strength, best.layers, rule, path, len(marks), _digest(marks))


def evaluate(
    prompter: AttentionPrompter,
    loader: Iterable[Any],
    *,
    again: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """The accuracy of a prompter, and of its model, on a test split: once.

    Parameters
    ----------
    loader, progress : as for `calibrate`; labels are needed
    again : open a test split once more, knowing that what was seen of it cannot be unseen

    Raises
    ------
    ValueError
        For images that strength was chosen on, or that were evaluated before.
    """
    trials = [prompter.at(0.0, prompter.layers), prompter]
    tally, batches = _Tally(2), _batches(loader)
    outputs = _Outputs(prompter)
    marks: list[str] = []
    for number, batch in enumerate(batches, 1):
        if batch.labels is None:
            raise ValueError("loader: expected labels to evaluate by, got images alone")
        _refuse(batch.marks, prompter.validated, "test images", "there when strength was chosen")
        if not again:
            _refuse(batch.marks, prompter.opened, "a test that is opened once", "evaluated before")
        marks += batch.marks
        tally.add(batch, outputs, [outputs.of(one, batch.inputs) for one in trials])
        if progress:
            progress(number, len(loader) if isinstance(loader, Sized) else None)
    plain, prompted = tally.steps(trials)
    prompter.opened.update(marks)
    return Evaluation(plain, prompted, len(marks), _digest(marks))


def _sharing(trials: list[AttentionPrompter], inputs: Tensor) -> Iterator[Any]:
    """The trials, each with the bias of these inputs, which those of the same layers share."""
    known: dict[str, Known] = {}
    for one in trials:
        if one.strength and str(one.layers) not in known:
            taken = move_to_model(one.model, inputs)
            known[str(one.layers)] = Known(one.bias(None, taken))
        yield one, known.get(str(one.layers))


class _Outputs:
    """Meaning of the model's output, decided on the first batch, and outputs of the trials."""

    def __init__(self, prompter: AttentionPrompter) -> None:
        self.model = prompter.model
        self.meaning: OutputMeaning | None = None

    def of(self, trial: Any, inputs: Tensor) -> Tensor:
        """The outputs (B, K) of a prompter, or of a prompter with its bias, on the CPU."""
        prompter, bias = trial if isinstance(trial, tuple) else (trial, None)
        taken = move_to_model(self.model, inputs)
        with torch.no_grad(), prompter.steer(bias):
            if self.meaning is None:
                found, self.meaning = predict(self.model, taken)
            else:
                found = part_of(self.model(taken), self.meaning)
        logits = found.detach().float().cpu()
        logits = logits[:, None] if logits.ndim == 1 else logits
        if self.meaning.refusal:
            raise UnsupportedModelError(self.meaning.refusal)
        if logits.ndim != 2 or len(logits) != len(inputs) or not self.meaning.has_answers:
            raise ShapeError(
                f"model output: expected scores of classes (B, K), got {tuple(found.shape)} "
                f"({self.meaning.kind.value}) — calibrate a classifier"
            )
        return logits

    def statistics(self, logits: Tensor) -> Tensor:
        """The predicted class, the entropy and the margin of each image: (B, 3)."""
        assert self.meaning is not None
        entropy, margin = self.meaning.uncertainty(logits)
        classes = self.meaning.scores(logits).argmax(dim=1)
        return torch.stack((classes.double(), entropy, margin), dim=1)

    def classes(self, logits: Tensor) -> int:
        """The number of classes that labels may have."""
        assert self.meaning is not None
        return self.meaning.answers(logits.shape[1])


class _Tally:
    """What the trials said of all images so far."""

    def __init__(self, trials: int) -> None:
        self.said: list[list[Tensor]] = [[] for _ in range(trials)]
        self.labels: list[Tensor] = []
        self.groups: list[str] = []
        self.images = 0

    def add(self, batch: _Batch, outputs: _Outputs, logits: list[Tensor]) -> None:
        """Add a batch: of each trial (B, 3): class, entropy, margin."""
        if batch.labels is not None:
            classes = outputs.classes(logits[0])
            self.labels.append(check_labels(batch.labels, len(batch.inputs), classes))
        for kept, one in zip(self.said, logits, strict=True):
            kept.append(outputs.statistics(one))
        self.images += len(batch.inputs)
        self.groups += batch.groups or []

    def steps(self, trials: list[AttentionPrompter]) -> tuple[Step, ...]:
        """What came out of each trial."""
        if not self.images:
            raise ValueError("loader: expected images, got none")
        found = [torch.cat(one) for one in self.said]
        labels = torch.cat(self.labels) if self.labels else None
        if labels is not None and len(labels) != self.images:
            raise ShapeError(f"labels: expected {self.images}, got {len(labels)} — one an image")
        if self.groups and len(self.groups) != self.images:
            raise ShapeError(
                f"groups: expected {self.images}, got {len(self.groups)} — one an image"
            )
        return tuple(
            self._step(one, said, found[0], labels) for one, said in zip(trials, found, strict=True)
        )

    def _step(
        self, trial: AttentionPrompter, said: Tensor, plain: Tensor, labels: Tensor | None
    ) -> Step:
        right = None if labels is None else (said[:, 0] == labels).double()
        groups: dict[str, float] = {}
        if right is not None:
            for name in sorted(set(self.groups)):
                inside = torch.tensor([one == name for one in self.groups], device="cpu")
                groups[name] = float(right[inside].mean())
        return Step(
            layers=trial.layers,
            strength=float(trial.strength),
            accuracy=None if right is None else float(right.mean()),
            worst_group=min(groups.values()) if groups else None,
            groups=groups,
            entropy=float(said[:, 1].mean()),
            margin=float(said[:, 2].mean()),
            agreement=float((said[:, 0] == plain[:, 0]).double().mean()),
        )


def _allowed(rule: str, path: tuple[Step, ...]) -> str:
    """The rule, if the data allow it; "auto" is the first that they do."""
    grouped, labelled = path[0].worst_group is not None, path[0].accuracy is not None
    if rule == "auto":
        return "worst-group" if grouped else "accuracy" if labelled else "entropy"
    if (rule == "worst-group" and not grouped) or (rule == "accuracy" and not labelled):
        missing = "groups" if labelled else "labels"
        raise ValueError(
            f"rule: expected {missing} in the loader for {rule!r}, got none — choose "
            "'entropy' or 'margin'"
        )
    return rule


def _order(step: Step, rule: str, agreement: float) -> tuple[float, ...]:
    """What sorts the best step first."""
    if rule == "worst-group":
        return (-(step.worst_group or 0), -(step.accuracy or 0), abs(step.strength))
    if rule == "accuracy":
        return (-(step.accuracy or 0), abs(step.strength))
    astray = float(step.agreement < agreement)
    return (astray, step.entropy if rule == "entropy" else -step.margin, abs(step.strength))


def _batches(loader: Iterable[Any]) -> Iterator[_Batch]:
    """The batches of a loader, in the one form that is used here."""
    for given in loader:
        if isinstance(given, Mapping):
            parts = [given.get("pixel_values"), given.get("labels"), given.get("groups")]
        else:
            parts = [given] if isinstance(given, Tensor) else list(given)
        inputs, labels, groups = [*parts, None, None][:3]
        if not isinstance(inputs, Tensor) or inputs.ndim != 4:
            raise ShapeError(
                "loader: expected batches of images (B, C, H, W), with labels and groups if they "
                f"are known, got {type(inputs).__name__}"
            )
        named = None if groups is None else [_name(one) for one in groups]
        yield _Batch(inputs, labels, named, _marks(inputs))


def _name(group: Any) -> str:
    return str(group.item() if isinstance(group, (Tensor, np.generic)) else group)


def _marks(inputs: Tensor) -> list[str]:
    """What tells an image from others."""
    rows = inputs.detach().to("cpu", torch.float32).contiguous().numpy()
    return [hashlib.sha256(one.tobytes()).hexdigest()[:24] for one in rows]


def _digest(marks: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(marks)).encode()).hexdigest()


def _refuse(marks: list[str], known: set[str], wanted: str, got: str) -> None:
    seen = sum(one in known for one in marks)
    if seen:
        raise ValueError(
            f"loader: expected {wanted}, got {seen} images that were {got} — keep the splits apart"
        )
