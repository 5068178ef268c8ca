"""Data sets: folders, lists of files and archives, with labels and masks, and their loading.

Pictures are decoded in `semattn.images`; nothing here runs a model or imports `evaluation`.
"""

from .listing import example_names, find_class_folders, is_picture, left_out_note, list_images
from .masked import EvenSubset, MaskedDataset, MaskedFolder, MaskedImage, open_masked
from .packed_masks import Coco, ImageNetSegmentation, Voc
from .samples import LabelledArchive, read_archive
from .sources import Source, has_archives, open_source, read_dataset

__all__ = [
    "Coco",
    "EvenSubset",
    "ImageNetSegmentation",
    "LabelledArchive",
    "MaskedDataset",
    "MaskedFolder",
    "MaskedImage",
    "Source",
    "Voc",
    "example_names",
    "find_class_folders",
    "has_archives",
    "is_picture",
    "left_out_note",
    "list_images",
    "open_masked",
    "open_source",
    "read_archive",
    "read_dataset",
]
