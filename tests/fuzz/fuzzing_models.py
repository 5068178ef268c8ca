"""Fuzzing areas: calls of models for explanations, and attention recorded, steered and prompted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from semattn import AttentionPrompter, explainers, record, steer
from semattn.density import densities
from semattn.explain.explanation import load_maps, save_maps
from semattn.explain.refine import refinements
from semattn.prompting import Box, Mask, Points, Polygon

from .fuzzing import NAMES, ODD_VALUES, Attempt, Generator, model_state, pick, random_number
from .fuzzing_images import random_array, random_image_input, random_tensor
from .fuzzing_patches import random_density, random_pixels

SIZE, CLASSES, PATCHES = (32, 48), 4, 6
PLAIN = {
    "img_size": SIZE, "patch_size": 16, "embed_dim": 8, "depth": 2, "num_heads": 2,
    "num_classes": CLASSES, "mlp_ratio": 1,
}  # fmt: skip
SLOW = ("integrated-gradients", "occlusion", "smooth-grad", "transition-attention")


class OddOutput(nn.Module):
    """Model whose output is not what a classifier returns."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner = VisionTransformer(**PLAIN)
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        """Return the changed logits."""
        return self.answer(self.inner(x))


OUTPUTS: tuple[Callable[[Tensor], Any], ...] = (
    lambda y: y * float("nan"), lambda y: y[:, :0], lambda y: y.sum(), lambda y: y[:, 0],
    lambda y: y[:1], lambda y: y.detach(), lambda y: {"logits": y}, lambda _: {}, lambda _: None,
    lambda y: [y, y], lambda y: y[:, :, None].expand(-1, -1, 3), lambda y: y.to(torch.complex64),
    lambda y: (y > 0), lambda y: y.double(), lambda y: y.repeat(2, 1), lambda _: "logits",
    lambda y: y * 1e38 * 1e38, lambda y: y * 0, lambda y: y[0], lambda y: y.unsqueeze(0),
)  # fmt: skip


def make_models() -> list[nn.Module]:
    """Return tiny models: plain, without class token or head, with relative positions, odd ones."""
    torch.manual_seed(0)
    grey_model = VisionTransformer(**PLAIN | {"in_chans": 1})
    models: list[nn.Module] = [
        VisionTransformer(**PLAIN),
        VisionTransformer(**PLAIN, dynamic_img_size=True, reg_tokens=2),
        VisionTransformer(**PLAIN, class_token=False, global_pool="avg"),
        Beit(**PLAIN, use_rel_pos_bias=True, use_abs_pos_emb=False),
        VisionTransformer(**PLAIN | {"num_classes": 0}),
        grey_model,
        *(OddOutput(output) for output in OUTPUTS),
        nn.Identity(), nn.Sequential(),
    ]  # fmt: skip
    for model in models:
        model.eval()
        model.pretrained_cfg = {"input_size": (1 if model is grey_model else 3, *SIZE)}  # type: ignore[assignment]
    return models


def pick_model(rng: Generator, models: list[nn.Module]) -> nn.Module:
    """Return a model, usually a valid one."""
    return models[int(rng.integers(6))] if rng.random() < 0.75 else pick(rng, models)


def random_images(rng: Generator) -> Any:
    """Return inputs for a model, usually valid ones."""
    kind = rng.random()
    if kind < 0.1:
        return random_image_input(rng)
    sides = SIZE if kind < 0.95 else pick(rng, ((48, 32), (16, 16), (33, 48), (0, 48), (160, 16)))
    pixels = random_pixels(rng, pick(rng, (1, 1, 1, 2, 2, 2, 3, 0)), *sides)
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    change = rng.integers(20)
    if change == 0:
        values = values.to(pick(rng, (torch.float16, torch.bfloat16, torch.float64)))
    elif change == 1:
        values = values.mean(1, keepdim=True)
    elif change == 2 and values.numel():
        values = values.contiguous()
        values.view(-1)[0] = float(pick(rng, (np.nan, np.inf, 1e38, -1e9)))
    elif change == 3:
        values = values.requires_grad_()
    elif change == 4:
        values = values * 0 + 0.5
    elif change == 5:
        return (values,) if rng.random() < 0.5 else (values, values)
    elif change == 6:
        return pixels[0] if len(pixels) else pixels
    return values


