"""Options of `semattn bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from .options import INPUT, METHOD, OUTPUT, option

Data = Annotated[
    str,
    option(
        INPUT,
        "DATA",
        "Images with object masks: [bold]masks:IMAGES,MASKS[/] (folders), [bold]voc:ROOT[/], "
        "[bold]coco:IMAGES,ANNOTATIONS[/] or [bold]imagenet-segmentation:FILE[/]; or without "
        "masks: [bold]folder:IMAGES[/].",
    ),
]
BenchMethods = Annotated[
    str | None,
    option(
        INPUT,
        "NAMES",
        "Methods (table rows), separated by commas: explainers (see semattn compare --help), "
        "[bold]EXPLAINER:DENSITY[/], or methods of other packages such as "
        "[bold]pytorch-grad-cam/GradCAM[/]. Default: eight methods.",
    ),
]
Metrics = Annotated[
    str | None,
    option(
        INPUT,
        "NAMES",
        "Metrics (columns), separated by commas. Default: AP, pointing, energy, ins − del.",
    ),
]
Baselines = Annotated[
    str | None,
    option(
        INPUT, "NAMES", "Methods that all others are compared with. Default: rollout, Grad-CAM, …."
    ),
]
Images = Annotated[int, option(INPUT, "N", "Number of images, spread evenly over the data.", min=1)]
Perturbation = Annotated[
    str, option(METHOD, "NAME", "Replacement of removed patches: blur, mean, black or inpaint.")
]
PerturbationSteps = Annotated[
    int, option(METHOD, "S", "Number of deletion and insertion steps.", min=1)
]
PerturbationBatch = Annotated[int, option(METHOD, "B", "Batch size of perturbed images.", min=1)]
Precision = Annotated[
    str,
    option(
        METHOD,
        "TYPE",
        "Precision for perturbed images: float32, bfloat16 or float16; [bold]auto[/] is bfloat16 "
        "if the device supports it.",
    ),
]
Quick = Annotated[bool, option(METHOD, None, "Use at most 10 images and 8 steps.", "--quick")]
BenchSeed = Annotated[int, option(METHOD, "S", "Random seed of ties, draws and intervals.", min=0)]
BenchFolder = Annotated[
    Path | None, option(OUTPUT, "FOLDER", "Folder for the results. Default: semattn-bench.")
]
