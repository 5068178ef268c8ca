"""Calls of a model and images, each as numbers that must be the same on every device.

The same cases run on the simulated accelerator and under another default device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import semattn
from semattn import integrations, report, viz
from semattn.density import Scene, clean_density, concentration, densities, strata
from semattn.explain import explainers, load_maps, save_maps
from semattn.explain.refine import refinements
from semattn.grid import PatchGrid
from semattn.images import Preprocessing, pixels_of
from semattn.keypoints import detect
from semattn.masking import (
    DescriptorWords,
    descriptor_targets,
    kamim_weight,
    loss_weights,
    mask_images,
    masked_target_loss,
    patch_targets,
)
from semattn.masking.policies import policies
from semattn.metrics import faithfulness, localization, randomization
from semattn.prompting import AttentionPrompter, Box, Mask, Points, Polygon, prompt_sources
from semattn.prompting.strength_sweep import strength_sweep

from .models import SIZE, build
from .report.pages import corners
from .spurious import planted

GRID = PatchGrid((3, 4), SIZE, (16, 16), prefix=1)
Case = Callable[[nn.Module, Tensor], Any]

# The fewest runs of the methods that run a model many times.
_FEW: dict[str, dict[str, Any]] = {
    "integrated-gradients": {"n_steps": 3},
    "smooth-grad": {"nt_samples": 2},
    "occlusion": {"window": (16, 16), "stride": (16, 16)},
    "transition-attention": {"steps": 2},
}


def _explain(name: str, model: nn.Module, inputs: Tensor, **options: Any) -> Any:
    method = explainers[name](model, **(_FEW.get(name, {}) | options))
    explanation = method.explain(inputs)
    attribution = method.attribute(inputs, target=[1, 3])
    return (
        explanation.heat_map,
        explanation.patch_map,
        explanation.concentration,
        explanation.logits,
        explanation.target,
        attribution,
    )


def _given_density(model: nn.Module, inputs: Tensor) -> Any:
    """Explain with a density given as a tensor on the device of the images."""
    weights = inputs.new_ones(12).cumsum(0)
    return _explain("sift-patch-interrelation", model, inputs, density=weights)


def _label_targets(model: nn.Module, inputs: Tensor) -> Any:
    """Explain label targets on the CPU, as returned by a data loader."""
    labels = torch.tensor([1, 3], device="cpu")
    names = ("sift-patch-interrelation", "input-x-gradient", "occlusion")
    return [
        explainers[name](model, **_FEW.get(name, {})).attribute(inputs, target=labels)
        for name in names
    ]


def _function_targets(model: nn.Module, inputs: Tensor) -> Any:
    """Explain functions of the output, also for copies of the images."""
    each = [lambda output: output[1], lambda output: output[3]]
    return [
        explainers["occlusion"](model, **_FEW["occlusion"]).attribute(inputs, target=target)
        for target in (each, lambda output: output[:, 2])
    ]


def _density(name: str, _: nn.Module, inputs: Tensor) -> Any:
    pixels = pixels_of(inputs)
    keypoints = detect(pixels, descriptors=True)
    scene = Scene(pixels, keypoints, GRID)
    s = densities[name](scene)
    return s, concentration(s), strata(s), clean_density(inputs, name)(scene)


def _weights_of_patches(_: nn.Module, inputs: Tensor) -> Any:
    """Return concentration and strata of a density on the device of the images."""
    s = inputs.new_ones(2, 12).cumsum(1)
    return concentration(s).to(torch.float32), strata(s)


def _prompt(density: str, model: nn.Module, inputs: Tensor) -> Any:
    prompter = AttentionPrompter(model, density=density)
    return prompter(inputs), prompter.bias(None, inputs), prompter.weights(inputs)


def _prompt_options(model: nn.Module, inputs: Tensor) -> Any:
    """Prompt with selected heads and queries, and a learned strength."""
    strength = torch.tensor(0.5, device=inputs.device, requires_grad=True)
    learned = AttentionPrompter(model, strength=strength)(inputs)
    (gradient,) = torch.autograd.grad(learned.float().sum(), strength)
    results = [learned, gradient]
    queries = ("all", "class", "patches")
    return results + [
        AttentionPrompter(model, queries=selection, heads=[1])(inputs) for selection in queries
    ]


class _Cue:
    """Cue with a bias on the device of the images."""

    def bias(self, inputs: Tensor) -> Tensor:
        """(B, P), nats."""
        return -inputs.new_ones(len(inputs), 12).cumsum(1) / 6


def _steer(model: nn.Module, inputs: Tensor) -> Any:
    prompter = AttentionPrompter(model)
    row = torch.arange(12, dtype=torch.float32, device="cpu")
    mask = np.zeros(SIZE, np.uint8)
    mask[8:40, 10:30] = 255
    results = []
    for weights in (
        row, row.double(), row.to(inputs.device), row.numpy(), _Cue(), "count",
        Box(8, 8, 30, 30), Box(8, 8, 30, 30, grow=None), Points(((20, 20),)),
        Polygon(((4, 4), (40, 8), (20, 40))), Mask(mask),
    ):  # fmt: skip
        with prompter.steer(weights):
            results.append(model(inputs))
    for weights in (row / 12, Box(8, 8, 30, 30)):
        with prompter.steer(weights, suppress=True):
            results.append(model(inputs))
    return results


def _calibrate(model: nn.Module, inputs: Tensor) -> Any:
    labels = torch.tensor([1, 3], device="cpu")
    prompter = AttentionPrompter(model, density="count")
    calibration = prompter.calibrate([(inputs, labels, ["a", "b"])], strengths=(0.5,))
    tested = prompter.evaluate([(inputs.flip(3), labels)])
    return calibration.path, tested.plain, tested.prompted


def _steps(model: nn.Module, inputs: Tensor) -> Any:
    result = strength_sweep(
        explainers["sift-patch-interrelation"](), AttentionPrompter(model), inputs[:1],
        strengths=(1.0,),
    )  # fmt: skip
    return result.logits, result.maps, result.bias, result.probabilities


def _analyze(model: nn.Module, inputs: Tensor) -> Any:
    images = torch.cat([inputs, inputs.flip(2), inputs.flip(3)])
    analysis = semattn.analyze(model, images, density="sobel", n_null=3, pool_size=4, batch_size=3)
    return [value for name, value in sorted(analysis.summary().items()) if name != "manifest"]


def _report(model: nn.Module, inputs: Tensor) -> Any:
    explanation = explainers["sift-patch-interrelation"]().explain(model, inputs)
    compared = semattn.compare(model, inputs[:1], ["attention-rollout", "random"])
    page = report.html(explanation, model=model, comparison=compared, index=1)
    assert '"attention":null' not in page and "Prompting:" not in page
    rows = [row.explanation.heat_map for row in compared.rows if row.explanation]
    return [*rows, *[row.sensitivity for row in compared.rows]]


def _quantus(model: nn.Module, inputs: Tensor) -> Any:
    arrays, classes = inputs.cpu().numpy(), np.array([1, 3])
    explain = integrations.quantus_explain_func("grad-cam", batch_size=1)
    labels = torch.tensor([1, 3], device="cpu")
    return (
        explain(model, arrays, classes), explain(model, arrays, labels),
        explain(model, inputs, labels.to(inputs.device)), explain(model, arrays),
    )  # fmt: skip


def _cam(model: nn.Module, inputs: Tensor) -> Any:
    with integrations.CAM(model, "legrad") as cam:
        return cam(inputs), cam(inputs, targets=[lambda output: output[1]] * 2)


def _batches(model: nn.Module, inputs: Tensor) -> Any:
    """Explain the batches of a loader with images and labels on the CPU."""
    images, labels = inputs.cpu(), torch.tensor([1, 3], device="cpu")
    loaders: list[Any] = [
        [(images, labels), (images[:1], labels[:1])],
        [{"pixel_values": images, "labels": labels}],
        [(images, [1, 3])],
    ]
    explainer = explainers["sift-patch-interrelation"](model)
    return [
        (explanation.heat_map, explanation.target)
        for loader in loaders
        for explanation in integrations.explain_batches(
            explainer, loader, target="labels", progress=False
        )
    ]


def _files(model: nn.Module, inputs: Tensor) -> Any:
    """Draw a figure, and save and load maps."""
    explanation = explainers["sift-patch-interrelation"]().explain(model, inputs)
    viz.overlay(explanation)
    with TemporaryDirectory() as folder:
        save_maps(explanation, Path(folder) / "maps.safetensors")
        return load_maps(Path(folder) / "maps.safetensors").heat_map


def _masking(_: nn.Module, inputs: Tensor) -> Any:
    results = []
    for name in policies:
        masks = mask_images(inputs, name, loss_weight="kamim")
        results.append((masks.noise, masks.mask, masks.ids_keep, masks.loss_weight))
    return results, kamim_weight(inputs.new_ones(2, 12).cumsum(1)).to(torch.float32)


def _targets(_: nn.Module, inputs: Tensor) -> Any:
    """Compute descriptor targets, words and their losses; the words are on the CPU."""
    images = inputs.sigmoid()
    targets = [descriptor_targets(images, name) for name in ("sift", "hog+colour", "sift+pixels")]
    words = DescriptorWords(targets[0][0].cpu()).assign(targets[0])
    half = Preprocessing((1, 1), (0.5,) * 3, (0.5,) * 3)
    targets += [patch_targets(images * 2 - 1, "sift+colour", preprocessing=half)]
    mask = (inputs.new_ones(2, 12).cumsum(1) > 6).float()
    weights = loss_weights("keypoints", inputs.new_ones(2, 12).cumsum(1))
    losses = [
        masked_target_loss(targets[0].flip(1), targets[0], mask, weights),
        masked_target_loss(targets[0], words, mask),
    ]
    return targets, words, weights, losses


def _metrics(model: nn.Module, inputs: Tensor) -> Any:
    """Return metrics of a map on the device of the model, with some masks and labels on the CPU."""
    scores = inputs.new_ones(2, 12).cumsum(1)
    heat_map = GRID.upsample(scores)
    mask = torch.zeros(2, *SIZE, dtype=torch.bool, device="cpu")
    mask[:, 8:40, 10:30] = True
    labels = torch.tensor([1, 3], device="cpu")
    results = [
        getattr(localization, name)(heat_map, mask.to(heat_map.device))
        for name in ("pointing_game", "energy_pointing_game", "average_precision", "auroc",
                     "shuffled_auroc", "iou_at_mean", "iou_area_matched")
    ]  # fmt: skip
    results += [localization.gini(scores), localization.complexity(scores)]
    curves = faithfulness.curves(model, inputs, scores, labels, grid=GRID, fractions=3)
    results += [faithfulness.deletion(curves), faithfulness.insertion(curves)]
    results.append(faithfulness.faithfulness_correlation(model, inputs, scores, labels, grid=GRID))
    results += [
        randomization.total_variation(scores, scores.flip(1)),
        randomization.similarity(scores, scores),
    ]
    explain = explainers["attention-rollout"](model).attribute
    results.append(faithfulness.max_sensitivity(explain, inputs, n_samples=2))
    return results


CASES: dict[str, Case] = {
    **{f"explain {name}": partial(_explain, name) for name in sorted(explainers)},
    **{f"refine {name}": partial(_explain, "legrad", refine=name) for name in sorted(refinements)},
    "density given": _given_density,
    "label targets": _label_targets,
    "function targets": _function_targets,
    **{f"density {name}": partial(_density, name) for name in sorted(densities)},
    "weights of patches": _weights_of_patches,
    **{
        f"prompt {name}": partial(_prompt, name)
        for name in [*sorted(prompt_sources), "count", "center"]
    },
    "prompt options": _prompt_options,
    "steer": _steer,
    "calibrate": _calibrate,
    "steps": _steps,
    "analyze": _analyze,
    "report": _report,
    "quantus": _quantus,
    "cam": _cam,
    "batches": _batches,
    "files": _files,
    "masking": _masking,
    "descriptor targets": _targets,
    "metrics": _metrics,
}


PAIRS = planted.images(16, 0.95)


def search(model: nn.Module) -> semattn.Discovery:
    """Search for the cue that is planted in the first class."""
    return semattn.discover_spurious(
        model, PAIRS, preprocessing=planted.OWN, classes=[0], max_candidates=1
    )


@cache
def searched() -> tuple[semattn.SpuriousCue, nn.Module]:
    """Return the cue found on the CPU, and the model."""
    model = planted.model_of(PAIRS)
    return search(model).cues[0], model


def cue_numbers(cue: semattn.SpuriousCue) -> Any:
    """Return the measurements of a cue, without bootstrap intervals and p-values."""
    groups = [(group.count, group.accuracy, group.prompted) for group in cue.groups]
    effects = [cue.removal.mean, cue.transplant.mean]
    return cue.inside, cue.outside, cue.covers, cue.keypoints, cue.place, effects, groups


@cache
def on_cpu(name: str) -> list[np.ndarray]:
    """Return the numbers of a case on the CPU."""
    return numbers(CASES[name](cpu_model(), corners(2)))


@cache
def cpu_model() -> nn.Module:
    """Return the model of `on_cpu`."""
    return build("class-token")


def numbers(value: Any) -> list[np.ndarray]:
    """Return all numbers in a result, as arrays on the CPU, in order."""
    if isinstance(value, Tensor):
        values = value.detach().cpu()
        return [values.double().numpy() if values.is_floating_point() else values.numpy()]
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, bool | int | float | np.generic):
        return [np.asarray(value, dtype=np.float64)]
    if is_dataclass(value) and not isinstance(value, type):
        return numbers([getattr(value, field.name) for field in fields(value)])
    if isinstance(value, Mapping):
        return numbers([value[name] for name in sorted(value)])
    if isinstance(value, list | tuple):
        return [array for entry in value for array in numbers(entry)]
    return []


def assert_same(actual: Any, expected: list[np.ndarray]) -> None:
    """Assert equality within float32 tolerance."""
    pairs = list(zip(numbers(actual), expected, strict=True))
    assert pairs
    for actual_array, expected_array in pairs:
        np.testing.assert_allclose(actual_array, expected_array, rtol=1e-3, atol=1e-5)
