"""Maps of AttnLRP against those of hilrp and of LXT, with the same rules.

    python -m benchmarks.studies.explain.propagation_peers [--images 3]

hilrp (MIT) explains timm's ViTs by gamma rules; LXT (BSD) propagates by its own patches of
transformers' and torchvision's ViTs. Both need packages that semattn does not install, see
docs/benchmarks.md, so this runs in an environment of its own. Each row is one model and one set of
rules: rank correlation and largest difference of the maps, over pixels and over means of patches.
The result is written to benchmarks/results/propagation_peers.json after every row.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

import semattn
from benchmarks import RESULTS_DIR
from semattn import AttnLRP
from semattn.evaluation.methods import grid_of
from semattn.evaluation.peer_methods import put_back
from semattn.images import Preprocessing, prepare
from semattn.utils.atomic_files import write_text

from ...datasets.objects_on_scenes import ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root

RESULT = RESULTS_DIR / "propagation_peers.json"
COLUMNS = [
    {"key": "peer", "title": "reference"}, {"key": "model", "title": "model"},
    {"key": "rules", "title": "rules"},
    {"key": "pixels", "title": "Spearman, pixels", "format": ".4f"},
    {"key": "patches", "title": "Spearman, patches", "format": ".4f"},
    {"key": "difference", "title": "largest difference / maximum", "format": ".1e"},
]  # fmt: skip

Reference = Callable[[nn.Module, Tensor, int], Tensor]  # model, (1, C, H, W), class -> (H, W)


def by_hilrp(mode: str, gamma: float, model: nn.Module, x: Tensor, target: int) -> Tensor:
    """Return hilrp's map of a timm ViT, on pixels."""
    import copy

    import hilrp
    import hilrp.vit_lxt as port
    import zennit.core

    with put_back([port, zennit.core.BasicHook, *port.VIT_PATCH_MAP]):
        result = hilrp.attribute(
            copy.deepcopy(model), x, target=target, arch="vit", attn_mode=mode, gamma=gamma
        )
    return result["pixel_map"]


@contextmanager
def patched_by_lxt(patches: dict[Any, Any]) -> Iterator[None]:
    """Apply patches of LXT to classes and modules, and undo them."""
    from lxt.efficient.patches import patch_method

    with put_back(patches):
        for owner, patch in patches.items():
            if callable(patch):
                patch(owner)
            else:
                function, keep_original = patch
                patch_method(function, owner, keep_original=keep_original)
        yield


def by_lxt(
    patches: Callable[[], dict[Any, Any]], model: nn.Module, x: Tensor, target: int
) -> Tensor:
    """Return input times gradient under LXT's patches."""
    with patched_by_lxt(patches()):
        inputs = x.clone().requires_grad_()
        output = model(inputs)
        logits = getattr(output, "logits", output)
        (gradient,) = torch.autograd.grad(logits[0, target], inputs)
    return (x * gradient)[0].sum(dim=0).detach()


def lxt_of_transformers() -> dict[Any, Any]:
    """Return LXT's AttnLRP patches for ViT of transformers."""
    import transformers.models.vit.modeling_vit as vit
    from lxt.efficient.patches import layer_norm_forward, non_linear_forward, patch_attention
    from transformers.activations import GELUActivation

    return {
        nn.LayerNorm: (layer_norm_forward, False),
        GELUActivation: (non_linear_forward, True),
        vit: patch_attention,
    }


def lxt_of_torchvision() -> dict[Any, Any]:
    """Return LXT's own patches for torchvision's ViT: constant attention."""
    from lxt.efficient.models.vit_torch import cp_LRP

    return dict(cp_LRP)


