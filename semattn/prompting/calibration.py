"""Selection of strength and layers on validation images, and evaluation on a test split.

Strength and layers are hyperparameters: `calibrate` selects them by a stated rule on validation
images. The prompter remembers these images, and `evaluate` raises if the test split contains one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..attention.model_call import move_to_model
from ..attention.output_meaning import part_of, predict
from ..attention.sites import Layers
from ..errors import ShapeError, UnsupportedModelError
from ..targets import OutputMeaning
from ..utils.processes import Progress
from ..utils.registry import unknown_name_message
from ..utils.validation import check_labels
from .bias import StoredCue

if TYPE_CHECKING:
    from .prompter import AttentionPrompter

STRENGTHS = (0.0, 0.15, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4)
RULES = ("worst-group", "accuracy", "entropy", "margin")
AGREEMENT = 0.9


@dataclass(frozen=True)
class TrialMetrics:
    """Metrics of one strength and one set of layers on a set of images.

    `groups` is the accuracy of each group. `entropy` (nats) and `margin` (difference of the two
    largest class probabilities) are means over images. `agreement` is the fraction of images with
    the same prediction as the model without prompt. Values that need missing labels are None.
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
    """Selected strength and layers, the rule, and the metrics of all candidates."""

    strength: float
    layers: Any
    rule: str
    path: tuple[TrialMetrics, ...]
    images: int
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as a dict of JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Evaluation:
    """Metrics on a test split, without and with the prompt."""

    plain: TrialMetrics
    prompted: TrialMetrics
    images: int
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as a dict of JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class _Batch:
    inputs: Tensor
    labels: Any
    groups: list[str] | None
    image_ids: list[str]


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
    """Select strength and layers of a prompter on validation images, and set them.

    Parameters
    ----------
    loader : batches: images (B, C, H, W); or (images, labels), or (images, labels, groups); or a
        mapping with "pixel_values" and, if known, "labels" and "groups". Labels are integers (B,)
        or (B, 1); those of a model with one logit are 0 (negative) and 1 (positive)
    strengths : candidates; 0 is always included
    layers : candidate sets of layers; None uses the layers of the prompter
    rule : "worst-group" (highest worst-group accuracy) or "accuracy"; without labels, "entropy"
        (lowest) or "margin" (highest) among the candidates that agree with the plain model on at
        least the fraction `agreement` of the images; "auto" is the first rule that the data allow.
        Ties go to the higher accuracy, then to the weaker prompt
    progress : called with the stage, the number of finished batches and the total, if it is known

    Raises
    ------
    ValueError
        If an image was evaluated as test before, there are no images, a label is not a class of the
        model, or the data do not allow the rule.
    """
    if rule not in (*RULES, "auto"):
        raise ValueError(unknown_name_message("rule", rule, (*RULES, "auto")))
    sorted_strengths = sorted({0.0, *(float(value) for value in strengths)})
    layer_sets = [prompter.layers] if layers is None else list(layers)
    trials = [prompter.at(0.0, prompter.layers)]
    trials += [
        prompter.at(strength, layer_set)
        for layer_set in layer_sets
        for strength in sorted_strengths
        if strength
    ]
    results, batches = _TrialResults(len(trials)), _batches(loader)
    outputs = _Outputs(prompter)
    image_ids: list[str] = []
    for number, batch in enumerate(batches, 1):
        _check_unused(
            batch.image_ids, prompter.test_ids, "new validation images", "used as test images"
        )
        image_ids += batch.image_ids
        shared_trials = _with_shared_bias(trials, batch.inputs)
        results.add(batch, outputs, [outputs.of(trial, batch.inputs) for trial in shared_trials])
        if progress:
            progress("calibrating", number, len(loader) if isinstance(loader, Sized) else None)
    path = results.steps(trials)
    rule = _resolve_rule(rule, path)
    best = min(path, key=lambda step: _sort_key(step, rule, agreement))
    prompter.strength, prompter.layers = best.strength, best.layers
    prompter.validation_ids.update(image_ids)
    return Calibration(best.strength, best.layers, rule, path, len(image_ids), _hash_ids(image_ids))


