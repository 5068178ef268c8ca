"""What self-attention does between patches of the embedded model: the figures of docs/findings.md.

    python -m benchmarks.analyze_interrelation [--images 520] [--smoke]

Analyses 520 compositions of the validation split and 20 photographs, and, as controls on the same
compositions, concentrations that know nothing of keypoints (edges and the centre) and the same
architecture untrained. Each analysis goes on from where it was interrupted. The test splits are not
opened. Results go to benchmarks/results/interrelation.json, the picture to docs/analysis.png.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from skimage import data

import semattn
from semattn import viz
from semattn.interrelation import Analysis, analyze
from semattn.utils.atomic_files import write_text

from .objects_on_scenes import ObjectsOnScenes
from .objects_on_scenes.catalog import SCENES
from .objects_on_scenes.fetch import default_root

RESULTS = Path(__file__).parent / "results" / "interrelation.json"
PICTURE = Path(__file__).parents[1] / "docs" / "analysis.png"
BUNDLED = ("astronaut", "chelsea", "coffee")
THIRDS = {"first": slice(0, 4), "middle": slice(4, 8), "last": slice(8, 12)}
# (title, figure, its cell, format)
COLUMNS = (
    ("HIGH→HIGH", "lift", (2, 2)),
    ("EMPTY→HIGH", "lift", (0, 2)),
    ("HIGH→EMPTY", "lift", (2, 0)),
    ("alignment", "alignment", ()),
    ("same distances", "alignment_matched", ()),
    ("class token", "class_alignment", ()),
)


def photographs(root: Path) -> list[Any]:
    """Twenty: the scenes of the splits that are for development, and scikit-image's own."""
    scenes = [root / name for group in ("learned", "validation") for name in SCENES[group]]
    return [*scenes, *(getattr(data, name)() for name in BUNDLED)]


def compositions(root: Path, count: int) -> Iterator[np.ndarray]:
    """Objects of the learned set on scenes of the validation split."""
    return (one.image for one in ObjectsOnScenes(root, "validation", count=count))


def untrained(like: torch.nn.Module) -> torch.nn.Module:
    """The architecture of the embedded model, with random weights."""
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=13).eval()


def rows(name: str, found: Analysis) -> Iterator[dict[str, Any]]:
    """A line of the table for each third of the layers."""
    for third, layers in THIRDS.items():

        def over(every: np.ndarray, cell: tuple[int, ...], layers: slice = layers) -> np.ndarray:
            """The mean over the heads of some layers."""
            here = every[(..., layers, slice(None), *cell)]
            return np.nanmean(here, axis=(-2, -1))

        row: dict[str, Any] = {"set": name, "images": found.images, "layers": third}
        for title, figure, cell in COLUMNS:
            value = over(found.mean(figure), cell)
            low, high = found.interval(figure, lambda every, cell=cell: over(every, cell))
            row[title] = None if np.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"
            if row[title] and found.nulls(figure):
                shifted = over(found.against(figure, "shifted")["expected"], cell)
                row[title] += f" · {shifted:.2f}"
        yield row


def studies(root: Path, count: int) -> Iterator[tuple[str, Analysis]]:
    """Each analysis, the main one first."""
    model = semattn.zoo.load()
    kept = Path(tempfile.gettempdir()) / "semattn-analyze-interrelation"
    kept.mkdir(exist_ok=True)

    def run(name: str, images: Any, network: torch.nn.Module, density: str) -> Analysis:
        def say(done: int, total: int | None) -> None:
            print(f"\r{name}: {done} of {total or count}", end="", flush=True)

        made = analyze(
            network, images, density=density, partial=kept / f"{name}.npz", progress=say,
            preprocessing=semattn.images.Preprocessing.of(model),
        )  # fmt: skip
        print()
        return made

    yield "compositions", run("compositions", compositions(root, count), model, "count")
    yield "photographs", run("photographs", photographs(root), model, "count")
    for density in ("distinct-size-surround", "sobel", "center"):
        made = run(density, compositions(root, count), model, density)
        yield f"compositions, {density}", made
    made = run("untrained", compositions(root, count), untrained(model), "count")
    yield "compositions, untrained model", made


def main() -> None:
    """Run everything and write the result and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=520, help="compositions (520)")
    parser.add_argument("--smoke", action="store_true", help="16 compositions, nothing written")
    options = parser.parse_args()
    root = default_root()
    table, findings = [], {}
    for name, found in studies(root, 16 if options.smoke else options.images):
        table += rows(name, found)
        findings[name] = [one.text for one in found.findings()]
        print(*findings[name], sep="\n")
        if name == "compositions" and not options.smoke:
            viz.analysis(found).savefig(PICTURE, dpi=120)
    caption = (
        "Means over heads and images with 95 % bootstrap intervals over images, × uniform "
        "attention; after the dot, the mean under the null of shifted keypoints. The embedded "
        "ViT-S/14, 16 x 16 patches; first, middle and last four layers. Development data: the test "
        "splits are unopened. Made by `python -m benchmarks.analyze_interrelation`."
    )
    columns = [{"key": one, "title": one} for one in ("set", "images", "layers")]
    columns += [{"key": title, "title": title} for title, *_ in COLUMNS]
    made = {"caption": caption, "columns": columns, "rows": table, "findings": findings}
    if not options.smoke:
        write_text(RESULTS, json.dumps(made, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
