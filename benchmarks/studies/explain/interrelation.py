"""Interrelation analysis of the embedded model: the results of docs/findings.md.

    python -m benchmarks.studies.explain.interrelation [--images 520] [--smoke]

Analyses 520 compositions of the validation split and 20 photographs. Controls on the same
compositions: densities that ignore keypoints (edges, centre), and the same architecture with random
weights. An interrupted analysis resumes. The test splits are not opened. Results are written to
benchmarks/results/interrelation.json, the figure to docs/analysis.png.
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
from benchmarks import RESULTS_DIR, ROOT
from semattn import viz
from semattn.interrelation import Analysis, analyze
from semattn.utils.atomic_files import write_text

from ...datasets.objects_on_scenes import ObjectsOnScenes
from ...datasets.objects_on_scenes.catalog import SCENES
from ...datasets.objects_on_scenes.fetch import default_root

RESULTS = RESULTS_DIR / "interrelation.json"
PICTURE = ROOT / "docs" / "analysis.png"
BUNDLED = ("astronaut", "chelsea", "coffee")
THIRDS = {"first": slice(0, 4), "middle": slice(4, 8), "last": slice(8, 12)}
# (column title, metric, index of the strata)
COLUMNS = (
    ("HIGH→HIGH", "lift", (2, 2)),
    ("EMPTY→HIGH", "lift", (0, 2)),
    ("HIGH→EMPTY", "lift", (2, 0)),
    ("alignment", "alignment", ()),
    ("same distances", "alignment_matched", ()),
    ("class token", "class_alignment", ()),
)


def photographs(root: Path) -> list[Any]:
    """Return twenty photographs: the development scenes and three images of scikit-image."""
    scenes = [root / name for group in ("learned", "validation") for name in SCENES[group]]
    return [*scenes, *(getattr(data, name)() for name in BUNDLED)]


def compositions(root: Path, count: int) -> Iterator[np.ndarray]:
    """Yield objects of the learned set on scenes of the validation split."""
    return (composition.image for composition in ObjectsOnScenes(root, "validation", count=count))


def untrained(reference: torch.nn.Module) -> torch.nn.Module:
    """Return the architecture of the embedded model with random weights."""
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch14_dinov2", img_size=224, num_classes=13).eval()


def rows(name: str, analysis: Analysis) -> Iterator[dict[str, Any]]:
    """Yield one table row for each third of the layers."""
    for third, layers in THIRDS.items():

        def mean_over(
            values: np.ndarray, cell: tuple[int, ...], layers: slice = layers
        ) -> np.ndarray:
            """Return the mean over some layers and all heads."""
            selected = values[(..., layers, slice(None), *cell)]
            return np.nanmean(selected, axis=(-2, -1))

        row: dict[str, Any] = {"set": name, "images": analysis.images, "layers": third}
        for title, figure, cell in COLUMNS:
            value = mean_over(analysis.mean(figure), cell)
            low, high = analysis.interval(figure, lambda values, cell=cell: mean_over(values, cell))
            row[title] = None if np.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"
            if row[title] and analysis.nulls(figure):
                shifted = mean_over(analysis.against(figure, "shifted")["expected"], cell)
                row[title] += f" · {shifted:.2f}"
        yield row


def studies(root: Path, count: int) -> Iterator[tuple[str, Analysis]]:
    """Yield each analysis with its name, the main one first."""
    model = semattn.zoo.load()
    resume_dir = Path(tempfile.gettempdir()) / "semattn-analyze-interrelation"
    resume_dir.mkdir(exist_ok=True)

    def run(name: str, images: Any, network: torch.nn.Module, density: str) -> Analysis:
        def show_progress(stage: str, done: int, total: int | None) -> None:
            print(f"\r{name}: {done} of {total or count}", end="", flush=True)

        analysis = analyze(
            network, images, density=density, resume_file=resume_dir / f"{name}.npz",
            progress=show_progress,
            preprocessing=semattn.images.Preprocessing.of(model),
        )  # fmt: skip
        print()
        return analysis

    yield "compositions", run("compositions", compositions(root, count), model, "count")
    yield "photographs", run("photographs", photographs(root), model, "count")
    for density in ("distinct-size-surround", "sobel", "center"):
        analysis = run(density, compositions(root, count), model, density)
        yield f"compositions, {density}", analysis
    analysis = run("untrained", compositions(root, count), untrained(model), "count")
    yield "compositions, untrained model", analysis


def main() -> None:
    """Run all analyses and write the result and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=520, help="compositions (520)")
    parser.add_argument("--smoke", action="store_true", help="16 compositions, nothing written")
    options = parser.parse_args()
    root = default_root()
    table_rows, findings = [], {}
    for name, analysis in studies(root, 16 if options.smoke else options.images):
        table_rows += rows(name, analysis)
        findings[name] = [finding.text for finding in analysis.findings()]
        print(*findings[name], sep="\n")
        if name == "compositions" and not options.smoke:
            viz.analysis(analysis).savefig(PICTURE, dpi=120)
    caption = (
        "Means over heads and images with 95 % bootstrap intervals over images, × uniform "
        "attention; after the dot, the mean under the null of shifted keypoints. The embedded "
        "ViT-S/14, 16 x 16 patches; first, middle and last four layers. Development data: the test "
        "splits are unopened. Made by `python -m benchmarks.studies.explain.interrelation`."
    )
    columns = [{"key": name, "title": name} for name in ("set", "images", "layers")]
    columns += [{"key": title, "title": title} for title, *_ in COLUMNS]
    result = {"caption": caption, "columns": columns, "rows": table_rows, "findings": findings}
    if not options.smoke:
        write_text(RESULTS, json.dumps(result, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
