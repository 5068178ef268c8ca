"""Small pictures of the pages about many images, and the room that they may take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..viz.texts import count_text, mean_picture_text
from .image_content import encode_image

if TYPE_CHECKING:
    from ..spurious import Mark, MarkExample
    from ..viz import Picture

MAX_EXAMPLES = 8  # of a cue or mark
SIDE = 224  # pixels of the longer side of an example
QUALITY = 82  # JPEG quality of an example
ROOM = 6_000_000  # characters that the examples of all cues may take


def thumbnail(picture: Picture) -> str:
    """Return a small picture as a data URL."""
    from PIL import Image

    image = Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return encode_image(image, "JPEG", quality=QUALITY, optimize=True)


def mark_pictures(mark: Mark) -> dict[str, Any]:
    """Return the mean picture of a mark, and its examples with the outlines of its places."""
    return {
        "picture": thumbnail(mark.picture),
        "picture_text": mean_picture_text(mark),
        "examples": [_mark_example(example) for example in mark.examples[:MAX_EXAMPLES]],
    }


def pictures_size(pictures: dict[str, Any]) -> int:
    """Return the number of characters that the pictures of a mark take."""
    return len(pictures["picture"]) + sum(len(shown["source"]) for shown in pictures["examples"])


def _mark_example(example: MarkExample) -> dict[str, Any]:
    matches = [region.matches for region in example.regions]
    places = f"{count_text(len(matches), 'place')}: " if len(matches) > 1 else ""
    return {
        "name": example.name, "source": thumbnail(example.pixels),
        "size": list(example.pixels.shape[:2]),
        "outlines": [region.outline.round(1).tolist() for region in example.regions],
        "matches_text": f"{places}{' and '.join(map(str, matches))} matched keypoints",
    }  # fmt: skip
