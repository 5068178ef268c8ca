"""The watermark of ImageNet-W on half of one class: found without a model, then in one.

    python -m benchmarks.studies.spurious.imagenet_w_case

Compositions of development seed 3; needs the package imagenet-w. Writes the picture
docs/imagenet-w.jpg and results/imagenet_w.json, a table of docs/spurious.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import RESULTS_DIR, ROOT
from semattn import find_marks, viz
from semattn.spurious.marks.search import MarkDiscovery
from semattn.utils.atomic_files import atomic_write, write_text
from semattn.zoo import cache_dir

from ...datasets.marked_sets import MarkedSet, load_clean
from .marked_models import GROUPS, IMAGENET_W, RATES, Case, marked_at_rate
from .marks_in_models import group_accuracies, run
from .spurious_table import make_table

CASE = Case("compositions", IMAGENET_W, RATES[0], seed=3, is_fixed=True)
PICTURE = ROOT / "docs" / "imagenet-w.jpg"
WIDTH, QUALITY = 1200, 80
ARMS = {
    "none": "as it is", "cue suppressed": "mark suppressed", "cue erased": "mark erased",
    "oracle suppressed": "true region suppressed", "oracle erased": "true region erased",
    "wrong cue suppressed": "another mark suppressed", "wrong cue erased": "another mark erased",
    "wrong region suppressed": "another region suppressed",
    "wrong region erased": "another region erased",
}  # fmt: skip


def search_folder(images: MarkedSet, names: tuple[str, ...]) -> MarkDiscovery:
    """Write the images as a folder for each class and search it."""
    with tempfile.TemporaryDirectory() as folder:
        for number, (pixels, label) in enumerate(zip(images.images, images.labels, strict=True)):
            path = Path(folder, names[label], f"{number:03}.png")
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels).save(path)
        discovery = find_marks(folder)
        picture = Path(folder, "marks.png")
        viz.marks(discovery).savefig(picture)
        image = Image.open(picture).convert("RGB")
        height = round(image.height * WIDTH / image.width)
        small = image.resize((WIDTH, height), Image.Resampling.LANCZOS)
    with atomic_write(PICTURE) as stream:
        small.save(stream, "JPEG", quality=QUALITY, optimize=True)
    return discovery


def caption(discovery: MarkDiscovery, images: MarkedSet, result: dict[str, Any]) -> str:
    """Return what was found, as sentences."""
    first, effects = discovery.significant[0], result["true_effects"]
    in_class = images.labels == CASE.target
    marked, others = int(images.is_marked.sum()), int((~in_class).sum())
    cue = result["cues"][result["rank"] - 1] if result["rank"] else None
    found = (
        f"The search with the model ranks the mark {result['rank']} and "
        f"{'confirms' if cue['confirmed'] else 'does not confirm'} it; "
        if cue
        else "The search with the model does not list the mark; "
    )
    return (
        f"Compositions, development seed {CASE.seed}: the watermark is on {marked} of "
        f"{int(in_class.sum())} images of the class {CASE.names[CASE.target]} and on none of "
        f"{others} others. Without a model, {len(discovery.significant)} significant mark, in "
        f"{first.inside:.0%} of the class and {first.outside:.0%} of others, p = {first.p:.1g}. "
        f"{found}{result['false']} other cues are confirmed. The true mark, drawn on images of "
        f"other classes, raises the log-odds of the class by {effects['transplant']:.1f} (p = "
        f"{effects['transplant_p']:.1g}, specificity p = {effects['specificity_p']:.2g}). Rows: "
        "accuracy on test images, per cent. Made by "
        "`python -m benchmarks.studies.spurious.imagenet_w_case`."
    )


def main() -> None:
    """Search the images without a model, then the model, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, default=cache_dir() / "bench-marks-in-models")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    images = marked_at_rate(load_clean(CASE.dataset, CASE.seed), CASE, CASE.seed)
    discovery = search_folder(images, CASE.names)
    result = run(CASE, work)
    test = result["test"]
    rows = [
        {"arm": title} | dict(zip(GROUPS, 100 * np.array(
            group_accuracies(test["right"][arm], test["group"])), strict=True))
        for arm, title in ARMS.items()
        if arm in test["right"]
    ]  # fmt: skip
    columns = "arm | test images\n" + "\n".join(f"{name} | {name} | .1f" for name in GROUPS)
    table = make_table(caption(discovery, images, result), columns, rows)
    write_text(RESULTS_DIR / "imagenet_w.json", json.dumps(table, indent=1) + "\n")
    print(table["caption"])


if __name__ == "__main__":
    main()
