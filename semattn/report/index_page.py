"""Index page of a result folder: one card per image, with links to its files.

The page is one HTML file without scripts. Pictures and links are relative, so the folder can be
moved or sent as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from urllib.parse import quote

from ..errors import plain
from ..version import __version__
from .render import STYLE, digest, joined

INDEX_STYLE = "index.css"


@dataclass(frozen=True)
class IndexCard:
    """Entry of one image in the index.

    Parameters
    ----------
    name : displayed name of the image
    folder : name of the folder with its results, next to the page
    picture : file name of the picture that is shown, in that folder
    lines : prediction and further text
    links : file names in that folder, by the text of the link; the picture links to the first
    """

    name: str
    folder: str
    picture: str
    lines: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)


def index_page(
    title: str,
    cards: Sequence[IndexCard],
    skipped: Sequence[tuple[str, str]] = (),
    *,
    is_wide: bool = False,
) -> str:
    """Return the page as text.

    Parameters
    ----------
    title : headline and title of the document
    cards : the images, in order
    skipped : name and reason of each image that was left out
    is_wide : the pictures are wide figures

    Examples
    --------
    >>> card = IndexCard("a cat.jpg", "a cat", "overlay.png", ("cat 93%",))
    >>> 'src="a%20cat/overlay.png"' in index_page("photos", [card])
    True
    """
    style = joined(STYLE) + joined((INDEX_STYLE,))
    # Browsers do not count files next to a page on the disk as 'self'.
    policy = (
        "default-src 'none'; img-src 'self' file: data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{digest(style)}'"
    )
    count = f"{len(cards)} image{'s' * (len(cards) != 1)}"
    without = f", {len(skipped)} skipped" if skipped else ""
    rows = "\n".join(map(_card, cards))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{_text(title)} · semattn</title>
<style>{style}</style>
</head>
<body>
<header class="top">
<div>
<h1>{_text(title)}</h1>
<p class="muted">{count}{without} · semattn {_text(__version__)}</p>
</div>
</header>
<main>
<ul class="images{" wide" * is_wide}">
{rows}
</ul>
{_skipped(skipped)}</main>
</body>
</html>
"""


def _card(card: IndexCard) -> str:
    first = next(iter(card.links.values()), card.picture)
    lines = "".join(f"<p>{_text(line)}</p>\n" for line in card.lines)
    links = "".join(
        f'<a href="{_address(card.folder, file)}">{_text(text)}</a>\n'
        for text, file in card.links.items()
    )
    return (
        f'<li>\n<a class="thumbnail" href="{_address(card.folder, first)}">'
        f'<img src="{_address(card.folder, card.picture)}" loading="lazy" '
        f'alt="Map on {_text(card.name)}"></a>\n'
        f'<div>\n<h2>{_text(card.name)}</h2>\n{lines}<p class="links">\n{links}</p>\n</div>\n</li>'
    )


def _skipped(skipped: Sequence[tuple[str, str]]) -> str:
    if not skipped:
        return ""
    rows = "".join(f"<li><b>{_text(name)}</b>: {_text(reason)}</li>\n" for name, reason in skipped)
    return f'<section class="skipped">\n<h2>Skipped</h2>\n<ul>\n{rows}</ul>\n</section>\n'


def _address(folder: str, file: str) -> str:
    """Return a relative link; "./" prevents a colon in a name from being parsed as a scheme."""
    path = quote(os.fsencode(f"{folder}/{file}"))
    return escape(f"./{path}" if ":" in folder else path)


def _text(text: str) -> str:
    return escape(plain(text))
