"""Images: reading of pictures, archives and masks, and preparation for the model and for SIFT.

A picture (path, bytes, PIL, array) is read as upright 8-bit RGB (`picture`), then resized, cropped
and normalised exactly as by timm's evaluation transform (`preprocessing`). A float tensor is passed
to the model unchanged, and converted to pixels for SIFT (`batch`). This package reads only the
attributes of a model that describe its preprocessing.
"""

from .archive_members import TarMember
from .batch import (
    PICTURE_CHANNELS,
    ImageLike,
    Images,
    display_name,
    keypoint_channels_error,
    luma,
    pixels_of,
    prepare,
)
from .mask_levels import MaskEncoding
from .object_mask import ObjectMask, infer_mask_encoding, open_mask, read_mask
from .picture import MAX_PIXELS, MIN_SIDE, Picture, read
from .preprocessing import Preprocessing

__all__ = [
    "MAX_PIXELS",
    "MIN_SIDE",
    "PICTURE_CHANNELS",
    "ImageLike",
    "Images",
    "MaskEncoding",
    "ObjectMask",
    "Picture",
    "Preprocessing",
    "TarMember",
    "display_name",
    "infer_mask_encoding",
    "keypoint_channels_error",
    "luma",
    "open_mask",
    "pixels_of",
    "prepare",
    "read",
    "read_mask",
]
