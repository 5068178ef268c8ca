"""Recurring mark of a data set: its picture, its frequency, and its place in new images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...images import Picture, read
from ...keypoints.local_features import fine_sift
from ...keypoints.mattes import Matte, estimate_matte
from ...keypoints.regions import mean_in_frame
from ...utils.notebook import ShortRepr
from ...utils.text import to_json_number
from .keypoint_store import reduced
from .masks import erase_pixels, region_masks
from .recurring import RecurringMark
from .template import MarkTemplate, Region

NOT_TESTED = -1  # target of a mark in images without classes
MAX_EXAMPLES = 12
EXAMPLE_SIDE = 448  # pixels: larger examples are reduced
MIN_FOR_STROKES = 12  # images; with fewer, the strokes of changing digits are not all known
MAX_PICTURED = 30  # images that the mean picture of a mark is made of


class MarkedImage(NamedTuple):
    """Image that shows a mark, without its pixels.

    Parameters
    ----------
    name, class_name : name and class of the image; "" without classes
    in_class : whether the class is that of the mark
    regions : places of the mark, in pixels of the image, upright as its EXIF orientation says
    """

    name: str
    class_name: str
    in_class: bool
    regions: tuple[Region, ...]


@dataclass(frozen=True, eq=False, repr=False)
class MarkExample(ShortRepr):
    """Image with a mark: its name, its pixels (H, W, 3) uint8, and the places of the mark.

    Large images are reduced; places are in pixels of the reduced image.
    """

    name: str
    pixels: np.ndarray
    regions: tuple[Region, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Mark(ShortRepr):
    """The same small picture in several images, at any place, size and rotation, also mirrored.

    Parameters
    ----------
    target, name : class that shows it most significantly; -1 and "" without classes
    n_inside, n_outside : images of the class, and of all other classes, that show it
    inside, outside : the same as fractions of the images
    p : p-value of Fisher's exact test, corrected for all marks and classes; NaN without classes
    significant : whether `p` is below the level of the search
    picture : (h, w, 3) uint8, mean over its images in its own frame
    examples : images that show it, those with the most matches first
    template : keypoints that locate it
    marked_images : all images that show it, those of the class first; empty for the mark of a
        `MarkCue`
    matte : opacity and colour of its pixels; None for a mark in too few images
    """

    target: int
    name: str
    n_inside: int
    n_outside: int
    inside: float
    outside: float
    p: float
    significant: bool
    picture: np.ndarray
    examples: tuple[MarkExample, ...]
    template: MarkTemplate
    marked_images: tuple[MarkedImage, ...] = ()
    matte: Matte | None = None

    @property
    def images(self) -> int:
        """Number of images that show the mark."""
        return self.n_inside + self.n_outside

    def locate(self, picture: Picture) -> list[Region]:
        """Return the places of the mark in a picture, the one with the most matches first.

        Parameters
        ----------
        picture : any picture that `semattn.images.read` accepts; outlines are in its pixels

        Examples
        --------
        ``[region.outline for region in mark.locate("x.jpg")]``
        """
        return _locate_marks([self], np.asarray(read(picture)))[0]

    def pixels_of(self, regions: Sequence[Region], size: tuple[int, int]) -> np.ndarray:
        """Return the pixels (H, W) of bool that the mark covers in its places.

        Those of its strokes; of a mark in fewer than `MIN_FOR_STROKES` images, also its outlines.

        Parameters
        ----------
        regions : places of the mark in an image
        size : height and width of the image
        """
        covered = np.zeros(size, bool)
        if self.matte is not None:
            for region in regions:
                covered |= self.matte.mask(region.transform, size)
        if self.matte is None or self.images < MIN_FOR_STROKES:
            covered |= region_masks([regions], size)[0]
        return covered

    def erase(self, picture: Picture) -> np.ndarray:
        """Return a picture (H, W, 3) uint8 in which the mark is inpainted at each of its places."""
        return erase_marks([self], picture)[0]

    def summary(self) -> dict[str, Any]:
        """Return the values that a table shows, ready for JSON.

        "examples" are the images with the most matches, at most 12; "image_names" are all images.
        """
        summary = {
            "class": self.name, "target": self.target, "significant": self.significant,
            "p": to_json_number(self.p), "images": self.images, "n_inside": self.n_inside,
            "n_outside": self.n_outside, "inside": to_json_number(self.inside),
            "outside": to_json_number(self.outside),
            "examples": [
                {"name": example.name, "size": list(example.pixels.shape[:2]),
                 "outlines": [region.outline.round(1).tolist() for region in example.regions]}
                for example in self.examples
            ],
            "images_without_example": self.images - len(self.examples),
        }  # fmt: skip
        if self.marked_images:
            summary["image_names"] = [image.name for image in self.marked_images]
        return summary


def erase_marks(marks: Sequence[Mark], picture: Picture) -> tuple[np.ndarray, int]:
    """Return a picture in which several marks are inpainted, and the number of their places.

    The picture is (H, W, 3) uint8. Without a mark, it has the pixels of the original. Only strokes
    are inpainted, and what is between them stays as it is; of a mark in fewer than
    `MIN_FOR_STROKES` images, all of its outline is.

    Parameters
    ----------
    marks : such as the `significant` ones of `find_marks`
    picture : any picture that `semattn.images.read` accepts
    """
    pixels = np.asarray(read(picture))
    places = _locate_marks(marks, pixels)
    size = pixels.shape[:2]
    covered = np.zeros(size, bool)
    for mark, regions in zip(marks, places, strict=True):
        covered |= mark.pixels_of(regions, size)
    return erase_pixels(pixels[None], covered[None])[0], sum(map(len, places))


def _locate_marks(marks: Sequence[Mark], pixels: np.ndarray) -> list[list[Region]]:
    """Return the places of each mark in an image (H, W, 3)."""
    small, factor = reduced(pixels)
    keypoints = fine_sift(small)
    return [
        [mark.template.scaled(region, factor) for region in mark.template.locate(keypoints)]
        for mark in marks
    ]


def describe_mark(
    mark: RecurringMark,
    shown: np.ndarray,
    labels: np.ndarray,
    class_name: Callable[[int], str],
    n_tests: int,
    alpha: float,
    read_row: Callable[[int], tuple[str, np.ndarray]],
) -> Mark:
    """Return a recurring mark with its picture and examples.

    Parameters
    ----------
    mark : its regions are by any row that `read_row` accepts
    shown, labels : (n,), images that show it, and the class of each image, -1 for none
    class_name : function from a class to its name
    n_tests, alpha : correction and level of the search
    read_row : function from a row to its name and pixels
    """
    has_classes = len(set(labels.tolist())) > 1
    target = mark.target if has_classes else NOT_TESTED
    in_class = labels == target if has_classes else np.ones(len(labels), bool)
    order = mark.rows_by_matches()
    pictured = {row: read_row(row) for row in order[:MAX_PICTURED]}
    shown_by = (
        [pixels for _, pixels in pictured.values()],
        [mark.regions[row][0].transform for row in pictured], mark.template.outline,
    )  # fmt: skip
    picture, _ = mean_in_frame(*shown_by)
    examples = tuple(_example(mark, row, *pictured[row]) for row in order[:MAX_EXAMPLES])
    p = min(1.0, mark.p * n_tests) if has_classes else float("nan")
    return Mark(
        target=target, name=class_name(target) if has_classes else "",
        n_inside=int(shown[in_class].sum()), n_outside=int(shown[~in_class].sum()),
        inside=float(shown[in_class].mean()),
        outside=float(shown[~in_class].mean()) if has_classes else float("nan"),
        p=p, significant=p < alpha, picture=picture, examples=examples, template=mark.template,
        matte=estimate_matte(*shown_by),
    )  # fmt: skip


def find_marked_images(
    mark: RecurringMark,
    described: Mark,
    labels: np.ndarray,
    class_name: Callable[[int], str],
    image_name: Callable[[int], str],
    factors: np.ndarray,
) -> tuple[MarkedImage, ...]:
    """Return all images that show a mark, those of its class first, then by matches.

    Parameters
    ----------
    mark, described : the mark by rows, and its description
    labels, factors : (n,), class of each row, and the size of its original as a multiple
    class_name, image_name : functions from a class, and from a row, to its name
    """
    images = []
    for row, regions in sorted(mark.regions.items(), key=lambda item: -item[1][0].matches):
        places = [mark.template.scaled(region, float(factors[row])) for region in regions]
        label = int(labels[row])
        in_class = described.target in (label, NOT_TESTED)
        images.append(MarkedImage(image_name(row), class_name(label), in_class, tuple(places)))
    return tuple(sorted(images, key=lambda image: not image.in_class))


def _example(mark: RecurringMark, row: int, name: str, pixels: np.ndarray) -> MarkExample:
    """Return an example, reduced to `EXAMPLE_SIDE`."""
    small, factor = reduced(pixels, EXAMPLE_SIDE)
    places = [mark.template.scaled(region, 1 / factor) for region in mark.regions[row]]
    return MarkExample(name, small, tuple(places))
