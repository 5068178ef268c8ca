"""Prompting on local data sets.

    python -m benchmarks.studies.prompting.groups waterbirds FOLDER

A linear head is trained on a frozen backbone with the training split (ImageNet-9:
`original/train`). The strength is chosen on the validation split by worst-group accuracy; the test
split is opened once. ImageNet-9 has no validation split: every fourth image of each variant is used
for it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import semattn
from semattn import AttentionPrompter, Preprocessing

from ...datasets.group_folders import GroupFolder, Transform, imagenet9, loader, waterbirds


class LinearProbe(nn.Module):
    """A backbone and a linear head on its features."""

    def __init__(self, backbone: nn.Module, head: LogisticRegression) -> None:
        super().__init__()
        self.backbone = backbone
        weight = torch.from_numpy(head.coef_).float()
        bias = torch.from_numpy(head.intercept_).float()
        if len(weight) == 1:  # scikit-learn keeps one row for two classes
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        self.head = nn.Linear(weight.shape[1], weight.shape[0])
        self.head.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.head(self.backbone(x).float())
        return logits


def splits(name: str, root: Path, transform: Transform) -> dict[str, GroupFolder]:
    """Return the training, validation and test splits."""
    if name == "waterbirds":
        return {
            split: waterbirds(root, split, transform) for split in ("train", "validation", "test")
        }
    variants = imagenet9(root, transform)
    validation = variants.rows[::4]
    test = [row for number, row in enumerate(variants.rows) if number % 4]
    return {
        "train": imagenet9(root, transform, ("original",), "train"),
        "validation": GroupFolder(validation, variants.classes, transform),
        "test": GroupFolder(test, variants.classes, transform),
    }


def run(name: str, root: Path, backbone: nn.Module, density: str) -> dict[str, Any]:
    """Choose the strength on validation, then evaluate the test split once."""
    preprocessing = Preprocessing.of(backbone)
    data = splits(name, root, lambda picture: preprocessing.normalize(preprocessing.fit(picture)))
    features, labels = [], []
    with torch.inference_mode():
        for x, y, _ in loader(data["train"]):
            features.append(backbone(x).float())
            labels.append(y)
    head = LogisticRegression(C=0.1, max_iter=5000).fit(torch.cat(features), torch.cat(labels))
    prompter = AttentionPrompter(
        LinearProbe(backbone, head).eval(), density=density, preprocessing=preprocessing
    )
    calibration = prompter.calibrate(loader(data["validation"]))
    return {
        "data": name, "density": density, "calibration": calibration.as_dict(),
        "test": prompter.evaluate(loader(data["test"])).as_dict(),
    }  # fmt: skip


def main() -> None:
    """Run the benchmark and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", choices=("waterbirds", "imagenet9"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="a timm model; default: the embedded one")
    parser.add_argument("--density", default="interrelation")
    options = parser.parse_args()
    backbone = semattn.load(options.model)
    backbone.reset_classifier(0)  # type: ignore[operator]
    print(json.dumps(run(options.data, options.folder, backbone.eval(), options.density), indent=1))


if __name__ == "__main__":
    main()
