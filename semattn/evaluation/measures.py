"""Metrics of a comparison, which are its columns; each is computed for one map of one image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.output_meaning import part_of
from ..attention.target import answer_target
from ..images import Images
from ..metrics import conservation, faithfulness, localization, randomization
from ..targets import OutputMeaning
from ..utils.registry import Registry, unknown_name_message
from .methods import Map, Method

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Setting:
    """Settings of perturbation metrics, see `semattn.metrics.faithfulness.curves`.

    `precision` is the precision of the model on perturbed images, as in `torch.autocast`; maps are
    computed in the model's own precision.
    """

    baseline: str = "blur"
    black: tuple[float, ...] | None = None
    steps: int = 16
    batch_size: int = 32
    n_samples: int = 32
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(unknown_name_message("precision", self.precision, PRECISIONS))


@dataclass(frozen=True)
class Case:
    """One map and the cached inputs of its metrics.

    `mask` (1, H, W) is the object mask, None if unknown; `others` (M, H, W) are masks of other
    images, for the shuffled AUROC; `second` is the most probable other class. `output` is the
    meaning of the model's output, which has `outputs` numbers.
    """

    model: nn.Module
    images: Images
    target: int
    second: int
    method: Method
    explanation: Map
    mask: Tensor | None
    others: Tensor | None
    setting: Setting
    output: OutputMeaning = field(default_factory=OutputMeaning)
    outputs: int = 2

    def predict(self, images: Tensor) -> Tensor:
        """Return the score of each class, (N, K); for a binary model those of its two answers."""
        is_low_precision = self.setting.precision != "float32"
        dtype = getattr(torch, self.setting.precision) if is_low_precision else torch.bfloat16
        with torch.autocast(images.device.type, dtype=dtype, enabled=is_low_precision):
            scores = self.output.scores(part_of(self.model(images), self.output))
        return scores.float() if is_low_precision else scores

    def probabilities(self, scores: Tensor) -> Tensor:
        """Return the probability of each class, (N, K), given the scores of `predict`."""
        probabilities = self.output.score_probabilities(scores)
        assert probabilities is not None, "evaluate refuses models without classes"
        return probabilities

    @property
    def classes(self) -> Tensor:
        """Target class, (1,)."""
        return torch.tensor([self.target], device=self.images.inputs.device)

    @cached_property
    def curves(self) -> faithfulness.Curves:
        """Deletion and insertion curves."""
        return self._curves(self.setting.steps)

    @cached_property
    def eraser(self) -> faithfulness.Curves:
        """Curves at the fractions of sufficiency and comprehensiveness."""
        return self._curves(faithfulness.ERASER)

    def _curves(self, fractions: Any) -> faithfulness.Curves:
        setting = self.setting
        return faithfulness.curves(
            self.predict, self.images.inputs, self.explanation.patches, self.classes,
            grid=self.explanation.grid, baseline=setting.baseline, black=setting.black,
            fractions=fractions, batch_size=setting.batch_size, seed=setting.seed,
            probabilities=self.probabilities,
        )  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """Metric: its function of a `Case`, its title, and whether higher values are better.

    `mask` tells whether it needs an object mask, `core` whether it is computed by default.
    """

    function: Callable[[Case], Tensor]
    title: str
    higher_is_better: bool = True
    mask: bool = False
    core: bool = False


measures: Registry[Any] = Registry("metric")
"""Columns of a comparison: each `Measure` by its name."""

map_functions: dict[str, tuple[str, Callable[..., Tensor]]] = {}
"""Names of the measures that are one function, to its arguments and the function itself."""


def _register(name: str, title: str, **options: Any) -> Callable[[Any], Any]:
    def decorate(function: Callable[[Case], Tensor]) -> Any:
        measures.register(name)(Measure(function, title, **options))
        return function

    return decorate


def _register_localization(
    name: str, title: str, function: Callable[..., Tensor], core: bool = False
) -> None:
    def located(case: Case) -> Tensor:
        assert case.mask is not None
        return function(case.explanation.heat_map.detach().cpu(), case.mask)

    _register(name, title, mask=True, core=core)(located)
    map_functions[name] = ("heat_map, mask", function)


_register_localization("ap", "AP", localization.average_precision, core=True)
_register_localization("pointing", "pointing game", localization.pointing_game, core=True)
_register_localization("energy", "energy over chance", localization.energy_over_chance, core=True)
_register_localization("auroc", "AUROC", localization.auroc)
_register_localization("iou-mean", "IoU at the mean", localization.iou_at_mean)
_register_localization("iou-area", "IoU of the same area", localization.iou_area_matched)


@_register("shuffled-auroc", "shuffled AUROC", mask=True)
def _shuffled(case: Case) -> Tensor:
    assert case.mask is not None
    return localization.shuffled_auroc(
        case.explanation.heat_map.detach().cpu(), case.mask, case.others
    )


def _register_perturbation(
    name: str, title: str, function: Callable[[faithfulness.Curves], Tensor], **options: Any
) -> None:
    _register(name, title, **options)(lambda case: function(case.curves))
    map_functions[name] = ("curve", function)


_register_perturbation(
    "insertion-deletion", "ins − del", faithfulness.insertion_deletion, core=True
)
_register_perturbation("insertion", "insertion", faithfulness.insertion, core=True)
_register_perturbation(
    "deletion", "deletion", faithfulness.deletion, higher_is_better=False, core=True
)
_register_perturbation("lerf-morf", "LeRF − MoRF", faithfulness.lerf_morf)
_register_perturbation("aopc", "AOPC", faithfulness.aopc)


@_register("comprehensiveness", "comprehensiveness")
def _comprehensive(case: Case) -> Tensor:
    return faithfulness.comprehensiveness(case.eraser)


@_register("sufficiency", "sufficiency", higher_is_better=False)
def _sufficient(case: Case) -> Tensor:
    return faithfulness.sufficiency(case.eraser)


@_register("conservation-error", "conservation error", higher_is_better=False)
def _conservation_error(case: Case) -> Tensor:
    """NaN for methods that do not distribute the score over the inputs."""
    ratio = case.explanation.conservation
    if ratio is None:
        return torch.full((1,), torch.nan, device="cpu")
    return conservation.conservation_error(ratio)


@_register("faithfulness-correlation", "faithfulness correlation")
def _correlated(case: Case) -> Tensor:
    setting = case.setting
    return faithfulness.faithfulness_correlation(
        case.predict, case.images.inputs, case.explanation.patches, case.classes,
        grid=case.explanation.grid, baseline=setting.baseline, black=setting.black,
        n_sets=setting.n_samples,
        batch_size=setting.batch_size,
        seed=setting.seed, probabilities=case.probabilities,
    )  # fmt: skip


@_register("infidelity", "infidelity", higher_is_better=False)
def _infidelity(case: Case) -> Tensor:
    x = case.images.inputs
    attribution = case.explanation.heat_map[:, None].to(x).expand_as(x).contiguous()
    return faithfulness.infidelity(
        case.predict,
        x,
        attribution,
        case.classes,
        n_samples=case.setting.n_samples,
        seed=case.setting.seed,
    )


def _explain_again(case: Case, inputs: Tensor, target: int) -> Tensor:
    images = replace(case.images, inputs=inputs)
    explained = answer_target(target, case.output, case.outputs)
    return case.method(case.model, images, explained).patches


@_register("max-sensitivity", "max-sensitivity", higher_is_better=False)
def _sensitive(case: Case) -> Tensor:
    def explain(inputs: Tensor) -> Tensor:
        return torch.cat([_explain_again(case, image[None], case.target) for image in inputs])

    return faithfulness.max_sensitivity(
        explain, case.images.inputs, n_samples=5, seed=case.setting.seed
    )


@_register("target-sensitivity", "target sensitivity")
def _target(case: Case) -> Tensor:
    second_map = _explain_again(case, case.images.inputs, case.second)
    return randomization.total_variation(case.explanation.patches, second_map)


def _register_sparseness(
    name: str, title: str, function: Callable[..., Tensor], **options: Any
) -> None:
    _register(name, title, **options)(lambda case: function(case.explanation.patches))
    map_functions[name] = ("patch_map", function)


_register_sparseness("gini", "sparseness (Gini)", localization.gini)
_register_sparseness("complexity", "complexity", localization.complexity, higher_is_better=False)
