"""Migrate from pytorch-grad-cam: the same call, without target layers and reshape functions.

    pip install tqdm ttach && pip install --no-deps grad-cam    # without a second OpenCV
    python examples/grad_cam_users.py

Runs without pretrained weights: the model is a tiny timm ViT with random weights, so that the maps
have no meaning. The example shows the calls.
"""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from PIL import Image
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from semattn import Preprocessing, prepare
from semattn.integrations import CAM

PHOTO = Path(__file__).parent / "flower.jpg"


def main() -> None:
    """Explain two classes of one photograph, and overlay one of the maps."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit").eval()
    image = prepare(PHOTO, Preprocessing.of(model))
    inputs = image.inputs.repeat(2, 1, 1, 1)

    # with GradCAM(model, [model.blocks[-1].norm1], reshape_transform=...) as cam:
    with CAM(model) as cam:
        maps = cam(
            input_tensor=inputs, targets=[ClassifierOutputTarget(3), ClassifierOutputTarget(7)]
        )
    print("maps:", maps.shape, maps.dtype, f"from {maps.min():.0f} to {maps.max():.0f}")

    picture = show_cam_on_image(image.pixels[0].astype("float32") / 255, maps[0], use_rgb=True)
    Image.fromarray(picture).save("cam.png")
    print("picture: cam.png")


if __name__ == "__main__":
    main()
