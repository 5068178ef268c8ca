"""Maps on the second test sets: other objects on other scenes, and real photographs.

    python -m benchmarks.studies.explain.second_test_sets [--images 26] [--steps 16]
        [--tables] [--hilrp]

Explains the true class with the embedded model. The rows, the metrics and the rule for the default
map (`propagation`) were fixed on development images before these sets were opened; no parameter was
chosen on them. Measures two compositions and one photograph in turn, so that a run that stops early
has both. The values of each image are one file below results/second_test_sets; a later run
computes only those that are missing. `--tables` writes the tables of the finished images.

`--hilrp` compares with hilrp's AttnLRP on the finished images, in an environment of its own (see
docs/benchmarks.md) and in float32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from PIL import Image
from torch import nn

import semattn
from benchmarks import RESULTS_DIR
from semattn import evaluation
from semattn.utils.atomic_files import write_text

from ...datasets.second_test_sets import NEW_OBJECTS, Photograph, Photographs, compositions
from ...datasets.second_test_sets.fetch import default_root
from .methods import OURS, Item, result

FOLDER = RESULTS_DIR / "second_test_sets"
METRICS = ("ap", "insertion-deletion")
METHODS = (
    OURS, f"{OURS}:gradient=lrp", f"{OURS}:uniform",
    "attn-lrp:preset=localization", "attn-lrp:preset=localization:level=patches",
    "attn-lrp", "attn-lrp:level=patches",
    "generic-relevance+refined", "generic-relevance", "gradient-rollout", "legrad", "grad-cam",
    "input-x-gradient", "keypoint-density", "center", "random",
)  # fmt: skip
HILRP_METHODS = (OURS, "attn-lrp", "hilrp/AttnLRP")


class Compositions:
    """The first compositions of the second catalogue, as `semattn.evaluation` expects them."""

    def __init__(self, count: int) -> None:
        self.compositions = compositions(default_root(), count)
        self.classes = self.compositions.classes
        self.about = {
            "name": "second compositions", "seed": self.compositions.seed, "images": count,
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.compositions)

    def __getitem__(self, index: int) -> Item:
        composition = self.compositions[index]
        name = f"{index}: {composition.object} on {composition.scene}"
        return Item(name, Image.fromarray(composition.image), composition.mask, composition.label)

    def describe(self) -> str:
        """Return the sentence of the caption about the images."""
        new = {path for paths in NEW_OBJECTS.values() for path in paths}
        num_new = sum(composition.object in new for composition in self.compositions)
        return (
            f"{len(self)} compositions of new scenes, {num_new} of them with objects that no other "
            "data set uses, the others with unseen objects of the first catalogue"
        )


class PhotographItems:
    """The first photographs, as `semattn.evaluation` expects them."""

    def __init__(self, count: int) -> None:
        self.photographs = Photographs(default_root(), count=count)
        self.classes = self.photographs.classes
        self.about = {"name": "second photographs", "images": count}

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, index: int) -> Photograph:
        return self.photographs[index]

    def describe(self) -> str:
        """Return the sentence of the caption about the images."""
        num_masks = sum(photograph.mask is not None for photograph in self.photographs)
        return (
            f"{len(self)} photographs without composition; AP on the {num_masks} with a plain "
            "background, which have a mask"
        )


DATA_SETS = {"compositions": Compositions, "photographs": PhotographItems}
IMAGES_PER_TURN = {"compositions": 2, "photographs": 1}


def evaluate(
    model: nn.Module, name: str, count: int, steps: int, *, with_hilrp: bool = False
) -> evaluation.Results:
    """Return the values of the first images of a set; stored ones are read again."""
    return evaluation.evaluate(
        model, DATA_SETS[name](count), HILRP_METHODS if with_hilrp else METHODS, METRICS,
        setting=evaluation.Setting(
            steps=steps, precision="float32" if with_hilrp else "bfloat16"
        ),
        classes=model.classes,  # type: ignore[arg-type]
        folder=FOLDER / (f"hilrp-{name}" if with_hilrp else name),
    )  # fmt: skip


def num_finished(folder: Path) -> int:
    """Return the number of images whose values are stored."""
    return len(list(folder.glob("[0-9]*.json")))


def write_table(model: nn.Module, name: str, steps: int, *, with_hilrp: bool = False) -> None:
    """Write the table of the finished images of a set."""
    count = num_finished(FOLDER / name)
    results = evaluate(model, name, count, steps, with_hilrp=with_hilrp)
    table = table_of(results, DATA_SETS[name](count).describe(), steps)
    file = RESULTS_DIR / f"second_{name}{'_hilrp' * with_hilrp}.json"
    write_text(file, json.dumps(table, indent=1, default=str) + "\n")
    print(table["caption"])


def table_of(results: evaluation.Results, description: str, steps: int) -> dict[str, Any]:
    """Return the table of one set."""
    num_correct = sum(bool(is_correct) for is_correct in results.right)
    caption = (
        f"{description}. The true class explained (the model is right on {num_correct}); "
        f"insertion and deletion of patches in {steps} steps against the blurred image, in "
        f"{results.manifest['setting']['precision']}. "
        "Means, and differences in pairs, with 95 % bootstrap intervals over images. "
        "Made by `python -m benchmarks.studies.explain.second_test_sets`."
    )
    return result(results, evaluation.table(results), caption)


def main() -> None:
    """Run the study, or write the tables of the finished images."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=26, help="number of compositions (26)")
    parser.add_argument("--steps", type=int, default=16, help="of insertion and deletion (16)")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    parser.add_argument(
        "--hilrp", action="store_true", help="compare the finished images with hilrp's AttnLRP"
    )
    options = parser.parse_args()
    model = semattn.load()
    images = 0 if options.tables or options.hilrp else options.images
    for turn in range(1, -(-images // IMAGES_PER_TURN["compositions"]) + 1):
        for name, count in IMAGES_PER_TURN.items():
            if num_finished(FOLDER / name) < turn * count:
                evaluate(model, name, turn * count, options.steps)
                print(f"{turn * count} {name}", flush=True)
    for name in DATA_SETS:
        write_table(model, name, options.steps, with_hilrp=options.hilrp)


if __name__ == "__main__":
    main()