def spread(model: nn.Module) -> nn.Module:
    """Return the model with noise on every parameter, so that none stays 0 or 1."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.05 if parameter.ndim > 1 else 0.1))
    return model.eval().requires_grad_(False)


def timm_vit() -> nn.Module:
    """Return a ViT-Ti/16 of timm with random weights."""
    import timm

    return spread(timm.create_model("vit_tiny_patch16_224", num_classes=10))


def torchvision_vit() -> nn.Module:
    """Return a small ViT of torchvision with random weights."""
    from torchvision.models import VisionTransformer

    return spread(VisionTransformer(224, 16, 6, 3, 192, 768, num_classes=10))


def transformers_vit() -> nn.Module:
    """Return a small ViT of transformers with random weights."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=768,
        num_labels=10,
    )  # fmt: skip
    return spread(ViTForImageClassification(config))


PLAIN = {"gamma": 0.0, "conv_gamma": 0.0}
Row = tuple[str, str, Callable[[], nn.Module], str, Reference, dict[str, Any]]


def rows() -> list[Row]:
    """Return reference, model, its constructor, rules, the reference's map, and our options."""
    listed: list[Row] = []
    for label, build in (("embedded ViT", semattn.load), ("timm ViT-Ti/16, random", timm_vit)):
        for mode, attention in (("attnlrp", "attn-lrp"), ("cp", "cp-lrp")):
            for gamma in (0.05, 0.25):
                options = {"gamma": gamma, "conv_gamma": gamma, "attention": attention}
                rules = f"{attention}, gamma {gamma}"
                listed.append(
                    ("hilrp", label, build, rules, partial(by_hilrp, mode, gamma), options)
                )
    listed.append(
        (
            "LXT", "transformers ViT, random", transformers_vit, "attn-lrp, gamma 0",
            partial(by_lxt, lxt_of_transformers), PLAIN,
        )
    )  # fmt: skip
    listed.append(
        (
            "LXT", "torchvision ViT, random", torchvision_vit, "cp-lrp, gamma 0",
            partial(by_lxt, lxt_of_torchvision), PLAIN | {"attention": "cp-lrp"},
        )
    )  # fmt: skip
    return listed


def spearman(first: Tensor, second: Tensor) -> float:
    """Return the rank correlation of two maps."""
    from scipy.stats import spearmanr

    return float(spearmanr(first.flatten().double(), second.flatten().double())[0])


def compare(row: Row, pictures: list[Any]) -> dict[str, Any]:
    """Return one row of the table: the lowest correlation over the pictures."""
    peer, label, build, rules, reference, options = row
    model = build().eval().requires_grad_(False)
    pixels, patches, differences = [], [], []
    for picture, target in pictures:
        x = prepare(picture, Preprocessing((224, 224), (0.5,) * 3, (0.5,) * 3)).inputs
        ours = AttnLRP(**options).attribute(model, x, target=target).sum(dim=1)
        theirs = reference(model, x, target)[None]
        grid = grid_of(model, x)
        pixels.append(spearman(ours, theirs))
        patches.append(spearman(grid.pool(ours), grid.pool(theirs)))
        differences.append(float((ours - theirs).abs().max() / theirs.abs().max()))
    return {
        "peer": peer, "model": label, "rules": rules, "pixels": min(pixels),
        "patches": min(patches), "difference": max(differences),
    }  # fmt: skip


def main() -> None:
    """Compare all maps and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=3, help="number of pictures (3)")
    options = parser.parse_args()
    compositions = ObjectsOnScenes(default_root(), "validation", count=options.images, seed=0)
    pictures = [(compositions[number].image, number % 10) for number in range(options.images)]
    table: list[dict[str, Any]] = []
    for row in rows():
        table.append(compare(row, pictures))
        print(table[-1], flush=True)
        names = ("hilrp", "lxt", "zennit", "timm", "transformers", "torchvision", "torch")
        versions = {name: version(name) for name in names}
        caption = (
            f"AttnLRP against the references with the same rules, {options.images} compositions of "
            "the development split, in float32; the lowest rank correlation and the largest "
            f"difference over them. hilrp {versions['hilrp']}, lxt {versions['lxt']}, "
            f"transformers {versions['transformers']}, torch {versions['torch'].split('+')[0]}. "
            "Made by `python -m benchmarks.studies.explain.propagation_peers`."
        )
        result = {"caption": caption, "columns": COLUMNS, "rows": table, "versions": versions}
        write_text(RESULT, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
