"""Search a data set for spurious cues of a model, inspect them, and suppress one.

    python examples/spurious.py

Runs without pretrained weights: the images are synthetic, with a bright tag on all images of one
class, and the model is a tiny timm ViT with a fitted head. Its attention is not trained, so that
the result has little meaning. Results: spurious.png, spurious.npz and report.html.
"""

from __future__ import annotations

import timm
import torch

from semattn import AttentionPrompter, discover_spurious, report, viz
from semattn.spurious import load_discovery, save_discovery

NAMES, SIDE = ("plain", "tagged"), 160


def pictures(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noise with a textured square, and a tag at the lower right of the second class."""
    torch.manual_seed(0)
    labels = torch.arange(count) % 2
    coarse = torch.rand(count, 3, 12, 12)
    images = 0.4 * torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic")
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = torch.randint(0, 80, (2,)).tolist()
        image[:, top : top + 40, left : left + 40] = torch.rand(3, 8, 8).repeat(1, 5, 5)
        if label:
            image[:, 128:, 112:] = torch.tensor([1.0, 0.9, 0.1])[:, None, None]
    return images.clamp(0, 1), labels


def main() -> None:
    """Fit a head that uses the tag, search for cues, and suppress the tag."""
    images, labels = pictures()
    model = timm.create_model("test_vit", img_size=SIDE, num_classes=2).eval()
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images), pre_logits=True)
    head = torch.nn.Linear(features.shape[1], 2)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(features), labels).backward()
        optimizer.step()
    model.head.load_state_dict(head.state_dict())

    data = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    discovery = discover_spurious(model, data, class_names=NAMES, seed=0)
    print(f"{len(discovery.confirmed)} cues confirmed, {len(discovery.cues)} tried")
    for cue in discovery.cues:
        print(f"{cue.name}: {cue.where}, in {cue.inside:.0%} and in {cue.outside:.0%} of others")
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
        matches = cue.matches(images[:4])
        print("match by image:", [f"{match:.2f}" for match in matches.amax(dim=1).tolist()])
        with torch.no_grad(), AttentionPrompter(model, strength=1.0).steer(cue):
            print(
                "predictions with the cue suppressed:", model(images[:4]).softmax(-1)[:, 1].tolist()
            )


if __name__ == "__main__":
    main()
