"""Arguments and options of the commands, with their help texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

INPUT, MODEL, METHOD, OUTPUT = "Input", "Model", "Method", "Output"


def option(panel: str, metavar: str | None, text: str, *names: str, **settings: Any) -> Any:
    """Return an option of a panel of the help.

    A flag has no metavar: "" is given for None, since `--debug <bool>` looks as if a value follows.
    """
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
    option(
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
    option(
        MODEL,
        "FILE",
        "Weights for --model, if it is a name of timm: a safetensors or PyTorch file, also a "
        "training checkpoint; [bold]FILE#state_dict_ema[/] selects one of several sets of weights "
        "in the file.",
    ),
]
Labels = Annotated[
    str | None,
    option(
        MODEL,
        "TEXTS",
        "Classes of CLIP and SigLIP: texts separated by commas, such as [bold]'a photo of a cat,a "
        "photo of a dog'[/], or a file with one text per line. The texts are used as they are.",
    ),
]
RandomWeights = Annotated[
    bool,
    option(
        MODEL,
        None,
        "Use --model untrained: nothing is downloaded, and the map has no meaning.",
        "--random-weights",
    ),
]
ClassNames = Annotated[
    Path | None,
    option(
        MODEL,
        "FILE",
        "Class names, one per line, in the order of the model's outputs; or lines with numbers, "
        "or JSON such as ImageNet's class index.",
        "--class-names",
    ),
]
ModelPrecision = Annotated[
    str,
    option(
        MODEL,
        "TYPE",
        "Precision of the model: float32, bfloat16 or float16; [bold]auto[/] is float32, or that "
        "of a model from code of your own.",
        "--precision",
    ),
]
Device = Annotated[
    str,
    option(
        MODEL,
        "NAME",
        "Device: [bold]auto[/] (CUDA, else MPS, else the CPU), cpu, cuda, cuda:1, mps, …",
    ),
]
Target = Annotated[
    str | None,
    option(INPUT, "CLASS", "Class to explain, by name or number. Default: the predicted class."),
]
METHODS = (
    "[bold]sift-patch-interrelation[/] (semattn's own); from attention: raw-attention, "
    "attention-rollout, gradient-rollout, generic-relevance, transition-attention, legrad; from "
    "features: grad-cam; from pixels: attn-lrp, input-x-gradient, integrated-gradients, "
    "smooth-grad, occlusion; or a baseline that ignores the model: keypoint-density, random, center"
)
Method = Annotated[str, option(METHOD, "NAME", f"Explanation method: {METHODS}.")]
Methods = Annotated[
    str | None,
    option(
        METHOD,
        "A,B,C",
        f"Methods to compare, in this order; default: all of {METHODS}.",
    ),
]
Density = Annotated[
    str,
    option(
        METHOD,
        "NAME",
        "Keypoint density: [bold]count, response, size, gaussian, surround, distinct, "
        "distinct-size, distinct-size-surround[/]; or a control: uniform, sobel, canny, center, "
        "shifted, permuted, random.",
    ),
]
Detector = Annotated[
    str,
    option(
        METHOD,
        "NAME",
        "Keypoint detector: [bold]sift[/] (OpenCV), [bold]sift-torch[/] (the same on a GPU) or "
        "[bold]sift-skimage[/].",
    ),
]
Layers = Annotated[
    str | None,
    option(
        METHOD,
        "LAYERS",
        "Layers: [bold]last-half[/], [bold]all[/], or numbers from 0 such as 6-11 or 3,7,11. "
        "Default: the method's choice.",
    ),
]
Queries = Annotated[
    str | None,
    option(
        METHOD,
        "TOKENS",
        "Query tokens whose attention is used: [bold]class[/] (the class token, or all prefix "
        "tokens that the output is read from), [bold]all[/] (also the patches), or [bold]auto[/] "
        "(the tokens that the output is read from).",
    ),
]
Region = Annotated[
    str | None,
    option(
        INPUT,
        "REGION",
        "Bias attention towards a region of the image instead, in pixels of the image file: a box "
        "[bold]left,top,right,bottom[/] around an object, clicks on it [bold]points=x,y;x,y[/], "
        "[bold]polygon=x,y;x,y;x,y[/], or a mask file of the image's size, white inside.",
    ),
]
Suppress = Annotated[
    bool,
    option(METHOD, None, "Bias attention away from the region or patches.", "--suppress"),
]
PromptDensity = Annotated[
    str,
    option(
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
    option(METHOD, "A,B,C", "Strengths of the bias. Default: 0,0.25,0.5,0.75,1,1.5,2."),
]
PromptLayers = Annotated[
    str,
    option(
        METHOD,
        "LAYERS",
        "Layers that get the bias: [bold]last-third[/], [bold]last-half[/], [bold]all[/], or "
        "numbers such as 6-11 or 3,7,11.",
    ),
]
Affinity = Annotated[
    float | None,
    option(
        METHOD,
        "G",
        "Strength of affinity refinement: the share of a patch's relevance that comes from patches "
        "with similar keys, in [0, 1). Default: 0.9; 0 turns the refinement off.",
    ),
]
Gradient = Annotated[
    str | None,
    option(
        METHOD,
        "NAME",
        "Gradient of the score with respect to attention: [bold]plain[/], or [bold]lrp[/], by the "
        "rules of relevance propagation. Default: plain.",
    ),
]
PromptQueries = Annotated[
    str,
    option(
        METHOD,
        "TOKENS",
        "Query tokens whose scores get the bias: [bold]all[/] tokens, the [bold]class[/] tokens "
        "(the prefix tokens that the output is read from), or [bold]patches[/].",
    ),
]
PromptFolder = Annotated[
    Path | None,
    option(
        OUTPUT,
        "DIR",
        "Folder for the results; several images have one subfolder each. Default: "
        "semattn-prompt-IMAGE or semattn-prompt-FOLDER in the current folder.",
    ),
]
Refine = Annotated[
    str,
    option(
        METHOD,
        "NAME",
        "Upsampling of the patch map to pixels: [bold]none[/] (smooth interpolation), or along "
        "image edges by [bold]guided[/] filter or [bold]superpixels[/].",
    ),
]
Folder = Annotated[
    Path | None,
    option(
        OUTPUT,
        "DIR",
        "Folder for the results; several images have one subfolder each. Default: "
        "semattn-IMAGE or semattn-explain-FOLDER in the current folder.",
    ),
]
ComparisonFolder = Annotated[
    Path | None,
    option(
        OUTPUT,
        "DIR",
        "Folder for the results; several images have one subfolder each. Default: "
        "semattn-compare-IMAGE or semattn-compare-FOLDER in the current folder.",
    ),
]
AnalysisFolder = Annotated[
    Path | None,
    option(OUTPUT, "DIR", "Folder for the results. Default: semattn-analyze-NAME."),
]
AnalysisLayers = Annotated[
    str | None,
    option(
        METHOD, "LAYERS", "Layers: [bold]last-half[/], [bold]all[/] (default), or 6-11, or 3,7,11."
    ),
]
NullDraws = Annotated[
    int | None,
    option(
        METHOD,
        "R",
        "Draws of each null distribution per image. Default: 3, or 20 for a single image.",
        min=2,
    ),
]
Batch = Annotated[int, option(METHOD, "B", "Batch size of the model.", min=1)]
Seed = Annotated[
    int, option(METHOD, "S", "Random seed of null distributions, intervals and ties.", min=0)
]
Report = Annotated[
    bool,
    option(
        OUTPUT,
        None,
        "Write [bold]report.html[/], an interactive page that opens without a server.",
        "--report/--no-report",
    ),
]
Force = Annotated[
    bool,
    option(
        OUTPUT,
        None,
        "Also replace files in the folder that semattn did not write; never the input.",
        "--force",
    ),
]
Top = Annotated[int, option(OUTPUT, "K", "Number of classes to list.", min=1)]
Json = Annotated[
    bool,
    option(
        OUTPUT,
        None,
        "Print one JSON object on standard output and all other text on standard error; if the "
        "command fails, no object is printed.",
        "--json",
    ),
]
Debug = Annotated[bool, option(OUTPUT, None, "Show the traceback of an error.", "--debug")]
