"""Data sets: folders, lists of files and archives, with labels and masks, and their loading.

Pictures are decoded in `semattn.images`; nothing here runs a model.
"""

from .listing import listed
from .samples import Archive, members
from .sources import Source, open_source
from .strays import by_class_folder, is_picture, left_out_note, named

__all__ = [
    "Archive",
    "Source",
    "by_class_folder",
    "is_picture",
    "left_out_note",
    "listed",
    "members",
    "named",
    "open_source",
]
