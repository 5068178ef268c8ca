"""Options of `semattn pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import METHOD, OUTPUT, option

TRAINING = "Training"
PhotoFolder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Folder of photographs, with its subfolders; no labels are needed. Other files are "
        "skipped.",
    ),
]
MaskingName = Annotated[
    str | None,
    option(
        METHOD,
        "NAME",
        "Masking policy: [bold]random[/] as in MAE, [bold]guided[/] by keypoints, or "
        "[bold]block-wise[/] as in BEiT. Default: random; guided with --beta, --beta-end or "
        "--hint.",
        "--masking",
    ),
]
Beta = Annotated[
    float | None,
    option(
        METHOD,
        "B",
        "Strength of guided masking: above 0, patches with many keypoints are hidden more often; "
        "below 0, less often; 0 is random masking. Default: 2.",
    ),
]
BetaEnd = Annotated[
    float | None,
    option(METHOD, "B", "Beta in the last epoch. Default: the same as --beta."),
]
ScheduleShape = Annotated[
    str,
    option(
        METHOD, "NAME", "Schedule from --beta to --beta-end: [bold]linear[/] or [bold]cosine[/]."
    ),
]
Hint = Annotated[
    float | None,
    option(
        METHOD,
        "H",
        "Guided masking: share of the patches with the highest masking scores that always stay "
        "visible. Default: 0.",
    ),
]
MaskRatio = Annotated[float, option(METHOD, "R", "Share of the patches that is hidden.")]
MaskDensity = Annotated[
    str,
    option(
        METHOD,
        "NAME",
        "Density that guides: [bold]count, response, size, gaussian, surround[/]; or a control: "
        "sobel, canny, center, random, shifted, permuted, [bold]other[/] (keypoints of "
        "another image).",
        "--density",
    ),
]
PatchTarget = Annotated[
    str,
    option(
        METHOD,
        "NAME",
        "What hidden patches are predicted as: descriptors [bold]sift[/] or [bold]hog[/]; "
        "[bold]pixels[/] as in MAE; [bold]colour[/]; sums such as [bold]sift+colour[/] or "
        "[bold]sift+pixels[/]; or [bold]words[/], clusters of SIFT descriptors.",
        "--target",
    ),
]
Window = Annotated[
    float,
    option(METHOD, "W", "Side of the window of SIFT targets around each patch, in pixels.", min=1),
]
WordCount = Annotated[
    int, option(METHOD, "K", "Number of words for --target words.", "--words", min=2)
]
LossWeight = Annotated[
    str,
    option(
        METHOD,
        "NAME",
        "Weights of patches in the loss: [bold]none[/] (equal), or higher for patches with "
        "keypoints: [bold]keypoints, keypoints-linear, kamim[/] or [bold]kamim-relative[/].",
    ),
]
Temperature = Annotated[
    float,
    option(
        METHOD, "T", "Temperature of KAMIM's weights; lower values weigh keypoints more strongly."
    ),
]
KeypointsFrom = Annotated[
    str,
    option(
        METHOD,
        "SOURCE",
        "[bold]cache[/]: detect keypoints once in each full photograph and store them; or "
        "[bold]detect[/]: detect them in every crop.",
        "--keypoints",
    ),
]
MaeModel = Annotated[
    str,
    option(
        TRAINING,
        "NAME|DIR",
        "Size of the ViT: [bold]tiny, small, base[/]; or a model saved by transformers.",
        "--model",
    ),
]
ImageSize = Annotated[int, option(TRAINING, "N", "Side of a crop in pixels.", min=16)]
PatchSize = Annotated[int, option(TRAINING, "N", "Side of a patch in pixels.", min=2)]
EpochCount = Annotated[int, option(TRAINING, "N", "Number of epochs.", min=1)]
TrainBatch = Annotated[
    int, option(TRAINING, "B", "Photographs per step, over all processes.", "--batch-size", min=1)
]
LearningRate = Annotated[
    float,
    option(TRAINING, "LR", "Learning rate for a batch of 256; it is scaled with the batch size."),
]
Workers = Annotated[
    int | None,
    option(
        TRAINING, "N", "Processes that load photographs. Default: by the number of CPU cores.",
        min=0,
    ),
]  # fmt: skip
TrainPrecision = Annotated[
    str,
    option(
        TRAINING,
        "TYPE",
        "Precision: float32, bfloat16, float16 (on a GPU); [bold]auto[/] is bfloat16 if the "
        "device supports it.",
        "--precision",
    ),
]
TrainDevice = Annotated[
    str,
    option(TRAINING, "NAME", "Device: [bold]auto[/] (a GPU if there is one) or cpu.", "--device"),
]
TrainSeed = Annotated[
    int, option(TRAINING, "S", "Random seed of weights, order, crops and masks.", "--seed", min=0)
]
CheckpointSteps = Annotated[
    int | None, option(TRAINING, "N", "Steps between checkpoints. Default: one epoch.", min=1)
]
Validation = Annotated[
    Path | None,
    option(
        TRAINING,
        "FOLDER",
        "Photographs on which the loss under fixed random masks is logged every epoch.",
    ),
]
PretrainFolder = Annotated[
    Path | None,
    option(OUTPUT, "DIR", "Folder of the run. Default: semattn-pretrain."),
]
