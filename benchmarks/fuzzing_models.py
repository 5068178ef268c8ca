"""Areas of hostile calls of models: explanations, and attention recorded, steered and prompted."""

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
from semattn.explain.map_files import load_maps, save_maps
from semattn.explain.refine import refinements
from semattn.prompting import Box, Mask, Points, Polygon

from .fuzzing import NAMES, NEITHER, Chance, Try, number, pick, state_of
from .fuzzing_images import anything, array, tensor
from .fuzzing_patches import density_values, smooth

SIZE, CLASSES, PATCHES = (32, 48), 4, 6
PLAIN = {
    "img_size": SIZE, "patch_size": 16, "embed_dim": 8, "depth": 2, "num_heads": 2,
    "num_classes": CLASSES, "mlp_ratio": 1,
}  # fmt: skip
SLOW = ("integrated-gradients", "occlusion", "smooth-grad", "transition-attention")


class Odd(nn.Module):
    """A model whose output is what no classifier gives."""

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner = VisionTransformer(**PLAIN)
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        """The logits, made odd."""
        return self.answer(self.inner(x))


ANSWERS: tuple[Callable[[Tensor], Any], ...] = (
    lambda y: y * float("nan"), lambda y: y[:, :0], lambda y: y.sum(), lambda y: y[:, 0],
    lambda y: y[:1], lambda y: y.detach(), lambda y: {"logits": y}, lambda _: {}, lambda _: None,
    lambda y: [y, y], lambda y: y[:, :, None].expand(-1, -1, 3), lambda y: y.to(torch.complex64),
    lambda y: (y > 0), lambda y: y.double(), lambda y: y.repeat(2, 1), lambda _: "logits",
    lambda y: y * 1e38 * 1e38, lambda y: y * 0, lambda y: y[0], lambda y: y.unsqueeze(0),
)  # fmt: skip


def models() -> list[nn.Module]:
    """Tiny ones: plain, without a class token, with relative positions, of features, odd ones."""
    torch.manual_seed(0)
    grey = VisionTransformer(**PLAIN | {"in_chans": 1})
    made: list[nn.Module] = [
        VisionTransformer(**PLAIN),
        VisionTransformer(**PLAIN, dynamic_img_size=True, reg_tokens=2),
        VisionTransformer(**PLAIN, class_token=False, global_pool="avg"),
        Beit(**PLAIN, use_rel_pos_bias=True, use_abs_pos_emb=False),
        VisionTransformer(**PLAIN | {"num_classes": 0}),
        grey,
        *(Odd(answer) for answer in ANSWERS),
        nn.Identity(), nn.Sequential(),
    ]  # fmt: skip
    for one in made:
        one.eval()
        one.pretrained_cfg = {"input_size": (1 if one is grey else 3, *SIZE)}  # type: ignore[assignment]
    return made


def one_of(rng: Chance, some: list[nn.Module]) -> nn.Module:
    """A model; the right ones more often."""
    return some[int(rng.integers(6))] if rng.random() < 0.75 else pick(rng, some)


def images(rng: Chance) -> Any:
    """Images for a model: mostly such as it takes."""
    kind = rng.random()
    if kind < 0.1:
        return anything(rng)
    sides = SIZE if kind < 0.95 else pick(rng, ((48, 32), (16, 16), (33, 48), (0, 48), (160, 16)))
    pixels = smooth(rng, pick(rng, (1, 1, 1, 2, 2, 2, 3, 0)), *sides)
    values = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    how = rng.integers(20)
    if how == 0:
        values = values.to(pick(rng, (torch.float16, torch.bfloat16, torch.float64)))
    elif how == 1:
        values = values.mean(1, keepdim=True)
    elif how == 2 and values.numel():
        values = values.contiguous()
        values.view(-1)[0] = float(pick(rng, (np.nan, np.inf, 1e38, -1e9)))
    elif how == 3:
        values = values.requires_grad_()
    elif how == 4:
        values = values * 0 + 0.5
    elif how == 5:
        return (values,) if rng.random() < 0.5 else (values, values)
    elif how == 6:
        return pixels[0] if len(pixels) else pixels
    return values


def target(rng: Chance, batch: int = 2) -> Any:
    """A class, or what is none."""
    kind = rng.integers(-8, 9)
    if kind < -2:
        return None
    if kind < 4:
        return int(rng.integers(CLASSES))
    if kind == 4:
        return [int(one) for one in rng.integers(-1, CLASSES + 1, batch)]
    if kind == 5:
        return tensor(rng) if rng.random() < 0.5 else torch.randint(0, CLASSES, (batch,))
    if kind == 6:
        return pick(rng, FUNCTIONS)
    if kind == 7:
        return pick(rng, ((0,), (0, 1), (-1,), [(0,), (1,)], (CLASSES,), [()], ([],), "cat", NAMES))
    return number(rng)


FUNCTIONS: tuple[Any, ...] = (
    lambda y: y[:, 0], lambda y: y.sum(), lambda y: y.detach()[:, 0], lambda _: 0, lambda _: None,
    lambda y: y[:, 0] * float("nan"), lambda y: y, lambda y: y.argmax(1), lambda y: y[:, 99],
    [lambda y: y[0], lambda y: y[1]], [lambda y: y], [], [lambda y: y.sum(), 0],
    lambda _: 1 / 0, lambda y: torch.ones(len(y), requires_grad=True),
)  # fmt: skip


def explained(work: Path) -> Try:
    """Explainers of every kind, with odd options, on odd images, for odd targets."""
    some = models()
    before = [state_of(one) for one in some]
    names = sorted(explainers)

    def attempt(rng: Chance) -> None:
        model = one_of(rng, some)
        name = pick(rng, names)
        if name in SLOW and rng.random() < 0.8:
            name = "sift-patch-interrelation"
        try:
            explain(rng, model, name, work)
        finally:
            place = some.index(model)
            left = state_of(model) != before[place]
            before[place] = state_of(model)
        assert not left, "the model was changed"

    return attempt


