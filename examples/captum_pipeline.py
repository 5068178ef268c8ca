"""semattn with Captum's tools: noise tunnel, infidelity, sensitivity and visualization.

    python examples/captum_pipeline.py

The model is the embedded one, the photograph a dahlia. The first run downloads the weights (90 MB).

A tool that adds noise passes the noisy copies to the explainer, which by default detects keypoints
in them. `clean_density` detects them once, in the clean image, for all of its copies.
"""

from __future__ import annotations

from pathlib import Path

import torch
from captum.attr import NoiseTunnel, visualization
from captum.metrics import infidelity, sensitivity_max
from torch import Tensor

from semattn import Preprocessing, SIFTPatchInterrelation, load, prepare
from semattn.density import clean_density

PHOTO = Path(__file__).parent / "flower.jpg"


def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return a little noise, and the inputs minus this noise."""
    noise = 0.02 * torch.randn_like(inputs)
    return noise, inputs - noise


def smooth(explainer: SIFTPatchInterrelation, inputs: Tensor, target: Tensor) -> Tensor:
    """Return the mean map of four noisy copies of each image, with the same noise each time."""
    torch.manual_seed(0)
    return NoiseTunnel(explainer).attribute(
        inputs, nt_type="smoothgrad", nt_samples=4, stdevs=0.2, target=target
    )


def main() -> None:
    """Compute a map, and pass the explainer to each of the tools."""
    torch.manual_seed(0)
    model = load()
    preprocessing = Preprocessing.of(model)
    image = prepare(PHOTO, preprocessing)
    inputs = image.inputs
    target = model(inputs).argmax(dim=1)

    explainer = SIFTPatchInterrelation(model)
    attribution = explainer.attribute(inputs, target=target)
    print("classes:", [model.classes[number] for number in target.tolist()])
    print("attribution:", tuple(attribution.shape))

    noisy_map = smooth(explainer, inputs, target)
    clean_explainer = SIFTPatchInterrelation(
        model, density=clean_density(inputs, preprocessing=preprocessing)
    )
    clean_map = smooth(clean_explainer, inputs, target)
    difference = float((noisy_map - clean_map).norm() / clean_map.norm())
    print(f"noise tunnel, keypoints of noisy copies or clean image: difference {difference:.0%}")

    with torch.no_grad():
        infidelities = infidelity(model, perturb, inputs, attribution, target=target)
    print("infidelity:", [f"{value:.2g}" for value in infidelities.tolist()])

    sensitivities = sensitivity_max(
        clean_explainer.attribute, inputs, n_perturb_samples=2, target=target
    )
    print("largest sensitivity:", [f"{value:.2g}" for value in sensitivities.tolist()])

    figure, _ = visualization.visualize_image_attr(
        attribution[0].permute(1, 2, 0).numpy(),
        image.pixels[0],
        method="blended_heat_map",
        sign="positive",
        title="Evidence for flower",
        use_pyplot=False,
    )
    figure.savefig("captum.png")
    print("picture: captum.png")


if __name__ == "__main__":
    main()