def evaluate(
    prompter: AttentionPrompter,
    loader: Iterable[Any],
    *,
    allow_repeat: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate a prompter and its model on a test split, once.

    Parameters
    ----------
    loader, progress : as for `calibrate`; labels are needed
    allow_repeat : allow images that were evaluated before; the result is then no longer an
        unbiased test

    Raises
    ------
    ValueError
        If an image was used for calibration or was evaluated before.
    """
    trials = [prompter.at(0.0, prompter.layers), prompter]
    results, batches = _TrialResults(2), _batches(loader)
    outputs = _Outputs(prompter)
    image_ids: list[str] = []
    for number, batch in enumerate(batches, 1):
        if batch.labels is None:
            raise ValueError("loader: expected labels for evaluation, got images only")
        _check_unused(
            batch.image_ids, prompter.validation_ids, "new test images", "used for calibration"
        )
        if not allow_repeat:
            _check_unused(batch.image_ids, prompter.test_ids, "new test images", "evaluated before")
        image_ids += batch.image_ids
        results.add(batch, outputs, [outputs.of(trial, batch.inputs) for trial in trials])
        if progress:
            progress("measuring", number, len(loader) if isinstance(loader, Sized) else None)
    plain, prompted = results.steps(trials)
    prompter.test_ids.update(image_ids)
    return Evaluation(plain, prompted, len(image_ids), _hash_ids(image_ids))


def _with_shared_bias(trials: list[AttentionPrompter], inputs: Tensor) -> Iterator[Any]:
    """Yield the trials with their bias for these inputs, computed once per set of layers."""
    biases: dict[str, StoredCue] = {}
    for trial in trials:
        if trial.strength and str(trial.layers) not in biases:
            model_inputs = move_to_model(trial.model, inputs)
            biases[str(trial.layers)] = StoredCue(trial.bias(None, model_inputs))
        yield trial, biases.get(str(trial.layers))


class _Outputs:
    """Outputs of the trials, and the meaning of the output as determined on the first batch."""

    def __init__(self, prompter: AttentionPrompter) -> None:
        self.model = prompter.model
        self.meaning: OutputMeaning | None = None

    def of(self, trial: Any, inputs: Tensor) -> Tensor:
        """Return the outputs (B, K), on the CPU, of a prompter or a pair (prompter, bias)."""
        prompter, bias = trial if isinstance(trial, tuple) else (trial, None)
        model_inputs = move_to_model(self.model, inputs)
        with torch.no_grad(), prompter.steer(bias):
            if self.meaning is None:
                output, self.meaning = predict(self.model, model_inputs)
            else:
                output = part_of(self.model(model_inputs), self.meaning)
        logits = output.detach().float().cpu()
        logits = logits[:, None] if logits.ndim == 1 else logits
        if self.meaning.refusal:
            raise UnsupportedModelError(self.meaning.refusal)
        if logits.ndim != 2 or len(logits) != len(inputs) or not self.meaning.has_answers:
            raise ShapeError(
                f"model output: expected class scores (B, K), got {tuple(output.shape)} "
                f"({self.meaning.kind.value}) — calibrate a classifier"
            )
        return logits

    def statistics(self, logits: Tensor) -> Tensor:
        """Return the predicted class, the entropy and the margin of each image: (B, 3)."""
        assert self.meaning is not None
        entropy, margin = self.meaning.uncertainty(logits)
        classes = self.meaning.scores(logits).argmax(dim=1)
        return torch.stack((classes.double(), entropy, margin), dim=1)

    def classes(self, logits: Tensor) -> int:
        """Return the number of classes that labels may have."""
        assert self.meaning is not None
        return self.meaning.answers(logits.shape[1])


class _TrialResults:
    """Statistics of each trial for the images seen so far."""

    def __init__(self, trials: int) -> None:
        self.results: list[list[Tensor]] = [[] for _ in range(trials)]
        self.labels: list[Tensor] = []
        self.groups: list[str] = []
        self.images = 0

    def add(self, batch: _Batch, outputs: _Outputs, logits: list[Tensor]) -> None:
        """Add the statistics of a batch: class, entropy and margin (B, 3) of each trial."""
        if batch.labels is not None:
            classes = outputs.classes(logits[0])
            self.labels.append(check_labels(batch.labels, len(batch.inputs), classes))
        for trial_results, trial_logits in zip(self.results, logits, strict=True):
            trial_results.append(outputs.statistics(trial_logits))
        self.images += len(batch.inputs)
        self.groups += batch.groups or []

    def steps(self, trials: list[AttentionPrompter]) -> tuple[TrialMetrics, ...]:
        """Return the metrics of each trial."""
        if not self.images:
            raise ValueError("loader: expected images, got none")
        values = [torch.cat(batches) for batches in self.results]
        labels = torch.cat(self.labels) if self.labels else None
        if labels is not None and len(labels) != self.images:
            raise ShapeError(
                f"labels: expected {self.images} labels, got {len(labels)} — give one per image"
            )
        if self.groups and len(self.groups) != self.images:
            raise ShapeError(
                f"groups: expected {self.images} groups, got {len(self.groups)} — give one per "
                "image"
            )
        return tuple(
            self._step(trial, trial_values, values[0], labels)
            for trial, trial_values in zip(trials, values, strict=True)
        )

    def _step(
        self, trial: AttentionPrompter, values: Tensor, plain_values: Tensor, labels: Tensor | None
    ) -> TrialMetrics:
        correct = None if labels is None else (values[:, 0] == labels).double()
        groups: dict[str, float] = {}
        if correct is not None:
            for name in sorted(set(self.groups)):
                in_group = torch.tensor([group == name for group in self.groups], device="cpu")
                groups[name] = float(correct[in_group].mean())
        return TrialMetrics(
            layers=trial.layers,
            strength=float(trial.strength),
            accuracy=None if correct is None else float(correct.mean()),
            worst_group=min(groups.values()) if groups else None,
            groups=groups,
            entropy=float(values[:, 1].mean()),
            margin=float(values[:, 2].mean()),
            agreement=float((values[:, 0] == plain_values[:, 0]).double().mean()),
        )


def _resolve_rule(rule: str, path: tuple[TrialMetrics, ...]) -> str:
    """Return the rule if the data allow it; for "auto", the first rule that they allow."""
    grouped, labelled = path[0].worst_group is not None, path[0].accuracy is not None
    if rule == "auto":
        return "worst-group" if grouped else "accuracy" if labelled else "entropy"
    if (rule == "worst-group" and not grouped) or (rule == "accuracy" and not labelled):
        missing = "groups" if labelled else "labels"
        raise ValueError(
            f"rule: expected {missing} in the loader for {rule!r}, got none — use "
            "'entropy' or 'margin'"
        )
    return rule


def _sort_key(step: TrialMetrics, rule: str, agreement: float) -> tuple[float, ...]:
    """Return the key that sorts the best candidate first."""
    if rule == "worst-group":
        return (-(step.worst_group or 0), -(step.accuracy or 0), abs(step.strength))
    if rule == "accuracy":
        return (-(step.accuracy or 0), abs(step.strength))
    disagrees = float(step.agreement < agreement)
    return (disagrees, step.entropy if rule == "entropy" else -step.margin, abs(step.strength))


def _batches(loader: Iterable[Any]) -> Iterator[_Batch]:
    """Yield the batches of a loader as `_Batch`."""
    for batch in loader:
        if isinstance(batch, Mapping):
            parts = [batch.get("pixel_values"), batch.get("labels"), batch.get("groups")]
        else:
            parts = [batch] if isinstance(batch, Tensor) else list(batch)
        inputs, labels, groups = [*parts, None, None][:3]
        if not isinstance(inputs, Tensor) or inputs.ndim != 4:
            raise ShapeError(
                "loader: expected batches of images (B, C, H, W), optionally with labels and "
                f"groups, got {type(inputs).__name__}"
            )
        group_names = None if groups is None else [_group_name(group) for group in groups]
        yield _Batch(inputs, labels, group_names, _image_ids(inputs))


def _group_name(group: Any) -> str:
    return str(group.item() if isinstance(group, (Tensor, np.generic)) else group)


def _image_ids(inputs: Tensor) -> list[str]:
    """Return an identifier of the content of each image."""
    rows = inputs.detach().to("cpu", torch.float32).contiguous().numpy()
    return [hashlib.sha256(row.tobytes()).hexdigest()[:24] for row in rows]


def _hash_ids(image_ids: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(image_ids)).encode()).hexdigest()


def _check_unused(image_ids: list[str], used_ids: set[str], expected: str, got: str) -> None:
    num_used = sum(image_id in used_ids for image_id in image_ids)
    if num_used:
        raise ValueError(
            f"loader: expected {expected}, got {num_used} images that were {got} — use disjoint "
            "splits"
        )
