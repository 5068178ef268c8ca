"""Pre-train a masked autoencoder on a folder of photographs with keypoint-guided masks.

    python examples/pretrain_mae.py                      # parts of photographs, a minute at most
    python examples/pretrain_mae.py photos/ --model small --size 224 --patch 16 --epochs 100
    torchrun --nproc-per-node 2 examples/pretrain_mae.py photos/ …
    accelerate launch examples/pretrain_mae.py photos/ …

Uses the trainer of transformers, so that its callbacks can be passed; `semattn pretrain` does the
same on the command line. A second call resumes an interrupted run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from semattn.masking import GuidedMasking, Schedule
from semattn.pretraining import end_processes, features, pretrain, readable

TINY = {
    "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96,
    "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 64,
}  # fmt: skip


def pictures(count: int = 48) -> list[np.ndarray]:
    """Return parts of three photographs of scikit-image (CC0 and public domain)."""
    rng = np.random.default_rng(0)
    images = []
    for number in range(count):
        photo = (data.astronaut(), data.chelsea(), data.coffee())[number % 3]
        top, left = rng.integers(0, (photo.shape[0] - 160, photo.shape[1] - 160))
        part = Image.fromarray(photo[top : top + 160, left : left + 160])
        images.append(np.array(part.resize((80, 80))))
    return images


def main() -> None:
    """Pre-train a model, and compute the features of one image."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", help="folder of photographs; default: parts of photographs"
    )
    parser.add_argument("--out", type=Path, default=Path("pretrain-mae"))
    parser.add_argument(
        "--model", default=None, help="tiny, small or base; default: smaller than tiny"
    )
    parser.add_argument("--size", type=int, default=32, help="side of a crop, pixels (32)")
    parser.add_argument("--patch", type=int, default=8, help="side of a patch, pixels (8)")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument(
        "--batch-size", type=int, default=16, help="batch size over all processes (16)"
    )
    options = parser.parse_args()

    # Mask patches with few keypoints first (easy), with many keypoints last (hard).
    beta = Schedule(-2.0, 2.0, options.epochs, "cosine")
    run = pretrain(
        pictures() if options.folder is None else readable(options.folder)[0],
        options.out,
        masking=GuidedMasking(mask_ratio=0.75, beta=beta),
        model=options.model or TINY,
        image_size=options.size,
        patch_size=options.patch,
        target="pixels",  # the default is "sift"
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=1e-2 if options.model is None else 1.5e-4,
        device="cpu" if options.model is None else "auto",
    )
    end_processes()
    if not run.is_main:
        return
    for line in run.log:
        print(f"epoch {line['epoch']:g}: loss {line['loss']:.4f}, {line['seconds']:.1f} s")
    pixels = run.data[0, 0]["pixel_values"][None].to(run.model.device)
    print("features", tuple(features(run.model, pixels).shape), "model", options.out / "model")
    print(f"picture: {options.out / 'reconstruction.png'}")


if __name__ == "__main__":
    main()