def random_target(rng: Generator, batch: int = 2) -> Any:
    """Return a target, valid or not."""
    kind = rng.integers(-8, 9)
    if kind < -2:
        return None
    if kind < 4:
        return int(rng.integers(CLASSES))
    if kind == 4:
        return [int(label) for label in rng.integers(-1, CLASSES + 1, batch)]
    if kind == 5:
        return random_tensor(rng) if rng.random() < 0.5 else torch.randint(0, CLASSES, (batch,))
    if kind == 6:
        return pick(rng, TARGET_FUNCTIONS)
    if kind == 7:
        return pick(rng, ((0,), (0, 1), (-1,), [(0,), (1,)], (CLASSES,), [()], ([],), "cat", NAMES))
    return random_number(rng)


TARGET_FUNCTIONS: tuple[Any, ...] = (
    lambda y: y[:, 0], lambda y: y.sum(), lambda y: y.detach()[:, 0], lambda _: 0, lambda _: None,
    lambda y: y[:, 0] * float("nan"), lambda y: y, lambda y: y.argmax(1), lambda y: y[:, 99],
    [lambda y: y[0], lambda y: y[1]], [lambda y: y], [], [lambda y: y.sum(), 0],
    lambda _: 1 / 0, lambda y: torch.ones(len(y), requires_grad=True),
)  # fmt: skip


def explanations(work: Path) -> Attempt:
    """Return the attempt on explainers with odd options, images and targets."""
    tested_models = make_models()
    before = [model_state(model) for model in tested_models]
    names = sorted(explainers)

    def attempt(rng: Generator) -> None:
        model = pick_model(rng, tested_models)
        name = pick(rng, names)
        if name in SLOW and rng.random() < 0.8:
            name = "sift-patch-interrelation"
        try:
            explain_once(rng, model, name, work)
        finally:
            index = tested_models.index(model)
            is_changed = model_state(model) != before[index]
            before[index] = model_state(model)
        assert not is_changed, "the model was changed"

    return attempt


def explain_once(rng: Generator, model: nn.Module, name: str, work: Path) -> None:
    """Compute one explanation and check it."""
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["density"] = pick(rng, sorted(densities)) if rng.random() < 0.6 else pick(
            rng, (random_density(rng, 2, PATCHES), random_array(rng), *ODD_VALUES))  # fmt: skip
    if rng.random() < 0.15:
        options["layers"] = pick(rng, ("all", "last-half", "first", 0, [1], [-1], [0, 0], [], 99,
                                       slice(0, 1), slice(5, 9), *ODD_VALUES))  # fmt: skip
    if rng.random() < 0.1:
        options["refine"] = pick(rng, (*sorted(refinements), "x", *ODD_VALUES))
    if rng.random() < 0.1:
        options["detector"] = pick(rng, ("sift", "x", *ODD_VALUES))
    if rng.random() < 0.1:
        options["seed"] = random_number(rng)
    if rng.random() < 0.1 and name == "sift-patch-interrelation":
        options["affinity"], options["queries"] = (
            random_number(rng),
            pick(rng, ("class", "all", "x", None)),
        )
    explainer = explainers[name](**options)
    inputs, target_value = random_images(rng), random_target(rng)
    arguments = {} if rng.random() < 0.95 else {"additional_forward_args": pick(rng, ODD_VALUES)}
    kind = rng.random()
    if kind < 0.6:
        heat_map = explainer.attribute(model, inputs, target=target_value, **arguments)
        heat_map = heat_map[0] if isinstance(heat_map, tuple) else heat_map
    elif kind < 0.8:
        heat_map = explainer.patch_map(model, inputs, target=target_value, **arguments)
    else:
        explanation = explainer.explain(model, inputs, target=target_value, **arguments)
        heat_map = explanation.heat_map
        file = save_maps(explanation, work / "maps")
        assert torch.equal(load_maps(file).heat_map, heat_map)
    assert bool(heat_map.isfinite().all())
    assert heat_map.numel()


