"""semattn among Captum's tools: noise tunnel, infidelity and sensitivity of one explainer.

    python examples/captum_pipeline.py

Runs without any weights: the model is a tiny timm ViT with random ones, so that the numbers mean
nothing and the calls are what there is to see.
"""

from __future__ import annotations

import timm
import torch
from captum.attr import NoiseTunnel
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor

from semattn import SIFTPatchInterrelation


def perturbed(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """A little noise, and the inputs with it taken away."""
    noise = 0.02 * torch.randn_like(inputs)
    return noise, inputs - noise


def main() -> None:
    """Make a map, and hand the explainer to each of the tools."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit", img_size=64).eval()
    inputs = torch.rand(2, 3, 64, 64)
    target = model(inputs).argmax(dim=1)

    explainer = SIFTPatchInterrelation(model)
    attribution = explainer.attribute(inputs, target=target)
    print("attribution:", tuple(attribution.shape))

    smooth = NoiseTunnel(explainer).attribute(
        inputs, nt_type="smoothgrad", nt_samples=4, stdevs=0.05, target=target
    )
    print("noise tunnel:", tuple(smooth.shape))

    unfaithful = infidelity(model, perturbed, inputs, attribution, target=target)
    print("infidelity:", [f"{value:.2g}" for value in unfaithful.tolist()])

    moved = sensitivity_max(explainer.attribute, inputs, n_perturb_samples=2, target=target)
    print("largest sensitivity:", [f"{value:.2f}" for value in moved.tolist()])


if __name__ == "__main__":
    main()
