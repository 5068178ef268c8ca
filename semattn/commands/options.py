"""The arguments and options that the commands share: what each is called and what `--help` says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

WHAT, HOW, WHERE = "What is explained", "How", "Output"


def _option(panel: str, metavar: str | None, words: str, *names: str, **more: Any) -> Any:
    # "" for a flag: `--debug <bool>` would read as if a value followed.
    return typer.Option(*names, metavar=metavar or "", rich_help_panel=panel, help=words, **more)


ImageFiles = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE",
        help="Photographs: any files that Pillow reads; folders, with the folders in them; "
        "patterns in quotes such as [bold]'photos/**/*.jpg'[/]; or [bold]-[/], the bytes of one on "
        "standard input.",
    ),
]
ImagesOrFolder = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE|FOLDER",
        help="A photograph, or several that are analysed together: files, folders, with the "
        "folders in them, patterns in quotes such as [bold]'photos/*.jpg'[/]; or [bold]-[/], the "
        "bytes of one on standard input. Other files are skipped.",
    ),
]
ModelName = Annotated[
    str | None,
    _option(
        WHAT,
        "NAME",
        "A timm model, such as [bold]vit_base_patch16_224[/]; the embedded one if left out.",
    ),
]
Checkpoint = Annotated[
    Path | None,
    _option(
        WHAT,
        "FILE",
        "Weights for --model: safetensors or a PyTorch file, also one of a training run; "
        "[bold]FILE#state_dict_ema[/] chooses among several sets of weights in it.",
    ),
]
RandomWeights = Annotated[
    bool,
    _option(
        WHAT,
        None,
        "Leave --model untrained: nothing is fetched, and the map means nothing.",
        "--random-weights",
    ),
]
ClassNames = Annotated[
    Path | None,
    _option(
        WHAT,
        "FILE",
        "Names of the classes, one a line, in the order of the model's output; or lines with "
        "numbers, or JSON, as ImageNet's class index.",
    ),
]
Target = Annotated[
    str | None,
    _option(
        WHAT, "CLASS", "The class to explain, by name or number; the predicted one if left out."
    ),
]
METHODS = (
    "semattn's own [bold]sift-patch-interrelation[/]; of attention: raw-attention, "
    "attention-rollout, gradient-rollout, generic-relevance, transition-attention, legrad; of "
    "features: grad-cam; of pixels: input-x-gradient, integrated-gradients, smooth-grad, "
    "occlusion; or a control: keypoint-density, random, center"
)
Method = Annotated[str, _option(HOW, "NAME", f"The explainer: {METHODS}.")]
Methods = Annotated[
    str | None,
    _option(
        HOW,
        "A,B,C",
        f"The explainers to compare, in this order; all of them if left out: {METHODS}.",
    ),
]
Density = Annotated[
    str,
    _option(
        HOW,
        "NAME",
        "What makes a patch count: [bold]count, response, size, gaussian, surround, distinct, "
        "distinct-size, distinct-size-surround[/]; or a control: uniform, sobel, canny, center, "
        "shifted, permuted, random.",
    ),
]
Detector = Annotated[
    str, _option(HOW, "NAME", "Keypoints by [bold]sift[/] (OpenCV) or [bold]sift-skimage[/].")
]
Layers = Annotated[
    str | None,
    _option(
        HOW,
        "LAYERS",
        "[bold]last-half[/], [bold]all[/], or numbers from 0: 6-11, or 3,7,11; the method's own "
        "choice if left out.",
    ),
]
Queries = Annotated[
    str | None,
    _option(
        HOW,
        "WHO",
        "Whose attention counts: [bold]class[/] (that of the class token, or of all prefix tokens "
        "that the answer is read from), [bold]all[/] (every patch's too), or [bold]auto[/] (that "
        "of the tokens that the answer is read from).",
    ),
]
Region = Annotated[
    str | None,
    _option(
        WHAT,
        "WHERE",
        "Lead attention to a part of the photograph instead, in its own pixels: a box "
        "[bold]left,top,right,bottom[/] about a thing, clicks on it [bold]points=x,y;x,y[/], "
        "[bold]polygon=x,y;x,y;x,y[/], or a mask: a file, white inside, of the photograph's size.",
    ),
]
Away = Annotated[
    bool,
    _option(HOW, None, "Lead attention away from there: what is to be overlooked.", "--away"),
]
PromptDensity = Annotated[
    str,
    _option(
        HOW,
        "NAME",
        "What leads: [bold]interrelation[/] (what keypoint-dense patches and the class token "
        "attend to, grown to a whole thing), [bold]received, received-class[/], or a density: "
        "count, size, distinct-size-surround, …; or a control: class-attention, class-grown, "
        "sobel, canny, center, random, shifted.",
    ),
]
Strengths = Annotated[
    str | None,
    _option(HOW, "A,B,C", "How strongly, one after another: 0,0.25,0.5,0.75,1,1.5,2 if left out."),
]
PromptLayers = Annotated[
    str,
    _option(
        HOW,
        "LAYERS",
        "Which layers are steered: [bold]last-third[/], [bold]last-half[/], [bold]all[/], or 6-11, "
        "or 3,7,11.",
    ),
]
Growth = Annotated[
    float | None,
    _option(
        HOW,
        "G",
        "The part of a patch's relevance that it has from patches of like keys, in [0, 1): 0.9 if "
        "left out; 0 leaves the map as it is.",
    ),
]
PromptQueries = Annotated[
    str,
    _option(
        HOW,
        "WHO",
        "Whose attention is biased: that of [bold]all[/] tokens, of the [bold]class[/] tokens (the "
        "prefix tokens that the answer is read from), or of [bold]patches[/].",
    ),
]
PromptFolder = Annotated[
    Path | None,
    _option(
        WHERE,
        "DIR",
        "The folder for the results, with a folder in it for each of several images; "
        "semattn-prompt-IMAGE or semattn-prompt-FOLDER, here, if left out.",
    ),
]
Refine = Annotated[
    str,
    _option(
        HOW,
        "NAME",
        "How patches become pixels: [bold]none[/] (smoothly), or along the borders in the picture, "
        "by [bold]guided[/] filter or [bold]superpixels[/].",
    ),
]
Device = Annotated[str, _option(HOW, "NAME", "Where it runs: cpu, cuda, mps, …")]
Folder = Annotated[
    Path | None,
    _option(
        WHERE,
        "DIR",
        "The folder for the results, with a folder in it for each of several images; "
        "semattn-IMAGE or semattn-explain-FOLDER, here, if left out.",
    ),
]
ComparisonFolder = Annotated[
    Path | None,
    _option(
        WHERE,
        "DIR",
        "The folder for the results, with a folder in it for each of several images; "
        "semattn-compare-IMAGE or semattn-compare-FOLDER, here, if left out.",
    ),
]
AnalysisFolder = Annotated[
    Path | None,
    _option(WHERE, "DIR", "The folder for the results; semattn-analyze-NAME, here, if left out."),
]
AnalysisLayers = Annotated[
    str | None,
    _option(HOW, "LAYERS", "[bold]last-half[/], [bold]all[/] (the default), or 6-11, or 3,7,11."),
]
Draws = Annotated[
    int | None,
    _option(
        HOW, "R", "Draws of each null, for each image; 3, or 20 for one image, if left out.", min=2
    ),
]
Batch = Annotated[int, _option(HOW, "B", "Images in the model at once.", min=1)]
Seed = Annotated[int, _option(HOW, "S", "Of the nulls, the intervals and the ties.", min=0)]
Report = Annotated[
    bool,
    _option(
        WHERE,
        None,
        "Whether [bold]report.html[/] is written: a page to look into, which opens from the disk.",
        "--report/--no-report",
    ),
]
Force = Annotated[
    bool,
    _option(
        WHERE,
        None,
        "Replace files in the folder that semattn did not write; never the input.",
        "--force",
    ),
]
Top = Annotated[int, _option(WHERE, "K", "How many classes to list.", min=1)]
Json = Annotated[
    bool,
    _option(
        WHERE,
        None,
        "Print one JSON object on standard output and all other text on standard error; where the "
        "command fails, no object is printed.",
        "--json",
    ),
]
Debug = Annotated[bool, _option(WHERE, None, "Show where an error arose.", "--debug")]
LabelledFolder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Images in a folder a class, named as the model's classes are; or a folder of images "
        "alone: then each counts as the class that the model predicts. Other files are skipped.",
    ),
]
Search = Annotated[
    str | None,
    _option(
        WHAT,
        "CLASS,…",
        "The classes to search, by names or numbers; all that images are of if left out.",
    ),
]
Level = Annotated[
    float,
    _option(HOW, "P", "The chance that the whole search confirms a cue where there is none."),
]
Lift = Annotated[
    float,
    _option(HOW, "L", "How many times as often as others a class must surely show what is tried."),
]
Most = Annotated[int, _option(HOW, "N", "How many candidates of a class are tried at most.", min=1)]
SearchSeed = Annotated[int, _option(HOW, "S", "Of the draws, the clusters, the intervals.", min=0)]
SpuriousFolder = Annotated[
    Path | None,
    _option(WHERE, "DIR", "The folder for the results; semattn-spurious, here, if left out."),
]
AuditSource = Annotated[
    str,
    typer.Argument(
        metavar="FOLDER|ARCHIVES|LIST",
        help="A folder of photographs, or of one folder a class; a folder of tar archives, one of "
        "them, or shard-{000..063}.tar (WebDataset), with #EXTENSION where a sample has several "
        "pictures; or a text file with a path a line, and after a tab, comma or space the class.",
    ),
]
Jobs = Annotated[
    str,
    _option(WHAT, "A,B,C", "What is done: [bold]explain[/], [bold]analyze[/], [bold]spurious[/]."),
]
AuditBatch = Annotated[
    int | None,
    _option(
        HOW, "B", "Images in the model at once; chosen from the free memory if left out.",
        "--batch-size", min=1,
    ),
]  # fmt: skip
ReadingWorkers = Annotated[
    int | None,
    _option(
        HOW, "N", "Processes that read images and find keypoints; as many as the model leaves "
        "processors, if left out.", "--workers", min=0,
    ),
]  # fmt: skip
Process = Annotated[
    str | None,
    _option(
        HOW, "K/N", "Which of several processes this is, from 0/N; as torchrun says if left out."
    ),
]  # fmt: skip
AuditFolder = Annotated[
    Path | None,
    _option(WHERE, "DIR", "The folder for the results; semattn-audit-NAME, here, if left out."),
]
Data = Annotated[
    str,
    _option(
        WHAT,
        "DATA",
        "Images with the masks of their objects: [bold]masks:IMAGES,MASKS[/] (folders), "
        "[bold]voc:ROOT[/], [bold]coco:IMAGES,ANNOTATIONS[/] or "
        "[bold]imagenet-segmentation:FILE[/]; [bold]folder:IMAGES[/] has none.",
    ),
]
BenchMethods = Annotated[
    str | None,
    _option(
        WHAT,
        "NAMES",
        "The rows, by commas: explainers (semattn compare --help lists them), "
        "[bold]EXPLAINER:DENSITY[/], or peers' own code such as "
        "[bold]pytorch-grad-cam/GradCAM[/]; eight if left out.",
    ),
]
Metrics = Annotated[
    str | None,
    _option(WHAT, "NAMES", "The columns, by commas; AP, pointing, energy, ins − del if left out."),
]
Baselines = Annotated[
    str | None,
    _option(
        WHAT, "NAMES", "Rows that every other is compared with; rollout, Grad-CAM, … if left out."
    ),
]
Images = Annotated[int, _option(WHAT, "N", "How many images, spread over the data.", min=1)]
Perturbation = Annotated[
    str, _option(HOW, "NAME", "What stands for a patch: blur, mean, black or inpaint.")
]
PerturbationSteps = Annotated[int, _option(HOW, "S", "Steps of deletion and of insertion.", min=1)]
PerturbationBatch = Annotated[
    int, _option(HOW, "B", "Perturbed images in the model at once.", min=1)
]
Precision = Annotated[
    str,
    _option(
        HOW,
        "TYPE",
        "What perturbed images are computed in: float32, bfloat16 or float16; [bold]auto[/] is "
        "bfloat16 where the machine computes in it.",
    ),
]
Quick = Annotated[bool, _option(HOW, None, "10 images and 8 steps at most.", "--quick")]
BenchSeed = Annotated[int, _option(HOW, "S", "Of the ties, the draws and the intervals.", min=0)]
BenchFolder = Annotated[
    Path | None, _option(WHERE, "FOLDER", "Where the results go; ./semattn-bench if left out.")
]

TRAINING = "Training"
PhotoFolder = Annotated[
    Path,
    typer.Argument(
        metavar="FOLDER",
        help="Photographs, with those in its folders; no labels are needed. Other files are "
        "skipped.",
    ),
]
MaskingName = Annotated[
    str,
    _option(
        HOW,
        "NAME",
        "Which patches are hidden: [bold]guided[/] by keypoints, [bold]random[/] as in MAE, or "
        "[bold]block-wise[/] as in BEiT.",
        "--masking",
    ),
]
Beta = Annotated[
    float,
    _option(
        HOW,
        "B",
        "How strongly guided masking prefers patches with many keypoints: above 0 hides them, "
        "below 0 hides the others, 0 is random.",
    ),
]
BetaEnd = Annotated[
    float | None,
    _option(HOW, "B", "Beta in the last epoch; it stays as it is if left out."),
]
ScheduleShape = Annotated[
    str, _option(HOW, "NAME", "How beta gets there: [bold]linear[/] or [bold]cosine[/].")
]
Hint = Annotated[
    float,
    _option(HOW, "H", "Part of the patches most wanted hidden that stay visible for certain."),
]
MaskRatio = Annotated[float, _option(HOW, "R", "Part of the patches that is hidden.")]
MaskDensity = Annotated[
    str,
    _option(
        HOW,
        "NAME",
        "What guides: [bold]count, response, size, gaussian, surround[/]; or a control: sobel, "
        "canny, center, random, shifted, permuted, [bold]other[/] (another image's keypoints).",
        "--density",
    ),
]
LossWeight = Annotated[
    str,
    _option(
        HOW,
        "NAME",
        "How patches count in the loss: [bold]none[/] (alike), [bold]kamim[/] or "
        "[bold]kamim-relative[/] (those with keypoints more).",
    ),
]
Temperature = Annotated[float, _option(HOW, "T", "Of --loss-weight; the lower, the stronger.")]
KeypointsFrom = Annotated[
    str,
    _option(
        HOW,
        "WHERE",
        "[bold]cache[/]: found once in the whole photographs, kept on the disk, and cropped with "
        "them; or [bold]detect[/]: found in every crop.",
        "--keypoints",
    ),
]
MaeModel = Annotated[
    str,
    _option(
        TRAINING,
        "NAME|DIR",
        "The size of the ViT: [bold]tiny, small, base[/]; or a model saved by transformers.",
        "--model",
    ),
]
ImageSize = Annotated[int, _option(TRAINING, "N", "Side of a crop, pixels.", min=16)]
PatchSize = Annotated[int, _option(TRAINING, "N", "Side of a patch, pixels.", min=2)]
EpochCount = Annotated[int, _option(TRAINING, "N", "How often each photograph is seen.", min=1)]
TrainBatch = Annotated[
    int, _option(TRAINING, "B", "Photographs a step, in all processes.", "--batch-size", min=1)
]
LearningRate = Annotated[
    float, _option(TRAINING, "LR", "For a batch of 256, and scaled with the batch.")
]
Workers = Annotated[
    int | None,
    _option(
        TRAINING, "N", "Processes that load photographs; by the machine's processors if left out.",
        min=0,
    ),
]  # fmt: skip
TrainPrecision = Annotated[
    str,
    _option(
        TRAINING,
        "TYPE",
        "float32, bfloat16, float16 (on a GPU); [bold]auto[/] is bfloat16 where the machine "
        "computes in it.",
        "--precision",
    ),
]
TrainDevice = Annotated[
    str, _option(TRAINING, "NAME", "[bold]auto[/]: a GPU where there is one; or cpu.", "--device")
]
TrainSeed = Annotated[
    int, _option(TRAINING, "S", "Of weights, order, crops and masks.", "--seed", min=0)
]
CheckpointSteps = Annotated[
    int | None, _option(TRAINING, "N", "Steps between checkpoints; an epoch if left out.", min=1)
]
Validation = Annotated[
    Path | None,
    _option(
        TRAINING, "FOLDER", "Photographs whose loss under fixed random masks is logged each epoch."
    ),
]
PretrainFolder = Annotated[
    Path | None,
    _option(WHERE, "DIR", "The folder of the run; semattn-pretrain, here, if left out."),
]
