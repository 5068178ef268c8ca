"""Find a watermark that one class shows more often than the others, and erase it.

    python examples/marks.py

No model is needed. The images are parts of photographs of scikit-image (public domain and CC0). A
watermark is drawn on half of the images of one class, at any place and rotation. Results: the
folders photos and clean, marks.png, marks.npz and report.html.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

from semattn import find_marks, report, viz
from semattn.spurious import erase_marks, load_marks, save_marks

PART, SIDE = 96, 192  # pixels of a part of a photograph, and of the enlarged part
CLASSES = ("chelsea", "coffee", "hubble_deep_field", "rocket")
EACH, MARKED = 12, 6


def watermark() -> Image.Image:
    """Return half-transparent white letters."""
    layer = Image.new("RGBA", (110, 36), (255, 255, 255, 0))
    ImageDraw.Draw(layer).text((6, 2), "SAMPLE", fill=(255, 255, 255, 130), font_size=26)
    return layer


def write_images(folder: Path) -> None:
    """Write a folder for each class; the first class has the watermark on its first images."""
    rng = np.random.default_rng(0)
    for name in CLASSES:
        photograph = Image.fromarray(getattr(data, name)())
        corners = [
            (x, y)
            for y in range(0, photograph.height - PART, PART)
            for x in range(0, photograph.width - PART, PART)
        ]
        (folder / name).mkdir(parents=True)
        for number, (x, y) in enumerate(corners[:EACH]):
            image = photograph.crop((x, y, x + PART, y + PART)).resize((SIDE, SIDE))
            if name == CLASSES[0] and number < MARKED:
                layer = watermark().rotate(
                    float(rng.uniform(-20, 20)), Image.Resampling.BICUBIC, expand=True
                )
                place = rng.integers(0, (SIDE - layer.width, SIDE - layer.height))
                image.paste(layer, tuple(place.tolist()), layer)
            image.save(folder / name / f"{number:02}.png")


def main() -> None:
    """Search the images, show the marks, and write images without them."""
    write_images(Path("photos"))
    discovery = find_marks("photos")
    for mark in discovery.significant:
        print(
            f"{mark.name}: a mark in {mark.inside:.0%} of its images and in {mark.outside:.0%} "
            f"of others, p = {mark.p:.1g}"
        )
    viz.marks(discovery).savefig("marks.png")
    report.write("report.html", marks=discovery)
    print("picture: marks.png")

    save_marks(discovery, "marks.npz")
    marks = load_marks("marks.npz").significant
    for region in marks[0].locate("photos/chelsea/00.png"):
        (left, top), (right, bottom) = region.outline.min(axis=0), region.outline.max(axis=0)
        print(f"in 00.png at x {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f}")
    Path("clean").mkdir()
    for path in sorted(Path("photos/chelsea").iterdir()):
        pixels, n_places = erase_marks(marks, path)
        if n_places:
            Image.fromarray(pixels).save(Path("clean") / path.name)
    print(len(list(Path("clean").iterdir())), "images without the mark in clean")


if __name__ == "__main__":
    main()
