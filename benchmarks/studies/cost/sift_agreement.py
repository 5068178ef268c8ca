"""Agreement of `sift-torch` with OpenCV: ``python -m benchmarks.studies.cost.sift_agreement``.

Crops of photographs (the scenes of `objects_on_scenes`) at random places and scales. A keypoint
agrees if the other detector has one within half a pixel whose size differs by less than 5 %.
Descriptors are compared where the angles agree within 5 degrees, too.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks import RESULTS_DIR
from semattn.keypoints import Keypoints, detect
from semattn.utils.atomic_files import write_text

from ...datasets.objects_on_scenes.catalog import SCENES
from ...datasets.objects_on_scenes.fetch import default_root

SIDE = 224  # pixels
NEAR, SIZE, ANGLE = 0.5, 0.05, 5.0  # pixels, part of the size, degrees
NAMES = ("sift", "sift-torch")
BATCH = 10


def crops(count: int) -> np.ndarray:
    """Return crops of the scenes in turn, each at a random place and scale."""
    rng = np.random.default_rng(0)
    files = [default_root() / path for paths in SCENES.values() for path in paths]
    images = []
    for number in range(count):
        scene = Image.open(files[number % len(files)]).convert("RGB")
        factor = rng.uniform(SIDE / min(scene.size), 1)
        width, height = (max(SIDE, round(factor * length)) for length in scene.size)
        left, top = rng.integers(0, width - SIDE + 1), rng.integers(0, height - SIDE + 1)
        small = scene.resize((width, height), Image.Resampling.LANCZOS)
        images.append(np.asarray(small.crop((left, top, left + SIDE, top + SIDE))))
    return np.stack(images)


def compare(first: Keypoints, second: Keypoints) -> tuple[list[bool], list[float]]:
    """Return which keypoints of the first agree with one of the second, and their similarities."""
    distance = (first.xy[:, None] - second.xy[None]).norm(dim=-1)
    ratio = first.size[:, None] / second.size[None]
    agrees = (distance < NEAR) & ((ratio - 1).abs() < SIZE)
    turn = (first.angle[:, None] - second.angle[None] + 180) % 360 - 180
    rows, columns = (agrees & (turn.abs() < ANGLE)).nonzero().unbind(dim=1)
    assert first.descriptor is not None and second.descriptor is not None
    similarity = torch.cosine_similarity(first.descriptor[rows], second.descriptor[columns])
    return agrees.any(dim=1).tolist(), similarity.tolist()


def measure(pixels: np.ndarray) -> list[dict[str, Any]]:
    """Return one row for each direction of the comparison."""
    found: dict[str, list[Keypoints]] = {}
    seconds = {}
    for name in NAMES:
        options = {"device": "cpu"} if name == "sift-torch" else {}
        start = time.process_time()
        found[name] = [
            keypoints
            for first in range(0, len(pixels), BATCH)
            for keypoints in detect(
                pixels[first : first + BATCH], name, workers=1, descriptors=True, **options
            )
        ]
        seconds[name] = time.process_time() - start
    counts = [[len(keypoints) for keypoints in found[name]] for name in NAMES]
    rows = []
    for name, other in (NAMES, NAMES[::-1]):
        results = [compare(*pair) for pair in zip(found[name], found[other], strict=True)]
        agreeing = [value for agrees, _ in results for value in agrees]
        similarity = [value for _, values in results for value in values]
        rows.append({
            "detector": name, "keypoints": len(agreeing), "agreeing": 100 * np.mean(agreeing),
            "similarity": float(np.mean(similarity)), "correlation": np.corrcoef(counts)[0, 1],
            "milliseconds": 1000 * seconds[name] / len(pixels),
        })  # fmt: skip
    return rows


def main() -> None:
    """Write benchmarks/results/sift_agreement.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=200)
    count = parser.parse_args().images
    torch.set_num_threads(1)
    rows = measure(crops(count))
    table = {
        "caption": f"{count} crops of {SIDE} pixels from {sum(map(len, SCENES.values()))} "
        "photographs. Agreeing: the other detector has a keypoint within half a pixel with the "
        "same size within 5 %; similarity: mean cosine of their descriptors where the angles agree "
        "within 5 degrees; correlation: of the numbers of keypoints of the images; milliseconds of "
        "one CPU core per image, with descriptors. Made by "
        "`python -m benchmarks.studies.cost.sift_agreement`.",
        "columns": [
            {"key": "detector", "title": "keypoints of"},
            {"key": "keypoints", "title": "keypoints", "format": ","},
            {"key": "agreeing", "title": "agreeing, %", "format": ".2f"},
            {"key": "similarity", "title": "similarity", "format": ".5f"},
            {"key": "correlation", "title": "correlation", "format": ".5f"},
            {"key": "milliseconds", "title": "ms, CPU", "format": ".0f"},
        ],
        "rows": rows,
    }
    write_text(RESULTS_DIR / "sift_agreement.json", json.dumps(table, indent=1) + "\n")
    for row in rows:
        print(row)


if __name__ == "__main__":
    main()
