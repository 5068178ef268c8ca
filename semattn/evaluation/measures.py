"""The columns of a comparison: each a number of one map of one image."""

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
from ..metrics import faithfulness, localization, randomization, robustness, sparseness
from ..targets import OutputMeaning
from ..utils.registry import Registry, choices
from .methods import Map, Method

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Setting:
    """How perturbation metrics are run: see `semattn.metrics.faithfulness.curves`.

    `precision` is what the model computes perturbed images in, as `torch.autocast` does; maps are
    made in the model's own.
    """

    baseline: str = "blur"
    black: tuple[float, ...] | None = None
    steps: int = 16
    batch_size: int = 32
    draws: int = 32
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(choices("precision", self.precision, PRECISIONS))


@dataclass(frozen=True)
class Case:
    """One map, and all that a measure may ask: what was asked once is kept.

    `mask` (1, H, W) is where the object is, None where nobody knows; `others` (M, H, W) are masks
    of other images, for the shuffled AUROC; `second` is the likeliest other class. `output` says
    what the `outputs` numbers of the model are.
    """

    model: nn.Module
    images: Images
    target: int
    second: int
    method: Method
    made: Map
    mask: Tensor | None
    others: Tensor | None
    setting: Setting
    output: OutputMeaning = field(default_factory=OutputMeaning)
    outputs: int = 2

    def predict(self, images: Tensor) -> Tensor:
        """The score of each class, (N, K); of a binary model those of its two answers."""
        low = self.setting.precision != "float32"
        dtype = getattr(torch, self.setting.precision) if low else torch.bfloat16
        with torch.autocast(images.device.type, dtype=dtype, enabled=low):
            made = self.output.scores(part_of(self.model(images), self.output))
        return made.float() if low else made

    def probabilities(self, scores: Tensor) -> Tensor:
        """The probability of each class, (N, K), from what `predict` gives."""
        found = self.output.score_probabilities(scores)
        assert found is not None, "evaluate refuses models without classes"
        return found

    @property
    def classes(self) -> Tensor:
        """The target, (1,)."""
        return torch.tensor([self.target], device=self.images.inputs.device)

    @cached_property
    def curves(self) -> faithfulness.Curves:
        """Deletion and insertion."""
        return self._curves(self.setting.steps)

    @cached_property
    def eraser(self) -> faithfulness.Curves:
        """The same at the parts that sufficiency and comprehensiveness ask for."""
        return self._curves(faithfulness.ERASER)

    def _curves(self, parts: Any) -> faithfulness.Curves:
        at = self.setting
        return faithfulness.curves(
            self.predict, self.images.inputs, self.made.patches, self.classes,
            grid=self.made.grid, baseline=at.baseline, black=at.black, parts=parts,
            batch_size=at.batch_size, seed=at.seed, probabilities=self.probabilities,
        )  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """A column: what it is of, whether more is better, and what it needs."""

    of: Callable[[Case], Tensor]
    title: str
    more: bool = True
    mask: bool = False
    core: bool = False


measures = Registry("metric")
"""Name to a `Measure`, the columns of a comparison."""


def _enter(name: str, title: str, **options: Any) -> Callable[[Any], Any]:
    def enter(of: Callable[[Case], Tensor]) -> Any:
        measures.register(name)(Measure(of, title, **options))
        return of

    return enter


def _located(name: str, title: str, of: Callable[..., Tensor], core: bool = False) -> None:
    def located(case: Case) -> Tensor:
        assert case.mask is not None
        return of(case.made.heat.detach().cpu(), case.mask)

    _enter(name, title, mask=True, core=core)(located)


_located("ap", "AP", localization.average_precision, core=True)
_located("pointing", "pointing game", localization.pointing_game, core=True)
_located("energy", "energy over chance", localization.energy_over_chance, core=True)
_located("auroc", "AUROC", localization.auroc)
_located("iou-mean", "IoU at the mean", localization.iou_at_mean)
_located("iou-area", "IoU of the same area", localization.iou_area_matched)


@_enter("shuffled-auroc", "shuffled AUROC", mask=True)
def _shuffled(case: Case) -> Tensor:
    assert case.mask is not None
    return localization.shuffled_auroc(case.made.heat.detach().cpu(), case.mask, case.others)


def _curved(name: str, title: str, of: Callable[[faithfulness.Curves], Tensor], **o: Any) -> None:
    _enter(name, title, **o)(lambda case: of(case.curves))


_curved("insertion-deletion", "ins − del", faithfulness.insertion_deletion, core=True)
_curved("insertion", "insertion", faithfulness.insertion, core=True)
_curved("deletion", "deletion", faithfulness.deletion, more=False, core=True)
_curved("lerf-morf", "LeRF − MoRF", faithfulness.lerf_morf)
_curved("aopc", "AOPC", faithfulness.aopc)


@_enter("comprehensiveness", "comprehensiveness")
def _comprehensive(case: Case) -> Tensor:
    return faithfulness.comprehensiveness(case.eraser)


@_enter("sufficiency", "sufficiency", more=False)
def _sufficient(case: Case) -> Tensor:
    return faithfulness.sufficiency(case.eraser)


@_enter("faithfulness-correlation", "faithfulness correlation")
def _correlated(case: Case) -> Tensor:
    at = case.setting
    return faithfulness.faithfulness_correlation(
        case.predict, case.images.inputs, case.made.patches, case.classes, grid=case.made.grid,
        baseline=at.baseline, black=at.black, draws=at.draws, batch_size=at.batch_size,
        seed=at.seed, probabilities=case.probabilities,
    )  # fmt: skip


@_enter("infidelity", "infidelity", more=False)
def _infidelity(case: Case) -> Tensor:
    x = case.images.inputs
    spread = case.made.heat[:, None].to(x).expand_as(x).contiguous()
    return robustness.infidelity(
        case.predict, x, spread, case.classes, draws=case.setting.draws, seed=case.setting.seed
    )


def _again(case: Case, inputs: Tensor, target: int) -> Tensor:
    images = replace(case.images, inputs=inputs)
    explained = answer_target(target, case.output, case.outputs)
    return case.method(case.model, images, explained).patches


@_enter("max-sensitivity", "max-sensitivity", more=False)
def _sensitive(case: Case) -> Tensor:
    def explain(inputs: Tensor) -> Tensor:
        return torch.cat([_again(case, one[None], case.target) for one in inputs])

    return robustness.max_sensitivity(explain, case.images.inputs, draws=5, seed=case.setting.seed)


@_enter("target-sensitivity", "target sensitivity")
def _target(case: Case) -> Tensor:
    other = _again(case, case.images.inputs, case.second)
    return randomization.moved(case.made.patches, other)


@_enter("gini", "sparseness (Gini)")
def _gini(case: Case) -> Tensor:
    return sparseness.gini(case.made.patches)


@_enter("complexity", "complexity", more=False)
def _complexity(case: Case) -> Tensor:
    return sparseness.complexity(case.made.patches)
