"""semattn among Captum's tools: noise tunnel, infidelity, sensitivity and pictures.

    python examples/captum_pipeline.py

Runs without any weights: the model is a tiny timm ViT with random ones, so that the numbers mean
nothing and the calls are what there is to see.

Where do keypoints come from when a tool adds noise to the image? By default from what the model
gets, the noisy copy. `clean_density` finds them once, in the clean image, for all of its copies.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from captum.attr import NoiseTunnel, visualization
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor

from semattn import Preprocessing, SIFTPatchInterrelation, prepare
from semattn.density import clean_density

PHOTO = Path(__file__).parent / "flower.jpg"


def perturbed(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """A little noise, and the inputs with it taken away."""
    noise = 0.02 * torch.randn_like(inputs)
    return noise, inputs - noise


def smoothed(explainer: SIFTPatchInterrelation, inputs: Tensor, target: Tensor) -> Tensor:
    """The mean map of eight noisy copies of each image; the same noise each time."""
    torch.manual_seed(0)
    return NoiseTunnel(explainer).attribute(
        inputs, nt_type="smoothgrad", nt_samples=8, stdevs=0.2, target=target
    )


def main() -> None:
    """Make a map, and hand the explainer to each of the tools."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit").eval()
    for block in model.blocks:  # attention of untrained weights is even; this one chooses
        torch.nn.init.normal_(block.attn.qkv.weight, std=0.5)
    wants = Preprocessing.of(model)
    image = prepare(PHOTO, wants)
    inputs = torch.cat([image.inputs, image.inputs.flip(3)])
    target = model(inputs).argmax(dim=1)

    explainer = SIFTPatchInterrelation(model)
    attribution = explainer.attribute(inputs, target=target)
    print("attribution:", tuple(attribution.shape))

    noisy = smoothed(explainer, inputs, target)
    held = SIFTPatchInterrelation(model, density=clean_density(inputs, preprocessing=wants))
    clean = smoothed(held, inputs, target)
    apart = float((noisy - clean).norm() / clean.norm())
    print(f"noise tunnel, keypoints of noisy copies and of the clean image: {apart:.0%} apart")

    unfaithful = infidelity(model, perturbed, inputs, attribution, target=target)
    print("infidelity:", [f"{value:.2g}" for value in unfaithful.tolist()])

    moved = sensitivity_max(held.attribute, inputs, n_perturb_samples=2, target=target)
    print("largest sensitivity:", [f"{value:.2g}" for value in moved.tolist()])

    figure, _ = visualization.visualize_image_attr(
        attribution[0].permute(1, 2, 0).numpy(),
        image.pixels[0],
        method="blended_heat_map",
        sign="positive",
        use_pyplot=False,
    )
    figure.savefig("captum.png")
    print("picture: captum.png")


if __name__ == "__main__":
    main()
