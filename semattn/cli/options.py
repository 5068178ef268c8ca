"""Arguments and options of the commands, with their help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

INPUT, MODEL, METHOD, OUTPUT = "Input", "Model", "Method", "Output"
ENGINE = "Engine"


def _option(panel: str, metavar: str | None, text: str, *names: str, **settings: Any) -> Any:
    # "" for a flag: `--debug <bool>` would look as if a value followed.
    return typer.Option(*names, metavar=metavar or "", rich_help_panel=panel, help=text, **settings)


ImageFiles = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE",
        help="Images: files that Pillow can read; folders (with their subfolders); quoted "
        "patterns such as [bold]'photos/**/*.jpg'[/]; tar archives; s3://, gs://, hf:// and other "
        "addresses of fsspec; or [bold]-[/] for an image on standard input.",
    ),
]
ImagesOrFolder = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE|FOLDER",
        help="An image, or several images that are analysed together: files, folders (with their "
        "subfolders), quoted patterns such as [bold]'photos/*.jpg'[/], or [bold]-[/] for an image "
        "on standard input. Other files are skipped.",
    ),
]
ModelName = Annotated[
    str | None,
    _option(
        MODEL,
        "MODEL",
        "Model: a name of timm, such as [bold]vit_base_patch16_224[/]; [bold]hf-hub:OWNER/NAME[/] "
        "(timm); [bold]hf:OWNER/NAME[/] or a folder (transformers, also CLIP and SigLIP with "
        "--labels); [bold]torchvision:vit_b_16[/]; [bold]open-clip:ViT-B-32:TAG[/]; or trusted "
        "code of your own, which is run: [bold]FILE.py:FUNCTION[/] or "
        "[bold]torch-hub-dir:FOLDER:ENTRY[/]. Default: the embedded model.",
    ),
]
Checkpoint = Annotated[
    Path | None,
    _option(
        MODEL,
        "FILE",
        "Weights for --model, if it is a name of timm: a safetensors or PyTorch file, also a "
        "training checkpoint; [bold]FILE#state_dict_ema[/] selects one of several sets of weights "
        "in the file.",
    ),
]
Labels = Annotated[
    str | None,
    _option(
        MODEL,
        "TEXTS",
        "Classes of CLIP and SigLIP: texts separated by commas, such as [bold]'a photo of a cat,a "
        "photo of a dog'[/], or a file with one text per line. The texts are used as they are.",
    ),
]
RandomWeights = Annotated[
    bool,
    _option(
        MODEL,
        None,
        "Use --model untrained: nothing is downloaded, and the map has no meaning.",
        "--random-weights",
    ),
]
ClassNames = Annotated[
    Path | None,
    _option(
        MODEL,
        "FILE",
        "Class names, one per line, in the order of the model's outputs; or lines with numbers, "
        "or JSON such as ImageNet's class index.",
        "--class-names",
    ),
]
ModelPrecision = Annotated[
    str,
    _option(
        MODEL,
        "TYPE",
        "Precision of the model: float32, bfloat16 or float16; [bold]auto[/] is float32, or that "
        "of a model from code of your own.",
        "--precision",
    ),
]
Device = Annotated[
    str,
    _option(
        MODEL,
        "NAME",
        "Device: [bold]auto[/] (CUDA, else MPS, else the CPU), cpu, cuda, cuda:1, mps, …",
    ),
]
Target = Annotated[
    str | None,
    _option(INPUT, "CLASS", "Class to explain, by name or number. Default: the predicted class."),
]
METHODS = (
    "[bold]sift-patch-interrelation[/] (semattn's own); from attention: raw-attention, "
    "attention-rollout, gradient-rollout, generic-relevance, transition-attention, legrad; from "
    "features: grad-cam; from pixels: attn-lrp, input-x-gradient, integrated-gradients, "
    "smooth-grad, occlusion; or a baseline that ignores the model: keypoint-density, random, center"
)
Method = Annotated[str, _option(METHOD, "NAME", f"Explanation method: {METHODS}.")]
Methods = Annotated[
    str | None,
    _option(
        METHOD,
        "A,B,C",
        f"Methods to compare, in this order; default: all of {METHODS}.",
    ),
]
Density = Annotated[
    str,
    _option(
        METHOD,
        "NAME",
        "Keypoint density: [bold]count, response, size, gaussian, surround, distinct, "
        "distinct-size, distinct-size-surround[/]; or a control: uniform, sobel, canny, center, "
        "shifted, permuted, random.",
    ),
]
Detector = Annotated[
    str,
    _option(
        METHOD,
        "NAME",
        "Keypoint detector: [bold]sift[/] (OpenCV), [bold]sift-torch[/] (the same on a GPU) or "
        "[bold]sift-skimage[/].",
    ),
]
Layers = Annotated[
    str | None,
    _option(
        METHOD,
        "LAYERS",
        "Layers: [bold]last-half[/], [bold]all[/], or numbers from 0 such as 6-11 or 3,7,11. "
        "Default: the method's choice.",
    ),
]
Queries = Annotated[
    str | None,
    _option(
        METHOD,
        "TOKENS",
        "Query tokens whose attention is used: [bold]class[/] (the class token, or all prefix "
        "tokens that the output is read from), [bold]all[/] (also the patches), or [bold]auto[/] "
        "(the tokens that the output is read from).",
    ),
]
Region = Annotated[
    str | None,
    _option(
        INPUT,
        "REGION",
        "Bias attention towards a region of the image instead, in pixels of the image file: a box "
        "[bold]left,top,right,bottom[/] around an object, clicks on it [bold]points=x,y;x,y[/], "
        "[bold]polygon=x,y;x,y;x,y[/], or a mask file of the image's size, white inside.",
    ),
]
Suppress = Annotated[
    bool,
    _option(METHOD, None, "Bias attention away from the region or patches.", "--suppress"),
]
PromptDensity = Annotated[
    str,
    _option(
        METHOD,
        "NAME",
        "Source of the bias: [bold]interrelation[/] (patches that keypoint-dense patches and the "
        "class token attend to, with affinity refinement), [bold]received, received-class[/], or a "
        "density: count, size, distinct-size-surround, …; or a control: class-attention, "
        "class-refined, sobel, canny, center, random, shifted.",
    ),
]
Strengths = Annotated[
    str | None,
    _option(METHOD, "A,B,C", "Strengths of the bias. Default: 0,0.25,0.5,0.75,1,1.5,2."),
]
PromptLayers = Annotated[
    str,
    _option(
        METHOD,
        "LAYERS",
        "Layers that get the bias: [bold]last-third[/], [bold]last-half[/], [bold]all[/], or "
        "numbers such as 6-11 or 3,7,11.",
    ),
]
Affinity = Annotated[
    float | None,
    _option(
        METHOD,
        "G",
        "Strength of affinity refinement: the share of a patch's relevance that comes from patches "
        "with similar keys, in [0, 1). Default: 0.9; 0 turns the refinement off.",
    ),
]
Gradient = Annotated[
    str | None,
    _option(
        METHOD,
        "NAME",
        "Gradient of the score with respect to attention: [bold]plain[/], or [bold]lrp[/], by the "
        "rules of relevance propagation. Default: plain.",
    ),
]
PromptQueries = Annotated[
    str,
    _option(
        METHOD,
        "TOKENS",
        "Query tokens whose scores get the bias: [bold]all[/] tokens, the [bold]class[/] tokens "
        "(the prefix tokens that the output is read from), or [bold]patches[/].",
    ),
]
PromptFolder = Annotated[
    Path | None,
    _option(
        OUTPUT,
        "DIR",
        "Folder for the results; several images have one subfolder each. Default: "
        "semattn-prompt-IMAGE or semattn-prompt-FOLDER in the current folder.",
    ),
]
Refine = Annotated[
    str,
    _option(
        METHOD,
        "NAME",
        "Upsampling of the patch map to pixels: [bold]none[/] (smooth interpolation), or along "
        "image edges by [bold]guided[/] filter or [bold]superpixels[/].",
    ),
]
Folder = Annotated[
    Path | None,
    _option(
        OUTPUT,
        "DIR",
        "Folder for the results; several images have one subfolder each. Default: "
        "semattn-IMAGE or semattn-explain-FOLDER in the current folder.",
    ),
]
ComparisonFolder = Annotated[
    Path | None,
    _option(
        OUTPUT,
        "DIR",
        "Folder for the results; several images have one subfolder each. Default: "
        "semattn-compare-IMAGE or semattn-compare-FOLDER in the current folder.",
    ),
]
AnalysisFolder = Annotated[
    Path | None,
    _option(OUTPUT, "DIR", "Folder for the results. Default: semattn-analyze-NAME."),
]
AnalysisLayers = Annotated[
    str | None,
    _option(
        METHOD, "LAYERS", "Layers: [bold]last-half[/], [bold]all[/] (default), or 6-11, or 3,7,11."
    ),
]
NullDraws = Annotated[
    int | None,
    _option(
        METHOD,
        "R",
        "Draws of each null distribution per image. Default: 3, or 20 for a single image.",
        min=2,
    ),
]
Batch = Annotated[int, _option(METHOD, "B", "Batch size of the model.", min=1)]
Seed = Annotated[
    int, _option(METHOD, "S", "Random seed of null distributions, intervals and ties.", min=0)
]
Report = Annotated[
    bool,
    _option(
        OUTPUT,
        None,
        "Write [bold]report.html[/], an interactive page that opens without a server.",
        "--report/--no-report",
    ),
]
Force = Annotated[
    bool,
    _option(
        OUTPUT,
        None,
        "Also replace files in the folder that semattn did not write; never the input.",
        "--force",
    ),
]
Top = Annotated[int, _option(OUTPUT, "K", "Number of classes to list.", min=1)]
Json = Annotated[
    bool,
    _option(
        OUTPUT,
        None,
        "Print one JSON object on standard output and all other text on standard error; if the "
        "command fails, no object is printed.",
        "--json",
    ),
]
Debug = Annotated[bool, _option(OUTPUT, None, "Show the traceback of an error.", "--debug")]
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
    _option(
        INPUT,
        "CLASS,…",
        "Classes to search, by name or number. Default: all classes of the images.",
    ),
]
Alpha = Annotated[
    float,
    _option(
        METHOD,
        "P",
        "Significance level of the whole search: probability of any false confirmation.",
    ),
]
MinRelativeRisk = Annotated[
    float,
    _option(
        METHOD,
        "R",
        "Minimum frequency of a candidate in its class, relative to the other classes.",
    ),
]
MaxCandidates = Annotated[
    int, _option(METHOD, "N", "Maximum number of candidates that are tested per class.", min=1)
]
SearchSeed = Annotated[
    int, _option(METHOD, "S", "Random seed of draws, clusters and intervals.", min=0)
]
SpuriousFolder = Annotated[
    Path | None,
    _option(OUTPUT, "DIR", "Folder for the results. Default: semattn-spurious."),
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
TopMarks = Annotated[int, _option(OUTPUT, "N", "Number of marks to list.", "--top", min=1)]
MarkAlpha = Annotated[
    float,
    _option(
        METHOD,
        "P",
        "Significance level of the whole search: probability of any false mark.",
    ),
]
EraseFolder = Annotated[
    Path | None,
    _option(
        OUTPUT,
        "DIR",
        "Also write a copy of each image that shows a significant mark to this folder, as PNG and "
        "with the name that it has in FOLDER; the marks are filled from their surroundings.",
    ),
]
MarksFolder = Annotated[
    Path | None,
    _option(OUTPUT, "DIR", "Folder for the results. Default: semattn-marks."),
]
AuditSource = Annotated[
    str,
    typer.Argument(
        metavar="FOLDER|ARCHIVES|LIST|DATASET",
        help="A folder of images, or with one subfolder per class; a folder of tar archives, one "
        "archive, or shard-{000..063}.tar (WebDataset), with #EXTENSION if a sample has several "
        "images; or a text file with one path per line, and the class after a tab, comma or space. "
        "These may be local or remote: s3://, gs://, hf://datasets/ and other addresses of fsspec. "
        "Or a Hugging Face data set: a folder saved by save_to_disk, hf-dataset:NAME or "
        "hf-dataset:NAME:SPLIT.",
    ),
]
Jobs = Annotated[
    str,
    _option(INPUT, "A,B,C", "Jobs to run: [bold]explain[/], [bold]analyze[/], [bold]spurious[/]."),
]
AuditBatch = Annotated[
    int | None,
    _option(
        METHOD, "B", "Batch size of the model. Default: chosen from the free memory.",
        "--batch-size", min=1,
    ),
]  # fmt: skip
ReadingWorkers = Annotated[
    int | None,
    _option(
        METHOD, "N", "Processes that read images and detect keypoints. Default: the number of free "
        "CPU cores.", "--workers", min=0,
    ),
]  # fmt: skip
Process = Annotated[
    str | None,
    _option(
        METHOD, "K/N", "This process and the number of processes, from 0/N. Default: from torchrun."
    ),
]  # fmt: skip
EngineName = Annotated[
    str,
    _option(
        ENGINE, "NAME", "Where the work runs: [bold]local[/], on this machine; or [bold]ray[/], on "
        "a Ray cluster (pip install 'semattn\\[ray]').", "--engine",
    ),
]  # fmt: skip
Address = Annotated[
    str | None,
    _option(
        ENGINE, "HOST:PORT", "Ray cluster, [bold]auto[/] for that of this machine. Default: "
        "RAY_ADDRESS, else the cluster of this machine, else Ray is started here.", "--address",
    ),
]  # fmt: skip
Actors = Annotated[
    str | None,
    _option(
        ENGINE, "N|MIN-MAX", "Copies of the model on the Ray cluster. Default: 1 up to what the "
        "cluster can hold.",
    ),
]  # fmt: skip
GpusPerActor = Annotated[
    float | None,
    _option(
        ENGINE, "N", "GPUs of each copy of the model, such as 1 or 0.5. Default: 1 if the cluster "
        "has GPUs.", "--gpus-per-actor", min=0.0,
    ),
]  # fmt: skip
AuditFolder = Annotated[
    str | None,
    _option(
        OUTPUT, "DIR", "Folder for the results, or the address of one, such as s3://bucket/run: "
        "there, only processes of this machine are locked out. Default: semattn-audit-NAME.",
    ),
]  # fmt: skip
Data = Annotated[
    str,
    _option(
        INPUT,
        "DATA",
        "Images with object masks: [bold]masks:IMAGES,MASKS[/] (folders), [bold]voc:ROOT[/], "
        "[bold]coco:IMAGES,ANNOTATIONS[/] or [bold]imagenet-segmentation:FILE[/]; or without "
        "masks: [bold]folder:IMAGES[/].",
    ),
]
BenchMethods = Annotated[
    str | None,
    _option(
        INPUT,
        "NAMES",
        "Methods (table rows), separated by commas: explainers (see semattn compare --help), "
        "[bold]EXPLAINER:DENSITY[/], or methods of other packages such as "
        "[bold]pytorch-grad-cam/GradCAM[/]. Default: eight methods.",
    ),
]
Metrics = Annotated[
    str | None,
    _option(
        INPUT,
        "NAMES",
        "Metrics (columns), separated by commas. Default: AP, pointing, energy, ins − del.",
    ),
]
Baselines = Annotated[
    str | None,
    _option(
        INPUT, "NAMES", "Methods that all others are compared with. Default: rollout, Grad-CAM, …."
    ),
]
Images = Annotated[
    int, _option(INPUT, "N", "Number of images, spread evenly over the data.", min=1)
]
Perturbation = Annotated[
    str, _option(METHOD, "NAME", "Replacement of removed patches: blur, mean, black or inpaint.")
]
PerturbationSteps = Annotated[
    int, _option(METHOD, "S", "Number of deletion and insertion steps.", min=1)
]
PerturbationBatch = Annotated[int, _option(METHOD, "B", "Batch size of perturbed images.", min=1)]
Precision = Annotated[
    str,
    _option(
        METHOD,
        "TYPE",
        "Precision for perturbed images: float32, bfloat16 or float16; [bold]auto[/] is bfloat16 "
        "if the device supports it.",
    ),
]
Quick = Annotated[bool, _option(METHOD, None, "Use at most 10 images and 8 steps.", "--quick")]
BenchSeed = Annotated[int, _option(METHOD, "S", "Random seed of ties, draws and intervals.", min=0)]
BenchFolder = Annotated[
    Path | None, _option(OUTPUT, "FOLDER", "Folder for the results. Default: semattn-bench.")
]

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
    _option(
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
    _option(
        METHOD,
        "B",
        "Strength of guided masking: above 0, patches with many keypoints are hidden more often; "
        "below 0, less often; 0 is random masking. Default: 2.",
    ),
]
BetaEnd = Annotated[
    float | None,
    _option(METHOD, "B", "Beta in the last epoch. Default: the same as --beta."),
]
ScheduleShape = Annotated[
    str,
    _option(
        METHOD, "NAME", "Schedule from --beta to --beta-end: [bold]linear[/] or [bold]cosine[/]."
    ),
]
Hint = Annotated[
    float | None,
    _option(
        METHOD,
        "H",
        "Guided masking: share of the patches with the highest masking scores that always stay "
        "visible. Default: 0.",
    ),
]
MaskRatio = Annotated[float, _option(METHOD, "R", "Share of the patches that is hidden.")]
MaskDensity = Annotated[
    str,
    _option(
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
    _option(
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
    _option(METHOD, "W", "Side of the window of SIFT targets around each patch, in pixels.", min=1),
]
WordCount = Annotated[
    int, _option(METHOD, "K", "Number of words for --target words.", "--words", min=2)
]
LossWeight = Annotated[
    str,
    _option(
        METHOD,
        "NAME",
        "Weights of patches in the loss: [bold]none[/] (equal), or higher for patches with "
        "keypoints: [bold]keypoints, keypoints-linear, kamim[/] or [bold]kamim-relative[/].",
    ),
]
Temperature = Annotated[
    float,
    _option(
        METHOD, "T", "Temperature of KAMIM's weights; lower values weigh keypoints more strongly."
    ),
]
KeypointsFrom = Annotated[
    str,
    _option(
        METHOD,
        "SOURCE",
        "[bold]cache[/]: detect keypoints once in each full photograph and store them; or "
        "[bold]detect[/]: detect them in every crop.",
        "--keypoints",
    ),
]
MaeModel = Annotated[
    str,
    _option(
        TRAINING,
        "NAME|DIR",
        "Size of the ViT: [bold]tiny, small, base[/]; or a model saved by transformers.",
        "--model",
    ),
]
ImageSize = Annotated[int, _option(TRAINING, "N", "Side of a crop in pixels.", min=16)]
PatchSize = Annotated[int, _option(TRAINING, "N", "Side of a patch in pixels.", min=2)]
EpochCount = Annotated[int, _option(TRAINING, "N", "Number of epochs.", min=1)]
TrainBatch = Annotated[
    int, _option(TRAINING, "B", "Photographs per step, over all processes.", "--batch-size", min=1)
]
LearningRate = Annotated[
    float,
    _option(TRAINING, "LR", "Learning rate for a batch of 256; it is scaled with the batch size."),
]
Workers = Annotated[
    int | None,
    _option(
        TRAINING, "N", "Processes that load photographs. Default: by the number of CPU cores.",
        min=0,
    ),
]  # fmt: skip
TrainPrecision = Annotated[
    str,
    _option(
        TRAINING,
        "TYPE",
        "Precision: float32, bfloat16, float16 (on a GPU); [bold]auto[/] is bfloat16 if the "
        "device supports it.",
        "--precision",
    ),
]
TrainDevice = Annotated[
    str,
    _option(TRAINING, "NAME", "Device: [bold]auto[/] (a GPU if there is one) or cpu.", "--device"),
]
TrainSeed = Annotated[
    int, _option(TRAINING, "S", "Random seed of weights, order, crops and masks.", "--seed", min=0)
]
CheckpointSteps = Annotated[
    int | None, _option(TRAINING, "N", "Steps between checkpoints. Default: one epoch.", min=1)
]
Validation = Annotated[
    Path | None,
    _option(
        TRAINING,
        "FOLDER",
        "Photographs on which the loss under fixed random masks is logged every epoch.",
    ),
]
PretrainFolder = Annotated[
    Path | None,
    _option(OUTPUT, "DIR", "Folder of the run. Default: semattn-pretrain."),
]
