"""Options of `semattn spurious` and `semattn marks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import INPUT, METHOD, OUTPUT, option

LabelledFolder = Annotated[
    str,
    typer.Argument(
        metavar="FOLDER|SOURCE",
        help="Images in one subfolder per class, named like the model's classes; or a folder of "
        "images without subfolders: then the predicted class of each image is used. Other files "
        "are skipped. Every other source of [bold]semattn audit[/] is accepted too.",
    ),
]
OnlyClasses = Annotated[
    str | None,
    option(
        INPUT,
        "CLASS,…",
        "Classes to search, by name or number. Default: all classes of the images.",
    ),
]
Alpha = Annotated[
    float,
    option(
        METHOD,
        "P",
        "Significance level of the whole search: probability of any false confirmation.",
    ),
]
MinRelativeRisk = Annotated[
    float,
    option(
        METHOD,
        "R",
        "Minimum frequency of a candidate in its class, relative to the other classes.",
    ),
]
MaxCandidates = Annotated[
    int, option(METHOD, "N", "Maximum number of candidates that are tested per class.", min=1)
]
SearchSeed = Annotated[
    int, option(METHOD, "S", "Random seed of draws, clusters and intervals.", min=0)
]
SpuriousFolder = Annotated[
    Path | None,
    option(OUTPUT, "DIR", "Folder for the results. Default: semattn-spurious."),
]
MarkedFolder = Annotated[
    str,
    typer.Argument(
        metavar="FOLDER|SOURCE",
        help="Images in one subfolder per class, with any names; or a folder of images without "
        "subfolders: then marks are counted and not tested, and [bold]semattn check[/] fails. "
        "Other files are skipped. Every other source of [bold]semattn audit[/] is accepted too.",
    ),
]
TopMarks = Annotated[int, option(OUTPUT, "N", "Number of marks to list.", "--top", min=1)]
MarkAlpha = Annotated[
    float,
    option(
        METHOD,
        "P",
        "Significance level of the whole search: probability of any false mark.",
    ),
]
EraseFolder = Annotated[
    Path | None,
    option(
        OUTPUT,
        "DIR",
        "Also write a copy of each image that shows a significant mark to this folder, as PNG and "
        "with the name that it has in FOLDER; the marks are filled from their surroundings.",
    ),
]
MarksFolder = Annotated[
    Path | None,
    option(OUTPUT, "DIR", "Folder for the results. Default: semattn-marks."),
]