def explain(rng: Chance, model: nn.Module, name: str, work: Path) -> None:
    """One explanation."""
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["density"] = pick(rng, sorted(densities)) if rng.random() < 0.6 else pick(
            rng, (density_values(rng, 2, PATCHES), array(rng), *NEITHER))  # fmt: skip
    if rng.random() < 0.15:
        options["layers"] = pick(rng, ("all", "last-half", "first", 0, [1], [-1], [0, 0], [], 99,
                                       slice(0, 1), slice(5, 9), *NEITHER))  # fmt: skip
    if rng.random() < 0.1:
        options["refine"] = pick(rng, (*sorted(refinements), "x", *NEITHER))
    if rng.random() < 0.1:
        options["detector"] = pick(rng, ("sift", "x", *NEITHER))
    if rng.random() < 0.1:
        options["seed"] = number(rng)
    if rng.random() < 0.1 and name == "sift-patch-interrelation":
        options["growth"], options["queries"] = number(rng), pick(rng, ("class", "all", "x", None))
    explainer = explainers[name](**options)
    given, wanted = images(rng), target(rng)
    more = {} if rng.random() < 0.95 else {"additional_forward_args": pick(rng, NEITHER)}
    kind = rng.random()
    if kind < 0.6:
        heat = explainer.attribute(model, given, target=wanted, **more)
        heat = heat[0] if isinstance(heat, tuple) else heat
    elif kind < 0.8:
        heat = explainer.patch_map(model, given, target=wanted, **more)
    else:
        made = explainer.explain(model, given, target=wanted, **more)
        heat = made.heat
        file = save_maps(made, work / "maps")
        assert torch.equal(load_maps(file).heat, heat)
    assert bool(heat.isfinite().all())
    assert heat.numel()


def region(rng: Chance) -> Any:
    """A part of the picture, or nothing of it."""
    corners = [(float(x), float(y)) for x, y in rng.normal(16, 20, (int(rng.integers(0, 5)), 2))]
    kind = rng.integers(6)
    if kind == 0:
        return Box(*(number(rng) for _ in range(4)))
    if kind == 1:
        return Box(*sorted(rng.normal(16, 20, 4)))
    if kind == 2:
        return Polygon(corners)
    if kind == 3:
        return Points(corners, *(() if rng.random() < 0.5 else (number(rng),)))
    if kind == 4:
        return Mask(array(rng))
    return Points([(number(rng), number(rng))])


def attention(work: Path) -> Try:
    """Attention recorded, steered and prompted by odd weights, regions, numbers and layers."""
    some = models()
    before = [state_of(one) for one in some]

    def attempt(rng: Chance) -> None:
        model = one_of(rng, some)
        try:
            pick(rng, (recorded, steered, prompted))(rng, model)
        finally:
            place = some.index(model)
            left = state_of(model) != before[place]
            before[place] = state_of(model)
        assert not left, "the model was changed"

    return attempt


def recorded(rng: Chance, model: nn.Module) -> None:
    """A record, and what it is asked for."""
    given = images(rng)
    while not isinstance(given, Tensor):
        given = images(rng)
    grad = pick(rng, (True, False, "last", "x", None)) if rng.random() < 0.5 else True
    taken = record(model, given, target=target(rng), layers=layers(rng), grad=grad)
    if taken.read_from is not None and bool(taken.logits.isfinite().all()):
        for one in taken.reduce(taken.readout()):
            assert bool(one.isfinite().all())
    taken.dense(pick(rng, (0, 1, -1, 9)))


def layers(rng: Chance) -> Any:
    """Layers that there are, mostly."""
    return None if rng.random() < 0.8 else pick(rng, (0, [1], "all", "x", [], 9, *NEITHER))


def steered(rng: Chance, model: nn.Module) -> None:
    """A bias on the tokens."""
    bias: Any = torch.from_numpy(rng.normal(size=pick(rng, (1, 2, 7, (2, 7), 6, (2, 1, 7), 0))))
    if rng.random() < 0.3:
        bias = pick(rng, (tensor(rng), *NEITHER))
    channels = model.pretrained_cfg["input_size"][0]  # type: ignore[index]
    given = torch.from_numpy(smooth(rng, 2, *SIZE)).permute(0, 3, 1, 2)[:, :channels] / 255
    heads = None if rng.random() < 0.8 else pick(rng, ([0], [5], [], 0, "x"))
    with steer(model, bias, layers=layers(rng), heads=heads), torch.no_grad():
        model(given)


def prompted(rng: Chance, model: nn.Module) -> None:
    """A prompter of odd options, led by odd weights."""
    options: dict[str, Any] = {}
    if rng.random() < 0.3:
        options["strength"] = number(rng)
    if rng.random() < 0.1:
        options["clip"] = number(rng)
    if rng.random() < 0.2:
        options["density"] = pick(rng, (*sorted(densities), "received", "x", *NEITHER))
    if rng.random() < 0.1:
        options["queries"] = pick(rng, ("class", "patches", "x", None))
    if rng.random() < 0.1:
        options["layers"] = layers(rng)
    prompter = AttentionPrompter(model, **options)
    given = images(rng)
    with torch.no_grad():
        if rng.random() < 0.4:
            prompter(given)
            return
        led = pick(rng, (region, lambda rng: density_values(rng, 2, PATCHES)))(rng)
        with prompter.steer(led, away=bool(rng.random() < 0.3)):
            model(given)