def random_region(rng: Generator) -> Any:
    """Return a region of the image, possibly an empty or invalid one."""
    corners = [(float(x), float(y)) for x, y in rng.normal(16, 20, (int(rng.integers(0, 5)), 2))]
    kind = rng.integers(6)
    if kind == 0:
        return Box(*(random_number(rng) for _ in range(4)))
    if kind == 1:
        return Box(*sorted(rng.normal(16, 20, 4)))
    if kind == 2:
        return Polygon(corners)
    if kind == 3:
        return Points(corners, *(() if rng.random() < 0.5 else (random_number(rng),)))
    if kind == 4:
        return Mask(random_array(rng))
    return Points([(random_number(rng), random_number(rng))])


def attention(work: Path) -> Attempt:
    """Return the attempt to record, steer and prompt attention with odd arguments."""
    tested_models = make_models()
    before = [model_state(model) for model in tested_models]

    def attempt(rng: Generator) -> None:
        model = pick_model(rng, tested_models)
        try:
            pick(rng, (record_once, steer_once, prompt_once))(rng, model)
        finally:
            index = tested_models.index(model)
            is_changed = model_state(model) != before[index]
            before[index] = model_state(model)
        assert not is_changed, "the model was changed"

    return attempt


def record_once(rng: Generator, model: nn.Module) -> None:
    """Record attention and reduce the record."""
    inputs = random_images(rng)
    while not isinstance(inputs, Tensor):
        inputs = random_images(rng)
    grad = pick(rng, (True, False, "last", "x", None)) if rng.random() < 0.5 else True
    attention_record = record(
        model, inputs, target=random_target(rng), layers=random_layers(rng), grad=grad
    )
    if attention_record.read_from is not None and bool(attention_record.logits.isfinite().all()):
        for random_tensor in attention_record.reduce(attention_record.readout()):
            assert bool(random_tensor.isfinite().all())
    attention_record.dense(pick(rng, (0, 1, -1, 9)))


def random_layers(rng: Generator) -> Any:
    """Return layers, usually valid ones."""
    return None if rng.random() < 0.8 else pick(rng, (0, [1], "all", "x", [], 9, *ODD_VALUES))


def steer_once(rng: Generator, model: nn.Module) -> None:
    """Run a model with a bias on the scores of its tokens."""
    bias: Any = torch.from_numpy(rng.normal(size=pick(rng, (1, 2, 7, (2, 7), 6, (2, 1, 7), 0))))
    if rng.random() < 0.3:
        bias = pick(rng, (random_tensor(rng), *ODD_VALUES))
    channels = model.pretrained_cfg["input_size"][0]  # type: ignore[index]
    inputs = torch.from_numpy(random_pixels(rng, 2, *SIZE)).permute(0, 3, 1, 2)[:, :channels] / 255
    heads = None if rng.random() < 0.8 else pick(rng, ([0], [5], [], 0, "x"))
    with steer(model, bias, layers=random_layers(rng), heads=heads), torch.no_grad():
        model(inputs)


def prompt_once(rng: Generator, model: nn.Module) -> None:
    """Run a prompter with odd options and odd weights."""
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["strength"] = random_number(rng)
    if rng.random() < 0.1:
        options["clip"] = random_number(rng)
    if rng.random() < 0.2:
        options["density"] = pick(rng, (*sorted(densities), "received", "x", *ODD_VALUES))
    if rng.random() < 0.1:
        options["queries"] = pick(rng, ("class", "patches", "x", None))
    if rng.random() < 0.1:
        options["layers"] = random_layers(rng)
    prompter = AttentionPrompter(model, **options)
    inputs = random_images(rng)
    with torch.no_grad():
        if rng.random() < 0.4:
            prompter(inputs)
            return
        target = pick(rng, (random_region, lambda rng: random_density(rng, 2, PATCHES)))(rng)
        with prompter.steer(target, suppress=bool(rng.random() < 0.3)):
            model(inputs)
