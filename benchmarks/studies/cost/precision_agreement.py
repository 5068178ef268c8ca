"""Agreement of maps in low precision: ``python -m benchmarks.studies.cost.precision_agreement``.

Each image is explained in float32 and in each other precision, for the class that float32 predicts.
The patch maps are compared by Spearman's rank correlation. ``--device cuda`` runs on a GPU, where
TF32 exists; a check on another device or with fewer images writes no result.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn

import semattn
from benchmarks import RESULTS_DIR
from semattn.explain import Explanation, explainers
from semattn.images import Preprocessing, prepare
from semattn.utils.atomic_files import write_text
from semattn.utils.devices import device_name

from ...datasets.objects_on_scenes import ObjectsOnScenes
from ...datasets.objects_on_scenes.fetch import default_root

METHOD = "sift-patch-interrelation"
COUNT, LEAST = 200, 0.995  # images, and the mean correlation that a default requires


@contextmanager
def tf32() -> Iterator[None]:
    """Allow TF32 in matrix products and convolutions."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = cudnn


def autocast(dtype: torch.dtype, device: str) -> Callable[[], AbstractContextManager[Any]]:
    """Return a function that enters autocast."""
    return lambda: torch.autocast(device, dtype=dtype)


def variants(device: str) -> dict[str, tuple[torch.dtype, Callable[[], Any]]]:
    """Return the type of the weights and the context of each precision."""
    entries: dict[str, tuple[torch.dtype, Callable[[], Any]]] = {
        "float32": (torch.float32, nullcontext),
        "bfloat16 autocast": (torch.float32, autocast(torch.bfloat16, device)),
        "bfloat16": (torch.bfloat16, nullcontext),
    }
    if device == "cuda":
        entries |= {
            "tf32": (torch.float32, tf32),
            "float16 autocast": (torch.float32, autocast(torch.float16, device)),
            "float16": (torch.float16, nullcontext),
        }
    return entries


def explain_all(
    model: nn.Module, pictures: list[Any], targets: list[int] | None, batch: int, context: Any
) -> tuple[np.ndarray, list[int], float]:
    """Return the patch maps (n, P), the predicted classes, and the seconds of all but one batch."""
    explainer = explainers[METHOD]()
    preprocessing = Preprocessing.of(model)
    maps, predicted, start = [], [], 0.0
    for first in range(0, len(pictures), batch):
        images = prepare(pictures[first : first + batch], preprocessing)
        chosen = None if targets is None else targets[first : first + batch]
        with context():
            result: Explanation = explainer.explain(model, images, target=chosen)
        maps.append(result.patch_map.float().cpu().flatten(1).numpy())
        predicted += result.logits.float().argmax(dim=1).tolist()
        if not start:  # the first batch is the warm-up
            start = time.perf_counter()
    return np.concatenate(maps), predicted, time.perf_counter() - start


def measure(model: nn.Module, pictures: list[Any], batch: int) -> list[dict[str, Any]]:
    """Return one row for each precision."""
    device = next(model.parameters()).device.type
    rows: list[dict[str, Any]] = []
    reference: np.ndarray | None = None
    targets: list[int] | None = None
    for name, (dtype, context) in variants(device).items():
        network = model if dtype == torch.float32 else deepcopy(model).to(dtype)
        maps, predicted, seconds = explain_all(network, pictures, targets, batch, context)
        if reference is None or targets is None:
            reference, targets = maps, predicted
        values = [spearmanr(*pair).statistic for pair in zip(maps, reference, strict=True)]
        timed = len(pictures) - batch
        rows.append({
            "precision": name, "mean": float(np.mean(values)), "lowest": float(np.min(values)),
            "share": 100 * float(np.mean(np.array(values) >= LEAST)),
            "same_class": 100 * float(np.mean(np.equal(predicted, targets))),
            "images_per_second": timed / seconds if timed > 0 else None,
        })  # fmt: skip
        print(rows[-1])
    return rows


def main() -> None:
    """Write benchmarks/results/precision_agreement.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=COUNT)
    parser.add_argument("--batch-size", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", help="a model specification; default: the embedded model")
    parser.add_argument("--random-pictures", action="store_true", help="noise, for a smoke run")
    options = parser.parse_args()
    model = semattn.load(options.model, device=options.device)
    if options.random_pictures:
        rng = np.random.default_rng(0)
        pictures: list[Any] = list(
            rng.integers(0, 256, (options.images, 224, 224, 3), dtype=np.uint8)
        )
    else:
        data = ObjectsOnScenes(default_root(), split="train", size=448, count=options.images)
        pictures = [data[number].image for number in range(options.images)]
    rows = measure(model, pictures, options.batch_size)
    if options.images < COUNT or options.random_pictures:
        return
    table = {
        "caption": f"{options.images} photographs, the embedded model, batches of "
        f"{options.batch_size}, on {device_name(next(model.parameters()).device)}, torch "
        f"{torch.__version__}. Spearman correlation of the patch map with that of float32, for the "
        f"class that float32 predicts: mean, lowest, and share of images with {LEAST} or more; "
        "images with the same predicted class; images per second of reading from memory, keypoints "
        "and explanation. Made by `python -m benchmarks.studies.cost.precision_agreement`.",
        "columns": [
            {"key": "precision", "title": "precision"},
            {"key": "mean", "title": "mean", "format": ".4f"},
            {"key": "lowest", "title": "lowest", "format": ".3f"},
            {"key": "share", "title": f"{LEAST} or more, %", "format": ".1f"},
            {"key": "same_class", "title": "same class, %", "format": ".1f"},
            {"key": "images_per_second", "title": "images per second", "format": ".1f"},
        ],
        "rows": rows,
    }
    name = f"precision_agreement_{options.device.partition(':')[0]}.json"
    write_text(RESULTS_DIR / name, json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
