"""Search a data set for spurious cues of a model, inspect them, and suppress one.

    python examples/spurious.py

Two shops sell the same things; the first one puts a yellow tag on nearly all of its pictures. The
images are parts of four photographs of scikit-image (CC0 and public domain). The model is the
embedded backbone with a fitted head; the first run downloads its weights (90 MB). Results:
spurious.png, spurious.npz and report.html.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from skimage import data
from torch import nn

import semattn
from semattn import AttentionPrompter, discover_spurious, report, viz
from semattn.spurious import load_discovery, save_discovery

SHOPS, SIDE, COUNT = ("north", "south"), 112, 28  # classes, pixels, images


def add_tag(image: Image.Image) -> None:
    """Draw the tag of the first shop."""
    pen = ImageDraw.Draw(image)
    pen.rectangle((4, SIDE - 26, 74, SIDE - 4), fill=(250, 220, 40))
    pen.text((8, SIDE - 24), "SAMPLE", fill=(20, 20, 20), font_size=16)


def pictures() -> list[tuple[np.ndarray, int]]:
    """Return parts of photographs with the number of their shop; two of the north have no tag."""
    rng = np.random.default_rng(0)
    photos = (data.chelsea(), data.coffee(), data.rocket(), data.astronaut())
    pairs = []
    for number in range(COUNT):
        photo = photos[rng.integers(4)]
        side = int(rng.uniform(0.4, 0.8) * photo.shape[0])
        left, top = (int(rng.integers(0, size - side)) for size in photo.shape[1::-1])
        part = Image.fromarray(photo[top : top + side, left : left + side]).resize((SIDE, SIDE))
        if number % 2 == 0 and number < COUNT - 4:
            add_tag(part)
        pairs.append((np.array(part), number % 2))
    return pairs


def fit_head(model: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> None:
    """Give the model a head for the shops, fitted to images."""
    with torch.no_grad():
        features = model.forward_head(model.forward_features(inputs), pre_logits=True)
    torch.manual_seed(0)
    head = nn.Linear(features.shape[1], len(SHOPS))
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.003, weight_decay=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(features), labels).backward()
        optimizer.step()
    model.head, model.classes, model.num_classes = head, SHOPS, len(SHOPS)


def main() -> None:
    """Fit a head that uses the tag, search for cues, and suppress the tag."""
    images = pictures()
    model = semattn.load()
    model.set_input_size(img_size=SIDE)
    model.pretrained_cfg["input_size"] = (3, SIDE, SIDE)
    preprocessing = semattn.Preprocessing.of(model)
    inputs = torch.cat([semattn.prepare(image, preprocessing).inputs for image, _ in images])
    fit_head(model, inputs, torch.tensor([label for _, label in images]))

    discovery = discover_spurious(
        model, images, classes=["north"], class_names=SHOPS, max_candidates=1
    )
    print(f"cues: {len(discovery.confirmed)} confirmed, {len(discovery.cues)} tested")
    for cue in discovery.cues:
        share = f"in {cue.inside:.0%} of its images, {cue.outside:.0%} of others"
        print(f"{cue.name}: {cue.where}, {share}")
        print(
            f"  effect of removal {cue.removal.mean:.2f} nats, "
            f"of transplant {cue.transplant.mean:.2f} nats"
        )
    viz.spurious(discovery).savefig("spurious.png")
    report.write("report.html", discovery=discovery)
    print("picture: spurious.png")

    save_discovery(discovery, "spurious.npz")
    loaded = load_discovery("spurious.npz", model)
    for cue in loaded.cues[:1]:
        matches = cue.matches(inputs[:4])
        print("match by image:", [f"{match:.2f}" for match in matches.amax(dim=1).tolist()])
        with torch.no_grad(), AttentionPrompter(model, strength=2.0).steer(cue):
            shares = model(inputs[:4]).softmax(-1)[:, 0].tolist()
        print("north, with the cue suppressed:", [f"{share:.2f}" for share in shares])


if __name__ == "__main__":
    main()
