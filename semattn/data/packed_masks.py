"""Packed data sets with masks: Pascal VOC, COCO, ImageNet-Segmentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..errors import ImageError, SemattnError
from ..images import read as read_picture
from .masked import MaskedImage, NamedInput, label_map, masked_datasets, union_of

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)  # fmt: skip
VOID = 255  # unlabelled pixels of Pascal VOC, which count as background


class Voc:
    """Segmentation data of Pascal VOC; the class with the largest area is the label.

    Parameters
    ----------
    root : the folder that contains `JPEGImages`, `SegmentationClass` and `ImageSets`
    split : name of a file in `ImageSets/Segmentation`
    """

    def __init__(self, root: Path, split: Path | str = "val") -> None:
        listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
        if not listing.is_file():
            raise SemattnError(
                f"voc: expected {listing}, got no such file — give the folder of one year, "
                "VOCdevkit/VOC2012"
            )
        self.root = root
        self.names = listing.read_text(encoding="utf-8").split()
        self.classes = VOC_CLASSES
        self.about: dict[str, Any] = {
            "name": "voc", "root": root.name, "split": str(split), "of": len(self.names)
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> MaskedImage:
        name = Path(self.names[index]).name
        image = read_picture(self.root / "JPEGImages" / f"{name}.jpg")
        labels = label_map(self.root / "SegmentationClass" / f"{name}.png", image.size)
        areas = np.bincount(labels.astype(np.int64).ravel(), minlength=256)[1:VOID]
        label = int(areas.argmax())
        if not areas[label] or label >= len(VOC_CLASSES):
            raise ImageError(f"mask: expected a class of 1 to {len(VOC_CLASSES)} in {name}.png")
        return MaskedImage(name, image, labels == label + 1, label)

    def sources(self, index: int) -> list[NamedInput]:
        """Return the files of an item; its class is in its mask."""
        name = Path(self.names[index]).name
        image, mask = Path("JPEGImages") / f"{name}.jpg", Path("SegmentationClass") / f"{name}.png"
        return [(name, self.root / image, None), (mask.as_posix(), self.root / mask, None)]


class Coco:
    """Instances of COCO; the class with the largest area is the label, all its instances the mask.

    Parameters
    ----------
    images : folder of the pictures
    annotations : `instances_….json`; images with crowd instances only are left out
    """

    def __init__(self, images: Path, annotations: Path) -> None:
        try:
            annotation_file = json.loads(annotations.read_text(encoding="utf-8"))
            names = {category["id"]: category["name"] for category in annotation_file["categories"]}
            self.files = {image["id"]: image["file_name"] for image in annotation_file["images"]}
            by_image: dict[int, list[dict[str, Any]]] = {}
            for annotation in annotation_file["annotations"]:
                if not annotation.get("iscrowd"):
                    by_image.setdefault(annotation["image_id"], []).append(annotation)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SemattnError(
                f"coco: expected COCO's annotations of instances, got {annotations} "
                f"({type(error).__name__}: {' '.join(str(error).split())}) — give the pictures' "
                "folder, then a file such as instances_val2017.json"
            ) from error
        self.root, self.by_image = images, by_image
        self.order = [image_id for image_id in self.files if image_id in by_image]
        self.numbers = {category_id: position for position, category_id in enumerate(sorted(names))}
        self.classes = tuple(names[category_id] for category_id in sorted(names))
        self.about: dict[str, Any] = {
            "name": "coco", "root": annotations.name, "of": len(self.order)
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> MaskedImage:
        number = self.order[index]
        name = Path(self.files[number]).name
        image = read_picture(self.root / name)
        masks: dict[int, list[np.ndarray]] = {}
        for annotation in self.by_image[number]:
            annotation_mask = decode_segmentation(annotation["segmentation"], image.size)
            masks.setdefault(annotation["category_id"], []).append(annotation_mask)
        unions = {category: union_of(category_masks) for category, category_masks in masks.items()}
        best = max(unions, key=lambda category: int(unions[category].sum()))
        if not unions[best].any():
            raise ImageError(f"mask: expected an instance with area in {name}")
        return MaskedImage(name, image, unions[best], self.numbers[best])

    def sources(self, index: int) -> list[NamedInput]:
        """Return the picture of an item, and its annotations with the names of all classes."""
        number = self.order[index]
        name = Path(self.files[number]).name
        annotations = json.dumps([self.classes, self.by_image[number]]).encode()
        return [(name, self.root / name, None), (f"annotations {name}", annotations, None)]


def decode_segmentation(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Return a COCO segmentation as a mask (H, W): polygons, or plain or packed run lengths.

    Parameters
    ----------
    size : (width, height)
    """
    width, height = size
    if isinstance(segmentation, list):
        page = Image.new("1", size)
        for flat in segmentation:
            pairs = list(zip(flat[::2], flat[1::2], strict=True))
            ImageDraw.Draw(page).polygon(pairs, fill=1)
        return np.asarray(page)
    counts = segmentation["counts"]
    runs = decode_run_lengths(counts) if isinstance(counts, str) else counts
    if [height, width] != list(segmentation["size"]) or sum(runs) != width * height:
        raise ImageError(
            f"mask: expected run lengths of {width}x{height} pixels, got {sum(runs)} of "
            f"{segmentation['size'][::-1]}"
        )
    values = np.arange(len(runs)) % 2 == 1  # the first run is outside the mask
    return np.repeat(values, runs).reshape(width, height).T  # column-major order


def decode_run_lengths(text: str) -> list[int]:
    """Decode the packed run lengths of COCO.

    Each character has six bits; from the fourth on, a run is the difference to the one two before.
    """
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    return runs


class ImageNetSegmentation:
    """ImageNet-Segmentation (Guillaumin et al. 2014), the file `gtsegs_ijcv.mat`, without labels.

    Needs h5py.
    """

    classes: tuple[str, ...] = ()

    def __init__(self, file: Path) -> None:
        try:
            import h5py
        except ImportError as error:
            raise SemattnError(
                "imagenet-segmentation: expected the package h5py, got none — pip install h5py"
            ) from error
        try:
            self.opened = h5py.File(file, "r")
            self.images = self.opened["value/img"][()].ravel()
            self.masks = self.opened["value/gt"][()].ravel()
        except (OSError, KeyError, TypeError, AttributeError) as error:
            raise SemattnError(
                f"imagenet-segmentation: expected gtsegs_ijcv.mat, got {file} "
                f"({' '.join(str(error).split())}) — give the path of that file"
            ) from error
        self.about: dict[str, Any] = {
            "name": "imagenet-segmentation", "root": file.name, "of": len(self.images)
        }  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> MaskedImage:
        # MATLAB stores arrays in column-major order, (3, W, H), and a mask behind a reference.
        pixels = np.asarray(self.opened[self.images[index]]).transpose(2, 1, 0)
        inner = self.opened[self.opened[self.masks[index]][0, 0]]
        image = read_picture(np.ascontiguousarray(pixels).astype(np.uint8))
        return MaskedImage(f"image {index}", image, np.asarray(inner).T > 0, None)

    def sources(self, index: int) -> list[NamedInput]:
        """Return the values of an item, as stored in the file."""
        pixels, mask = (
            np.asarray(array)
            for array in (
                self.opened[self.images[index]],
                self.opened[self.opened[self.masks[index]][0, 0]],
            )
        )
        return [(f"image {index}", pixels, None), (f"mask {index}", mask, None)]


masked_datasets["voc"] = Voc
masked_datasets["coco"] = Coco
masked_datasets["imagenet-segmentation"] = ImageNetSegmentation
