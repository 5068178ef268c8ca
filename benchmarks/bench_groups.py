"""Prompting on data that you have: ``python -m benchmarks.bench_groups waterbirds FOLDER``.

A linear head on a frozen backbone learns from the training split (of ImageNet-9, from
`original/train`); strength is chosen on the validation split by worst-group accuracy, and the test
split is opened once. Of ImageNet-9, which has no validation split, every fourth image of each
variant is taken for it.
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

from .group_folders import GroupFolder, Transform, imagenet9, loader, waterbirds


class Headed(nn.Module):
    """A backbone and a linear head on its features."""

    def __init__(self, backbone: nn.Module, head: LogisticRegression) -> None:
        super().__init__()
        self.backbone = backbone
        weight = torch.from_numpy(head.coef_).float()
        bias = torch.from_numpy(head.intercept_).float()
        if len(weight) == 1:  # two classes have one row
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        self.head = nn.Linear(weight.shape[1], weight.shape[0])
        self.head.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.backbone(x).float())
        return logits


def splits(name: str, root: Path, transform: Transform) -> dict[str, GroupFolder]:
    """Training, validation and test."""
    if name == "waterbirds":
        return {one: waterbirds(root, one, transform) for one in ("train", "validation", "test")}
    every = imagenet9(root, transform)
    quarter = every.rows[::4]
    rest = [row for number, row in enumerate(every.rows) if number % 4]
    return {
        "train": imagenet9(root, transform, ("original",), "train"),
        "validation": GroupFolder(quarter, every.classes, transform),
        "test": GroupFolder(rest, every.classes, transform),
    }


def run(name: str, root: Path, backbone: nn.Module, density: str) -> dict[str, Any]:
    """Choose, and open the test."""
    wants = Preprocessing.of(backbone)
    data = splits(name, root, lambda picture: wants.normalize(wants.fit(picture)))
    made, labels = [], []
    with torch.inference_mode():
        for x, y, _ in loader(data["train"]):
            made.append(backbone(x).float())
            labels.append(y)
    head = LogisticRegression(C=0.1, max_iter=5000).fit(torch.cat(made), torch.cat(labels))
    prompter = AttentionPrompter(
        Headed(backbone, head).eval(), density=density, preprocessing=wants
    )
    chosen = prompter.calibrate(loader(data["validation"]))
    return {
        "data": name, "density": density, "calibration": chosen.as_dict(),
        "test": prompter.evaluate(loader(data["test"])).as_dict(),
    }  # fmt: skip


def main() -> None:
    """Run, and print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", choices=("waterbirds", "imagenet9"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="a timm model (the embedded one)")
    parser.add_argument("--density", default="interrelation")
    options = parser.parse_args()
    backbone = semattn.load(options.model)
    backbone.reset_classifier(0)  # type: ignore[operator]
    print(json.dumps(run(options.data, options.folder, backbone.eval(), options.density), indent=1))


if __name__ == "__main__":
    main()
