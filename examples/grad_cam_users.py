"""Migrate from pytorch-grad-cam: the same call, without target layers and reshape functions.

    pip install tqdm ttach && pip install --no-deps grad-cam    # without a second OpenCV
    python examples/grad_cam_users.py

The model is the embedded one, the photograph a cat. The first run downloads the weights (90 MB).
"""

from __future__ import annotations

from PIL import Image
from pytorch_grad_cam.utils.image import show_cam_on_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from skimage import data

from semattn import Preprocessing, load, prepare
from semattn.integrations import CAM


def main() -> None:
    """Explain two classes of one photograph, and overlay one of the maps."""
    model = load()
    image = prepare(data.chelsea(), Preprocessing.of(model))
    inputs = image.inputs.repeat(2, 1, 1, 1)

    # with GradCAM(model, [model.blocks[-1].norm1], reshape_transform=...) as cam:
    with CAM(model) as cam:
        classes = [model.classes.index(name) for name in ("mammal", "insect")]
        maps = cam(input_tensor=inputs, targets=[ClassifierOutputTarget(one) for one in classes])
    print("maps:", maps.shape, maps.dtype, f"from {maps.min():.0f} to {maps.max():.0f}")

    picture = show_cam_on_image(image.pixels[0].astype("float32") / 255, maps[0], use_rgb=True)
    Image.fromarray(picture).save("cam.png")
    print("picture: cam.png")


if __name__ == "__main__":
    main()
