"""Any image that a person has, as what the model takes and what SIFT looks at.

A picture (path, bytes, PIL, array) is read as upright 8-bit RGB (`picture`), then resized, cropped
and normalised exactly as timm's evaluation transform does (`preprocessing`). A float tensor is the
model's input already and is never changed; only its pixels are looked for (`batch`). Nothing
here knows more of a model than the few attributes that say how it wants its input.
"""

from .archives import TarMember
from .batch import (
    PICTURE_CHANNELS,
    Images,
    called,
    keypoint_channels_error,
    luma,
    pixels_of,
    prepare,
)
from .mask_levels import Coding
from .object_mask import ObjectMask, coding_of_masks, read_mask
from .picture import MAX_PIXELS, MIN_SIDE, Picture, read
from .preprocessing import Preprocessing
from .raw_mask import open_mask

__all__ = [
    "MAX_PIXELS",
    "MIN_SIDE",
    "PICTURE_CHANNELS",
    "Coding",
    "Images",
    "ObjectMask",
    "Picture",
    "Preprocessing",
    "TarMember",
    "called",
    "coding_of_masks",
    "keypoint_channels_error",
    "luma",
    "open_mask",
    "pixels_of",
    "prepare",
    "read",
    "read_mask",
]
