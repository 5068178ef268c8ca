"""Small run for tests; as a script, it can be killed or started in several processes."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image

TINY = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}  # fmt: skip
SIZES = {"image_size": 32, "patch_size": 8, "model": TINY}


def pictures(count: int = 24) -> list[np.ndarray]:
    """Return different pictures of texture on a smooth background, in various sizes."""
    images = []
    for number in range(count):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 255, (5, 5, 3), dtype=np.uint8))
        picture = np.array(coarse.resize((48 + number % 5, 44), Image.Resampling.BICUBIC))
        top, left = rng.integers(0, 20, 2)
        picture[top : top + 20, left : left + 20] = rng.integers(0, 255, (20, 20, 3))
        images.append(picture)
    return images


def options(**more):
    """Return the arguments of a run."""
    from semattn.masking import GuidedMasking, Schedule

    usual = {
        "masking": GuidedMasking(0.75, 1, Schedule(-2, 2, 4)), "epochs": 4, "batch_size": 8,
        "learning_rate": 1e-2, "seed": 1, "device": "cpu", "reconstructions": 0,
        "target": "pixels",
    }  # fmt: skip
    return SIZES | usual | more


def main(out: str, settings: str) -> None:
    """Run `pretrain`; each process records the items that it loaded."""
    import torch

    from semattn.pretraining import MaskedImages, end_processes, pretrain

    torch.set_num_threads(1)
    arguments = json.loads(settings)
    stop, items = arguments.pop("stop", None), []
    item = MaskedImages.__getitem__

    def watched(self, key):
        record = item(self, key)
        content = record["noise"].numpy().tobytes() + record["pixel_values"].numpy().tobytes()
        items.append([*key, hashlib.sha256(content).hexdigest()])
        return record

    MaskedImages.__getitem__ = watched

    def progress(stage, done, total):
        if stage == "training" and done == stop:
            os.kill(os.getpid(), 9)

    run = pretrain(pictures(), out, **options(progress=progress, **arguments))
    rank = os.environ.get("RANK", "0")
    Path(out, f"seen-{rank}.json").write_text(json.dumps({"seen": items, "resumed": run.resumed}))
    end_processes()


if __name__ == "__main__":
    main(*sys.argv[1:])
